//! A node's data as a node makes it, and reading it back as a node does at its start.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use heliograph_storage::{
    Error, FileSnapshots, GroupId, GroupState, Health, Keyring, LogEntry, LogStore, Position,
    RowsRead, RowsWrite, SegmentLog, SegmentLogConfig, SledConfig, SledStore, SnapshotStore,
    StateStore, log_expectations,
};

use crate::support::{block_on, done};

/// Groups with traffic of their own; small enough that a trial takes tens of milliseconds.
pub(crate) const GROUPS: [GroupId; 3] = [GroupId(0), GroupId(1), GroupId(5)];
/// Small segments, so that there are many.
const SEGMENT_BYTES: u64 = 16 << 10;
const KEYS: u64 = 300;
const VALUE_BYTES: u64 = 3000;

/// SplitMix64: one seed decides a trial.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (mixed ^ (mixed >> 31)) % bound
    }
}

/// What a group must be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Truth {
    pub(crate) rows: BTreeMap<Bytes, Bytes>,
    pub(crate) last: u64,
    pub(crate) vote: Option<Bytes>,
}

/// What a start makes of a group.
pub(crate) enum Found {
    Data(Truth),
    Damaged(Error),
}

/// A node's stores.
pub(crate) struct Node {
    log: SegmentLog,
    state: Arc<dyn StateStore>,
    snapshots: FileSnapshots,
    groups: BTreeMap<GroupId, GroupState>,
    pub(crate) truth: BTreeMap<GroupId, Truth>,
}

fn put(random: &mut Random, out: &mut BytesMut) {
    let is_put = random.below(3) > 0;
    out.put_u8(u8::from(is_put));
    out.put_u16(random.below(KEYS) as u16);
    out.put_u16(random.below(VALUE_BYTES) as u16);
    out.put_u8(random.below(256) as u8);
}

/// Applies an entry: the rows follow from the entries alone.
fn apply(mut payload: Bytes, rows: &mut dyn FnMut(Bytes, Option<Bytes>)) {
    while payload.len() >= 6 {
        let is_put = payload.get_u8() == 1;
        let key = Bytes::from(format!("key {:05}", payload.get_u16()));
        let len = usize::from(payload.get_u16());
        let fill = payload.get_u8();
        rows(key, is_put.then(|| Bytes::from(vec![fill; len])));
    }
}

fn index(applied: &[u8]) -> u64 {
    applied.try_into().map(u64::from_be_bytes).unwrap_or(0)
}

fn lost(reason: &'static str) -> Error {
    Error::Damage { path: "group".into(), offset: 0, reason }
}

/// A node's keys; each open draws one.
fn open_keys(dir: &Path) -> Result<Keyring, Error> {
    static DRAWN: AtomicU64 = AtomicU64::new(0);
    let fill = |bytes: &mut [u8]| {
        let mut random = Random::new(DRAWN.fetch_add(1, Ordering::Relaxed));
        bytes.fill_with(|| random.below(256) as u8);
    };
    Keyring::open(&dir.join("keys"), Box::new(fill), 0)
}

fn open_log(dir: &Path, state: &dyn StateStore, keys: &Keyring) -> Result<SegmentLog, Error> {
    let mut config = SegmentLogConfig::new(dir.join("log"), 7);
    config.keys = keys.clone();
    config.segment_bytes = SEGMENT_BYTES;
    // Everything older is read from the files.
    config.tail_bytes_max = 4 << 10;
    config.expectations = log_expectations(state)?;
    Ok(SegmentLog::open(config)?.0)
}

impl Node {
    pub(crate) fn open(dir: &Path, truth: BTreeMap<GroupId, Truth>) -> Self {
        let keys = open_keys(dir).unwrap();
        let config = SledConfig::default();
        let (state, _) = SledStore::open_sealed(&dir.join("state"), config, &keys).unwrap();
        let state: Arc<dyn StateStore> = state;
        let log = open_log(dir, &*state, &keys).unwrap();
        let snapshots = FileSnapshots::open_sealed(&dir.join("snapshots"), keys).unwrap();
        let open = |group| (group, GroupState::open(Arc::clone(&state), group).unwrap());
        let groups = GROUPS.into_iter().map(open).collect();
        Self { log, state, snapshots, groups, truth }
    }

