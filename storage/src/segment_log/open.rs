//! Opening the log: reads all segments, makes what is there durable, starts a new segment.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use super::{
    body::{self, GroupRow},
    config::{OpenExpectations, SegmentLogConfig},
    disk::{Disk, DiskFile},
    format::{
        Chain, FORMAT_VERSION, HeaderError, Kind, LOG_GROUP, RecordHeader, SEGMENT_HEADER_BYTES,
        SegmentHeader,
    },
    index::{Usage, Written},
    replay::{Replay, Replayed, segment_path},
    report::{OpenReport, Tear},
    scan::{Item, scan},
};
use crate::{Error, GroupId, Keyring, error::io_error, seal::KEY_NONE};

/// Held by the process that has the log open.
const LOCK_FILE: &str = "lock";
/// A segment before it is durable and gets its name.
const NEW_SUFFIX: &str = ".new";
const SUFFIX: &str = ".log";
/// What the disk is asked for at a time, and how far ahead. The rows are opened at the same time, with
/// hundreds of small reads one after another: each waits behind what was asked for before, 4 MiB some
/// 8 ms at 500 MB/s, a whole segment 130.
const READ_BYTES: usize = 4 << 20;
/// A stray file with a larger number would leave none for the segments to come.
const SEQUENCE_MAX: u64 = u64::MAX >> 1;

const MISSING: &str = "the file is missing";
const HEADER: &str = "the segment's header is damaged";
const SEQUENCE: &str = "the segment bears another number than its name";
const UNSOUND: &str = "bytes that were durable are unsound";
const ENDS_EARLY: &str = "the segment ends before records that were durable";
const TOO_LONG: &str = "the file is longer than a segment can be";

/// A segment file.
#[derive(Clone)]
pub(super) struct Segment {
    /// The file, which stays readable as long as somebody holds it.
    pub(super) file: Arc<dyn DiskFile>,
    /// How much of it is log.
    pub(super) bytes: u64,
}

/// The segment that is written to.
pub(super) struct Active {
    pub(super) sequence: u64,
    pub(super) epoch: u64,
    pub(super) file: Arc<dyn DiskFile>,
    pub(super) chain: Chain,
    /// Where the next record goes.
    pub(super) end: u64,
    /// Up to where the file is durable.
    pub(super) synced: u64,
}

/// What the log is when it is open.
pub(super) struct Opened {
    pub(super) groups: BTreeMap<GroupId, Written>,
    pub(super) usage: Usage,
    pub(super) segments: BTreeMap<u64, Segment>,
    pub(super) active: Active,
    /// Keeps other processes out.
    pub(super) lock: Arc<dyn DiskFile>,
}

/// A record after the part of the last segment that is known to be durable. It is written again.
struct Unproven {
    header: RecordHeader,
    body: Vec<u8>,
}

/// Where the log was read to.
#[derive(Default)]
struct Read {
    segments: BTreeMap<u64, Segment>,
    unproven: Vec<Unproven>,
    /// The last segment's durable bytes and checksum, for the next header.
    previous: (u64, u32),
    last_sequence: u64,
    epoch: u64,
    bytes: u64,
    tear: Option<Tear>,
}

/// Answers what other files of the node noted of the log.
pub(super) type Expect<'a> = Box<dyn FnOnce() -> Result<OpenExpectations, Error> + 'a>;

