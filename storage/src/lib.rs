//! What a node keeps on disk.
//!
//! `storage` knows groups (one Raft group each), log entries, rows and snapshot files. It does not
//! know what they mean: no relays, no mailboxes, no Raft library.
//!
//! - [`LogStore`]: one segment log for all groups; an entry is durable once its [`Done`] ran with `Ok`.
//! - [`StateStore`] and [`GroupState`]: the rows of each group, an in-memory overlay over sled.
//! - [`Keyring`]: the storage keys that all of it is sealed with, and their end.
//! - snapshot files: a group's rows at one applied position, streamed to lagging peers.

mod background;
mod error;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod log_store;
mod memory_log;
mod metrics;
#[cfg(feature = "mutants")]
pub mod mutant;
mod rows;
mod scrub;
mod seal;
mod segment_log;
mod snapshot;
mod state;

pub use error::{Error, is_disk_trouble};
pub use log_store::{Done, Health, LogEntry, LogGroup, LogStore, Position};
pub use memory_log::{MemoryDisk, MemoryLog, Wake};
pub use rows::{MemoryRows, RowsRead, RowsWrite};
pub use scrub::ScrubStep;
pub use seal::{Entropy, KeyStatus, Keyring, MemoryKeyDisk, Retirement};
pub use segment_log::{
    APPEND_BYTES_MAX, Damage, OpenExpectations, OpenReport, SEGMENT_BYTES, SEGMENT_BYTES_MAX,
    SEGMENT_BYTES_MIN, SegmentLog, SegmentLogConfig, Tear, VOTE_BYTES_MAX, inspect_log,
};
pub use snapshot::{
    CHUNK_BYTES_MAX, FileSnapshots, MemorySnapshotDisk, MemorySnapshots, SnapshotFinding,
    SnapshotInfo, SnapshotReceiver, SnapshotStore, inspect_snapshots,
};
pub use state::{
    BATCH_BYTES_MAX, Frozen, GroupRead, GroupState, GroupWrite, KEY_BYTES_MAX, MemoryStateDisk,
    MemoryStore, Outcome, SledConfig, SledStore, StateFinding, StateInspection, StateOpen,
    StateStore, VALUE_BYTES_MAX, inspect_state, log_expectations,
};

use serde::{Deserialize, Serialize};

/// A Raft group. Group 0 is `meta`; the shards follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct GroupId(pub u32);
