//! The one thread that writes: it takes what is queued, writes it with one write and one sync, and
//! then runs the callbacks in order.

use std::{collections::BTreeMap, sync::Arc, time::Instant};

use super::{
    body::{self, ENTRIES_HEADER_BYTES, ENTRY_HEADER_BYTES},
    clock::now,
    compact::{Compaction, Move, Which},
    disk::Disk,
    format::{Kind, LOG_GROUP, RECORD_HEADER_BYTES, RecordHeader},
    index::Slot,
    open::{Active, Segment, roll},
    replay::segment_path,
    shared::{Change, Inner, Phase, Shared, Waiting, Write, record_bytes},
};
use crate::{
    Error, GroupId, LogEntry,
    error::io_error,
    metrics,
    seal::{KEY_NONE, Sealer},
};

/// From this many writes in a sync on the log is under load, and the next sync is spaced: fewer
/// than that are a few closed loops, which waiting would only slow.
const SPACED_WRITES_MIN: usize = 32;
/// A head record's body.
const HEAD_BYTES: usize = 8;

/// The writer's own state.
pub(super) struct Writer {
    shared: Arc<Shared>,
    disk: Arc<dyn Disk>,
    active: Active,
    /// The number of each group's last record.
    numbers: BTreeMap<GroupId, u64>,
    buffer: Vec<u8>,
    compaction: Option<Compaction>,
    /// How many writes the last sync made durable, and when it began.
    last: Option<(usize, Instant)>,
    /// The last record is a mark.
    marked: bool,
}

enum Next {
    Writes(Vec<Write>),
    Tidy,
    Close,
}

/// What goes into a batch beside the callers' writes.
#[derive(Default)]
struct Tidy {
    moves: Vec<Move>,
    dead: Vec<u64>,
}

/// Turns the log fail-safe if the writer panics: nobody would ever run the callbacks.
struct FailOnPanic(Arc<Shared>);

impl Drop for FailOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            fail(&self.0, &Error::FailSafe, Vec::new());
        }
    }
}

impl Writer {
    /// The writer of an open log.
    pub(super) fn new(shared: Arc<Shared>, disk: Arc<dyn Disk>, active: Active) -> Writer {
        let numbers = shared.inner.lock().written.iter().map(|(id, g)| (*id, g.number)).collect();
        Writer {
            shared,
            disk,
            active,
            numbers,
            buffer: Vec::new(),
            compaction: None,
            last: None,
            marked: false,
        }
    }

    /// Writes until the log is closed or a write fails.
    pub(super) fn run(mut self) {
        let shared = self.shared.clone();
        let _guard = FailOnPanic(shared.clone());
        shared.inner.lock().writer = Some(std::thread::current().id());
        loop {
            let (writes, closing) = match self.next() {
                Next::Writes(writes) => (writes, false),
                Next::Tidy => (Vec::new(), false),
                Next::Close => (Vec::new(), true),
            };
            let result = if closing { self.close() } else { self.step(writes) };
            if let Err((error, writes)) = result {
                fail(&shared, &error, writes);
                return;
            }
            if closing {
                shared.inner.lock().phase = Phase::Closed;
                return;
            }
        }
    }

    fn next(&mut self) -> Next {
        let shared = self.shared.clone();
        let mut inner = shared.inner.lock();
        while inner.queue.is_empty() {
            if inner.phase != Phase::Open {
                return Next::Close;
            }
            if self.untidy(&inner) {
                return Next::Tidy;
            }
            inner.waiting = Waiting::Idle;
            shared.work.wait(&mut inner);
            inner.waiting = Waiting::No;
        }
        if let Some(due) = self.due() {
            while inner.phase == Phase::Open
                && inner.queue_bytes < shared.config.batch_bytes_max
                && now() < due
            {
                inner.waiting = Waiting::Spacing;
                shared.work.wait_until(&mut inner, due);
                inner.waiting = Waiting::No;
            }
        }
        let mut writes = Vec::new();
        let mut bytes = 0;
        while let Some(write) = inner.queue.front() {
            if !writes.is_empty() && bytes + write.bytes > shared.config.batch_bytes_max {
                break;
            }
            bytes += write.bytes;
            writes.extend(inner.queue.pop_front());
        }
        inner.queue_bytes -= bytes;
        metrics::log_queue(inner.queue.len(), inner.queue_bytes);
        drop(inner);
        shared.room.notify_all();
        Next::Writes(writes)
    }

