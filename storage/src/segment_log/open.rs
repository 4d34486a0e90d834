//! Opening the log: recovers what it holds, makes what is there durable, starts a new segment.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::Arc,
};

use super::{
    body::{self, GroupRow},
    config::{OpenExpectations, SegmentLogConfig},
    disk::{Disk, DiskFile},
    format::{
        Chain, FORMAT_VERSION, Kind, LOG_GROUP, RecordHeader, SEGMENT_HEADER_BYTES, SegmentHeader,
    },
    index::{Usage, Written},
    outline::outline_path,
    recover::{MISSING, Names, Recovered, Unproven, recover},
    replay::{Replay, Replayed, Told, segment_path},
    report::OpenReport,
    scan::scan,
};
use crate::{Error, GroupId, Keyring, error::io_error, seal::KEY_NONE};

/// Held by the process that has the log open.
const LOCK_FILE: &str = "lock";
/// A segment before it is durable and gets its name.
const NEW_SUFFIX: &str = ".new";

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
    /// The segments that have an outline.
    pub(super) outlined: BTreeSet<u64>,
    pub(super) active: Active,
    /// Keeps other processes out.
    pub(super) lock: Arc<dyn DiskFile>,
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
    let names = tidied(disk, dir)?;
    let sequences = &names.segments;
    let mut replay = Replay::new(dir);
    let read = recover(disk, dir, &names, &mut replay)?;
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
        replay.record((plan.sequence, at), &record.header, Told::Body(&record.body));
    }
    note_missing_front(sequences, &mut replay);
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
    let report = report(&replayed, &read, sequences.len(), active.epoch);
    let mut segments: BTreeMap<u64, Segment> = read.segments.into_iter().collect();
    if let Some(last) = segments.get_mut(&read.last_sequence).filter(|_| read.previous.0 > 0) {
        // The new segment says how much of this one counts; the rest was set aside for it.
        let path = segment_path(dir, read.last_sequence);
        let cut = last.file.set_len(read.previous.0);
        cut.map_err(|source| io_error("truncate", &path, source))?;
        last.bytes = read.previous.0;
    }
    let segment = Segment { file: active.file.clone(), bytes: active.end };
    segments.insert(active.sequence, segment);
    let (groups, usage, outlined) = (replayed.groups, replayed.usage, read.outlined);
    Ok((Opened { groups, usage, segments, outlined, active, lock }, report))
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
    expectations: &OpenExpectations,
    keys: &Keyring,
) -> Result<OpenReport, Error> {
    // Who looks wants to know what is on the disk, so no outline stands for it.
    let names = Names { outlines: BTreeSet::new(), ..Names::list(disk, dir)? };
    let sequences = &names.segments;
    let mut replay = Replay::new(dir);
    let read = recover(disk, dir, &names, &mut replay)?;
    let expected = expectations.records_min.keys().copied();
    expected.for_each(|group| replay.expect_group(group));
    for record in &read.unproven {
        let place = (read.last_sequence + 1, 0);
        replay.record(place, &record.header, Told::Body(&record.body));
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

fn report(replayed: &Replayed, read: &Recovered, segments: usize, epoch: u64) -> OpenReport {
    let damaged = replayed.groups.iter();
    OpenReport {
        damaged: damaged.filter_map(|(id, group)| Some((*id, group.damage.clone()?))).collect(),
        groups: replayed.groups.iter().map(|(id, group)| (*id, group.held())).collect(),
        damage: replayed.damage.clone(),
        tear: read.tear.clone(),
        segments,
        outlined: read.outlined.len(),
        records: replayed.records,
        bytes: read.bytes,
        epoch,
    }
}

/// What there is. Removes segments that never got their name, and outlines whose segments went.
fn tidied(disk: &dyn Disk, dir: &Path) -> Result<Names, Error> {
    let names = disk.list(dir).map_err(|source| io_error("list", dir, source))?;
    for name in names.iter().filter(|name| name.ends_with(NEW_SUFFIX)) {
        let path = dir.join(name);
        disk.remove(&path).map_err(|source| io_error("remove", &path, source))?;
    }
    let names = Names::list(disk, dir)?;
    let stray = names.outlines.iter().filter(|of| names.segments.binary_search(of).is_err());
    for outline in stray {
        let path = outline_path(dir, *outline);
        disk.remove(&path).map_err(|source| io_error("remove", &path, source))?;
    }
    Ok(names)
}
