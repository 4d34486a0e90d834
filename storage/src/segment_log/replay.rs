//! Rebuilds what the log holds from its records, and finds out which groups lost something.
//!
//! Pure: bytes in, groups out. A lost record is missed by its group's numbers: by the next record of
//! the group or by the next state record. Behind damage in the last segment a group without a later
//! record cannot be told to be whole, so it counts as damaged too.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
    path::{Path, PathBuf},
};

use bytes::Bytes;

use super::{
    body::{self, EntryAt, GroupRow},
    config::OpenExpectations,
    format::{Kind, LOG_GROUP, RECORD_HEADER_BYTES, RecordHeader},
    index::{Slot, Usage, Written},
    outline,
    report::Damage,
};
use crate::{GroupId, seal::KeyView};

const LOST: &str = "records of this group are missing";
const EARLIER: &str = "found at an earlier open";
const HOLE: &str = "entries are missing";
const SHORT: &str = "the log ends before what a checkpoint noted";
const UNKNOWN: &str = "records behind this group's last one are unreadable";
const KEY: &str = "the storage key of entries of this group is missing";
const BODY: &str = "a record's body is not of its kind";

/// Where a record stands: segment and offset. Places are ordered as the log is.
pub(super) type Place = (u64, u64);

/// What is known of a record beside its frame.
#[derive(Clone, Copy, Debug)]
pub(super) enum Told<'a> {
    /// Its body.
    Body(&'a [u8]),
    /// Its entries without their payloads, from an outline.
    Outlined(&'a [u8]),
}

/// The groups as the records so far leave them.
#[derive(Debug, Default)]
pub(super) struct Replay {
    damage: Vec<(Place, Damage)>,
    /// The first segment of the log, as the last record about it says.
    pub(super) first_segment: u64,
    records: u64,
    groups: BTreeMap<GroupId, ReplayGroup>,
    usage: Usage,
    dir: PathBuf,
    /// A state record was read: groups it does not name do not exist.
    started: bool,
}

#[derive(Debug, Default)]
struct ReplayGroup {
    written: Written,
    /// Entries that a state record told of and whose segment is gone: they were moved to records
    /// that are still to come.
    awaited: Range<u64>,
    arrived: BTreeMap<u64, Slot>,
    seen: Place,
}

/// What the log holds.
#[derive(Debug, Default)]
pub(super) struct Replayed {
    /// By group.
    pub(super) groups: BTreeMap<GroupId, Written>,
    /// What of each segment lives.
    pub(super) usage: Usage,
    /// All places of damage.
    pub(super) damage: Vec<Damage>,
    /// How many groups have living entries whose storage key is missing.
    pub(super) keyless: usize,
    /// How many records there were.
    pub(super) records: u64,
}

/// The file of a segment.
pub(super) fn segment_path(dir: &Path, sequence: u64) -> PathBuf {
    dir.join(format!("{sequence:016x}.log"))
}

impl Replay {
    /// Nothing yet.
    pub(super) fn new(dir: &Path) -> Replay {
        Replay { dir: dir.to_owned(), ..Replay::default() }
    }

    /// Notes damage at `place`.
    pub(super) fn damaged(&mut self, place: Place, reason: &'static str) {
        let damage = self.damage_at(place, reason);
        self.damage.push((place, damage));
    }

    /// Applies the record that starts at `place`.
    pub(super) fn record(&mut self, place: Place, header: &RecordHeader, told: Told<'_>) {
        self.records += 1;
        let sound = match header.kind {
            Kind::Mark => Some(()),
            Kind::Head => body::head(told.body()).map(|first| self.first_segment = first),
            Kind::State => body::state(told.body()).map(|(first, rows)| {
                self.first_segment = first;
                self.state(place, rows);
            }),
            _ => self.group_record(place, header, told),
        };
        if sound.is_none() {
            self.damaged(place, BODY);
        }
    }

    /// All groups as they stand, as a state record tells them.
    pub(super) fn rows(&self) -> Vec<GroupRow> {
        let rows = self.groups.iter().map(|(id, group)| {
            let row = group.written.row(*id);
            match group.awaited.is_empty() {
                true => row,
                false => GroupRow {
                    first: group.awaited.start,
                    entries: row.entries + (group.awaited.end - group.awaited.start),
                    ..row
                },
            }
        });
        rows.collect()
    }

    /// Ends: what is still missing is lost.
    pub(super) fn finish(mut self, expectations: &OpenExpectations, keys: &KeyView) -> Replayed {
        let mut usage = std::mem::take(&mut self.usage);
        let (mut groups, mut keyless) = (BTreeMap::new(), Vec::new());
        for (id, mut group) in self.groups {
            let place = group.seen;
            let path = segment_path(&self.dir, place.0);
            if let Some((_, damage)) = self.damage.iter().find(|(at, _)| *at > place) {
                group.written.damaged(Damage { reason: UNKNOWN, ..damage.clone() }, &mut usage);
            } else if !group.settle(&mut usage) {
                let damage = Damage { path, offset: place.1, reason: HOLE };
                group.written.damaged(damage, &mut usage);
            }
            let unopenable = group.written.slots().find(|(_, slot)| !keys.holds(slot.key));
            if let Some((_, slot)) = unopenable {
                let path = segment_path(&self.dir, slot.segment);
                let damage = Damage { path, offset: u64::from(slot.offset), reason: KEY };
                keyless.push(damage.clone());
                group.written.damaged(damage, &mut usage);
            }
            let min = expectations.records_min.get(&id);
            if min.is_some_and(|min| group.written.number < *min) {
                let damage = Damage { path: self.dir.clone(), offset: 0, reason: SHORT };
                group.written.damaged(damage, &mut usage);
            }
            groups.insert(id, group.written);
        }
        let (records, count) = (self.records, keyless.len());
        let damage = self.damage.into_iter().map(|(_, damage)| damage).chain(keyless).collect();
        Replayed { groups, usage, damage, keyless: count, records }
    }

    /// Makes a group known that other files, or records still to come, tell of.
    pub(super) fn expect_group(&mut self, group: GroupId) {
        if group != LOG_GROUP {
            self.groups.entry(group).or_default();
        }
    }

    fn damage_at(&self, place: Place, reason: &'static str) -> Damage {
        Damage { path: segment_path(&self.dir, place.0), offset: place.1, reason }
    }

    fn state(&mut self, place: Place, rows: Vec<GroupRow>) {
        let lost = self.damage_at(place, LOST);
        let named: BTreeSet<GroupId> = rows.iter().map(GroupRow::id).collect();
        for (_, group) in self.groups.iter_mut().filter(|(id, _)| !named.contains(id)) {
            // Absence never deletes: its drop was not read.
            group.lose(lost.clone(), &mut self.usage);
            group.seen = place;
        }
        for row in rows {
            let first = !self.started && !self.groups.contains_key(&row.id());
            let group = self.groups.entry(row.id()).or_default();
            if first {
                group.awaited = row.first..row.first.saturating_add(row.entries);
            } else if group.written.number != row.number {
                group.lose(lost.clone(), &mut self.usage);
            }
            if row.damaged {
                group.lose(Damage { reason: EARLIER, ..lost.clone() }, &mut self.usage);
            }
            group.adopt(&row);
            group.seen = place;
        }
        self.started = true;
    }

    fn group_record(&mut self, place: Place, header: &RecordHeader, told: Told<'_>) -> Option<()> {
        if header.group == LOG_GROUP {
            return None;
        }
        let damage =
            |reason| Damage { path: segment_path(&self.dir, place.0), offset: place.1, reason };
        let group = self.groups.entry(header.group).or_default();
        if group.written.number.checked_add(1) != Some(header.number) {
            group.lose(damage(LOST), &mut self.usage);
        }
        group.written.number = header.number;
        group.seen = place;
        if header.kind == Kind::Drop {
            group.written.clear(&mut self.usage);
            self.groups.remove(&header.group);
            return Some(());
        }
        let done = group.apply(place, header, told, &mut self.usage);
        if done.is_none() {
            group.lose(damage(BODY), &mut self.usage);
        }
        done
    }
}

impl<'a> Told<'a> {
    /// The body of a record that has no entries: outlines tell all of it.
    fn body(self) -> &'a [u8] {
        match self {
            Told::Body(body) | Told::Outlined(body) => body,
        }
    }

    /// Where the entries lie; `key` is their record's.
    fn entries(self, key: u32) -> Option<Vec<EntryAt>> {
        match self {
            Told::Body(body) => body::entries_at(body),
            Told::Outlined(told) => outline::entries_at(told, key),
        }
    }
}

