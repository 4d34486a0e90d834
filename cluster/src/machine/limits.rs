//! What a shard bounds.

use serde::{Deserialize, Serialize};

/// The bounds of a shard. They decide what commands do, so every replica must hold the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Pending messages of a mailbox. 10,000: a month offline at one message every four minutes.
    pub mailbox_messages_max: u32,
    /// Bytes of the pending messages' rows of a mailbox. 64 MiB: a thousand of the largest.
    pub mailbox_bytes_max: u64,
    /// API keys of a device; a further one drops the oldest. 8: a few installations and rotations.
    pub device_keys_max: usize,
    /// The longest a message waits, in milliseconds; a longer wish is cut to it.
    pub ttl_max_ms: u64,
    /// How long a message id is remembered, in milliseconds of shard time.
    pub dedup_window_ms: u64,
    /// How many message ids a shard remembers at most. A million take some 60 MB.
    pub dedup_entries_max: usize,
    /// Skipped ranges kept for one priority of a mailbox; a further one drops the oldest. 128:
    /// what expires together is one range, so this many need acknowledgements in between.
    pub gaps_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        const HOUR_MS: u64 = 60 * 60 * 1000;
        Self {
            mailbox_messages_max: 10_000,
            mailbox_bytes_max: 64 * 1024 * 1024,
            device_keys_max: 8,
            ttl_max_ms: 90 * 24 * HOUR_MS,
            dedup_window_ms: HOUR_MS,
            dedup_entries_max: 1_000_000,
            gaps_max: 128,
        }
    }
}
