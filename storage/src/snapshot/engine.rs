//! What all snapshot stores do alike, over a [`Medium`].

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use parking_lot::Mutex;

use super::{
    block::{BlockReader, BlockWriter, Written},
    medium::{Listed, Medium},
    receiver::Receiver,
    rows::{APPLIED_BYTES_MAX, RowReader, RowWriter},
    store::{CHUNK_BYTES_MAX, SnapshotInfo, SnapshotReceiver},
};
use crate::{
    Error, Frozen, GroupId, GroupState, Keyring, ScrubStep,
    error::io_error,
    metrics,
    seal::{KeyUser, Reseal},
    state::{Digest, RowSource as _},
};

/// Replacements after which nobody is taken to be in the middle of a snapshot any more: a reader that
/// goes on at all reads a piece while one new snapshot is written.
const UNREAD_REPLACEMENTS_MAX: u32 = 4;

/// Rows fetched from the store at once while a snapshot is written: 256 of 64 KiB are 16 MiB.
const PAGE_ROWS: usize = 256;

pub(super) struct Engine {
    medium: Box<dyn Medium>,
    keys: Keyring,
    groups: Mutex<BTreeMap<GroupId, Files>>,
    next_part: AtomicU64,
}

/// The files of one group.
struct Files {
    current: Arc<Snapshot>,
    /// The one before, unlinked but open: somebody is in the middle of it.
    retired: Option<Arc<Snapshot>>,
}

struct Snapshot {
    info: SnapshotInfo,
    reader: BlockReader,
    /// A peer has read a part of it, or it is received and not yet installed.
    is_wanted: AtomicBool,
    /// How often the group's snapshot was replaced since somebody last read this one.
    replaced: AtomicU32,
}

/// Whether a published snapshot must stay readable when it is replaced.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    No,
    /// It was received and is still to be installed.
    ByInstall,
}

impl Engine {
    /// Finds the newest complete snapshot of each group; older ones are removed, and one whose
    /// header or end is damaged is set aside.
    pub(super) fn open(medium: Box<dyn Medium>, keys: Keyring) -> Result<Arc<Self>, Error> {
        let groups = Mutex::new(BTreeMap::new());
        let engine = Arc::new(Self { medium, keys, groups, next_part: AtomicU64::new(0) });
        let mut found: Vec<Snapshot> = Vec::new();
        for Listed { name, file } in engine.medium.list()? {
            let Some((group, id)) = parse_name(&name) else {
                continue;
            };
            let opened = BlockReader::open(file, engine.medium.path(&name), &engine.keys);
            match opened.and_then(|reader| Ok((check_ends(&reader, group)?, reader))) {
                Ok((rows, reader)) => {
                    let applied = rows.applied().clone();
                    let info = SnapshotInfo { group, id, applied, bytes: reader.bytes() };
                    found.push(Snapshot {
                        info,
                        reader,
                        is_wanted: false.into(),
                        replaced: 0.into(),
                    });
                }
                Err(error @ Error::Damage { .. }) => {
                    tracing::error!(%error, "snapshot is damaged: set aside");
                    engine.medium.set_aside(&name);
                }
                Err(error) => return Err(error),
            }
        }
        found.sort_by_key(|snapshot| snapshot.info.id);
        for snapshot in found {
            let files = Files { current: Arc::new(snapshot), retired: None };
            let older = engine.groups.lock().insert(files.current.info.group, files);
            if let Some(older) = older {
                engine.medium.remove(&file_name(&older.current.info));
            }
        }
        let user: Arc<dyn KeyUser> = engine.clone();
        engine.keys.register(Arc::downgrade(&user));
        Ok(engine)
    }

    pub(super) fn keys(&self) -> &Keyring {
        &self.keys
    }

    pub(super) fn current(&self, group: GroupId) -> Option<SnapshotInfo> {
        self.groups.lock().get(&group).map(|files| files.current.info.clone())
    }