    /// Some entries for each group, and votes now and then.
    pub(crate) fn traffic(&mut self, random: &mut Random, rounds: u64) {
        for _ in 0..rounds {
            for group in GROUPS {
                let truth = self.truth.entry(group).or_default();
                let state = &self.groups[&group];
                let mut entries = Vec::new();
                for _ in 0..=random.below(4) {
                    let mut payload = BytesMut::new();
                    (0..=random.below(3)).for_each(|_| put(random, &mut payload));
                    // Filler, so that the log has a size.
                    payload.extend_from_slice(&[9; 5][..random.below(5) as usize]);
                    truth.last += 1;
                    let position = Position { term: 1, index: truth.last };
                    let payload = payload.freeze();
                    let mut rows = state.write();
                    apply(payload.clone(), &mut |key, value| match value {
                        Some(value) => {
                            truth.rows.insert(key.clone(), value.clone());
                            rows.put(&key, value);
                        }
                        None => {
                            truth.rows.remove(&key);
                            rows.delete(&key);
                        }
                    });
                    rows.set_applied(truth.last.to_be_bytes().to_vec().into());
                    entries.push(LogEntry { position, payload });
                }
                self.durable(|log, done| log.append(group, entries, done));
                if random.below(20) == 0 {
                    let vote = Bytes::from(format!("vote {}", random.below(1000)));
                    self.truth.get_mut(&group).unwrap().vote = Some(vote.clone());
                    self.durable(|log, done| log.save_vote(group, vote, done));
                }
            }
        }
    }

    fn durable(&self, write: impl FnOnce(&SegmentLog, heliograph_storage::Done)) {
        let (done, result) = done();
        write(&self.log, done);
        result.recv().unwrap().unwrap();
    }

    pub(crate) fn checkpoint(&self) {
        for (group, state) in &self.groups {
            state.note_log_records(self.log.durable_records(*group));
            let frozen = state.write().freeze().unwrap();
            state.commit(frozen).unwrap();
        }
        // Which a node does all the time.
        while self.log.outline(64 << 10).unwrap() > 0 {}
    }

    /// Snapshots, and the log purged behind them but for `keep` entries.
    pub(crate) fn snapshot(&self, keep: u64) {
        for (group, state) in &self.groups {
            state.note_log_records(self.log.durable_records(*group));
            let frozen = state.write().freeze().unwrap();
            let info = self.snapshots.write(state, frozen).unwrap();
            let upto = Position { term: 1, index: index(&info.applied).saturating_sub(keep) };
            self.durable(|log, done| log.purge(*group, upto, done));
        }
    }

    /// One pass over everything; answers how many damaged places of the log it found, and what is
    /// wrong with whom.
    pub(crate) fn scrub(&self) -> (u32, BTreeMap<GroupId, Error>) {
        let mut damages = 0;
        let mut damaged = BTreeMap::new();
        loop {
            let step = self.log.scrub(5000).unwrap();
            damages += step.damages;
            if step.is_last {
                break;
            }
        }
        for (group, state) in &self.groups {
            let rows = loop {
                match state.scrub(50) {
                    Ok(step) if step.is_last => break Ok(()),
                    Ok(_) => {}
                    Err(error) => break Err(error),
                }
            };
            let log = self.log.damage(*group).map_or(Ok(()), Err);
            let found = rows.and(log).and_then(|()| self.scrub_snapshot(*group));
            damaged.extend(found.err().map(|error| (*group, error)));
        }
        (damages, damaged)
    }

    fn scrub_snapshot(&self, group: GroupId) -> Result<(), Error> {
        let Some(info) = self.snapshots.current(group) else { return Ok(()) };
        let mut offset = 0;
        loop {
            let step = self.snapshots.scrub(&info, offset, 64 << 10)?;
            offset += step.bytes;
            if step.is_last {
                return Ok(());
            }
        }
    }

    pub(crate) fn close(self) -> BTreeMap<GroupId, Truth> {
        self.log.close();
        drop(self.groups);
        drop(self.state);
        self.truth
    }
}