/// Opens the log of `config.dir`. `expect` is asked once it is read, before anything is written.
pub(super) fn open(
    disk: &dyn Disk,
    config: &mut SegmentLogConfig,
    expect: Expect<'_>,
) -> Result<(Opened, OpenReport), Error> {
    let dir = &config.dir.clone();
    disk.create_dir(dir).map_err(|source| io_error("create", dir, source))?;
    let lock = dir.join(LOCK_FILE);
    let lock = disk.lock(&lock).map_err(|source| io_error("lock", &lock, source))?;
    let sequences = list(disk, dir)?;
    let mut replay = Replay::new(dir);
    let mut read = read_segments(disk, dir, &sequences, &mut replay)?;
    // What a killed process left in the page cache is not durable yet.
    for (sequence, segment) in &read.segments {
        let path = segment_path(dir, *sequence);
        segment.file.sync_all().map_err(|source| io_error("fsync", &path, source))?;
    }
    disk.sync_dir(dir).map_err(|source| io_error("fsync", dir, source))?;

    config.expectations = expect()?;
    // Each group that may turn out damaged needs a row to say so.
    let expected = config.expectations.records_min.keys().copied();
    let unproven = read.unproven.iter().map(|record| record.header.group);
    expected.chain(unproven).for_each(|group| replay.expect_group(group));
    let mut rows = replay.rows();
    let plan = NewSegment {
        sequence: read.last_sequence + 1,
        epoch: read.epoch.saturating_add(1),
        salt: config.salt,
        previous: read.previous,
        first_segment: sequences.first().copied().unwrap_or(read.last_sequence + 1),
        unproven: &read.unproven,
    };
    let (_, _, places) = plan.bytes(&rows);
    for (at, record) in places.into_iter().zip(&read.unproven) {
        replay.record((plan.sequence, at), &record.header, &record.body);
    }
    note_missing_front(&sequences, &mut replay);
    let replayed = replay.finish(&config.expectations, &config.keys.view());
    if config.keys.is_new() && replayed.keyless > 0 {
        return Err(Error::KeysMissing { path: dir.clone() });
    }
    // Damage found just now outlives the files it was found in.
    for row in &mut rows {
        row.damaged |= replayed.groups.get(&row.id()).is_some_and(|group| group.damage.is_some());
    }
    let (header, bytes, _) = plan.bytes(&rows);
    let active = create(disk, config, &header, &bytes)?;
    if let Some(last) = read.segments.get_mut(&read.last_sequence).filter(|_| read.previous.0 > 0) {
        // The new segment says how much of this one counts; the rest was set aside for it.
        let path = segment_path(dir, read.last_sequence);
        let cut = last.file.set_len(read.previous.0);
        cut.map_err(|source| io_error("truncate", &path, source))?;
        last.bytes = read.previous.0;
    }
    let segment = Segment { file: active.file.clone(), bytes: active.end };
    read.segments.insert(active.sequence, segment);
    let report = report(&replayed, &read, sequences.len(), active.epoch);
    let (groups, usage) = (replayed.groups, replayed.usage);
    Ok((Opened { groups, usage, segments: read.segments, active, lock }, report))
}

/// Makes a segment whose first record is `rows`, durable before it has its name.
pub(super) fn roll(
    disk: &dyn Disk,
    config: &SegmentLogConfig,
    active: &Active,
    first_segment: u64,
    rows: &[GroupRow],
) -> Result<Active, Error> {
    let plan = NewSegment {
        sequence: active.sequence + 1,
        epoch: active.epoch,
        salt: config.salt,
        previous: (active.end, active.chain.last),
        first_segment,
        unproven: &[],
    };
    let (header, bytes, _) = plan.bytes(rows);
    create(disk, config, &header, &bytes)
}

struct NewSegment<'a> {
    sequence: u64,
    epoch: u64,
    salt: u64,
    previous: (u64, u32),
    first_segment: u64,
    unproven: &'a [Unproven],
}

impl NewSegment<'_> {
    /// The bytes the segment starts with, and where the unproven records lie in them.
    fn bytes(&self, rows: &[GroupRow]) -> (SegmentHeader, Vec<u8>, Vec<u64>) {
        let mut header = SegmentHeader {
            version: FORMAT_VERSION,
            sequence: self.sequence,
            epoch: self.epoch,
            salt: self.salt,
            previous_bytes: self.previous.0,
            previous_chain: self.previous.1,
            created_bytes: 0,
        };
        // The header's own checksum seeds the records', and it tells their length: measure first.
        let (bytes, _) = self.records(&header, rows);
        let bytes = u32::try_from(bytes.len()).expect("a state record is far below 4 GiB");
        header.created_bytes = bytes;
        let (bytes, places) = self.records(&header, rows);
        (header, bytes, places)
    }

    fn records(&self, header: &SegmentHeader, rows: &[GroupRow]) -> (Vec<u8>, Vec<u64>) {
        let mut out = header.encode().to_vec();
        let mut chain = Chain::new(header);
        let synced = SEGMENT_HEADER_BYTES as u32;
        let state =
            RecordHeader { kind: Kind::State, group: LOG_GROUP, number: 0, key: KEY_NONE, synced };
        chain.record(&mut out, state, |out| body::put_state(out, self.first_segment, rows));
        let mut places = Vec::with_capacity(self.unproven.len());
        for record in self.unproven {
            places.push(out.len() as u64);
            let header = RecordHeader { synced, ..record.header };
            chain.record(&mut out, header, |out| out.extend_from_slice(&record.body));
        }
        (out, places)
    }
}