    pub(super) fn write(&self, state: &GroupState, frozen: Frozen) -> Result<SnapshotInfo, Error> {
        let group = state.group();
        let hold = state.commit_and_hold(frozen)?;
        let applied = hold.applied().cloned().unwrap_or_default();
        let mut writer = RowWriter::new(self.create()?, group, &applied)?;
        let mut last: Option<Bytes> = None;
        let mut digest = Digest::default();
        loop {
            let rows = hold.rows_after(last.as_ref(), PAGE_ROWS)?;
            for (key, value) in &rows {
                digest.add(key, value);
                writer.row(key, value)?;
            }
            if rows.len() < PAGE_ROWS {
                break;
            }
            last = rows.into_iter().next_back().map(|(key, _)| key);
        }
        // What the log is purged behind, and peers receive, must be the rows there should be.
        hold.check(digest)?;
        let written = writer.finish()?.finish()?;
        metrics::snapshot_written(written.bytes);
        // Published while the rows are held: a snapshot of an older position never replaces one
        // that was installed meanwhile.
        let info = self.publish(written, group, applied, Wanted::No)?;
        Ok(info)
    }

    pub(super) fn read_chunk(
        &self,
        info: &SnapshotInfo,
        offset: u64,
        len: usize,
    ) -> Result<Bytes, Error> {
        let snapshot = self.find(info)?;
        snapshot.replaced.store(0, Ordering::Relaxed);
        let chunk = snapshot.reader.chunk(offset, len.min(CHUNK_BYTES_MAX))?;
        let is_at_end = offset.saturating_add(chunk.len() as u64) >= info.bytes;
        self.set_wanted(&snapshot, !is_at_end);
        Ok(chunk)
    }

    pub(super) fn receive(
        self: &Arc<Self>,
        group: GroupId,
        applied: Bytes,
        bytes: u64,
    ) -> Result<Box<dyn SnapshotReceiver>, Error> {
        if applied.len() > APPLIED_BYTES_MAX {
            return Err(Error::TooLarge { bytes: applied.len(), bytes_max: APPLIED_BYTES_MAX });
        }
        let writer = self.create()?;
        Ok(Box::new(Receiver::new(self.clone(), group, applied, bytes, writer)))
    }

    pub(super) fn install(&self, state: &GroupState, info: &SnapshotInfo) -> Result<(), Error> {
        let snapshot = self.find(info)?;
        check_header(&snapshot.reader, info.group, &info.applied)?.verify()?;
        let mut rows = check_header(&snapshot.reader, info.group, &info.applied)?;
        state.replace(&mut rows, info.applied.clone())?;
        self.set_wanted(&snapshot, false);
        metrics::snapshot_installed();
        Ok(())
    }

    pub(super) fn verify(&self, info: &SnapshotInfo) -> Result<(), Error> {
        let snapshot = self.find(info)?;
        check_header(&snapshot.reader, info.group, &info.applied)?.verify()
    }

    /// Verifies the blocks from `offset` on, about `len` bytes, as they are on the disk.
    pub(super) fn scrub(
        &self,
        info: &SnapshotInfo,
        offset: u64,
        len: usize,
    ) -> Result<ScrubStep, Error> {
        let reader = &self.find(info)?.reader;
        reader.forget_cached(offset, len as u64);
        let bytes = reader.chunk(offset, len.min(CHUNK_BYTES_MAX))?.len() as u64;
        let is_last = offset.saturating_add(bytes) >= info.bytes;
        Ok(ScrubStep { bytes, is_last, ..ScrubStep::default() })
    }

    /// Reads every row of a snapshot, in ascending order; all is verified on the way.
    pub(super) fn each_row(
        &self,
        info: &SnapshotInfo,
        take: &mut dyn FnMut(&[u8], &[u8]),
    ) -> Result<(), Error> {
        let snapshot = self.find(info)?;
        let mut rows = check_header(&snapshot.reader, info.group, &info.applied)?;
        while let Some((key, value)) = rows.next_row()? {
            take(&key, &value);
        }
        Ok(())
    }

