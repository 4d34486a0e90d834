//! The frames on a lane: layout, encoder, incremental decoder. Pure; owned by `quic::lane`.
//!
//! Layout in `docs/reference/node-protocol.md`; every integer is big-endian:
//!
//! ```text
//! u32 length of what follows │ u8 version │ u8 kind │ u64 request id │ u32 deadline ms │ payload
//! ```
//!
//! The decoder takes bytes in any portions, allocates at most one payload at a time, and never
//! more than [`FRAME_BYTES_MAX`] for it.

use bytes::{Buf, Bytes, BytesMut};

use crate::network::FRAME_BYTES_MAX;

/// The version of the frame layout. 1: the first.
pub(crate) const FRAME_VERSION: u8 = 1;

/// Bytes of the length field.
const PREFIX_BYTES: usize = 4;

/// Bytes between the length field and the payload: version, kind, request id, deadline.
const FIELDS_BYTES: usize = 1 + 1 + 8 + 4;

/// Bytes of a frame before its payload.
pub(crate) const HEAD_BYTES: usize = PREFIX_BYTES + FIELDS_BYTES;

/// The payload of a refusal by the handler.
pub(crate) const REFUSAL_DECLINED: u8 = 0;

/// The payload of a refusal because too many calls of this peer are under way.
pub(crate) const REFUSAL_BUSY: u8 = 1;

/// The payload of a refusal after the handler failed: it may have acted, and there is no answer.
pub(crate) const REFUSAL_FAILED: u8 = 2;

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FrameKind {
    /// Wants an answer or a refusal with the same request id.
    Request,
    /// Answers a request.
    Answer,
    /// Tells that a request gets no answer; the payload is one reason byte.
    Refusal,
    /// Wants nothing.
    Notice,
}

impl FrameKind {
    fn to_wire(self) -> u8 {
        match self {
            Self::Request => 0,
            Self::Answer => 1,
            Self::Refusal => 2,
            Self::Notice => 3,
        }
    }

    fn from_wire(byte: u8) -> Option<Self> {
        match byte {
            0 => Some(Self::Request),
            1 => Some(Self::Answer),
            2 => Some(Self::Refusal),
            3 => Some(Self::Notice),
            _ => None,
        }
    }
}

/// All of a frame but its payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FrameHead {
    /// What it is.
    pub(crate) kind: FrameKind,
    /// Which request it is or answers; 0 in notices.
    pub(crate) id: u64,
    /// How many milliseconds the caller still waits; 0 in all but requests.
    pub(crate) deadline_ms: u32,
}

impl FrameHead {
    /// The bytes before a payload of `payload_bytes`, which the caller has checked against
    /// [`FRAME_BYTES_MAX`].
    pub(crate) fn encode(&self, payload_bytes: usize) -> [u8; HEAD_BYTES] {
        assert!(payload_bytes <= FRAME_BYTES_MAX, "the limit is checked before a frame is queued");
        let length = (FIELDS_BYTES + payload_bytes) as u32;
        let mut head = [0; HEAD_BYTES];
        head[..4].copy_from_slice(&length.to_be_bytes());
        head[4] = FRAME_VERSION;
        head[5] = self.kind.to_wire();
        head[6..14].copy_from_slice(&self.id.to_be_bytes());
        head[14..].copy_from_slice(&self.deadline_ms.to_be_bytes());
        head
    }
}

/// One frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    /// All but the payload.
    pub(crate) head: FrameHead,
    /// The payload, in an allocation of its own: keeping it does not keep packets alive.
    pub(crate) payload: Bytes,
}

/// Why bytes on a lane are no frames. The lane cannot be read on from there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FrameError {
    /// The length field exceeds the limit, or does not cover the fixed fields.
    #[error("a frame of impossible length")]
    Length,
    /// The version is not ours.
    #[error("a frame of unknown version")]
    Version,
    /// The kind is none of ours.
    #[error("a frame of unknown kind")]
    Kind,
}

/// Turns bytes into frames.
#[derive(Debug, Default)]
pub(crate) struct FrameDecoder {
    head: [u8; HEAD_BYTES],
    head_filled: usize,
    body: Option<Body>,
}

/// A payload under way.
#[derive(Debug)]
struct Body {
    head: FrameHead,
    missing: usize,
    payload: BytesMut,
}

impl FrameDecoder {
    /// Takes from `input` and returns the next frame; `None` once `input` is used up. After an
    /// error the decoder is of no further use.
    pub(crate) fn next(&mut self, input: &mut Bytes) -> Result<Option<Frame>, FrameError> {
        loop {
            if let Some(body) = &mut self.body {
                let portion = body.missing.min(input.len());
                body.payload.extend_from_slice(&input[..portion]);
                input.advance(portion);
                body.missing -= portion;
                if body.missing > 0 {
                    return Ok(None);
                }
                let body = self.body.take().expect("checked above");
                return Ok(Some(Frame { head: body.head, payload: body.payload.freeze() }));
            }
            let portion = (HEAD_BYTES - self.head_filled).min(input.len());
            self.head[self.head_filled..self.head_filled + portion]
                .copy_from_slice(&input[..portion]);
            input.advance(portion);
            self.head_filled += portion;
            self.check_prefix()?;
            if self.head_filled < HEAD_BYTES {
                return Ok(None);
            }
            self.head_filled = 0;
            self.body = Some(decode_head(&self.head)?);
        }
    }

    /// Refuses what is known to be wrong before the head is whole: a sender of garbage must not
    /// hold a lane by sending slowly.
    fn check_prefix(&self) -> Result<(), FrameError> {
        if self.head_filled >= PREFIX_BYTES {
            payload_bytes(&self.head)?;
        }
        if self.head_filled > PREFIX_BYTES && self.head[4] != FRAME_VERSION {
            return Err(FrameError::Version);
        }
        Ok(())
    }
}

