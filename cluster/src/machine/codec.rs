//! How a batch stands in the log: a version byte and positional MessagePack.

use bytes::Bytes;

use super::CommandBatch;

/// The version of every batch written today.
const VERSION: u8 = 1;

/// Bytes of a command besides its content, about.
const COMMAND_BYTES: usize = 192;

/// Why bytes are not a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// There is no version byte.
    #[error("the batch is empty")]
    Empty,
    /// This build does not know the version.
    #[error("the batch has version {0}, which this build does not read")]
    Version(u8),
    /// The rest is not a batch.
    #[error("the batch is malformed")]
    Malformed,
}

impl CommandBatch {
    /// The batch as it stands in the log.
    pub fn encode(&self) -> Bytes {
        let contents: usize = self.commands.iter().map(super::Command::content_bytes).sum();
        let mut bytes = Vec::with_capacity(16 + contents + self.commands.len() * COMMAND_BYTES);
        bytes.push(VERSION);
        rmp_serde::encode::write(&mut bytes, self)
            .expect("commands are plain data and memory takes them");
        Bytes::from(bytes)
    }

    /// Reads what [`CommandBatch::encode`] wrote. Contents are copied, so that a message does not
    /// keep its whole batch in memory.
    ///
    /// # Errors
    /// When the bytes are not a batch of a known version.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        match bytes.split_first() {
            Some((&VERSION, body)) => {
                rmp_serde::from_slice(body).map_err(|_| DecodeError::Malformed)
            }
            Some((&version, _)) => Err(DecodeError::Version(version)),
            None => Err(DecodeError::Empty),
        }
    }
}
