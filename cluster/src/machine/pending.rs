//! What a read of a mailbox yields.

use std::sync::Arc;

use super::Removal;
use crate::model::{Message, Priority};

/// The most pending copies of one message id, all from different senders, that a mailbox takes.
///
/// 8: two devices that use the same id by accident are plausible, nine are an attack. Each copy
/// waits for the earlier ones, so the bound also keeps their rows small.
pub const CONTESTS_MAX: usize = 8;

/// A pending message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pending {
    /// The message.
    pub message: Arc<Message>,
    /// The earlier copies with the same message id, from other senders, that are still pending.
    /// This one is held back until they are gone: an acknowledgement by id then always means
    /// exactly one message. Nearly always empty.
    pub contests: Box<[(Priority, u64)]>,
}

impl Pending {
    /// Its place in the mailbox.
    pub fn place(&self) -> (Priority, u64) {
        (self.message.priority, self.message.seq)
    }
}

/// Numbers of one priority that will never come, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    /// The first number.
    pub from: u64,
    /// The last number.
    pub to: u64,
    /// [`Removal::Expired`] or [`Removal::Cancelled`].
    pub reason: Removal,
}

/// Everything there is to tell of the numbers `from..end` of one priority: what is neither in
/// `items` nor in `gaps` was acknowledged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LaneRead {
    /// The first number asked for.
    pub from: u64,
    /// The first number that this read does not tell of.
    pub end: u64,
    /// The pending messages, ascending, due ones too.
    pub items: Vec<Pending>,
    /// The skipped ranges, ascending, clipped to `from..end`.
    pub gaps: Vec<Gap>,
}

/// What a mailbox holds of one priority.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LaneCounts {
    /// The number the next message gets.
    pub next_seq: u64,
    /// How many messages are pending.
    pub count: u32,
    /// How many skipped ranges are kept.
    pub gaps: u32,
}

/// What a mailbox holds; the default for one that never got a message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MailboxCounts {
    /// By priority level.
    pub lanes: [LaneCounts; crate::model::PRIORITIES],
    /// Bytes of pending contents, with their headers.
    pub bytes: u64,
}

impl Default for LaneCounts {
    fn default() -> Self {
        Self { next_seq: 1, count: 0, gaps: 0 }
    }
}

/// A pending message found by its id or number, without its content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Its priority.
    pub priority: Priority,
    /// Its number.
    pub seq: u64,
    /// Who sent it.
    pub sender: crate::model::DeviceId,
    /// Shard time of acceptance.
    pub accepted_ms: u64,
    /// Whether a copy from another sender was known when it was accepted.
    pub contested: bool,
}
