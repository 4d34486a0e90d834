//! What callers, writer and reader share: one lock, held for short and never across I/O.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    ops::Range,
    sync::Arc,
    thread::ThreadId,
};

use bytes::Bytes;
use parking_lot::{Condvar, Mutex, MutexGuard};

use super::{
    body,
    config::SegmentLogConfig,
    disk::DiskFile,
    format::{RECORD_HEADER_BYTES, padded},
    index::{Slot, Usage, Written},
    open::Segment,
    report::Damage,
    visible::Visible,
};
use crate::{
    Done, Error, GroupId, Health, LogEntry, Position, metrics,
    seal::{KeyUser, KeyView, Reseal},
};

/// What a write asks for.
#[derive(Debug)]
pub(super) enum Change {
    Append(Vec<LogEntry>),
    Vote(Bytes),
    /// To this last position.
    Truncate(Option<Position>),
    Purge(Position),
    Drop,
    /// Nothing to write: its callback keeps its turn.
    Nothing,
}

/// A queued write.
pub(super) struct Write {
    pub(super) group: GroupId,
    pub(super) change: Change,
    pub(super) bytes: usize,
    pub(super) number: u64,
    pub(super) done: Done,
}

/// What becomes of a write to a damaged group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OnDamage {
    Refuse,
    Take,
}

/// Whether the log takes calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Open,
    /// Queued writes are being finished.
    Closing,
    Closed,
}

/// What the writer is doing, so that callers wake it only where that helps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Waiting {
    No,
    /// For any write.
    Idle,
    /// For the next sync to be due.
    Spacing,
}

/// Everything behind the lock.
pub(super) struct Inner {
    pub(super) visible: BTreeMap<GroupId, Visible>,
    pub(super) written: BTreeMap<GroupId, Written>,
    pub(super) usage: Usage,
    pub(super) segments: BTreeMap<u64, Segment>,
    pub(super) queue: VecDeque<Write>,
    pub(super) queue_bytes: usize,
    pub(super) writes: u64,
    pub(super) phase: Phase,
    pub(super) failure: Option<Error>,
    pub(super) waiting: Waiting,
    /// Segments that turned out unsound and have not lost their outlines for it yet.
    pub(super) unsound: BTreeSet<u64>,
    /// What is sealed with an earlier key is to be moved.
    pub(super) reseal_before: u32,
    pub(super) writer: Option<ThreadId>,
}

/// The lock and its signals.
pub(super) struct Shared {
    pub(super) config: SegmentLogConfig,
    pub(super) inner: Mutex<Inner>,
    /// There is work, or the log closes.
    pub(super) work: Condvar,
    /// There is room in the queue, or the log failed or closes.
    pub(super) room: Condvar,
}

/// A part of a file that holds entries of one read, and the entries' places in it.
pub(super) struct Span {
    pub(super) file: Arc<dyn DiskFile>,
    pub(super) segment: u64,
    pub(super) start: u64,
    pub(super) bytes: u64,
    pub(super) entries: Vec<(u64, Slot)>,
}

/// What a read takes: from files first, then from memory.
#[derive(Default)]
pub(super) struct Plan {
    pub(super) spans: Vec<Span>,
    pub(super) recent: Vec<LogEntry>,
    /// The keys of what the spans hold, though they be destroyed meanwhile.
    pub(super) keys: KeyView,
}

impl Shared {
    /// Queues a write that `prepare` makes visible, unless the group or the log takes none.
    /// `prepare` answers `None` where nothing needs to be written.
    pub(super) fn write(
        &self,
        group: GroupId,
        done: Done,
        bytes: usize,
        on_damage: OnDamage,
        prepare: impl FnOnce(&mut Inner, u64) -> Change,
    ) {
        let mut inner = self.wait_for_room();
        let refusal = inner.refusal().or_else(|| match on_damage {
            OnDamage::Refuse => inner.damage(group),
            OnDamage::Take => None,
        });
        if let Some(error) = refusal {
            drop(inner);
            return done(Err(error));
        }
        let number = inner.writes + 1;
        let change = prepare(&mut inner, number);
        inner.writes = number;
        inner.queue_bytes += bytes;
        inner.queue.push_back(Write { group, change, bytes, number, done });
        metrics::log_queue(inner.queue.len(), inner.queue_bytes);
        let wake = match inner.waiting {
            Waiting::No => false,
            Waiting::Idle => true,
            Waiting::Spacing => inner.queue_bytes >= self.config.batch_bytes_max,
        };
        if wake {
            inner.waiting = Waiting::No;
            drop(inner);
            self.work.notify_one();
        }
    }

    /// What a read of `range` takes, at most about `bytes_max` bytes.
    pub(super) fn plan(
        &self,
        group: GroupId,
        range: Range<u64>,
        bytes_max: usize,
    ) -> Result<Plan, Error> {
        let inner = self.inner.lock();
        if inner.phase != Phase::Open {
            return Err(Error::Closed);
        }
        match inner.damage(group) {
            None => {
                let plan = inner.plan(group, range, bytes_max)?;
                Ok(Plan { keys: self.config.keys.view(), ..plan })
            }
            Some(damage) => Err(damage),
        }
    }