    pub(super) fn remove(&self, group: GroupId) {
        if let Some(files) = self.groups.lock().remove(&group) {
            self.medium.remove(&file_name(&files.current.info));
        }
    }

    /// Starts a file, sealed with the current key.
    fn create(&self) -> Result<BlockWriter, Error> {
        let number = self.next_part.fetch_add(1, Ordering::Relaxed);
        let path = self.medium.path("new snapshot");
        BlockWriter::new(self.medium.create(number)?, path, self.keys.sealer())
    }

    /// Reads what was written and is not published yet.
    pub(super) fn reader(&self, written: &Written) -> Result<BlockReader, Error> {
        let path = self.medium.path("new snapshot");
        let file = written.part.reader().map_err(|error| io_error("open", &path, error))?;
        BlockReader::open(file, path, &self.keys)
    }

    fn find(&self, info: &SnapshotInfo) -> Result<Arc<Snapshot>, Error> {
        let groups = self.groups.lock();
        let files = groups.get(&info.group).ok_or(Error::SnapshotGone)?;
        let mut candidates = [Some(&files.current), files.retired.as_ref()].into_iter().flatten();
        let found = candidates.find(|snapshot| snapshot.info == *info);
        found.cloned().ok_or(Error::SnapshotGone)
    }

    /// Notes whether somebody still needs the snapshot; a retired one nobody needs is closed.
    fn set_wanted(&self, snapshot: &Arc<Snapshot>, is_wanted: bool) {
        snapshot.is_wanted.store(is_wanted, Ordering::Release);
        if is_wanted {
            return;
        }
        if let Some(files) = self.groups.lock().get_mut(&snapshot.info.group) {
            files.retired.take_if(|retired| Arc::ptr_eq(retired, snapshot));
        }
    }

    /// Makes a complete part the group's current snapshot and removes the one before.
    pub(super) fn publish(
        &self,
        mut written: Written,
        group: GroupId,
        applied: Bytes,
        wanted: Wanted,
    ) -> Result<SnapshotInfo, Error> {
        // The long wait comes before the lock.
        written.part.sync()?;
        let mut groups = self.groups.lock();
        let id = groups.get(&group).map_or(1, |files| files.current.info.id + 1);
        let name = name(group, id);
        let path = self.medium.path(&name);
        let file = written.part.reader().map_err(|error| io_error("open", &path, error))?;
        let reader = BlockReader::open(file, path, &self.keys)?;
        let info = SnapshotInfo { group, id, applied, bytes: reader.bytes() };
        written.part.publish(&name)?;
        let is_wanted = AtomicBool::new(wanted == Wanted::ByInstall);
        let replaced = AtomicU32::new(0);
        let current = Arc::new(Snapshot { info: info.clone(), reader, is_wanted, replaced });
        if let Some(before) = groups.remove(&group) {
            self.medium.remove(&file_name(&before.current.info));
            let still_read = before.retired.filter(|retired| {
                retired.replaced.fetch_add(1, Ordering::Relaxed) < UNREAD_REPLACEMENTS_MAX
            });
            let keep = before.current.is_wanted.load(Ordering::Acquire);
            // One at a time: whoever reads the older one begins anew where both are read.
            let retired = keep.then_some(before.current).or(still_read);
            groups.insert(group, Files { current, retired });
        } else {
            groups.insert(group, Files { current, retired: None });
        }
        // Now it is in the books.
        drop(written.sealer);
        Ok(info)
    }

