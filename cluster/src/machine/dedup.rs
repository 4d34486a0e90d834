//! Which message ids a shard remembers.
//!
//! Entries stand in the order of acceptance in *parts*; a part covers at most a span of shard time
//! and a number of entries, is one row when flushed, and is dropped as a whole. An index by
//! fingerprint finds entries. Everything here is a function of the commands applied, so replicas
//! hold the same parts whenever they were flushed or loaded.

use std::collections::VecDeque;

use hashbrown::HashTable;
use heliograph_storage::{self as storage, RowsRead, RowsWrite};
use serde::{Deserialize, Serialize};

use super::{Limits, Removal, layout, rows};
use crate::model::Priority;

/// Bits of an entry's location that number it within its part.
const OFFSET_BITS: u32 = 10;
/// Entries of a part: at most 53 bytes each in a row, so that a part stays below 64 KiB.
const PART_ENTRIES_MAX: usize = 1 << OFFSET_BITS;
/// Parts a window is divided in at least, so that forgetting is smooth.
const WINDOW_PARTS: u64 = 60;
/// Parts read at once when loading: 1 MiB.
const LOAD_PARTS: usize = 16;

/// What became of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "u8", try_from = "u8")]
pub(super) enum Status {
    /// It is in its mailbox.
    Pending,
    /// The recipient has it.
    Acknowledged,
    /// Its time ran out.
    Expired,
    /// Its sender took it back.
    Cancelled,
}

impl From<Status> for u8 {
    fn from(status: Status) -> Self {
        match status {
            Status::Pending => 0,
            Status::Acknowledged => 1,
            Status::Expired => 2,
            Status::Cancelled => 3,
        }
    }
}

impl TryFrom<u8> for Status {
    type Error = &'static str;
    fn try_from(status: u8) -> Result<Self, Self::Error> {
        match status {
            0 => Ok(Self::Pending),
            1 => Ok(Self::Acknowledged),
            2 => Ok(Self::Expired),
            3 => Ok(Self::Cancelled),
            _ => Err("status must be 0 to 3"),
        }
    }
}

impl From<Removal> for Status {
    fn from(reason: Removal) -> Self {
        match reason {
            Removal::Acknowledged => Self::Acknowledged,
            Removal::Expired => Self::Expired,
            Removal::Cancelled => Self::Cancelled,
        }
    }
}

/// A remembered message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Entry {
    /// Of (recipient, message id).
    pub(super) fingerprint: u128,
    /// Of the sender.
    pub(super) sender: u64,
    /// Of the content.
    pub(super) content: u64,
    /// The number it got.
    pub(super) seq: u64,
    /// Milliseconds since the part began.
    offset_ms: u32,
    /// The priority it got it in.
    pub(super) priority: Priority,
    /// What became of it.
    pub(super) status: Status,
}

/// An entry as found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Known {
    /// The entry.
    pub(super) entry: Entry,
    /// When the message was accepted.
    pub(super) accepted_ms: u64,
}

#[derive(Debug, PartialEq, Eq)]
struct Part {
    from_ms: u64,
    entries: Vec<Entry>,
    dirty: bool,
}

impl Part {
    fn last_ms(&self) -> u64 {
        self.from_ms + self.entries.last().map_or(0, |entry| u64::from(entry.offset_ms))
    }
}

#[derive(Serialize, Deserialize)]
struct PartRow {
    from_ms: u64,
    entries: Vec<Entry>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Dedup {
    window_ms: u64,
    entries_max: usize,
    part_entries_max: usize,
    parts: VecDeque<Part>,
    /// The number of the next part; the last in `parts` is one less.
    next_part: u64,
    len: usize,
    /// Locations by fingerprint.
    index: HashTable<u64>,
}

impl Dedup {
    pub(super) fn load(
        source: &(impl RowsRead + ?Sized),
        limits: &Limits,
        next_part: u64,
    ) -> Result<Self, storage::Error> {
        let mut dedup = Self {
            window_ms: limits.dedup_window_ms,
            entries_max: limits.dedup_entries_max.max(1),
            part_entries_max: (limits.dedup_entries_max / 64).clamp(1, PART_ENTRIES_MAX),
            parts: VecDeque::new(),
            next_part,
            len: 0,
            index: HashTable::new(),
        };
        let mut from = layout::dedup(0).to_vec();
        loop {
            let found = source.scan(&from, &layout::dedup_end(), LOAD_PARTS)?;
            for (key, value) in &found {
                let number = layout::dedup_part(key).ok_or(rows::damage("part key"))?;
                dedup.load_part(number, rows::decode(value)?)?;
            }
            match found.last() {
                Some((key, _)) if found.len() == LOAD_PARTS => {
                    from = [key.as_ref(), &[0]].concat();
                }
                _ => break,
            }
        }
        if !dedup.parts.is_empty() && dedup.next_part != next_part {
            return Err(rows::damage("deduplication parts beyond their count"));
        }
        Ok(dedup)
    }

    fn load_part(&mut self, number: u64, row: PartRow) -> Result<(), storage::Error> {
        if self.parts.is_empty() {
            self.next_part = number;
        }
        if number != self.next_part || row.entries.len() > PART_ENTRIES_MAX {
            return Err(rows::damage("deduplication part"));
        }
        self.next_part += 1;
        let count = row.entries.len();
        self.parts.push_back(Part { from_ms: row.from_ms, entries: row.entries, dirty: false });
        for offset in 0..count {
            self.index_entry(number << OFFSET_BITS | offset as u64);
        }
        self.len += count;
        Ok(())
    }

