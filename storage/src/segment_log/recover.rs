//! Reads back what the segments hold: those that are sealed by their outlines, where these are sound,
//! the others and the last one byte by byte.

use std::{collections::BTreeSet, path::Path};

use super::{
    disk::Disk,
    format::{HeaderError, Kind, RecordHeader, SEGMENT_HEADER_BYTES, SegmentHeader},
    open::Segment,
    outline::{OUTLINE_SUFFIX, Outline, Outlined, outline_path},
    replay::{Replay, Told, segment_path},
    report::Tear,
    scan::{Item, scan},
};
use crate::{Error, error::io_error};

const SEGMENT_SUFFIX: &str = ".log";
/// What the disk is asked for at a time, and how far ahead. The rows are opened at the same time, with
/// hundreds of small reads one after another: each waits behind what was asked for before, 4 MiB some
/// 8 ms at 500 MB/s, a whole segment 130.
const READ_BYTES: usize = 4 << 20;
/// A stray file with a larger number would leave none for the segments to come.
const SEQUENCE_MAX: u64 = u64::MAX >> 1;

/// Why a segment that is not there is damage.
pub(super) const MISSING: &str = "the file is missing";
const HEADER: &str = "the segment's header is damaged";
const SEQUENCE: &str = "the segment bears another number than its name";
const UNSOUND: &str = "bytes that were durable are unsound";
const ENDS_EARLY: &str = "the segment ends before records that were durable";
const TOO_LONG: &str = "the file is longer than a segment can be";

/// What there is in the log's directory, by sequence.
#[derive(Debug, Default)]
pub(super) struct Names {
    /// Ascending.
    pub(super) segments: Vec<u64>,
    pub(super) outlines: BTreeSet<u64>,
}

/// A record after the part of the last segment that is known to be durable. It is written again.
pub(super) struct Unproven {
    pub(super) header: RecordHeader,
    pub(super) body: Vec<u8>,
}

/// What was read.
#[derive(Default)]
pub(super) struct Recovered {
    /// The files, and how much of each counts.
    pub(super) segments: Vec<(u64, Segment)>,
    /// Those of them that an outline told of.
    pub(super) outlined: BTreeSet<u64>,
    pub(super) unproven: Vec<Unproven>,
    /// The last segment's durable bytes and checksum, for the next header.
    pub(super) previous: (u64, u32),
    pub(super) last_sequence: u64,
    pub(super) epoch: u64,
    pub(super) bytes: u64,
    pub(super) tear: Option<Tear>,
}

/// A segment of which only the header is read.
struct Head {
    sequence: u64,
    segment: Segment,
    header: Result<SegmentHeader, &'static str>,
}

impl Names {
    /// What there is in `dir`.
    pub(super) fn list(disk: &dyn Disk, dir: &Path) -> Result<Names, Error> {
        let mut names = Names::default();
        for name in disk.list(dir).map_err(|source| io_error("list", dir, source))? {
            if let Some(sequence) = sequence(&name, SEGMENT_SUFFIX) {
                names.segments.push(sequence);
            } else if let Some(sequence) = sequence(&name, OUTLINE_SUFFIX) {
                names.outlines.insert(sequence);
            }
        }
        names.segments.sort_unstable();
        Ok(names)
    }
}

fn sequence(name: &str, suffix: &str) -> Option<u64> {
    let number = name.strip_suffix(suffix).filter(|number| number.len() == 16)?;
    u64::from_str_radix(number, 16).ok().filter(|number| *number <= SEQUENCE_MAX)
}

