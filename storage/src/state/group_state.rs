//! One Raft group's rows: an overlay of an active and a frozen layer over the store.
//!
//! The group's shard actor owns the writes; its checkpointer freezes and commits. Promises: reads
//! see every write at once; what is on disk is exactly the rows as of one applied position; a row
//! that is put as new and deleted between two checkpoints never reaches the store.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use bytes::{Bytes, BytesMut};
use parking_lot::{Mutex, MutexGuard, RwLock};

use super::{
    digest::Digest,
    frozen::{Frozen, FrozenLayer},
    group_rows::{GroupRead, GroupWrite},
    keys::{Generation, GroupRow, KeyRange, PREFIX_BYTES},
    layer::Layer,
    scrub::RowScrub,
    store::StateStore,
    verify::digest_damage,
};
use crate::{Error, GroupId, metrics};

/// Rows of a replaced generation that one checkpoint deletes beside its own changes: little enough
/// not to be noticed, and a million are gone after some thousand checkpoints.
const SWEEP_ROWS: usize = 512;

/// The batch in which a snapshot's rows are loaded: large enough that a sync per batch costs
/// little, small enough to hold in memory for every group at once.
const INSTALL_BATCH_BYTES: usize = 4 * 1024 * 1024;

/// Rows deleted a batch when an install clears the generation it is about to fill.
const CLEAR_ROWS: usize = 4096;

/// The rows of one Raft group. Cloning shares them.
#[derive(Clone)]
pub struct GroupState {
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    pub(super) group: GroupId,
    pub(super) store: Arc<dyn StateStore>,
    pub(super) layers: RwLock<Layers>,
    /// Held through each commit, snapshot and install, which so follow one another.
    pub(super) committed: Mutex<Committed>,
    /// How many of the group's records the log was last said to hold durably.
    log_records: AtomicU64,
}

/// What is known of the rows in the store.
#[derive(Debug, Default)]
pub(super) struct Committed {
    /// The ranges of replaced generations that are still to be deleted.
    stale: Vec<KeyRange>,
    /// Of the rows of the generation that counts.
    pub(super) digest: Digest,
    /// The scrub under way.
    pub(super) scrub: Option<RowScrub>,
}

/// What reads and writes see, from top to bottom.
pub(super) struct Layers {
    pub(super) active: Layer,
    pub(super) frozen: Option<Arc<FrozenLayer>>,
    pub(super) generation: Generation,
    pub(super) applied: Option<Bytes>,
    durable_applied: Option<Bytes>,
    /// A snapshot is being streamed or installed: nothing may be frozen.
    held: bool,
}

impl Layers {
    /// Moves the active layer to the frozen one, or hands out a frozen layer whose commit was
    /// given up. `None` while one is being committed, or a snapshot is under way.
    pub(super) fn freeze(&mut self) -> Option<Frozen> {
        if self.held {
            return None;
        }
        if let Some(frozen) = &self.frozen {
            return Frozen::claim(frozen);
        }
        let layer = FrozenLayer {
            layer: std::mem::take(&mut self.active),
            applied: self.applied.clone(),
            claimed: false.into(),
        };
        let layer = Arc::new(layer);
        self.frozen = Some(layer.clone());
        Frozen::claim(&layer)
    }
}

impl GroupState {
    /// The group's rows as of its last checkpoint; none for a group never written.
    ///
    /// # Panics
    /// If the group's number does not fit 20 bits.
    pub fn open(store: Arc<dyn StateStore>, group: GroupId) -> Result<Self, Error> {
        let row = match store.get(&GroupRow::key(group))? {
            Some(row) => GroupRow::decode(group, &row)?,
            None => GroupRow::empty(Generation::first(group)),
        };
        let mut stale = Vec::new();
        for range in row.generation.others() {
            if !store.keys(&range.from, &range.to, 1)?.is_empty() {
                stale.push(range);
            }
        }
        let layers = Layers {
            active: Layer::default(),
            frozen: None,
            generation: row.generation,
            applied: row.applied.clone(),
            durable_applied: row.applied,
            held: false,
        };
        let layers = RwLock::new(layers);
        let committed = Mutex::new(Committed { stale, digest: row.digest, scrub: None });
        let log_records = AtomicU64::new(row.log_records);
        Ok(Self { inner: Arc::new(Inner { group, store, layers, committed, log_records }) })
    }