    /// When the next sync is due, if the log is under load.
    fn due(&self) -> Option<Instant> {
        let (writes, began) = self.last?;
        (writes >= SPACED_WRITES_MIN).then(|| began + self.shared.config.sync_spacing)
    }

    fn untidy(&self, inner: &Inner) -> bool {
        let active = self.active.sequence;
        self.compaction.is_some()
            || !inner.dead(active).is_empty()
            || inner.mostly_dead(active, &self.shared.config).is_some()
            || inner.outdated().is_some()
    }

    fn step(&mut self, writes: Vec<Write>) -> Result<(), (Error, Vec<Write>)> {
        // Held until what it has sealed is in the books.
        let sealer = self.shared.config.keys.sealer();
        let tidied = self.tidy().and_then(|tidy| {
            let places = self.write(&tidy, &writes, &sealer)?;
            Ok((tidy, places))
        });
        let (tidy, (moved, placed)) = match tidied {
            Ok(tidied) => tidied,
            Err(error) => return Err((error, writes)),
        };
        let idle = self.apply(&tidy, &moved, &writes, &placed, &sealer);
        drop(sealer);
        for write in writes {
            (write.done)(Ok(()));
        }
        self.remove(&tidy.dead).map_err(|error| (error, Vec::new()))?;
        if idle { self.mark().map_err(|error| (error, Vec::new())) } else { Ok(()) }
    }

    fn tidy(&mut self) -> Result<Tidy, Error> {
        let mut tidy = Tidy::default();
        {
            let inner = self.shared.inner.lock();
            tidy.dead = inner.dead(self.active.sequence);
            if self.compaction.is_none() && tidy.dead.is_empty() {
                let dying = inner.mostly_dead(self.active.sequence, &self.shared.config);
                let outdated = || {
                    let keys = Which::SealedBefore(inner.reseal_before);
                    inner.outdated().map(|segment| (segment, keys))
                };
                let next = dying.map(|segment| (segment, Which::All)).or_else(outdated);
                self.compaction =
                    next.map(|(segment, keys)| Compaction::new(&inner, segment, keys));
            }
        }
        if let Some(compaction) = &mut self.compaction {
            tidy.moves = compaction.step(&self.shared)?;
            if compaction.is_done() {
                self.compaction = None;
            }
        }
        Ok(tidy)
    }

    /// Writes a batch and makes it durable; tells where each record starts.
    fn write(
        &mut self,
        tidy: &Tidy,
        writes: &[Write],
        sealer: &Sealer,
    ) -> Result<(Vec<u64>, Vec<u64>), Error> {
        let overhead = sealer.overhead();
        let moved = tidy.moves.iter().map(|moved| moved.record_bytes(overhead)).sum::<usize>();
        let head = if tidy.dead.is_empty() { 0 } else { RECORD_HEADER_BYTES + HEAD_BYTES };
        let bytes = writes.iter().map(|write| record_bytes(&write.change, overhead));
        let bytes = moved + head + bytes.sum::<usize>();
        if bytes == 0 {
            return Ok((Vec::new(), vec![0; writes.len()]));
        }
        if self.active.end + bytes as u64 > self.shared.config.segment_bytes {
            self.roll()?;
        }
        self.buffer.clear();
        self.buffer.reserve(bytes);
        // Moves come first: they were read from the log as it is before these writes.
        let moved = tidy.moves.iter().map(|moved| self.put_move(moved, sealer)).collect();
        if let Some(last) = tidy.dead.last() {
            let first = last + 1;
            self.put(Kind::Head, LOG_GROUP, |out| out.extend_from_slice(&first.to_le_bytes()));
        }
        let placed = writes.iter().map(|write| self.put_change(write, sealer)).collect();
        let began = now();
        self.flush()?;
        metrics::log_synced(writes.len(), bytes, now().saturating_duration_since(began));
        self.last = Some((writes.len(), began));
        if self.buffer.capacity() > 2 * self.shared.config.batch_bytes_max {
            self.buffer = Vec::new();
        }
        Ok((moved, placed))
    }

    fn put(&mut self, kind: Kind, group: GroupId, body: impl FnOnce(&mut Vec<u8>)) -> u64 {
        self.put_sealed(kind, group, KEY_NONE, body)
    }