/// Reads the segments of `names` into `replay`; sealed ones by their outlines, as far as `names` has
/// them.
pub(super) fn recover(
    disk: &dyn Disk,
    dir: &Path,
    names: &Names,
    replay: &mut Replay,
) -> Result<Recovered, Error> {
    let heads = names.segments.iter().map(|sequence| Head::read(disk, dir, *sequence));
    let heads = heads.collect::<Result<Vec<_>, Error>>()?;
    let mut read = Recovered::default();
    // Memory is used again: fresh memory costs more than reading from the page cache.
    let mut bytes = Vec::new();
    for (at, head) in heads.iter().enumerate() {
        if let Ok(header) = &head.header {
            read.epoch = read.epoch.max(header.epoch);
        }
        read.last_sequence = head.sequence;
        let mut segment = head.segment.clone();
        if let Some(next) = heads.get(at + 1) {
            let is_next = next.sequence == head.sequence + 1;
            let successor = next.header.ok().filter(|next| is_next && next.previous_bytes > 0);
            let known = successor.filter(|_| names.outlines.contains(&head.sequence));
            let outlined =
                known.and_then(|next| head.outlined(disk, dir, &next, replay, &mut bytes));
            if outlined.is_some() {
                read.outlined.insert(head.sequence);
            } else {
                head.read_whole(dir, Some(next), &mut bytes)?;
                replay_sealed(head, &bytes, successor.as_ref(), replay);
            }
            if let Some(next) = successor {
                // A cut of what was set aside may have been lost with the power.
                segment.bytes = segment.bytes.min(next.previous_bytes);
            }
            if !is_next {
                replay.damaged((head.sequence + 1, 0), MISSING);
            }
        } else {
            head.read_whole(dir, None, &mut bytes)?;
            replay_last(dir, head, &bytes, replay, &mut read);
        }
        read.bytes += bytes.len() as u64;
        read.segments.push((head.sequence, segment));
    }
    Ok(read)
}

impl Head {
    fn read(disk: &dyn Disk, dir: &Path, sequence: u64) -> Result<Head, Error> {
        let path = segment_path(dir, sequence);
        let error = |source| io_error("read", &path, source);
        let file = disk.open(&path).map_err(error)?;
        let len = file.len().map_err(error)?;
        let segment = Segment { file, bytes: len };
        if len > u64::from(u32::MAX) {
            return Ok(Head { sequence, segment, header: Err(TOO_LONG) });
        }
        if len < SEGMENT_HEADER_BYTES as u64 {
            return Ok(Head { sequence, segment, header: Err(HEADER) });
        }
        let mut bytes = [0; SEGMENT_HEADER_BYTES];
        segment.file.read_at(&mut bytes, 0).map_err(error)?;
        let header = match SegmentHeader::decode(&bytes) {
            Ok(header) if header.sequence == sequence => Ok(header),
            Ok(_) => Err(SEQUENCE),
            Err(HeaderError::Invalid) => Err(HEADER),
            Err(HeaderError::Version(version)) => return Err(Error::Version { path, version }),
        };
        Ok(Head { sequence, segment, header })
    }

    /// Takes what the segment's outline tells; `None`, and nothing taken, where there is none that fits what
    /// `next`, its successor, says of it.
    fn outlined(
        &self,
        disk: &dyn Disk,
        dir: &Path,
        next: &SegmentHeader,
        replay: &mut Replay,
        bytes: &mut Vec<u8>,
    ) -> Option<()> {
        let expected = Outlined {
            sequence: self.sequence,
            seed: self.header.ok()?.seed(),
            bytes: next.previous_bytes,
            chain: next.previous_chain,
        };
        if self.segment.bytes < expected.bytes {
            return None;
        }
        // The segment tells the same, whatever keeps its outline from being read.
        let file = disk.open(&outline_path(dir, self.sequence)).ok()?;
        // It leaves out more of each part than it adds.
        let len = file.len().ok().filter(|len| *len <= expected.bytes)?;
        bytes.resize(usize::try_from(len).ok()?, 0);
        file.read_at(bytes, 0).ok()?;
        let outline = Outline::decode(bytes).filter(|outline| outline.of == expected)?;
        for record in outline.records() {
            let place = (self.sequence, record.at);
            replay.record(place, &record.header, Told::Outlined(record.told));
        }
        Some(())
    }