    /// The group these rows belong to.
    pub fn group(&self) -> GroupId {
        self.inner.group
    }

    /// The newest applied position, the overlay included.
    pub fn applied(&self) -> Option<Bytes> {
        self.inner.layers.read().applied.clone()
    }

    /// The applied position that the last checkpoint noted: where replay starts after a crash.
    pub fn durable_applied(&self) -> Option<Bytes> {
        self.inner.layers.read().durable_applied.clone()
    }

    /// Reads the rows; writes and checkpoints wait while the guard lives.
    pub fn read(&self) -> GroupRead<'_> {
        GroupRead::new(&*self.inner.store, self.inner.layers.read())
    }

    /// Writes the rows; reads wait while the guard lives.
    pub fn write(&self) -> GroupWrite<'_> {
        GroupWrite::new(&*self.inner.store, self.inner.layers.write())
    }

    /// Writes the net change of a frozen layer and its applied position in one batch, then drops
    /// the layer. Blocks on the disk. A layer that an installed snapshot has replaced meanwhile is
    /// dropped without a write.
    ///
    /// After an error the store is fail-safe and the layer stays readable.
    pub fn commit(&self, frozen: Frozen) -> Result<(), Error> {
        let mut committed = self.inner.committed.lock();
        self.commit_locked(&frozen, &mut committed)
    }

    /// Notes how many records of this group the log holds durably (`LogStore::durable_records`). The next
    /// commit saves it; a log that holds less at a later start has lost something.
    pub fn note_log_records(&self, records: u64) {
        self.inner.log_records.store(records, Ordering::Relaxed);
    }

    /// The memory that changes not yet in the store take. The owner checkpoints when it exceeds
    /// its bound.
    pub fn overlay_bytes(&self) -> usize {
        let layers = self.inner.layers.read();
        let frozen = layers.frozen.as_ref().map_or(0, |frozen| frozen.layer.bytes());
        layers.active.bytes() + frozen
    }

    /// Deletes some rows of generations that a snapshot has replaced; `true` where none are left.
    /// Checkpoints do the same by and by.
    pub fn sweep(&self) -> Result<bool, Error> {
        let mut committed = self.inner.committed.lock();
        let mut batch = Vec::new();
        let swept = self.sweep_into(&mut batch, &committed.stale)?;
        if !batch.is_empty() {
            self.inner.store.commit(batch)?;
        }
        if swept {
            committed.stale.pop();
        }
        Ok(committed.stale.is_empty())
    }

    /// Deletes the group's rows, damaged ones too, and its applied position, for a replica that
    /// moved away. Blocks, in bounded batches; a crash leaves all rows visible or none, and the next
    /// open and erase go on.
    pub fn erase(&self) -> Result<(), Error> {
        let mut committed = self.inner.committed.lock();
        self.inner.layers.write().held = true;
        let result = self.erase_locked(&mut committed);
        self.inner.layers.write().held = false;
        result
    }

    fn erase_locked(&self, committed: &mut Committed) -> Result<(), Error> {
        let generation = self.inner.layers.read().generation.next();
        self.clear(&generation.range())?;
        self.note_log_records(0);
        self.flip(GroupRow::empty(generation), Vec::new(), committed)?;
        for range in std::mem::take(&mut committed.stale) {
            self.clear(&range)?;
        }
        self.inner.store.commit(vec![(GroupRow::key(self.inner.group), None)])
    }

    fn commit_locked(&self, frozen: &Frozen, committed: &mut Committed) -> Result<(), Error> {
        let generation = {
            let layers = self.inner.layers.read();
            let current = layers.frozen.as_ref();
            if !current.is_some_and(|layer| Arc::ptr_eq(layer, &frozen.layer)) {
                return Ok(());
            }
            layers.generation
        };
        let applied = frozen.layer.applied.clone();
        let mut batch = changes(generation, &frozen.layer.layer);
        let rows = batch.len();
        let unchanged = batch.is_empty() && applied == self.durable_applied();
        let (digest, scrub) = self.account(&batch, committed)?;
        let swept = self.sweep_into(&mut batch, &committed.stale)?;
        if !unchanged {
            let log_records = self.inner.log_records.load(Ordering::Relaxed);
            let row = GroupRow { generation, digest, log_records, applied: applied.clone() };
            batch.push((GroupRow::key(self.inner.group), Some(row.encode())));
        }
        if !batch.is_empty() {
            self.inner.store.commit(batch)?;
            metrics::checkpoint_committed(rows);
        }
        (committed.digest, committed.scrub) = (digest, scrub);
        if swept {
            committed.stale.pop();
        }
        let mut layers = self.inner.layers.write();
        layers.frozen = None;
        layers.durable_applied = applied;
        Ok(())
    }

    /// The digest, and the scrub under way, as `batch` will leave them. Reads each row that it
    /// replaces, those said to be new too: a digest must not rest on a promise.
    fn account(
        &self,
        batch: &[(Bytes, Option<Bytes>)],
        committed: &Committed,
    ) -> Result<(Digest, Option<RowScrub>), Error> {
        let mut digest = committed.digest;
        let mut scrub = committed.scrub.clone();
        for (key, new) in batch {
            let old = self.inner.store.get(key)?;
            let key = &key[PREFIX_BYTES..];
            digest.change(key, old.as_ref(), new.as_ref());
            if let Some(scrub) = &mut scrub {
                scrub.change(key, old.as_ref(), new.as_ref());
            }
        }
        Ok((digest, scrub))
    }

    /// Adds the deletion of some rows of a replaced generation to `batch`; true where the last
    /// range is empty after it.
    fn sweep_into(
        &self,
        batch: &mut Vec<(Bytes, Option<Bytes>)>,
        stale: &[KeyRange],
    ) -> Result<bool, Error> {
        let Some(range) = stale.last() else {
            return Ok(false);
        };
        let keys = self.inner.store.keys(&range.from, &range.to, SWEEP_ROWS)?;
        let is_last = keys.len() < SWEEP_ROWS;
        batch.extend(keys.into_iter().map(|key| (key, None)));
        Ok(is_last)
    }

    /// Commits `frozen` and keeps the store's rows of this group as they are until the hold is
    /// dropped: commits and installs wait, and nothing can be frozen.
    pub(crate) fn commit_and_hold(&self, frozen: Frozen) -> Result<Hold<'_>, Error> {
        let mut committed = self.inner.committed.lock();
        self.commit_locked(&frozen, &mut committed)?;
        let mut layers = self.inner.layers.write();
        layers.held = true;
        let generation = layers.generation;
        let applied = layers.durable_applied.clone();
        drop(layers);
        Ok(Hold { inner: &self.inner, generation, applied, committed })
    }

    /// Replaces all rows by those of `source`, under a new generation: readers see the old rows
    /// until one row flips. A crash before leaves the old rows, one after has the new ones.
    pub(crate) fn replace(&self, source: &mut dyn RowSource, applied: Bytes) -> Result<(), Error> {
        let mut committed = self.inner.committed.lock();
        self.inner.layers.write().held = true;
        let result = self.load(source, applied, &mut committed);
        self.inner.layers.write().held = false;
        result
    }

    fn load(
        &self,
        source: &mut dyn RowSource,
        applied: Bytes,
        committed: &mut Committed,
    ) -> Result<(), Error> {
        let store = &self.inner.store;
        let generation = self.inner.layers.read().generation.next();
        self.clear(&generation.range())?;
        let mut digest = Digest::default();
        let mut batch = Vec::new();
        let mut batch_bytes = 0;
        while let Some((key, value)) = source.next_row()? {
            batch_bytes += key.len() + value.len();
            digest.add(&key, &value);
            batch.push((generation.key(&key), Some(value)));
            if batch_bytes >= INSTALL_BATCH_BYTES {
                store.commit(std::mem::take(&mut batch))?;
                batch_bytes = 0;
            }
        }
        let log_records = self.inner.log_records.load(Ordering::Relaxed);
        let row = GroupRow { generation, digest, log_records, applied: Some(applied) };
        self.flip(row, batch, committed)
    }

    /// Makes the rows of another generation the group's, in one batch with the last of them.
    fn flip(
        &self,
        row: GroupRow,
        mut batch: Vec<(Bytes, Option<Bytes>)>,
        committed: &mut Committed,
    ) -> Result<(), Error> {
        batch.push((GroupRow::key(self.inner.group), Some(row.encode())));
        self.inner.store.commit(batch)?;
        let stale = row.generation.others();
        *committed = Committed { stale, digest: row.digest, scrub: None };
        let mut layers = self.inner.layers.write();
        layers.generation = row.generation;
        layers.active = Layer::default();
        layers.frozen = None;
        layers.applied = row.applied.clone();
        layers.durable_applied = row.applied;
        Ok(())
    }

    fn clear(&self, range: &KeyRange) -> Result<(), Error> {
        loop {
            let keys = self.inner.store.keys(&range.from, &range.to, CLEAR_ROWS)?;
            if keys.is_empty() {
                return Ok(());
            }
            self.inner.store.commit(keys.into_iter().map(|key| (key, None)).collect())?;
        }
    }
}