    fn put_sealed(
        &mut self,
        kind: Kind,
        group: GroupId,
        key: u32,
        body: impl FnOnce(&mut Vec<u8>),
    ) -> u64 {
        let at = self.active.end + self.buffer.len() as u64;
        let number = match (kind, group) {
            (_, LOG_GROUP) => 0,
            (Kind::Drop, _) => self.numbers.remove(&group).unwrap_or(0) + 1,
            _ => {
                let number = self.numbers.entry(group).or_default();
                *number += 1;
                *number
            }
        };
        let synced = u32::try_from(self.active.synced).expect("segments are below 4 GiB");
        let header = RecordHeader { kind, group, number, key, synced };
        self.active.chain.record(&mut self.buffer, header, body);
        at
    }

    fn put_entries(
        &mut self,
        kind: Kind,
        group: GroupId,
        entries: &[LogEntry],
        sealer: &Sealer,
    ) -> u64 {
        let key = sealer.key();
        self.put_sealed(kind, group, key, |out| body::put_entries(out, group, entries, sealer))
    }

    fn put_move(&mut self, moved: &Move, sealer: &Sealer) -> u64 {
        self.put_entries(Kind::Moved, moved.group, &moved.entries, sealer)
    }

    fn put_change(&mut self, write: &Write, sealer: &Sealer) -> u64 {
        let group = write.group;
        match &write.change {
            Change::Append(entries) => self.put_entries(Kind::Entries, group, entries, sealer),
            Change::Vote(vote) => self.put(Kind::Vote, group, |out| out.extend_from_slice(vote)),
            Change::Truncate(last) => {
                self.put(Kind::Truncate, group, |out| body::put_truncate(out, *last))
            }
            Change::Purge(upto) => {
                self.put(Kind::Purge, group, |out| body::put_position(out, *upto))
            }
            Change::Drop => self.put(Kind::Drop, group, |_| ()),
            Change::Nothing => 0,
        }
    }

    fn flush(&mut self) -> Result<(), Error> {
        let active = &mut self.active;
        let path = || segment_path(&self.shared.config.dir, active.sequence);
        #[cfg(feature = "mutants")]
        if crate::mutant::Mutant::AckBeforeSync.is_on() {
            // What is written below is synced with the next batch, after it was answered.
            active.file.sync_data().map_err(|source| io_error("fdatasync", &path(), source))?;
        }
        let written = active.file.write_at(&self.buffer, active.end);
        written.map_err(|source| io_error("write", &path(), source))?;
        #[cfg(feature = "mutants")]
        let is_synced = !crate::mutant::Mutant::AckBeforeSync.is_on();
        #[cfg(not(feature = "mutants"))]
        let is_synced = true;
        if is_synced {
            active.file.sync_data().map_err(|source| io_error("fdatasync", &path(), source))?;
        }
        active.end += self.buffer.len() as u64;
        active.synced = active.end;
        self.marked = false;
        Ok(())
    }

    fn apply(
        &self,
        tidy: &Tidy,
        moved: &[u64],
        writes: &[Write],
        placed: &[u64],
        sealer: &Sealer,
    ) -> bool {
        let mut guard = self.shared.inner.lock();
        let inner = &mut *guard;
        let segment = self.active.sequence;
        if let Some(active) = inner.segments.get_mut(&segment) {
            active.bytes = self.active.end;
        }
        for (moved, at) in tidy.moves.iter().zip(moved) {
            if let Some(written) = inner.written.get_mut(&moved.group) {
                for (index, slot) in slots(segment, *at, &moved.entries, sealer) {
                    written.moved(index, slot, &mut inner.usage);
                    metrics::log_moved(slot.bytes());
                }
            }
        }
        let tail = self.shared.config.tail_share(inner.visible.len());
        for (write, at) in writes.iter().zip(placed) {
            inner.apply(write, segment, *at, sealer);
            if let Some(visible) = inner.visible.get_mut(&write.group) {
                visible.shed(tail, write.number);
            }
        }
        for (group, number) in &self.numbers {
            if let Some(written) = inner.written.get_mut(group) {
                written.number = *number;
            }
        }
        metrics::log_segments(inner.segments.len(), inner.usage.total());
        inner.queue.is_empty()
    }

    /// Removes segments that the head record no longer counts.
    fn remove(&mut self, dead: &[u64]) -> Result<(), Error> {
        for segment in dead {
            {
                let mut inner = self.shared.inner.lock();
                inner.segments.remove(segment);
                inner.usage.forget(*segment);
            }
            let path = segment_path(&self.shared.config.dir, *segment);
            self.disk.remove(&path).map_err(|source| io_error("remove", &path, source))?;
        }
        Ok(())
    }

