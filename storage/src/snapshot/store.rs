//! The contract of snapshot files.

use bytes::Bytes;

use crate::{Error, Frozen, GroupId, GroupState, Health, ScrubStep};

/// The most bytes one [`SnapshotStore::read_chunk`] answers: a few frames of the bulk connection.
pub const CHUNK_BYTES_MAX: usize = 4 * 1024 * 1024;

/// One complete snapshot on this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotInfo {
    /// The group.
    pub group: GroupId,
    /// Its number on this node; later ones are higher. Peers number their copies themselves.
    pub id: u64,
    /// The applied position that the rows belong to.
    pub applied: Bytes,
    /// The length of the file.
    pub bytes: u64,
}

/// Snapshot files of a node's groups, one complete one each. All calls block.
pub trait SnapshotStore: Send + Sync + 'static {
    /// The group's newest complete snapshot.
    fn current(&self, group: GroupId) -> Option<SnapshotInfo>;

    /// Commits `frozen`, then writes the group's rows as of exactly that position into a new file,
    /// which becomes the current one once it is durable; the one before is removed. Meanwhile
    /// nothing of this group can be frozen. A failure leaves the current one as it was.
    fn write(&self, state: &GroupState, frozen: Frozen) -> Result<SnapshotInfo, Error>;

    /// Reads up to `len` bytes at `offset`, at most [`CHUNK_BYTES_MAX`]; none at the end. Blocks
    /// are verified. A snapshot that somebody is in the middle of reading stays readable when it
    /// is replaced, until it is read to its end, or is not read while it is replaced several times
    /// more, or the one that replaced it is read as well; else an [`Error::SnapshotGone`].
    fn read_chunk(&self, info: &SnapshotInfo, offset: u64, len: usize) -> Result<Bytes, Error>;

    /// Starts to receive a peer's snapshot of `bytes` bytes.
    fn receive(
        &self,
        group: GroupId,
        applied: Bytes,
        bytes: u64,
    ) -> Result<Box<dyn SnapshotReceiver>, Error>;

    /// Verifies the whole file, then replaces the group's rows by it: under a new generation, in
    /// batches, with one row flipped at the end. A crash leaves either the old rows or the new
    /// ones. The caller writes no rows meanwhile; the overlay is dropped.
    fn install(&self, state: &GroupState, info: &SnapshotInfo) -> Result<(), Error>;

    /// Verifies every byte of a snapshot.
    fn verify(&self, info: &SnapshotInfo) -> Result<(), Error>;

    /// Verifies the blocks from `offset` on, about `len` bytes and at most [`CHUNK_BYTES_MAX`], as
    /// they are on the disk; the next step goes on behind what it read.
    fn scrub(&self, info: &SnapshotInfo, offset: u64, len: usize) -> Result<ScrubStep, Error>;

    /// Removes the group's snapshot, for a replica that moved away.
    fn remove(&self, group: GroupId);

    /// Whether the disk still takes snapshots: not after a write or sync of one failed.
    fn health(&self) -> Health {
        Health::Sound
    }
}

/// A snapshot that arrives in chunks. Dropped unfinished, it leaves nothing.
pub trait SnapshotReceiver: Send {
    /// How many bytes have arrived: where the next chunk belongs.
    fn offset(&self) -> u64;

    /// Takes the chunk at `offset`, which must be [`SnapshotReceiver::offset`]; an earlier one,
    /// sent twice, is refused with [`Error::OutOfOrder`] and changes nothing.
    fn append(&mut self, offset: u64, chunk: Bytes) -> Result<(), Error>;

    /// Verifies what arrived and makes it durable and the group's current snapshot. Answers
    /// [`Error::SnapshotGone`] where the storage key it was sealed with went meanwhile: receive it
    /// again.
    fn finish(self: Box<Self>) -> Result<SnapshotInfo, Error>;
}