/// The layer's changes as the store takes them; all keys share one allocation.
fn changes(generation: Generation, layer: &Layer) -> Vec<(Bytes, Option<Bytes>)> {
    let key_bytes = layer.changes().keys().map(|key| PREFIX_BYTES + key.len()).sum();
    let mut keys = BytesMut::with_capacity(key_bytes);
    let mut batch = Vec::with_capacity(layer.changes().len() + 1);
    for (key, change) in layer.changes() {
        generation.put_key(key, &mut keys);
        batch.push((keys.split().freeze(), change.value().cloned()));
    }
    batch
}

/// Rows in ascending order, each read once.
pub(crate) trait RowSource {
    /// The next row, `None` after the last.
    fn next_row(&mut self) -> Result<Option<(Bytes, Bytes)>, Error>;
}

/// A group's rows in the store, standing still.
pub(crate) struct Hold<'a> {
    inner: &'a Inner,
    generation: Generation,
    applied: Option<Bytes>,
    committed: MutexGuard<'a, Committed>,
}

impl Hold<'_> {
    /// The applied position of these rows.
    pub(crate) fn applied(&self) -> Option<&Bytes> {
        self.applied.as_ref()
    }

    /// Compares the digest of all rows with what it must be.
    pub(crate) fn check(&self, digest: Digest) -> Result<(), Error> {
        if digest == self.committed.digest {
            return Ok(());
        }
        let error = digest_damage(self.inner.group);
        self.inner.store.give_up(&error);
        Err(error)
    }

    /// At most `limit` rows that follow `after`, ascending.
    pub(crate) fn rows_after(
        &self,
        after: Option<&Bytes>,
        limit: usize,
    ) -> Result<Vec<(Bytes, Bytes)>, Error> {
        let range = self.generation.range();
        let from = match after {
            Some(key) => successor(&self.generation.key(key)),
            None => range.from,
        };
        let rows = self.inner.store.scan(&from, &range.to, limit)?;
        Ok(rows.into_iter().map(|(key, value)| (key.slice(PREFIX_BYTES..), value)).collect())
    }
}

impl Drop for Hold<'_> {
    fn drop(&mut self) {
        self.inner.layers.write().held = false;
    }
}

/// The smallest key after `key`.
pub(super) fn successor(key: &[u8]) -> Bytes {
    let mut next = BytesMut::with_capacity(key.len() + 1);
    next.extend_from_slice(key);
    next.extend_from_slice(&[0]);
    next.freeze()
}
