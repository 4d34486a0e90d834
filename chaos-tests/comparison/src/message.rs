//! What is sent: 256 bytes that begin with the run, the time of sending and a number, so that
//! whoever sees a message can tell its age and whether it came in order.

use std::time::Duration;

use bytes::Bytes;

/// Bytes of a message.
pub const MESSAGE_BYTES: usize = 256;
/// Run, time and number.
const HEADER_BYTES: usize = 4 + 8 + 8;

/// The beginning of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Tells the messages of this run from those of others.
    pub run: u32,
    /// When it was (to be) sent, on the run's clock, in whole microseconds.
    pub sent: Duration,
    /// Its number among all of the run.
    pub number: u64,
}

impl Header {
    /// A whole message.
    pub fn message(&self, filler: &[u8; MESSAGE_BYTES]) -> Bytes {
        let mut bytes = *filler;
        bytes[..4].copy_from_slice(&self.run.to_le_bytes());
        bytes[4..12].copy_from_slice(&(self.sent.as_micros() as u64).to_le_bytes());
        bytes[12..HEADER_BYTES].copy_from_slice(&self.number.to_le_bytes());
        Bytes::copy_from_slice(&bytes)
    }

    /// Reads it back; nothing when that is no message of ours.
    pub fn read(message: &[u8]) -> Option<Self> {
        if message.len() != MESSAGE_BYTES {
            return None;
        }
        let (run, rest) = message.split_first_chunk::<4>()?;
        let (sent, rest) = rest.split_first_chunk::<8>()?;
        let (number, _) = rest.split_first_chunk::<8>()?;
        Some(Self {
            run: u32::from_le_bytes(*run),
            sent: Duration::from_micros(u64::from_le_bytes(*sent)),
            number: u64::from_le_bytes(*number),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_carries_its_header() {
        let header = Header { run: 7, sent: Duration::from_micros(123_456), number: 1 << 40 };
        let message = header.message(&[0xee; MESSAGE_BYTES]);
        assert_eq!(message.len(), MESSAGE_BYTES);
        assert_eq!(message[HEADER_BYTES..], [0xee; MESSAGE_BYTES - HEADER_BYTES]);
        assert_eq!(Header::read(&message), Some(header));
        assert_eq!(Header::read(&message[1..]), None);
        assert_eq!(Header::read(b""), None);
    }
}