    /// Reads all of the segment into `bytes`; the disk goes on with `next` meanwhile.
    fn read_whole(
        &self,
        dir: &Path,
        next: Option<&Head>,
        bytes: &mut Vec<u8>,
    ) -> Result<(), Error> {
        let error = |source| io_error("read", &segment_path(dir, self.sequence), source);
        let len = if self.header == Err(TOO_LONG) { 0 } else { self.segment.bytes };
        bytes.resize(usize::try_from(len).expect("checked against u32"), 0);
        let mut at = 0;
        for part in bytes.chunks_mut(READ_BYTES) {
            let (offset, size) = (at, part.len() as u64);
            at += size;
            match next {
                Some(next) if at == len => next.segment.file.read_ahead(0, READ_BYTES as u64),
                _ => self.segment.file.read_ahead(at, READ_BYTES as u64),
            }
            self.segment.file.read_at(part, offset).map_err(error)?;
        }
        Ok(())
    }
}

/// A segment that has a successor: the successor says how much of it counts.
fn replay_sealed(head: &Head, bytes: &[u8], next: Option<&SegmentHeader>, replay: &mut Replay) {
    let header = match &head.header {
        Ok(header) => header,
        Err(reason) => return replay.damaged((head.sequence, 0), reason),
    };
    let limit = next.and_then(|next| usize::try_from(next.previous_bytes).ok());
    let bytes = &bytes[..limit.unwrap_or(bytes.len()).min(bytes.len())];
    let mut scanned = scan(bytes, header, bytes.len());
    let cut_short = limit.is_some_and(|limit| scanned.end != limit)
        || next.is_some_and(|next| next.previous_chain != scanned.chain.last);
    apply(head.sequence, &mut scanned.items, replay);
    if cut_short || scanned.end < header.created_bytes as usize {
        replay.damaged((head.sequence, scanned.end as u64), ENDS_EARLY);
    }
}

/// The last segment: what comes after its durable part may be unfinished, and is written again.
fn replay_last(dir: &Path, head: &Head, bytes: &[u8], replay: &mut Replay, read: &mut Recovered) {
    let sequence = head.sequence;
    match &head.header {
        Ok(header) => {
            let mut scanned = scan(bytes, header, 0);
            let durable = scanned.durable;
            let split = scanned.items.partition_point(|item| match item {
                Item::Record(at, _) | Item::Gap(at) => *at < durable,
            });
            let unproven = scanned.items.split_off(split);
            apply(sequence, &mut scanned.items, replay);
            if scanned.end < header.created_bytes as usize {
                replay.damaged((sequence, scanned.end as u64), ENDS_EARLY);
            }
            if scanned.torn {
                let path = segment_path(dir, sequence);
                read.tear = Some(Tear { path, offset: scanned.end as u64 });
            }
            read.previous = (durable as u64, scanned.durable_chain);
            read.unproven = unproven.iter().filter_map(unproven_record).collect();
        }
        Err(reason) => replay.damaged((sequence, 0), reason),
    }
}

fn unproven_record(item: &Item<'_>) -> Option<Unproven> {
    match item {
        // These tell of their own file; the new one has its own.
        Item::Record(_, record) if matches!(record.header.kind, Kind::Mark | Kind::State) => None,
        Item::Record(_, record) => {
            Some(Unproven { header: record.header, body: record.body.to_vec() })
        }
        Item::Gap(_) => unreachable!("a gap above the durable part cuts the log"),
    }
}

fn apply(sequence: u64, items: &mut [Item<'_>], replay: &mut Replay) {
    for item in items {
        match item {
            Item::Record(at, record) => {
                let told = Told::Body(record.body);
                replay.record((sequence, *at as u64), &record.header, told);
            }
            Item::Gap(at) => replay.damaged((sequence, *at as u64), UNSOUND),
        }
    }
}
