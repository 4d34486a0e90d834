//! RFC 6455 on bytes: headers, masking, fragmentation, control frames, close codes. No I/O.

mod close;
mod decoder;
mod frame;

pub use close::{CloseCode, is_valid_received};
pub use decoder::{Decoder, Event, Flow, Role};
pub use frame::{
    CONTROL_BYTES_MAX, Fin, HEAD_BYTES_MAX, Head, Opcode, apply_mask, write_frame,
    write_masked_frame,
};

/// How a peer broke the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProtocolError {
    /// RSV1–3 are set and no extension was negotiated.
    #[error("a reserved bit is set")]
    ReservedBits,
    /// The opcode is reserved.
    #[error("the opcode is unknown")]
    UnknownOpcode,
    /// A length in a longer form than it needs, or over 2⁶³.
    #[error("the length is not in its shortest form")]
    LengthNotShortest,
    /// A control frame without FIN.
    #[error("a control frame is fragmented")]
    FragmentedControl,
    /// A control frame over [`CONTROL_BYTES_MAX`].
    #[error("a control frame is too long")]
    ControlTooLong,
    /// A client must mask.
    #[error("a client's frame is not masked")]
    Unmasked,
    /// A server must not mask.
    #[error("a server's frame is masked")]
    Masked,
    /// A continuation without a message.
    #[error("there is no message to continue")]
    NothingToContinue,
    /// A new message within a fragmented one.
    #[error("a fragmented message was not continued")]
    ExpectedContinuation,
    /// A close frame with half a code, or a code that must not be sent.
    #[error("the close frame is not valid")]
    BadClose,
    /// Text that is not UTF-8.
    #[error("the text is not UTF-8")]
    NotUtf8,
    /// A message over the limit.
    #[error("the message is too large")]
    MessageTooLarge,
}

impl ProtocolError {
    /// The code to close with.
    pub fn close_code(self) -> CloseCode {
        match self {
            Self::NotUtf8 => CloseCode::Invalid,
            Self::MessageTooLarge => CloseCode::TooLarge,
            _ => CloseCode::Protocol,
        }
    }
}

/// Appends a close frame. `mask` for the client's side.
pub fn write_close(out: &mut Vec<u8>, code: u16, reason: &str, mask: Option<[u8; 4]>) {
    let mut payload = code.to_be_bytes().to_vec();
    payload.extend_from_slice(reason.as_bytes());
    payload.truncate(CONTROL_BYTES_MAX);
    match mask {
        None => write_frame(out, Opcode::Close, &payload),
        Some(mask) => write_masked_frame(out, Opcode::Close, &payload, mask),
    }
}