/// Opens what is in `dir` and reads everything, as a start of a node does, and as the next one does
/// where the database was found damaged on the way. `Err`: it does not open.
pub(crate) fn read(dir: &Path) -> Result<BTreeMap<GroupId, Found>, Error> {
    let (found, health) = read_once(dir)?;
    if matches!(health, Health::Sound) {
        return Ok(found);
    }
    let (found, health) = read_once(dir)?;
    assert!(
        matches!(health, Health::Sound),
        "the start after it is served by sound rows: {health:?}"
    );
    Ok(found)
}

fn read_once(dir: &Path) -> Result<(BTreeMap<GroupId, Found>, Health), Error> {
    let keys = open_keys(dir)?;
    let config = SledConfig::default();
    let (state, _) = SledStore::open_sealed(&dir.join("state"), config, &keys)?;
    let state: Arc<dyn StateStore> = state;
    let log = open_log(dir, &*state, &keys)?;
    let snapshots = FileSnapshots::open_sealed(&dir.join("snapshots"), keys)?;
    let read = GROUPS.into_iter().map(|group| {
        let found = match read_group(&log, &state, &snapshots, group) {
            Ok(truth) => Found::Data(truth),
            Err(error) => Found::Damaged(error),
        };
        (group, found)
    });
    let found = read.collect();
    Ok((found, state.health()))
}

fn read_group(
    log: &SegmentLog,
    store: &Arc<dyn StateStore>,
    snapshots: &FileSnapshots,
    group: GroupId,
) -> Result<Truth, Error> {
    if let Some(damage) = log.damage(group) {
        return Err(damage);
    }
    let state = GroupState::open(Arc::clone(store), group)?;
    let mut applied = state.applied().map_or(0, |applied| index(&applied));
    let held = log.group(group);
    let snapshot = snapshots.current(group);
    let covered = snapshot.as_ref().map_or(0, |info| index(&info.applied));
    if let Some(info) = snapshot {
        snapshots.verify(&info)?;
        if covered > applied {
            snapshots.install(&state, &info)?;
            applied = covered;
        }
    }
    let purged = held.purged.map_or(0, |purged| purged.index);
    if purged > applied || purged > covered {
        return Err(lost("entries are purged that neither rows nor snapshot hold"));
    }
    let last = held.last.map_or(0, |last| last.index);
    if last < applied {
        return Err(lost("the log ends before the rows"));
    }
    let mut next = applied + 1;
    while next <= last {
        let entries = block_on(log.read(group, next..last + 1, 64 << 10))?;
        if entries.is_empty() {
            return Err(lost("entries are missing"));
        }
        for entry in entries {
            assert_eq!(entry.position.index, next, "entries come in order");
            next += 1;
            let mut rows = state.write();
            apply(entry.payload, &mut |key, value| match value {
                Some(value) => rows.put(&key, value),
                None => rows.delete(&key),
            });
        }
    }
    // What peers may be sent from the log must be readable too.
    let mut next = purged + 1;
    while next <= last {
        let entries = block_on(log.read(group, next..last + 1, 64 << 10))?;
        next = entries.last().ok_or_else(|| lost("entries are missing"))?.position.index + 1;
    }
    let rows = state.read().scan(b"", &[0xff], usize::MAX)?;
    Ok(Truth { rows: rows.into_iter().collect(), last, vote: held.vote })
}

/// All files below `dir`, by their path in it.
pub(crate) fn files(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut dirs = vec![dir.to_path_buf()];
    while let Some(next) = dirs.pop() {
        for entry in fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                dirs.push(path);
            } else {
                let name = path.strip_prefix(dir).unwrap().to_path_buf();
                // A running node may remove a file that was just listed.
                found.extend(fs::read(path).ok().map(|content| (name, content)));
            }
        }
    }
    found
}

/// Writes files below `dir`.
pub(crate) fn restore(files: &BTreeMap<PathBuf, Vec<u8>>, dir: &Path) {
    for sub in ["log", "state/blobs", "snapshots", "keys"] {
        fs::create_dir_all(dir.join(sub)).unwrap();
    }
    for (name, content) in files {
        fs::write(dir.join(name), content).unwrap();
    }
}
