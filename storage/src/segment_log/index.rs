//! What of each group is written: the writer's view, in the order of the queue.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

use super::{
    body::{ENTRY_HEADER_BYTES, GroupRow},
    report::Damage,
};
use crate::{GroupId, LogGroup, Position};

/// Where an entry lies on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Slot {
    /// The segment's sequence number.
    pub(super) segment: u64,
    /// The term, so that positions need no read.
    pub(super) term: u64,
    /// Of the entry's header in the file.
    pub(super) offset: u32,
    /// Of the payload, as it is stored.
    pub(super) payload: u32,
    /// The storage key it is sealed with.
    pub(super) key: u32,
}

impl Slot {
    /// The bytes the entry takes in its segment.
    pub(super) fn bytes(&self) -> u64 {
        ENTRY_HEADER_BYTES as u64 + u64::from(self.payload)
    }
}

/// How much of each segment lives, and of what each storage key has sealed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Usage {
    live: BTreeMap<u64, u64>,
    /// Living entries by key; none is zero.
    keys: BTreeMap<u32, u64>,
    total: u64,
}

impl Usage {
    /// The living bytes of `segment`.
    pub(super) fn of(&self, segment: u64) -> u64 {
        self.live.get(&segment).copied().unwrap_or(0)
    }

    /// The living bytes of all segments.
    pub(super) fn total(&self) -> u64 {
        self.total
    }

    /// Whether something lives that is sealed with a key before `key`, or not at all.
    pub(super) fn lives_before(&self, key: u32) -> bool {
        self.keys.first_key_value().is_some_and(|(oldest, _)| *oldest < key)
    }

    /// Forgets a segment that is gone.
    pub(super) fn forget(&mut self, segment: u64) {
        assert_eq!(self.live.remove(&segment).unwrap_or(0), 0, "a living segment is never removed");
    }

    fn add(&mut self, slot: &Slot) {
        *self.live.entry(slot.segment).or_default() += slot.bytes();
        self.total += slot.bytes();
        *self.keys.entry(slot.key).or_default() += 1;
    }

    fn remove(&mut self, slot: &Slot) {
        let live = self.live.get_mut(&slot.segment).expect("a slot was counted when it was added");
        *live -= slot.bytes();
        self.total -= slot.bytes();
        let of_key = self.keys.get_mut(&slot.key).expect("a slot was counted when it was added");
        *of_key -= 1;
        if *of_key == 0 {
            self.keys.remove(&slot.key);
        }
    }
}

/// What of a group is written.
#[derive(Clone, Debug, Default)]
pub(super) struct Written {
    /// The number of its last record.
    pub(super) number: u64,
    pub(super) vote: Option<Bytes>,
    pub(super) purged: Option<Position>,
    pub(super) last: Option<Position>,
    /// Why it takes no writes, if so. A damaged group has no slots.
    pub(super) damage: Option<Damage>,
    first: u64,
    slots: VecDeque<Slot>,
}

impl Written {
    /// The index of the first entry, where there is one.
    pub(super) fn first(&self) -> Option<u64> {
        (!self.slots.is_empty()).then_some(self.first)
    }

    /// The index after the last entry, where there is one.
    pub(super) fn end(&self) -> Option<u64> {
        (!self.slots.is_empty()).then(|| self.first.saturating_add(self.slots.len() as u64))
    }

    /// What the log holds of the group.
    pub(super) fn held(&self) -> LogGroup {
        LogGroup { vote: self.vote.clone(), purged: self.purged, last: self.last }
    }

    /// Where the entry at `index` lies.
    pub(super) fn slot(&self, index: u64) -> Option<Slot> {
        let at = usize::try_from(index.checked_sub(self.first)?).ok()?;
        self.slots.get(at).copied()
    }

    /// All entries, in order.
    pub(super) fn slots(&self) -> impl Iterator<Item = (u64, Slot)> {
        (self.first..).zip(self.slots.iter().copied())
    }

