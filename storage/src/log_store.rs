//! The contract of the log: what Raft needs of a disk, for all groups of a node at once.

use std::{future::Future, ops::Range, pin::Pin};

use bytes::Bytes;

use crate::{Error, GroupId, ScrubStep};

/// Where an entry stands: Raft's term and index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// The term of the leader that proposed the entry.
    pub term: u64,
    /// The entry's index; indexes of a group are contiguous.
    pub index: u64,
}

/// One entry of a group's log. `payload` is opaque here; cloning shares it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogEntry {
    /// Its position.
    pub position: Position,
    /// Its bytes.
    pub payload: Bytes,
}

/// What the log holds of a group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogGroup {
    /// The last saved vote, opaque.
    pub vote: Option<Bytes>,
    /// The last purged position.
    pub purged: Option<Position>,
    /// The last entry, or `purged` where no entry is left.
    pub last: Option<Position>,
}

/// Runs once, on any thread, when a write is durable (`Ok`) or will never be (`Err`).
pub type Done = Box<dyn FnOnce(Result<(), Error>) + Send>;

/// Whether the store still takes writes.
#[derive(Clone, Debug)]
pub enum Health {
    /// All is well.
    Sound,
    /// A write or sync failed with this error; every write since answers [`Error::FailSafe`].
    FailSafe(Error),
}

/// The log of all groups of a node.
///
/// Writes of one group take effect in call order, are visible to [`LogStore::read`] and
/// [`LogStore::group`] at once, and are durable when their [`Done`] ran. Dones of one group run in
/// call order. Calls return at once, except that they block while the write queue is over its bound.
pub trait LogStore: Send + Sync + 'static {
    /// The groups known, with what the log holds of each.
    fn groups(&self) -> Vec<GroupId>;

    /// What the log holds of `group`; the default for a group never written.
    fn group(&self, group: GroupId) -> LogGroup;

    /// How many records of `group` are durable, votes and marks included, since it was last dropped;
    /// 0 where the store does not count them. What a checkpoint notes of it is what a later open can
    /// expect of the log.
    fn durable_records(&self, group: GroupId) -> u64 {
        let _ = group;
        0
    }

    /// About how many bytes the group's entries after `index` take.
    fn bytes_after(&self, group: GroupId, index: u64) -> u64;

    /// The index of the last entry that is not among the last `bytes` bytes of the group's log, as
    /// [`LogStore::bytes_after`] counts them; 0 where all are. Looks at all that are.
    fn index_before(&self, group: GroupId, bytes: u64) -> u64;

    /// Appends entries that follow the group's last one without a gap.
    fn append(&self, group: GroupId, entries: Vec<LogEntry>, done: Done);

    /// Saves the group's vote.
    fn save_vote(&self, group: GroupId, vote: Bytes, done: Done);

    /// Removes every entry after `index` (all of them for `None`).
    fn truncate_after(&self, group: GroupId, index: Option<u64>, done: Done);

    /// Forgets entries up to and including `upto`, which may lie past the last entry (after a
    /// snapshot was installed).
    fn purge(&self, group: GroupId, upto: Position, done: Done);

    /// Forgets the group altogether.
    fn drop_group(&self, group: GroupId, done: Done);

    /// Reads entries of `range`, in order, at most about `bytes_max` bytes but at least one entry
    /// where there is one. Comes from memory for recent entries, else from disk off the async
    /// threads.
    fn read(
        &self,
        group: GroupId,
        range: Range<u64>,
        bytes_max: usize,
    ) -> Pin<Box<dyn Future<Output = Result<Vec<LogEntry>, Error>> + Send>>;

    /// Why `group` takes no writes: it has lost records that were durable, and must be dropped and
    /// seeded anew.
    fn damage(&self, group: GroupId) -> Option<Error> {
        let _ = group;
        None
    }

    /// Reads the next part of what is on disk, about `bytes_max` bytes, against its checksums. Who
    /// lost something is given up at the end of a pass: see [`LogStore::damage`]. Blocks.
    fn scrub(&self, bytes_max: usize) -> Result<ScrubStep, Error> {
        let _ = bytes_max;
        Ok(ScrubStep { is_last: true, ..ScrubStep::default() })
    }

    /// Writes down, a part at a time, what the next open would otherwise read again. Reads about
    /// `bytes_max` bytes and answers how many; 0 where nothing is left to do now. Blocks.
    ///
    /// # Errors
    /// [`Error::Io`] where the disk fails or is full. What an open finds does not depend on it.
    fn outline(&self, bytes_max: usize) -> Result<u64, Error> {
        let _ = bytes_max;
        Ok(0)
    }

    /// Whether the store still takes writes.
    fn health(&self) -> Health;

    /// Finishes queued writes and closes the files. Later calls answer [`Error::Closed`].
    fn close(&self);
}
