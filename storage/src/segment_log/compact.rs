//! Gives space back: dead segments go, oldest first, and what still lives in a mostly dead one is
//! written again at the end of the log. Votes and marks need no care of their own, since every
//! segment begins with all of them.

use std::{collections::VecDeque, io::ErrorKind, path::Path};

use bytes::Bytes;

use super::{
    body,
    config::SegmentLogConfig,
    format::{RECORD_HEADER_BYTES, padded},
    index::Slot,
    replay::segment_path,
    report::Damage,
    shared::{Inner, Shared, Span},
};
use crate::{Error, GroupId, LogEntry, Position, seal::KeyView};

/// What one step moves at most: a few milliseconds of the writer's time.
const MOVE_BYTES_MAX: u64 = 1 << 20;
/// A segment is mostly dead when at most one part in so many lives.
const MOSTLY_DEAD: u64 = 4;
/// Dead segments that a less dead oldest one may keep alive before it is rewritten all the same.
const PINNED_SEGMENTS_MAX: u64 = 4;

const CUT: &str = "the file ends before an entry that was durable";
const UNREADABLE: &str = "an entry that was durable is unreadable, or its storage key is missing";

/// A segment being emptied, of all or of what old keys have sealed.
#[derive(Debug)]
pub(super) struct Compaction {
    segment: u64,
    keys: Which,
    left: VecDeque<(GroupId, u64)>,
}

/// Which entries are to be moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Which {
    All,
    /// Those that are sealed with a key before this one, or not at all.
    SealedBefore(u32),
}

impl Which {
    fn takes(self, slot: &Slot) -> bool {
        match self {
            Which::All => true,
            Which::SealedBefore(key) => slot.key < key,
        }
    }
}

/// The entries of one record to be written again.
#[derive(Debug)]
pub(super) struct Move {
    pub(super) group: GroupId,
    pub(super) entries: Vec<LogEntry>,
}

impl Move {
    /// The bytes of its record, where sealing an entry adds `overhead`.
    pub(super) fn record_bytes(&self, overhead: usize) -> usize {
        RECORD_HEADER_BYTES + padded(body::entries_bytes(&self.entries, overhead))
    }
}

impl Inner {
    /// The segments that nothing lives in and nothing older pins.
    pub(super) fn dead(&self, active: u64) -> Vec<u64> {
        let older = self.segments.keys().copied().take_while(|segment| *segment != active);
        older.take_while(|segment| self.usage.of(*segment) == 0).collect()
    }

    /// The first segment with entries that are to be sealed with a later key, if any.
    pub(super) fn outdated(&self) -> Option<u64> {
        if !self.usage.lives_before(self.reseal_before) {
            return None;
        }
        let slots = self.written.values().flat_map(|written| written.slots());
        let outdated = slots.filter(|(_, slot)| slot.key < self.reseal_before);
        outdated.map(|(_, slot)| slot.segment).min()
    }

    /// The segment that is to be emptied now, if any.
    pub(super) fn mostly_dead(&self, active: u64, config: &SegmentLogConfig) -> Option<u64> {
        let (oldest, segment) = self.segments.first_key_value()?;
        let live = self.usage.of(*oldest);
        if *oldest == active || live == 0 {
            return None;
        }
        let total: u64 = self.segments.values().map(|segment| segment.bytes).sum();
        let bound = 2 * self.usage.total() + PINNED_SEGMENTS_MAX * config.segment_bytes;
        (live * MOSTLY_DEAD <= segment.bytes || total > bound).then_some(*oldest)
    }
}

impl Compaction {
    /// Lists what lives in `segment`.
    pub(super) fn new(inner: &Inner, segment: u64, keys: Which) -> Compaction {
        let is_meant = move |slot: &Slot| slot.segment == segment && keys.takes(slot);
        let groups = inner.written.iter().flat_map(|(group, written)| {
            let here = written.slots().filter(move |(_, slot)| is_meant(slot));
            here.map(|(index, _)| (*group, index))
        });
        Compaction { segment, keys, left: groups.collect() }
    }

    /// Whether all was moved.
    pub(super) fn is_done(&self) -> bool {
        self.left.is_empty()
    }

    /// Reads the next entries to move. An unreadable one costs its group.
    pub(super) fn step(&mut self, shared: &Shared) -> Result<Vec<Move>, Error> {
        let (spans, keys) = {
            let inner = shared.inner.lock();
            // Keys of what lives are there: none is destroyed before its entries have moved.
            (self.take_spans(&inner), shared.config.keys.view())
        };
        let mut moves: Vec<Move> = Vec::new();
        for (group, span) in spans {
            match read_span(&shared.config.dir, group, &span, &keys)? {
                Ok(entries) => moves.push(Move { group, entries }),
                Err(damage) => shared.inner.lock().lose(group, self.segment, &damage),
            }
        }
        moves.retain(|kept| shared.inner.lock().damage(kept.group).is_none());
        Ok(moves)
    }

    fn take_spans(&mut self, inner: &Inner) -> Vec<(GroupId, Span)> {
        let mut spans: Vec<(GroupId, Vec<Span>)> = Vec::new();
        let mut next: Option<u64> = None;
        let mut bytes = 0;
        while bytes < MOVE_BYTES_MAX {
            let Some((group, index)) = self.left.pop_front() else { break };
            let slot = inner.written.get(&group).and_then(|written| written.slot(index));
            let is_meant = |slot: &Slot| slot.segment == self.segment && self.keys.takes(slot);
            let Some(slot) = slot.filter(is_meant) else { continue };
            let follows =
                next == Some(index) && spans.last().is_some_and(|(last, _)| *last == group);
            if !follows {
                spans.push((group, Vec::new()));
            }
            next = index.checked_add(1);
            let (_, of_group) = spans.last_mut().expect("one was just pushed where none was");
            inner.add(of_group, index, slot);
            bytes += slot.bytes();
        }
        let flat = spans.into_iter().flat_map(|(group, s)| s.into_iter().map(move |s| (group, s)));
        flat.collect()
    }
}

/// Reads and opens the entries of a span; the inner error is damage.
pub(super) fn read_span(
    dir: &Path,
    group: GroupId,
    span: &Span,
    keys: &KeyView,
) -> Result<Result<Vec<LogEntry>, Damage>, Error> {
    let path = || segment_path(dir, span.segment);
    let size = usize::try_from(span.bytes).expect("segments are below 4 GiB");
    let mut bytes = vec![0; size];
    if let Err(source) = span.file.read_at(&mut bytes, span.start) {
        if source.kind() == ErrorKind::UnexpectedEof {
            return Ok(Err(Damage { path: path(), offset: span.start, reason: CUT }));
        }
        return Err(crate::error::io_error("read", &path(), source));
    }
    let mut places = Vec::with_capacity(span.entries.len());
    for (index, slot) in &span.entries {
        let offset = u64::from(slot.offset);
        let at = usize::try_from(offset - span.start).expect("an offset inside the span");
        let position = Position { term: slot.term, index: *index };
        match body::open_entry(&mut bytes, at, group, position, keys) {
            Some(payload) => places.push((position, payload)),
            None => return Ok(Err(Damage { path: path(), offset, reason: UNREADABLE })),
        }
    }
    let bytes = Bytes::from(bytes);
    let entry = |(position, at)| LogEntry { position, payload: bytes.slice(at) };
    Ok(Ok(places.into_iter().map(entry).collect()))
}