fn create(
    disk: &dyn Disk,
    config: &SegmentLogConfig,
    header: &SegmentHeader,
    bytes: &[u8],
) -> Result<Active, Error> {
    let path = segment_path(&config.dir, header.sequence);
    let new = path.with_extension("log.new");
    let size = config.segment_bytes.max(bytes.len() as u64);
    let file = disk.create(&new, size).map_err(|source| io_error("create", &new, source))?;
    file.write_at(bytes, 0).map_err(|source| io_error("write", &new, source))?;
    file.sync_all().map_err(|source| io_error("fsync", &new, source))?;
    disk.rename(&new, &path).map_err(|source| io_error("rename", &new, source))?;
    disk.sync_dir(&config.dir).map_err(|source| io_error("fsync", &config.dir, source))?;
    let mut chain = Chain::new(header);
    chain.last = scan(bytes, header, 0).chain.last;
    let end = bytes.len() as u64;
    Ok(Active { sequence: header.sequence, epoch: header.epoch, file, chain, end, synced: end })
}

/// What the log of a stopped node holds; nothing is written.
pub(super) fn read_all(
    disk: &dyn Disk,
    dir: &Path,
    sequences: &[u64],
    expectations: &OpenExpectations,
    keys: &Keyring,
) -> Result<OpenReport, Error> {
    let mut replay = Replay::new(dir);
    let read = read_segments(disk, dir, sequences, &mut replay)?;
    let expected = expectations.records_min.keys().copied();
    expected.for_each(|group| replay.expect_group(group));
    for record in &read.unproven {
        replay.record((read.last_sequence + 1, 0), &record.header, &record.body);
    }
    note_missing_front(sequences, &mut replay);
    let replayed = replay.finish(expectations, &keys.view());
    if keys.is_new() && replayed.keyless > 0 {
        return Err(Error::KeysMissing { path: dir.to_path_buf() });
    }
    Ok(report(&replayed, &read, sequences.len(), read.epoch))
}

/// Segments that the last record about it counts, and that are not there.
fn note_missing_front(sequences: &[u64], replay: &mut Replay) {
    let noted = replay.first_segment;
    if sequences.first().is_some_and(|first| *first > noted && noted > 0) {
        replay.damaged((noted, 0), MISSING);
    }
}

fn report(replayed: &Replayed, read: &Read, segments: usize, epoch: u64) -> OpenReport {
    let damaged = replayed.groups.iter();
    OpenReport {
        damaged: damaged.filter_map(|(id, group)| Some((*id, group.damage.clone()?))).collect(),
        groups: replayed.groups.iter().map(|(id, group)| (*id, group.held())).collect(),
        damage: replayed.damage.clone(),
        tear: read.tear.clone(),
        segments,
        records: replayed.records,
        bytes: read.bytes,
        epoch,
    }
}

/// The segments there are, ascending. Removes those that never got their name.
fn list(disk: &dyn Disk, dir: &Path) -> Result<Vec<u64>, Error> {
    let names = disk.list(dir).map_err(|source| io_error("list", dir, source))?;
    for name in names.iter().filter(|name| name.ends_with(NEW_SUFFIX)) {
        let path = dir.join(name);
        disk.remove(&path).map_err(|source| io_error("remove", &path, source))?;
    }
    segment_sequences(disk, dir)
}

/// The segments there are, ascending.
pub(super) fn segment_sequences(disk: &dyn Disk, dir: &Path) -> Result<Vec<u64>, Error> {
    let names = disk.list(dir).map_err(|source| io_error("list", dir, source))?;
    let mut sequences = Vec::new();
    for name in names {
        let number = name.strip_suffix(SUFFIX).filter(|number| number.len() == 16);
        sequences.extend(
            number
                .and_then(|number| u64::from_str_radix(number, 16).ok())
                .filter(|number| *number <= SEQUENCE_MAX),
        );
    }
    sequences.sort_unstable();
    Ok(sequences)
}

struct Raw {
    sequence: u64,
    segment: Segment,
    bytes: Vec<u8>,
    header: Result<SegmentHeader, &'static str>,
}

