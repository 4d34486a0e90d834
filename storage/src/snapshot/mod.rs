//! Snapshot files: a group's rows as of one applied position, to purge the log behind, to rebuild
//! the state from, and to stream to a lagging peer. The layout is in
//! `docs/reference/snapshot-format.md`.

mod block;
mod cover;
mod engine;
mod file;
mod inspect;
mod medium;
mod memory;
mod receiver;
mod rows;
mod store;

#[cfg(test)]
mod fixtures_test;
#[cfg(test)]
mod sealed_test;
#[cfg(test)]
mod snapshot_test;

pub use file::FileSnapshots;
pub use inspect::{SnapshotFinding, inspect_snapshots};
pub use memory::{MemorySnapshotDisk, MemorySnapshots};
pub use store::{CHUNK_BYTES_MAX, SnapshotInfo, SnapshotReceiver, SnapshotStore};
