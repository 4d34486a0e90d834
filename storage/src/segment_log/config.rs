//! How the segment log is set up.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use crate::{GroupId, Keyring};

/// The default size of a segment: large enough that rolling (three syncs) is rare, small enough
/// that space comes back soon.
pub const SEGMENT_BYTES: u64 = 64 << 20;
/// A segment is at least this, so that its header and state record stay a small part of it.
pub const SEGMENT_BYTES_MIN: u64 = 16 << 10;
/// A segment is at most this: offsets are `u32`, and an append may go past the nominal size.
pub const SEGMENT_BYTES_MAX: u64 = 1 << 30;
/// The largest append: what one write may add to the queue's bound.
pub const APPEND_BYTES_MAX: usize = 64 << 20;
/// The largest vote: a vote is some tens of bytes, and each segment repeats it.
pub const VOTE_BYTES_MAX: usize = 4 << 10;

/// The least share of memory for recent entries that a group has, however many there are: some
/// hundred messages of 256 bytes, so that what is being replicated need not come from the files.
const TAIL_SHARE_BYTES_MIN: usize = 64 << 10;

/// The settings of a [`SegmentLog`](super::SegmentLog).
#[derive(Clone, Debug)]
pub struct SegmentLogConfig {
    /// The directory of the log's files; made when missing. It must hold nothing else.
    pub dir: PathBuf,
    /// The size of a segment file.
    pub segment_bytes: u64,
    /// How many bytes of recent entries are kept in memory for each group, at most.
    pub tail_bytes_max: usize,
    /// How many of all groups together: each may have its share of it, though never less than
    /// 64 KiB.
    pub tails_bytes_max: usize,
    /// The least time from one sync to the next while many writes come in; a write that finds the
    /// log idle never waits.
    pub sync_spacing: Duration,
    /// Calls that write block while this many bytes are queued.
    pub queue_bytes_max: usize,
    /// Calls that write block while this many writes are queued.
    pub queue_writes_max: usize,
    /// About how many bytes one write and sync take at most.
    pub batch_bytes_max: usize,
    /// Unpredictable bytes, drawn anew for every open: they enter the checksums, so that nobody can
    /// craft a payload that reads as a record.
    pub salt: u64,
    /// What entries are sealed with.
    pub keys: Keyring,
    /// What other files of the node noted of the log.
    pub expectations: OpenExpectations,
}

impl SegmentLogConfig {
    /// The defaults for a log in `dir`, which seals nothing. `salt` must come from a random generator.
    pub fn new(dir: impl Into<PathBuf>, salt: u64) -> Self {
        SegmentLogConfig {
            dir: dir.into(),
            segment_bytes: SEGMENT_BYTES,
            // One entry of a shard is under way at a time, and twice the largest (1 MiB) fits. A
            // follower further behind is sent what the files hold.
            tail_bytes_max: 2 << 20,
            // With 16 shards half a MiB each: where messages are of 256 bytes, a second of 1,000.
            tails_bytes_max: 8 << 20,
            // A sync of a local NVMe takes some 0.1 ms: under load, ten times that makes batches.
            sync_spacing: Duration::from_millis(1),
            // About 0.1 s of a disk at 500 MB/s: more would only be latency.
            queue_bytes_max: 64 << 20,
            queue_writes_max: 64 << 10,
            // Long enough for full bandwidth, short enough that a vote waits some 10 ms at most.
            batch_bytes_max: 8 << 20,
            salt,
            keys: Keyring::unsealed(),
            expectations: OpenExpectations::default(),
        }
    }

    /// How many bytes of recent entries each of `groups` groups may keep in memory.
    pub(super) fn tail_share(&self, groups: usize) -> usize {
        let share = self.tails_bytes_max / groups.max(1);
        share.max(TAIL_SHARE_BYTES_MIN).min(self.tail_bytes_max)
    }
}

/// What the log must hold at least, by other files of the node: see
/// [`log_expectations`](crate::log_expectations). A group with less has lost something and is
/// reported as damaged.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OpenExpectations {
    /// The least number of records of a group. Records count, and not entries, because votes count
    /// too and Raft may truncate entries.
    pub records_min: BTreeMap<GroupId, u64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_share_the_memory_for_recent_entries() {
        let config = SegmentLogConfig::new("log", 1);
        assert_eq!(config.tail_share(3), config.tail_bytes_max);
        assert_eq!(config.tail_share(16), config.tails_bytes_max / 16);
        assert_eq!(config.tail_share(10_000), TAIL_SHARE_BYTES_MIN);
        let small = SegmentLogConfig { tail_bytes_max: 1, ..config };
        assert_eq!(small.tail_share(16), 1);
    }
}
