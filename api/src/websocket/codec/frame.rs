//! The frame header of RFC 6455 section 5.2: reading and writing it.

use super::ProtocolError;

/// The longest header: 2 bytes, 8 of extended length, 4 of mask.
pub const HEAD_BYTES_MAX: usize = 14;
/// The longest payload of a control frame (RFC 6455 section 5.5).
pub const CONTROL_BYTES_MAX: usize = 125;

/// What a frame is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opcode {
    /// 0x0: goes on with a fragmented message.
    Continuation,
    /// 0x1: UTF-8.
    Text,
    /// 0x2: bytes.
    Binary,
    /// 0x8: the closing handshake.
    Close,
    /// 0x9: asks for a Pong.
    Ping,
    /// 0xA: answers a Ping.
    Pong,
}

impl Opcode {
    fn from_bits(bits: u8) -> Result<Self, ProtocolError> {
        match bits {
            0x0 => Ok(Self::Continuation),
            0x1 => Ok(Self::Text),
            0x2 => Ok(Self::Binary),
            0x8 => Ok(Self::Close),
            0x9 => Ok(Self::Ping),
            0xA => Ok(Self::Pong),
            _ => Err(ProtocolError::UnknownOpcode),
        }
    }

    fn bits(self) -> u8 {
        match self {
            Self::Continuation => 0x0,
            Self::Text => 0x1,
            Self::Binary => 0x2,
            Self::Close => 0x8,
            Self::Ping => 0x9,
            Self::Pong => 0xA,
        }
    }

    /// Whether the frame is a control frame: never fragmented, may come between fragments.
    pub fn is_control(self) -> bool {
        matches!(self, Self::Close | Self::Ping | Self::Pong)
    }
}

/// Whether a frame is the last one of its message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fin {
    /// The message ends with this frame.
    Final,
    /// Another frame of the message follows.
    More,
}

/// A decoded frame header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Whether the message ends here.
    pub fin: Fin,
    /// What the frame is for.
    pub opcode: Opcode,
    /// The masking key, if the frame is masked.
    pub mask: Option<[u8; 4]>,
    /// Bytes of payload that follow.
    pub payload_bytes: u64,
}

impl Head {
    /// Reads a header from the front of `bytes`: the header and its length, or `None` when more
    /// bytes are needed.
    ///
    /// # Errors
    /// On reserved bits, unknown opcodes, lengths not in their shortest form, and control frames
    /// that are fragmented or too long.
    pub fn parse(bytes: &[u8]) -> Result<Option<(Self, usize)>, ProtocolError> {
        let [first, rest @ ..] = bytes else { return Ok(None) };
        if first & 0x70 != 0 {
            return Err(ProtocolError::ReservedBits);
        }
        let opcode = Opcode::from_bits(first & 0x0F)?;
        let fin = if first & 0x80 == 0 { Fin::More } else { Fin::Final };
        let [second, rest @ ..] = rest else { return Ok(None) };
        let short = second & 0x7F;
        if opcode.is_control() {
            if fin == Fin::More {
                return Err(ProtocolError::FragmentedControl);
            }
            if usize::from(short) > CONTROL_BYTES_MAX {
                return Err(ProtocolError::ControlTooLong);
            }
        }
        let (payload_bytes, rest) = match short {
            126 => {
                let Some((length, rest)) = rest.split_first_chunk::<2>() else { return Ok(None) };
                let length = u64::from(u16::from_be_bytes(*length));
                if length < 126 {
                    return Err(ProtocolError::LengthNotShortest);
                }
                (length, rest)
            }
            127 => {
                let Some((length, rest)) = rest.split_first_chunk::<8>() else { return Ok(None) };
                let length = u64::from_be_bytes(*length);
                if length <= u64::from(u16::MAX) || length >> 63 != 0 {
                    return Err(ProtocolError::LengthNotShortest);
                }
                (length, rest)
            }
            short => (u64::from(short), rest),
        };
        let (mask, rest) = if second & 0x80 == 0 {
            (None, rest)
        } else {
            let Some((mask, rest)) = rest.split_first_chunk::<4>() else { return Ok(None) };
            (Some(*mask), rest)
        };
        let head = Self { fin, opcode, mask, payload_bytes };
        Ok(Some((head, bytes.len() - rest.len())))
    }

    /// Appends the header to `out`.
    pub fn write(&self, out: &mut Vec<u8>) {
        let fin = if self.fin == Fin::Final { 0x80 } else { 0 };
        out.push(fin | self.opcode.bits());
        let masked = if self.mask.is_some() { 0x80 } else { 0 };
        match self.payload_bytes {
            length @ 0..=125 => out.push(masked | length as u8),
            length @ 126..=0xFFFF => {
                out.push(masked | 126);
                out.extend_from_slice(&(length as u16).to_be_bytes());
            }
            length => {
                out.push(masked | 127);
                out.extend_from_slice(&length.to_be_bytes());
            }
        }
        if let Some(mask) = self.mask {
            out.extend_from_slice(&mask);
        }
    }
}

/// Masks or unmasks `payload`, which begins `offset` bytes into its frame.
pub fn apply_mask(payload: &mut [u8], mask: [u8; 4], offset: u64) {
    let mut key = mask;
    key.rotate_left((offset % 4) as usize);
    let wide = u64::from_ne_bytes([key[0], key[1], key[2], key[3], key[0], key[1], key[2], key[3]]);
    let mut chunks = payload.chunks_exact_mut(8);
    for chunk in &mut chunks {
        let mut word = [0; 8];
        word.copy_from_slice(chunk);
        chunk.copy_from_slice(&(u64::from_ne_bytes(word) ^ wide).to_ne_bytes());
    }
    for (byte, key) in chunks.into_remainder().iter_mut().zip(key.iter().cycle()) {
        *byte ^= key;
    }
}

/// Appends a whole unmasked frame: what a server sends.
pub fn write_frame(out: &mut Vec<u8>, opcode: Opcode, payload: &[u8]) {
    let payload_bytes = payload.len() as u64;
    Head { fin: Fin::Final, opcode, mask: None, payload_bytes }.write(out);
    out.extend_from_slice(payload);
}

/// Appends a whole masked frame: what a client sends. `mask` must not be foreseeable
/// (RFC 6455 section 10.3).
pub fn write_masked_frame(out: &mut Vec<u8>, opcode: Opcode, payload: &[u8], mask: [u8; 4]) {
    let payload_bytes = payload.len() as u64;
    Head { fin: Fin::Final, opcode, mask: Some(mask), payload_bytes }.write(out);
    let start = out.len();
    out.extend_from_slice(payload);
    apply_mask(&mut out[start..], mask, 0);
}