impl ReplayGroup {
    fn lose(&mut self, damage: Damage, usage: &mut Usage) {
        self.written.damaged(damage, usage);
        self.arrived.clear();
        self.awaited = 0..0;
    }

    /// A state record is the later word on votes and marks; entries come from their own records.
    fn adopt(&mut self, row: &GroupRow) {
        self.written.number = row.number;
        self.written.vote = row.vote.clone();
        self.written.purged = row.purged;
        self.written.last = row.last;
    }

    fn apply(
        &mut self,
        place: Place,
        header: &RecordHeader,
        told: Told<'_>,
        usage: &mut Usage,
    ) -> Option<()> {
        match header.kind {
            Kind::Vote => self.written.vote = Some(Bytes::copy_from_slice(told.body())),
            Kind::Entries => {
                for entry in told.entries(header.key)? {
                    self.append(entry, slot(place, &entry)?, usage)?;
                }
            }
            Kind::Moved => {
                for entry in told.entries(header.key)? {
                    self.moved(entry, slot(place, &entry)?, usage);
                }
            }
            Kind::Truncate => {
                let last = body::truncate(told.body())?;
                let end = last.map_or(self.awaited.start, |last| last.index.saturating_add(1));
                self.awaited.end = self.awaited.end.min(end);
                self.arrived.split_off(&end);
                self.written.truncate(last, usage);
            }
            Kind::Purge => {
                let upto = body::position(told.body())?;
                let start = upto.index.saturating_add(1);
                self.awaited.start = self.awaited.start.max(start);
                self.arrived = self.arrived.split_off(&start);
                self.written.purge(upto, usage);
            }
            Kind::Drop | Kind::State | Kind::Head | Kind::Mark => return None,
        }
        Some(())
    }

