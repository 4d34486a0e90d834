//! A stored message.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{DeviceId, MessageId, Priority};

/// The largest content, in bytes after Base64 is decoded. 60 KiB: with its header a message fits
/// one row (≤ 64 KiB, design decision 9); larger things are files.
pub const CONTENT_BYTES_MAX: usize = 60 * 1024;

/// A message as its mailbox holds it. `content` is sealed by the sender's device.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// Its number: counts per (mailbox, priority) from 1, without gaps.
    pub seq: u64,
    /// Its priority.
    pub priority: Priority,
    /// Who sent it.
    pub sender: DeviceId,
    /// The sender's id for it.
    pub message_id: MessageId,
    /// When it was accepted: shard time, milliseconds since the Unix epoch.
    pub accepted_ms: u64,
    /// When it expires: shard time, milliseconds since the Unix epoch.
    pub expires_ms: u64,
    /// The ciphertext.
    pub content: Bytes,
}

impl std::fmt::Debug for Message {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Message")
            .field("priority", &self.priority)
            .field("seq", &self.seq)
            .field("content_bytes", &self.content.len())
            .finish_non_exhaustive()
    }
}