    /// How many bytes the entries after `index` take.
    pub(super) fn bytes_after(&self, index: u64) -> u64 {
        let before = index.saturating_add(1).saturating_sub(self.first);
        let before = usize::try_from(before).unwrap_or(usize::MAX);
        self.slots.iter().skip(before).map(|slot| u64::from(slot.payload)).sum()
    }

    /// The index of the last entry that is not among the last `bytes` bytes; 0 where all are.
    pub(super) fn index_before(&self, bytes: u64) -> u64 {
        let mut left = bytes;
        let is_before = |slot: &Slot| {
            let rest = left.checked_sub(u64::from(slot.payload));
            left = rest.unwrap_or(0);
            rest.is_none()
        };
        let at = self.slots.iter().rposition(is_before);
        at.map_or(0, |at| self.first + at as u64)
    }

    /// Adds the entry at `index`, which follows the last one.
    pub(super) fn append(&mut self, index: u64, slot: Slot, usage: &mut Usage) {
        self.last = Some(Position { term: slot.term, index });
        if self.damage.is_some() {
            return;
        }
        if self.slots.is_empty() {
            self.first = index;
        }
        debug_assert_eq!(index, self.first + self.slots.len() as u64);
        usage.add(&slot);
        self.slots.push_back(slot);
    }

    /// Puts older entries, which end where the present ones begin, before them.
    pub(super) fn prepend(
        &mut self,
        first: u64,
        slots: impl DoubleEndedIterator<Item = Slot>,
        usage: &mut Usage,
    ) {
        for slot in slots.rev() {
            usage.add(&slot);
            self.slots.push_front(slot);
        }
        self.first = first;
    }

    /// The entry at `index` lies elsewhere now.
    pub(super) fn moved(&mut self, index: u64, slot: Slot, usage: &mut Usage) {
        let at = index.checked_sub(self.first).and_then(|at| usize::try_from(at).ok());
        if let Some(old) = at.and_then(|at| self.slots.get_mut(at)) {
            usage.remove(old);
            usage.add(&slot);
            *old = slot;
        }
    }

    /// Removes every entry after `last`.
    pub(super) fn truncate(&mut self, last: Option<Position>, usage: &mut Usage) {
        let end = last.map_or(self.first, |last| last.index.saturating_add(1));
        let keep = usize::try_from(end.saturating_sub(self.first)).unwrap_or(usize::MAX);
        while self.slots.len() > keep {
            usage.remove(&self.slots.pop_back().expect("it is longer than what is kept"));
        }
        self.last = last.or(self.purged);
    }

    /// Removes every entry up to `upto`.
    pub(super) fn purge(&mut self, upto: Position, usage: &mut Usage) {
        while !self.slots.is_empty() && self.first <= upto.index {
            usage.remove(&self.slots.pop_front().expect("it is not empty"));
            self.first += 1;
        }
        self.purged = Some(upto);
        self.last = self.last.filter(|last| last.index > upto.index).or(Some(upto));
    }

    /// Gives the group up: its entries are no longer looked at, and it takes no writes.
    pub(super) fn damaged(&mut self, damage: Damage, usage: &mut Usage) {
        self.damage.get_or_insert(damage);
        self.clear(usage);
    }

    /// Whether the entries are what lies between `purged` and `last`.
    pub(super) fn whole(&self) -> bool {
        let after = self.purged.map(|purged| purged.index.saturating_add(1));
        match self.first().zip(self.end()) {
            None => self.last == self.purged,
            Some((first, end)) => {
                after.map_or(first <= 1, |after| first == after)
                    && self.last.is_some_and(|last| last.index.saturating_add(1) == end)
            }
        }
    }

    /// Removes every entry, and leaves the rest.
    pub(super) fn clear(&mut self, usage: &mut Usage) {
        for slot in self.slots.drain(..) {
            usage.remove(&slot);
        }
    }

    /// The group as a state record tells it.
    pub(super) fn row(&self, group: GroupId) -> GroupRow {
        GroupRow {
            group: group.0,
            number: self.number,
            vote: self.vote.clone(),
            purged: self.purged,
            last: self.last,
            first: self.first().unwrap_or(0),
            entries: self.slots.len() as u64,
            damaged: self.damage.is_some(),
        }
    }
}