    fn wait_for_room(&self) -> MutexGuard<'_, Inner> {
        let mut inner = self.inner.lock();
        while inner.phase == Phase::Open
            && inner.failure.is_none()
            && (inner.queue_bytes >= self.config.queue_bytes_max
                || inner.queue.len() >= self.config.queue_writes_max)
            // A callback that writes runs on the writer's own thread, which must not wait for itself.
            && inner.writer != Some(std::thread::current().id())
        {
            self.room.wait(&mut inner);
        }
        inner
    }
}

impl KeyUser for Shared {
    /// The writer moves the entries; a later call finds them moved.
    fn reseal(&self, number: u32) -> Result<Reseal, Error> {
        let mut inner = self.inner.lock();
        if let Some(refusal) = inner.refusal() {
            return Err(refusal);
        }
        if !inner.usage.lives_before(number) {
            return Ok(Reseal::Done);
        }
        inner.reseal_before = number;
        drop(inner);
        self.work.notify_one();
        Ok(Reseal::UnderWay)
    }
}

impl Inner {
    /// Why no write is taken, if so.
    pub(super) fn refusal(&self) -> Option<Error> {
        match (&self.failure, self.phase) {
            (_, Phase::Closing | Phase::Closed) => Some(Error::Closed),
            (Some(_), Phase::Open) => Some(Error::FailSafe),
            (None, Phase::Open) => None,
        }
    }

    /// The damage of `group`, if it takes no writes.
    pub(super) fn damage(&self, group: GroupId) -> Option<Error> {
        self.visible.get(&group)?.damage.clone().map(Error::from)
    }

    /// Gives `group` up after one of its entries, or a record, turned out unreadable in `segment`.
    pub(super) fn lose(&mut self, group: GroupId, segment: u64, damage: &Damage) {
        self.unsound.insert(segment);
        tracing::error!(group = group.0, path = %damage.path.display(), offset = damage.offset,
            reason = damage.reason, "the log of a group is damaged");
        if let Some(visible) = self.visible.get_mut(&group) {
            visible.damage.get_or_insert(damage.clone());
        }
        if let Some(written) = self.written.get_mut(&group) {
            written.damaged(damage.clone(), &mut self.usage);
        }
    }

    /// Whether writes are taken.
    pub(super) fn health(&self) -> Health {
        self.failure.clone().map_or(Health::Sound, Health::FailSafe)
    }

    /// What a read of `range` takes, at most about `bytes_max` bytes.
    fn plan(&self, group: GroupId, range: Range<u64>, bytes_max: usize) -> Result<Plan, Error> {
        let mut plan = Plan::default();
        let Some(visible) = self.visible.get(&group) else { return Ok(plan) };
        let end = visible.last.map_or(0, |last| last.index.saturating_add(1)).min(range.end);
        if range.start >= range.end {
            return Ok(plan);
        }
        if let Some(purged) = visible.purged.filter(|purged| range.start <= purged.index) {
            return Err(Error::Purged { purged: purged.index });
        }
        let mut bytes = 0;
        let tail_first = visible.tail_first().unwrap_or(u64::MAX);
        let written = self.written.get(&group);
        let written_first =
            written.and_then(|written| written.slots().next()).map(|(first, _)| first);
        let mut index = range.start.max(written_first.unwrap_or(u64::MAX).min(tail_first));
        while index < end && index < tail_first {
            let Some(slot) = written.and_then(|written| written.slot(index)) else {
                // Damage took it: what lies behind is not trusted.
                return Ok(plan);
            };
            if bytes > 0 && bytes + slot.payload as usize > bytes_max {
                return Ok(plan);
            }
            bytes += slot.payload.max(1) as usize;
            self.add(&mut plan.spans, index, slot);
            index += 1;
        }
        for entry in visible.tail_from(index).take_while(|entry| entry.position.index < end) {
            if bytes > 0 && bytes + entry.payload.len() > bytes_max {
                break;
            }
            bytes += entry.payload.len().max(1);
            plan.recent.push(entry.clone());
        }
        Ok(plan)
    }

    /// Extends the last span by an entry that follows it in its file, else starts a new one.
    pub(super) fn add(&self, spans: &mut Vec<Span>, index: u64, slot: Slot) {
        let (start, bytes) = (u64::from(slot.offset), slot.bytes());
        // Between entries of two records there are a few headers, or entries of other groups.
        let near = |span: &&mut Span| {
            span.segment == slot.segment
                && start >= span.start
                && start <= span.start + span.bytes + SPAN_GAP_BYTES_MAX
        };
        match spans.last_mut().filter(near) {
            Some(span) => {
                span.bytes = span.bytes.max(start + bytes - span.start);
                span.entries.push((index, slot));
            }
            None => {
                let segment = self.segments.get(&slot.segment);
                let file = segment.expect("a living segment is never removed").file.clone();
                let entries = vec![(index, slot)];
                spans.push(Span { file, segment: slot.segment, start, bytes, entries });
            }
        }
    }
}

/// Reading past this much of other groups' entries is cheaper than another read.
const SPAN_GAP_BYTES_MAX: u64 = 16 << 10;

/// The bytes a change takes in the log, at most, where sealing an entry adds `overhead`.
pub(super) fn record_bytes(change: &Change, overhead: usize) -> usize {
    let body = match change {
        Change::Append(entries) => body::entries_bytes(entries, overhead),
        Change::Vote(vote) => vote.len(),
        Change::Truncate(_) | Change::Purge(_) => 16,
        Change::Drop => 0,
        Change::Nothing => return 0,
    };
    RECORD_HEADER_BYTES + padded(body)
}