    /// Notes, with the next sync at the latest, that all before is durable: so that damage in the
    /// last batch is not taken for an unfinished write.
    fn mark(&mut self) -> Result<(), Error> {
        if self.marked
            || self.active.end + RECORD_HEADER_BYTES as u64 > self.shared.config.segment_bytes
        {
            return Ok(());
        }
        self.buffer.clear();
        self.put(Kind::Mark, LOG_GROUP, |_| ());
        let active = &mut self.active;
        let path = || segment_path(&self.shared.config.dir, active.sequence);
        let written = active.file.write_at(&self.buffer, active.end);
        written.map_err(|source| io_error("write", &path(), source))?;
        active.end += self.buffer.len() as u64;
        self.marked = true;
        Ok(())
    }

    fn roll(&mut self) -> Result<(), Error> {
        let (dir, active) = (&self.shared.config.dir, &self.active);
        let path = segment_path(dir, active.sequence);
        if active.end > active.synced {
            active.file.sync_data().map_err(|source| io_error("fdatasync", &path, source))?;
        }
        let (first, rows) = {
            let inner = self.shared.inner.lock();
            let rows: Vec<_> = inner.written.iter().map(|(id, group)| group.row(*id)).collect();
            (inner.segments.keys().next().copied().unwrap_or(active.sequence), rows)
        };
        let next = roll(&*self.disk, &self.shared.config, active, first, &rows)?;
        // What was set aside and not used.
        active.file.set_len(active.end).map_err(|source| io_error("truncate", &path, source))?;
        let segment = Segment { file: next.file.clone(), bytes: next.end };
        let mut inner = self.shared.inner.lock();
        if let Some(sealed) = inner.segments.get_mut(&active.sequence) {
            sealed.bytes = active.end;
        }
        inner.segments.insert(next.sequence, segment);
        drop(inner);
        self.active = next;
        self.marked = false;
        Ok(())
    }

    fn close(&mut self) -> Result<(), (Error, Vec<Write>)> {
        self.mark().map_err(|error| (error, Vec::new()))?;
        let path = segment_path(&self.shared.config.dir, self.active.sequence);
        let synced = self.active.file.sync_data();
        synced.map_err(|source| (io_error("fdatasync", &path, source), Vec::new()))
    }
}

impl Inner {
    fn apply(&mut self, write: &Write, segment: u64, at: u64, sealer: &Sealer) {
        match write.change {
            Change::Nothing => return,
            Change::Drop => {
                if let Some(mut written) = self.written.remove(&write.group) {
                    written.clear(&mut self.usage);
                }
                return;
            }
            _ => (),
        }
        let written = self.written.entry(write.group).or_default();
        match &write.change {
            Change::Append(entries) => {
                for (index, slot) in slots(segment, at, entries, sealer) {
                    written.append(index, slot, &mut self.usage);
                }
            }
            Change::Vote(vote) => written.vote = Some(vote.clone()),
            Change::Truncate(last) => written.truncate(*last, &mut self.usage),
            Change::Purge(upto) => written.purge(*upto, &mut self.usage),
            Change::Drop | Change::Nothing => (),
        }
    }
}

/// Where the entries of a record at `at` lie.
fn slots(
    segment: u64,
    at: u64,
    entries: &[LogEntry],
    sealer: &Sealer,
) -> impl Iterator<Item = (u64, Slot)> {
    let (key, overhead) = (sealer.key(), sealer.overhead());
    let mut offset = at + (RECORD_HEADER_BYTES + ENTRIES_HEADER_BYTES) as u64;
    entries.iter().map(move |entry| {
        let payload = entry.payload.len() + overhead;
        let slot = Slot {
            segment,
            term: entry.position.term,
            offset: u32::try_from(offset).expect("segments are below 4 GiB"),
            payload: u32::try_from(payload).expect("payloads are below 4 GiB"),
            key,
        };
        offset += (ENTRY_HEADER_BYTES + payload) as u64;
        (entry.position.index, slot)
    })
}

/// The end of all writing: what was being written fails with `error`, the rest as fail-safe.
fn fail(shared: &Shared, error: &Error, writes: Vec<Write>) {
    tracing::error!(%error, "the log turns fail-safe: restart the node once the disk is sound");
    metrics::log_fail_safe();
    let queued = {
        let mut inner = shared.inner.lock();
        inner.failure = Some(error.clone());
        inner.queue_bytes = 0;
        std::mem::take(&mut inner.queue)
    };
    shared.room.notify_all();
    for write in writes {
        (write.done)(Err(error.clone()));
    }
    for write in queued {
        (write.done)(Err(Error::FailSafe));
    }
}
