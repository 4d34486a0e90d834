//! What callers see of each group: every call so far, whether written yet or not.

use std::collections::VecDeque;

use bytes::Bytes;

use super::{index::Written, report::Damage};
use crate::{LogEntry, LogGroup, Position};

/// What an entry weighs in memory beside its payload.
const ENTRY_MEMORY_BYTES: usize = 64;

/// A group as callers see it.
#[derive(Debug, Default)]
pub(super) struct Visible {
    pub(super) vote: Option<Bytes>,
    pub(super) purged: Option<Position>,
    pub(super) last: Option<Position>,
    /// Why it takes no writes and answers no reads, if so.
    pub(super) damage: Option<Damage>,
    /// The latest entries, those not yet durable among them. Older ones are in [`Written`].
    tail: VecDeque<Recent>,
    tail_bytes: usize,
}

#[derive(Debug)]
struct Recent {
    entry: LogEntry,
    /// The write that brought it: only durable entries leave memory.
    write: u64,
}

impl Visible {
    /// A group as it was found on disk.
    pub(super) fn new(written: &Written) -> Visible {
        Visible {
            vote: written.vote.clone(),
            purged: written.purged,
            last: written.last,
            damage: written.damage.clone(),
            ..Visible::default()
        }
    }

    /// What the log holds of the group.
    pub(super) fn group(&self) -> LogGroup {
        LogGroup { vote: self.vote.clone(), purged: self.purged, last: self.last }
    }

    /// The index of the first entry in memory.
    pub(super) fn tail_first(&self) -> Option<u64> {
        self.tail.front().map(|recent| recent.entry.position.index)
    }

    /// The entries in memory from `index` on.
    pub(super) fn tail_from(&self, index: u64) -> impl Iterator<Item = &LogEntry> {
        let skip = self.tail_first().map_or(0, |first| index.saturating_sub(first));
        let skip = usize::try_from(skip).unwrap_or(usize::MAX).min(self.tail.len());
        self.tail.range(skip..).map(|recent| &recent.entry)
    }

    /// Adds entries.
    ///
    /// # Panics
    /// Panics where they do not follow the last entry: the caller's log would have a hole.
    pub(super) fn append(&mut self, entries: &[LogEntry], write: u64) {
        let mut last = self.last;
        for entry in entries {
            let follows = match last {
                Some(last) => last.index.checked_add(1) == Some(entry.position.index),
                // Where a group's log begins is the caller's choice.
                None => true,
            };
            assert!(follows, "entry {:?} does not follow {last:?}", entry.position);
            last = Some(entry.position);
        }
        for entry in entries {
            self.last = Some(entry.position);
            self.tail_bytes += weight(entry);
            self.tail.push_back(Recent { entry: entry.clone(), write });
        }
    }

    /// Removes every entry after `index`; tells the position that is the last one now.
    pub(super) fn truncate(
        &mut self,
        index: Option<u64>,
        written: Option<&Written>,
    ) -> Option<Position> {
        let index = index.filter(|index| self.purged.is_none_or(|purged| *index > purged.index));
        let last = match (index, self.last) {
            (Some(index), Some(last)) if index < last.index => self.position(index, written),
            (Some(_), last) => last,
            (None, _) => self.purged,
        };
        let keep = last.map_or(0, |last| last.index.saturating_add(1));
        while self.tail.back().is_some_and(|recent| recent.entry.position.index >= keep) {
            let recent = self.tail.pop_back();
            self.tail_bytes -= recent.map_or(0, |recent| weight(&recent.entry));
        }
        self.last = last;
        last
    }

    /// Removes every entry up to `upto`; `false` where it already was.
    pub(super) fn purge(&mut self, upto: Position) -> bool {
        if self.purged.is_some_and(|purged| purged.index >= upto.index) {
            return false;
        }
        while self.tail_first().is_some_and(|first| first <= upto.index) {
            self.pop_front();
        }
        self.purged = Some(upto);
        self.last = self.last.filter(|last| last.index > upto.index).or(Some(upto));
        true
    }

    /// Lets go of the oldest entries past `bytes_max`, as far as they are durable.
    pub(super) fn shed(&mut self, bytes_max: usize, durable: u64) {
        while self.tail_bytes > bytes_max && self.tail.front().is_some_and(|r| r.write <= durable) {
            self.pop_front();
        }
    }

    fn pop_front(&mut self) {
        let recent = self.tail.pop_front();
        self.tail_bytes -= recent.map_or(0, |recent| weight(&recent.entry));
    }

    fn position(&self, index: u64, written: Option<&Written>) -> Option<Position> {
        let recent = self.tail_from(index).next().map(|entry| entry.position);
        let recent = recent.filter(|position| position.index == index);
        let term = || written.and_then(|written| written.slot(index)).map(|slot| slot.term);
        recent.or_else(|| term().map(|term| Position { term, index })).or(self.purged)
    }
}

fn weight(entry: &LogEntry) -> usize {
    entry.payload.len() + ENTRY_MEMORY_BYTES
}