fn payload_bytes(head: &[u8; HEAD_BYTES]) -> Result<usize, FrameError> {
    let length = u32::from_be_bytes([head[0], head[1], head[2], head[3]]) as usize;
    match length.checked_sub(FIELDS_BYTES) {
        Some(bytes) if bytes <= FRAME_BYTES_MAX => Ok(bytes),
        _ => Err(FrameError::Length),
    }
}

fn decode_head(head: &[u8; HEAD_BYTES]) -> Result<Body, FrameError> {
    let missing = payload_bytes(head)?;
    let mut fields = &head[PREFIX_BYTES..];
    if fields.get_u8() != FRAME_VERSION {
        return Err(FrameError::Version);
    }
    let kind = FrameKind::from_wire(fields.get_u8()).ok_or(FrameError::Kind)?;
    let head = FrameHead { kind, id: fields.get_u64(), deadline_ms: fields.get_u32() };
    Ok(Body { head, missing, payload: BytesMut::with_capacity(missing) })
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    fn encode(frame: &Frame) -> Vec<u8> {
        let mut bytes = frame.head.encode(frame.payload.len()).to_vec();
        bytes.extend_from_slice(&frame.payload);
        bytes
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn decode_all(bytes: &[u8], cuts: &[usize]) -> Result<Vec<Frame>, FrameError> {
        let mut decoder = FrameDecoder::default();
        let mut frames = Vec::new();
        let mut rest = bytes;
        let mut cuts = cuts.iter().cycle();
        while !rest.is_empty() {
            let cut = cuts.next().map_or(rest.len(), |cut| (cut + 1).min(rest.len()));
            let (portion, after) = rest.split_at(cut);
            rest = after;
            let mut input = Bytes::copy_from_slice(portion);
            while let Some(frame) = decoder.next(&mut input)? {
                frames.push(frame);
            }
        }
        Ok(frames)
    }

    fn frames() -> impl Strategy<Value = Frame> {
        let kinds = prop_oneof![
            Just(FrameKind::Request),
            Just(FrameKind::Answer),
            Just(FrameKind::Refusal),
            Just(FrameKind::Notice),
        ];
        (kinds, any::<u64>(), any::<u32>(), vec(any::<u8>(), 0..600)).prop_map(
            |(kind, id, deadline_ms, payload)| Frame {
                head: FrameHead { kind, id, deadline_ms },
                payload: payload.into(),
            },
        )
    }

    proptest! {
        #[test]
        fn frames_survive_any_portioning(
            frames in vec(frames(), 0..12),
            cuts in vec(0usize..200, 1..20),
        ) {
            let bytes: Vec<u8> = frames.iter().flat_map(encode).collect();
            prop_assert_eq!(decode_all(&bytes, &cuts).unwrap(), frames);
        }

        #[test]
        fn garbage_never_panics_and_agrees_under_any_portioning(
            bytes in vec(any::<u8>(), 0..400),
            cuts in vec(0usize..50, 1..20),
        ) {
            let whole = decode_all(&bytes, &[]);
            let portioned = decode_all(&bytes, &cuts);
            prop_assert_eq!(whole.is_err(), portioned.is_err());
            if let Ok(whole) = whole {
                prop_assert_eq!(whole, portioned.unwrap());
            }
        }
    }

    #[test]
    fn layout_is_as_documented() {
        let cases = [
            (FrameKind::Request, 0x0102_0304_0506_0708, 5_000, "ping"),
            (FrameKind::Answer, 7, 0, "pong"),
            (FrameKind::Refusal, 8, 0, "\u{1}"),
            (FrameKind::Notice, 0, 0, ""),
        ];
        let encoded: Vec<String> = cases
            .into_iter()
            .map(|(kind, id, deadline_ms, payload)| {
                let head = FrameHead { kind, id, deadline_ms };
                hex(&encode(&Frame { head, payload: Bytes::from(payload) }))
            })
            .collect();
        assert_eq!(
            encoded,
            [
                "000000120100010203040506070800001388\
                 70696e67",
                "000000120101000000000000000700000000\
                 706f6e67",
                "0000000f0102000000000000000800000000\
                 01",
                "0000000e0103000000000000000000000000",
            ]
        );
    }

    #[test]
    fn oversized_length_is_refused_before_anything_else_arrives() {
        let length = (FIELDS_BYTES + FRAME_BYTES_MAX + 1) as u32;
        let mut input = Bytes::copy_from_slice(&length.to_be_bytes());
        assert_eq!(FrameDecoder::default().next(&mut input), Err(FrameError::Length));
    }

    #[test]
    fn length_below_the_fixed_fields_is_refused() {
        let mut input = Bytes::from_static(&[0, 0, 0, 13]);
        assert_eq!(FrameDecoder::default().next(&mut input), Err(FrameError::Length));
    }

    #[test]
    fn unknown_version_and_kind_are_refused() {
        let head = FrameHead { kind: FrameKind::Notice, id: 0, deadline_ms: 0 };
        let mut version = head.encode(0);
        version[4] = 2;
        let mut input = Bytes::copy_from_slice(&version[..5]);
        assert_eq!(FrameDecoder::default().next(&mut input), Err(FrameError::Version));
        let mut kind = head.encode(0);
        kind[5] = 4;
        let mut input = Bytes::copy_from_slice(&kind);
        assert_eq!(FrameDecoder::default().next(&mut input), Err(FrameError::Kind));
    }
}
