//! Reads all segments slowly, record by record, to find damage before anybody needs the bytes.
//!
//! The chain of checksums tells where bytes are not what was written; the groups' record numbers
//! tell who lost something there: the next record of the group misses it, or the next segment's
//! state record, or at the end of the log what the writer knows. A group that was dropped since has
//! lost nothing.

use std::{collections::BTreeMap, io::ErrorKind, sync::Arc};

use super::{
    body,
    disk::DiskFile,
    format::{
        ALIGN, Chain, Kind, LOG_GROUP, RECORD_HEADER_BYTES, Record, SEGMENT_HEADER_BYTES,
        SegmentHeader, record_at, record_len_at, u32_at,
    },
    replay::segment_path,
    report::Damage,
    shared::Shared,
};
use crate::{Error, GroupId, ScrubStep, error::io_error, metrics};

const UNSOUND: &str = "bytes that were durable are unsound";

/// A scrub that is under way.
#[derive(Default)]
pub(super) struct LogScrub {
    /// The last segment that was read to its end.
    done: u64,
    current: Option<Reading>,
    groups: Groups,
}

/// What the records read so far tell of the groups.
#[derive(Default)]
struct Groups {
    /// The number of each group's last record; none where reading begins.
    numbers: Option<Numbers>,
    /// Who lost something, and in which segment.
    harmed: BTreeMap<GroupId, u64>,
}

type Numbers = BTreeMap<GroupId, u64>;

/// The segment being read.
struct Reading {
    sequence: u64,
    file: Arc<dyn DiskFile>,
    /// How much of it was durable when reading it began.
    limit: u64,
    at: u64,
    chain: Option<Chain>,
    /// Where it is unsound first.
    damage: Option<u64>,
    /// For the segment that is written to: the numbers there must be at the limit.
    numbers: Option<Numbers>,
}

impl LogScrub {
    /// Reads on, about `bytes_max` bytes. Groups that lost something take no writes from then on.
    pub(super) fn step(&mut self, shared: &Shared, bytes_max: usize) -> Result<ScrubStep, Error> {
        let mut reading = match self.current.take() {
            Some(reading) => reading,
            None => match self.next(shared) {
                Some(reading) => reading,
                None => {
                    *self = Self::default();
                    return Ok(ScrubStep { is_last: true, ..ScrubStep::default() });
                }
            },
        };
        let read = reading.read(shared, bytes_max, &mut self.groups)?;
        let mut step = ScrubStep { bytes: read, ..ScrubStep::default() };
        if reading.at < reading.limit {
            self.current = Some(reading);
            return Ok(step);
        }
        step.damages = u32::from(reading.damage.is_some());
        step.is_last = reading.numbers.is_some();
        self.done = reading.sequence;
        reading.finish(shared, &mut self.groups);
        if step.is_last {
            std::mem::take(self).groups.give_up(shared);
        }
        Ok(step)
    }

    /// The next segment there is.
    fn next(&mut self, shared: &Shared) -> Option<Reading> {
        let inner = shared.inner.lock();
        let (sequence, segment) = inner.segments.range(self.done + 1..).next()?;
        let is_active = inner.segments.last_key_value().map(|(last, _)| last) == Some(sequence);
        if *sequence != self.done + 1 {
            // Segments between went: nothing is known of the numbers.
            self.groups.numbers = None;
        }
        let written = || inner.written.iter().map(|(group, written)| (*group, written.number));
        Some(Reading {
            sequence: *sequence,
            file: Arc::clone(&segment.file),
            limit: segment.bytes,
            at: 0,
            chain: None,
            damage: None,
            numbers: is_active.then(|| written().collect()),
        })
    }
}

impl Reading {
    /// Reads a part, record by record; answers how many bytes it read.
    fn read(
        &mut self,
        shared: &Shared,
        bytes_max: usize,
        groups: &mut Groups,
    ) -> Result<u64, Error> {
        let left = usize::try_from(self.limit - self.at).unwrap_or(usize::MAX);
        let mut want = bytes_max.max(SEGMENT_HEADER_BYTES + RECORD_HEADER_BYTES).min(left);
        let mut bytes = self.bytes(shared, want)?;
        let first = if self.at == 0 { SEGMENT_HEADER_BYTES } else { 0 };
        let whole = record_len_at(&bytes, first).map_or(0, |record| record.saturating_add(first));
        if whole > bytes.len() && whole <= left {
            // One record that is larger than a part.
            want = whole;
            bytes = self.bytes(shared, want)?;
        }
        if bytes.len() < want {
            self.damaged(shared, self.at + bytes.len() as u64);
        }
        if self.at == 0 {
            match SegmentHeader::decode(&bytes) {
                Ok(header) if header.sequence == self.sequence => {
                    self.chain = Some(Chain::new(&header));
                }
                _ => self.damaged(shared, 0),
            }
        }
        let end = self.at + want as u64;
        let Some(chain) = self.chain else {
            // Without a header no record can be told: whoever had records here finds out below.
            self.at = self.limit;
            return Ok(bytes.len() as u64);
        };
        let parsed = self.parse(shared, &bytes, chain, groups);
        // What is left of a record goes with the next part, unless there is no next one.
        let is_end = end == self.limit || bytes.len() < want;
        self.at = if is_end { self.limit } else { parsed };
        Ok(bytes.len() as u64)
    }