    /// The number of the next part, to be kept beside the parts.
    pub(super) fn next_part(&self) -> u64 {
        self.next_part
    }

    /// How many entries there are.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// The entries of a fingerprint that are within the window, in the order of acceptance.
    pub(super) fn known(&self, fingerprint: u128, now_ms: u64) -> Vec<Known> {
        let mut locations: Vec<u64> = self
            .index
            .iter_hash(hash(fingerprint))
            .copied()
            .filter(|location| self.entry(*location).fingerprint == fingerprint)
            .collect();
        locations.sort_unstable();
        let known = locations.into_iter().map(|location| {
            let entry = *self.entry(location);
            let from_ms = self.parts[self.position(location)].from_ms;
            Known { entry, accepted_ms: from_ms + u64::from(entry.offset_ms) }
        });
        known.filter(|known| now_ms < known.accepted_ms.saturating_add(self.window_ms)).collect()
    }

    /// Remembers an accepted message; what exceeds the table's bound is forgotten, oldest first.
    pub(super) fn remember(
        &mut self,
        new: Remember,
        now_ms: u64,
        target: &mut (impl RowsWrite + ?Sized),
    ) {
        while self.len >= self.entries_max {
            self.forget_part(target);
        }
        let span_ms = (self.window_ms / WINDOW_PARTS).clamp(1, u64::from(u32::MAX));
        let full = self.parts.back().is_none_or(|part| {
            part.entries.len() >= self.part_entries_max || now_ms - part.from_ms >= span_ms
        });
        if full {
            self.parts.push_back(Part { from_ms: now_ms, entries: Vec::new(), dirty: true });
            self.next_part += 1;
        }
        let part = self.parts.back_mut().expect("a part was just ensured");
        let offset_ms = u32::try_from(now_ms - part.from_ms).expect("a part's span fits");
        part.entries.push(Entry {
            fingerprint: new.fingerprint,
            sender: new.sender,
            content: new.content,
            seq: new.seq,
            offset_ms,
            priority: new.priority,
            status: Status::Pending,
        });
        part.dirty = true;
        let offset = part.entries.len() - 1;
        self.len += 1;
        self.index_entry((self.next_part - 1) << OFFSET_BITS | offset as u64);
    }

    /// Notes what became of a message, if it is still remembered.
    pub(super) fn settle(&mut self, fingerprint: u128, place: (Priority, u64), status: Status) {
        let location = self.index.iter_hash(hash(fingerprint)).copied().find(|location| {
            let entry = self.entry(*location);
            entry.fingerprint == fingerprint && (entry.priority, entry.seq) == place
        });
        if let Some(location) = location {
            let position = self.position(location);
            let part = &mut self.parts[position];
            part.entries[offset(location)].status = status;
            part.dirty = true;
        }
    }

    /// Forgets the parts that are past the window.
    pub(super) fn expire(&mut self, now_ms: u64, target: &mut (impl RowsWrite + ?Sized)) {
        while let Some(part) = self.parts.front()
            && part.last_ms().saturating_add(self.window_ms) <= now_ms
        {
            self.forget_part(target);
        }
    }

    /// Writes the parts that changed.
    pub(super) fn flush(&mut self, target: &mut (impl RowsWrite + ?Sized)) {
        let first = self.first_part();
        for (number, part) in (first..).zip(&mut self.parts).filter(|(_, part)| part.dirty) {
            let row = PartRow { from_ms: part.from_ms, entries: std::mem::take(&mut part.entries) };
            let value = rows::encode(&row, 16 + row.entries.len() * 53);
            target.put(&layout::dedup(number), value);
            part.entries = row.entries;
            part.dirty = false;
        }
    }

    fn forget_part(&mut self, target: &mut (impl RowsWrite + ?Sized)) {
        let number = self.first_part();
        let Some(part) = self.parts.front() else { return };
        for (offset, entry) in part.entries.iter().enumerate() {
            let location = number << OFFSET_BITS | offset as u64;
            let found = self.index.find_entry(hash(entry.fingerprint), |one| *one == location);
            found.expect("every entry is in the index").remove();
        }
        self.len -= part.entries.len();
        self.parts.pop_front();
        target.delete(&layout::dedup(number));
    }

    fn first_part(&self) -> u64 {
        self.next_part - self.parts.len() as u64
    }

    fn position(&self, location: u64) -> usize {
        usize::try_from((location >> OFFSET_BITS) - self.first_part()).expect("parts are few")
    }

    fn entry(&self, location: u64) -> &Entry {
        &self.parts[self.position(location)].entries[offset(location)]
    }

    fn index_entry(&mut self, location: u64) {
        let (parts, first) = (&self.parts, self.first_part());
        let fingerprint = |location: &u64| {
            let position = usize::try_from((location >> OFFSET_BITS) - first).expect("few parts");
            hash(parts[position].entries[offset(*location)].fingerprint)
        };
        self.index.insert_unique(fingerprint(&location), location, fingerprint);
    }
}

/// What [`Dedup::remember`] takes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Remember {
    pub(super) fingerprint: u128,
    pub(super) sender: u64,
    pub(super) content: u64,
    pub(super) priority: Priority,
    pub(super) seq: u64,
}

/// A fingerprint is a keyed hash already.
fn hash(fingerprint: u128) -> u64 {
    fingerprint as u64
}

fn offset(location: u64) -> usize {
    (location & ((1 << OFFSET_BITS) - 1)) as usize
}