fn read_segments(
    disk: &dyn Disk,
    dir: &Path,
    sequences: &[u64],
    replay: &mut Replay,
) -> Result<Read, Error> {
    let mut read = Read::default();
    let mut held: Option<Raw> = None;
    // The memory of the segment before the one that is held.
    let mut spare = Vec::new();
    let mut files = sequences.iter().map(|sequence| open_segment(disk, dir, *sequence)).peekable();
    for sequence in sequences {
        let file = files.next().expect("there is a file of each")?;
        // The disk reads the next segment while this one is looked at.
        if let Some(Ok(next)) = files.peek() {
            next.read_ahead(0, READ_BYTES as u64);
        }
        let raw = read_segment(file, dir, *sequence, std::mem::take(&mut spare))?;
        read.bytes += raw.bytes.len() as u64;
        if let Some(mut before) = held.take() {
            let next = raw.header.ok().filter(|_| before.sequence + 1 == *sequence);
            replay_sealed(&before, next.as_ref(), replay);
            if let Some(next) = next.filter(|next| next.previous_bytes > 0) {
                // A cut of what was set aside may have been lost with the power.
                before.segment.bytes = before.segment.bytes.min(next.previous_bytes);
            }
            read.segments.insert(before.sequence, before.segment);
            if before.sequence + 1 != *sequence {
                replay.damaged((before.sequence + 1, 0), MISSING);
            }
            spare = before.bytes;
        }
        if let Ok(header) = &raw.header {
            read.epoch = read.epoch.max(header.epoch);
        }
        read.last_sequence = *sequence;
        held = Some(raw);
    }
    if let Some(last) = held {
        replay_last(dir, last, replay, &mut read);
    }
    Ok(read)
}

fn open_segment(disk: &dyn Disk, dir: &Path, sequence: u64) -> Result<Arc<dyn DiskFile>, Error> {
    let path = segment_path(dir, sequence);
    disk.open(&path).map_err(|source| io_error("read", &path, source))
}

/// Reads a whole segment into `bytes`, whose memory is used again: fresh memory costs more than
/// reading from the page cache.
fn read_segment(
    file: Arc<dyn DiskFile>,
    dir: &Path,
    sequence: u64,
    mut bytes: Vec<u8>,
) -> Result<Raw, Error> {
    let path = segment_path(dir, sequence);
    let error = |source| io_error("read", &path, source);
    let len = file.len().map_err(error)?;
    let segment = Segment { file, bytes: len };
    if len > u64::from(u32::MAX) {
        return Ok(Raw { sequence, segment, bytes: Vec::new(), header: Err(TOO_LONG) });
    }
    bytes.resize(usize::try_from(len).expect("checked against u32"), 0);
    let mut at = 0;
    for part in bytes.chunks_mut(READ_BYTES) {
        let (offset, size) = (at, part.len() as u64);
        at += size;
        segment.file.read_ahead(at, READ_BYTES as u64);
        segment.file.read_at(part, offset).map_err(error)?;
    }
    let header = match SegmentHeader::decode(&bytes) {
        Ok(header) if header.sequence == sequence => Ok(header),
        Ok(_) => Err(SEQUENCE),
        Err(HeaderError::Invalid) => Err(HEADER),
        Err(HeaderError::Version(version)) => return Err(Error::Version { path, version }),
    };
    Ok(Raw { sequence, segment, bytes, header })
}

/// A segment that has a successor: the successor says how much of it counts.
fn replay_sealed(raw: &Raw, next: Option<&SegmentHeader>, replay: &mut Replay) {
    let header = match &raw.header {
        Ok(header) => header,
        Err(reason) => return replay.damaged((raw.sequence, 0), reason),
    };
    let next = next.filter(|next| next.previous_bytes > 0);
    let limit = next.and_then(|next| usize::try_from(next.previous_bytes).ok());
    let bytes = &raw.bytes[..limit.unwrap_or(raw.bytes.len()).min(raw.bytes.len())];
    let mut scanned = scan(bytes, header, bytes.len());
    let cut_short = limit.is_some_and(|limit| scanned.end != limit)
        || next.is_some_and(|next| next.previous_chain != scanned.chain.last);
    apply(raw.sequence, &mut scanned.items, replay);
    if cut_short || scanned.end < header.created_bytes as usize {
        replay.damaged((raw.sequence, scanned.end as u64), ENDS_EARLY);
    }
}

/// The last segment: what comes after its durable part may be unfinished, and is written again.
fn replay_last(dir: &Path, raw: Raw, replay: &mut Replay, read: &mut Read) {
    let sequence = raw.sequence;
    match &raw.header {
        Ok(header) => {
            let mut scanned = scan(&raw.bytes, header, 0);
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
    read.segments.insert(sequence, raw.segment);
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
                replay.record((sequence, *at as u64), &record.header, record.body);
            }
            Item::Gap(at) => replay.damaged((sequence, *at as u64), UNSOUND),
        }
    }
}