    /// Writes a snapshot's file anew, sealed with the current key: the same blocks under the same
    /// name, so that whoever reads it goes on.
    fn rewrite(&self, snapshot: &Arc<Snapshot>) -> Result<(), Error> {
        let mut writer = self.create()?;
        let mut number = 0;
        while let Some(payload) = snapshot.reader.payload(number)? {
            writer.write(&payload)?;
            number += 1;
        }
        let mut written = writer.finish()?;
        written.part.sync()?;
        let mut groups = self.groups.lock();
        let files = groups.get_mut(&snapshot.info.group);
        let Some(files) = files.filter(|files| Arc::ptr_eq(&files.current, snapshot)) else {
            // A newer one came meanwhile.
            return Ok(());
        };
        let name = file_name(&snapshot.info);
        let path = self.medium.path(&name);
        let file = written.part.reader().map_err(|error| io_error("open", &path, error))?;
        let reader = BlockReader::open(file, path, &self.keys)?;
        written.part.publish(&name)?;
        let is_wanted = AtomicBool::new(snapshot.is_wanted.load(Ordering::Acquire));
        let replaced = AtomicU32::new(snapshot.replaced.load(Ordering::Relaxed));
        files.current =
            Arc::new(Snapshot { info: snapshot.info.clone(), reader, is_wanted, replaced });
        drop(written.sealer);
        Ok(())
    }

    /// Sets a snapshot aside that turned out damaged.
    fn give_up(&self, snapshot: &Arc<Snapshot>, error: &Error) {
        tracing::error!(%error, "snapshot is damaged: set aside");
        let mut groups = self.groups.lock();
        let group = snapshot.info.group;
        if groups.get(&group).is_some_and(|files| Arc::ptr_eq(&files.current, snapshot)) {
            groups.remove(&group);
            self.medium.set_aside(&file_name(&snapshot.info));
        }
    }
}

impl KeyUser for Engine {
    /// Moves one file at a time. The owner writes new snapshots of groups that changed; this is
    /// for those that did not.
    fn reseal(&self, number: u32) -> Result<Reseal, Error> {
        let outdated = {
            let groups = self.groups.lock();
            let mut current = groups.values().map(|files| &files.current);
            current.find(|snapshot| snapshot.reader.key() < number).cloned()
        };
        let Some(snapshot) = outdated else { return Ok(Reseal::Done) };
        match self.rewrite(&snapshot) {
            Ok(()) => Ok(Reseal::Moved(snapshot.info.bytes)),
            Err(error @ Error::Damage { .. }) => {
                self.give_up(&snapshot, &error);
                Ok(Reseal::Moved(0))
            }
            Err(error) => Err(error),
        }
    }
}

/// Opens the content and checks that it is the one expected.
pub(super) fn check_header(
    reader: &BlockReader,
    group: GroupId,
    applied: &Bytes,
) -> Result<RowReader, Error> {
    let rows = RowReader::open(reader.clone())?;
    if rows.group() != group {
        return Err(reader.damage(0, "snapshot of another group"));
    }
    if rows.applied() != applied {
        return Err(reader.damage(0, "snapshot of another position"));
    }
    Ok(rows)
}

/// Checks the first and the last block, which finds a file cut short anywhere but on a block's
/// edge; the whole is verified when it is read.
pub(super) fn check_ends(reader: &BlockReader, group: GroupId) -> Result<RowReader, Error> {
    let rows = RowReader::open(reader.clone())?;
    if rows.group() != group {
        return Err(reader.damage(0, "snapshot of another group"));
    }
    let blocks = reader.bytes().div_ceil(super::block::BLOCK_BYTES as u64);
    reader.payload(blocks.saturating_sub(1))?;
    Ok(rows)
}

fn name(group: GroupId, id: u64) -> String {
    format!("{}-{id}.snapshot", group.0)
}

fn file_name(info: &SnapshotInfo) -> String {
    name(info.group, info.id)
}

pub(super) fn parse_name(name: &str) -> Option<(GroupId, u64)> {
    let (group, id) = name.strip_suffix(".snapshot")?.split_once('-')?;
    Some((GroupId(group.parse().ok()?), id.parse().ok()?))
}