    /// Takes the records in `bytes`, which stand at `self.at`; answers where the next part begins.
    fn parse(
        &mut self,
        shared: &Shared,
        bytes: &[u8],
        mut chain: Chain,
        groups: &mut Groups,
    ) -> u64 {
        let base = self.at;
        let is_last = base + bytes.len() as u64 >= self.limit;
        let mut at = if base == 0 { SEGMENT_HEADER_BYTES } else { 0 };
        while at < bytes.len() {
            let found = record_at(bytes, at, chain.seed).filter(|next| next.chain == chain.last);
            if let Some(record) = found {
                chain.last = record.crc;
                at = record.next;
                groups.record(self.sequence, &record);
                continue;
            }
            let is_cut = record_len_at(bytes, at).is_none_or(|record| record > bytes.len() - at);
            let looks_sound = bytes.len() - at < RECORD_HEADER_BYTES
                || u32_at(bytes, at) == super::format::RECORD_MAGIC ^ chain.seed;
            if !is_last && at > 0 && is_cut && looks_sound {
                break;
            }
            self.damaged(shared, base + at as u64);
            let last = bytes.len().saturating_sub(RECORD_HEADER_BYTES);
            let next = (at + ALIGN..=last)
                .step_by(ALIGN)
                .find_map(|at| record_at(bytes, at, chain.seed).map(|record| (at, record)));
            match next {
                Some((found, record)) => {
                    chain.last = record.chain;
                    at = found;
                }
                // A record that begins near the end of this part may be cut by it.
                None => {
                    at = if is_last { bytes.len() } else { last.max(at + ALIGN) / ALIGN * ALIGN };
                    break;
                }
            }
        }
        self.chain = Some(chain);
        base + at as u64
    }

    /// After the last record.
    fn finish(self, shared: &Shared, groups: &mut Groups) {
        if let Some(numbers) = &self.numbers {
            groups.compare(self.sequence, numbers);
        }
        if self.damage.is_some() && (self.chain.is_none() || groups.numbers.is_none()) {
            // Who had which records here cannot be told: all that live here are given up.
            let inner = shared.inner.lock();
            let mut lives = inner.written.iter().filter(|(_, written)| {
                written.slots().any(|(_, slot)| slot.segment == self.sequence)
            });
            let harmed = lives.by_ref().map(|(group, _)| (*group, self.sequence));
            groups.harmed.extend(harmed);
        }
    }

    fn damaged(&mut self, shared: &Shared, offset: u64) {
        if self.damage.is_some() {
            return;
        }
        let path = segment_path(&shared.config.dir, self.sequence);
        tracing::error!(path = %path.display(), offset, "the log is damaged; check this disk");
        metrics::log_damaged();
        shared.inner.lock().unsound.insert(self.sequence);
        self.damage = Some(offset);
    }

    /// The next bytes as they are on the disk; fewer where the file is shorter.
    fn bytes(&self, shared: &Shared, len: usize) -> Result<Vec<u8>, Error> {
        let path = || segment_path(&shared.config.dir, self.sequence);
        let mut bytes = vec![0; len];
        self.file.forget_cached(self.at, len as u64);
        match self.file.read_at(&mut bytes, self.at) {
            Ok(()) => Ok(bytes),
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => {
                let there = self.file.len().map_err(|error| io_error("read", &path(), error))?;
                let there = there.saturating_sub(self.at).min(len as u64);
                bytes.truncate(usize::try_from(there).unwrap_or(0));
                let read = self.file.read_at(&mut bytes, self.at);
                read.map_err(|error| io_error("read", &path(), error))?;
                Ok(bytes)
            }
            Err(error) => Err(io_error("read", &path(), error)),
        }
    }
}

impl Groups {
    /// Follows the groups' numbers through a sound record.
    fn record(&mut self, segment: u64, record: &Record<'_>) {
        let (kind, group) = (record.header.kind, record.header.group);
        if kind == Kind::State {
            let Some((_, rows)) = body::state(record.body) else { return };
            let told = rows.iter().map(|row| (row.id(), row.number)).collect();
            self.compare(segment, &told);
            self.numbers = Some(told);
            return;
        }
        if kind == Kind::Drop {
            self.harmed.remove(&group);
            self.numbers.as_mut().and_then(|numbers| numbers.remove(&group));
            return;
        }
        let Some(numbers) = self.numbers.as_mut().filter(|_| group != LOG_GROUP) else { return };
        let before = numbers.insert(group, record.header.number).unwrap_or(0);
        if before.checked_add(1) != Some(record.header.number) {
            self.harmed.insert(group, segment);
        }
    }

    /// All groups of `told` must be there as it says.
    fn compare(&mut self, segment: u64, told: &Numbers) {
        let Some(known) = &self.numbers else { return };
        for (group, number) in told {
            if known.get(group).copied().unwrap_or(0) != *number {
                self.harmed.insert(*group, segment);
            }
        }
    }

    /// Those who lost something take no writes from now on.
    fn give_up(self, shared: &Shared) {
        let mut inner = shared.inner.lock();
        for (group, segment) in self.harmed {
            let path = segment_path(&shared.config.dir, segment);
            // A segment that is gone held nothing that counts.
            let counts = inner.segments.contains_key(&segment);
            if counts && inner.written.contains_key(&group) && inner.damage(group).is_none() {
                inner.lose(group, segment, &Damage { path, offset: 0, reason: UNSOUND });
            }
        }
    }
}