    fn append(&mut self, entry: EntryAt, slot: Slot, usage: &mut Usage) -> Option<()> {
        let index = entry.position.index;
        let is_next = match self.written.last {
            Some(last) => last.index.checked_add(1) == Some(index),
            None => index <= 1,
        };
        // A state record may have told of another last one than there is.
        let is_adjacent = self.written.end().is_none_or(|end| end == index);
        let follows = self.written.damage.is_some() || (is_next && is_adjacent);
        follows.then(|| self.written.append(index, slot, usage))
    }

    fn moved(&mut self, entry: EntryAt, slot: Slot, usage: &mut Usage) {
        let index = entry.position.index;
        if self.awaited.contains(&index) {
            self.arrived.insert(index, slot);
        } else if self.written.slot(index).is_some_and(|old| old.term == slot.term) {
            self.written.moved(index, slot, usage);
        }
    }

    /// Puts the entries that were moved before those that were not; `false` where some are missing.
    fn settle(&mut self, usage: &mut Usage) -> bool {
        if self.written.damage.is_some() {
            return true;
        }
        if !self.awaited.is_empty() {
            let whole = self.arrived.len() as u64 == self.awaited.end - self.awaited.start
                && self.written.first().is_none_or(|first| first == self.awaited.end);
            if !whole {
                return false;
            }
            let arrived = std::mem::take(&mut self.arrived);
            self.written.prepend(self.awaited.start, arrived.into_values(), usage);
        }
        self.written.whole()
    }
}

fn slot(place: Place, entry: &EntryAt) -> Option<Slot> {
    let offset = place.1 + RECORD_HEADER_BYTES as u64 + entry.offset as u64;
    Some(Slot {
        segment: place.0,
        term: entry.position.term,
        offset: u32::try_from(offset).ok()?,
        payload: u32::try_from(entry.payload).ok()?,
        key: entry.key,
    })
}
