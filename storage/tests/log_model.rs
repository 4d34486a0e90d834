//! Random histories against a simple model, on the segment log and on its twin, with reopenings,
//! kills and crashes in between.

mod support;

use std::{collections::BTreeMap, fs, path::Path, sync::Arc};

use bytes::Bytes;
use heliograph_storage::{
    Done, Error, GroupId, LogEntry, LogGroup, LogStore, MemoryDisk, MemoryLog, Position,
    SegmentLog, SegmentLogConfig,
};
use proptest::prelude::*;
use support::{DEADLINE, block_on, done, entry, read_all};
use tempfile::TempDir;

#[derive(Clone, Debug)]
enum Step {
    Append {
        group: u32,
        term: u64,
        count: u64,
        bytes: usize,
    },
    Vote {
        group: u32,
        vote: u64,
    },
    Truncate {
        group: u32,
        back: u64,
    },
    TruncateAll {
        group: u32,
    },
    Purge {
        group: u32,
        ahead: u64,
    },
    Drop {
        group: u32,
    },
    Read {
        group: u32,
        from: u64,
        count: u64,
        bytes_max: usize,
    },
    /// Close in order and open again.
    Reopen,
    /// The process dies; what it wrote is there, synced or not.
    Kill,
}

fn step() -> impl Strategy<Value = Step> {
    let group = 0..4u32;
    prop_oneof![
        10 => (group.clone(), 0..5u64, 1..20u64, 0..600usize)
            .prop_map(|(group, term, count, bytes)| Step::Append { group, term, count, bytes }),
        2 => (group.clone(), any::<u64>()).prop_map(|(group, vote)| Step::Vote { group, vote }),
        2 => (group.clone(), 0..30u64).prop_map(|(group, back)| Step::Truncate { group, back }),
        1 => group.clone().prop_map(|group| Step::TruncateAll { group }),
        4 => (group.clone(), 0..40u64).prop_map(|(group, ahead)| Step::Purge { group, ahead }),
        1 => group.clone().prop_map(|group| Step::Drop { group }),
        4 => (group, 0..100u64, 0..60u64, 0..5000usize)
            .prop_map(|(group, from, count, bytes_max)| Step::Read { group, from, count, bytes_max }),
        1 => Just(Step::Reopen),
        1 => Just(Step::Kill),
    ]
}

#[derive(Clone, Debug, Default)]
struct Held {
    known: LogGroup,
    entries: BTreeMap<u64, LogEntry>,
}

impl Held {
    fn settle_last(&mut self) {
        let last = self.entries.values().next_back().map(|entry| entry.position);
        self.known.last = last.or(self.known.purged);
    }
}

/// An implementation that can die.
trait Subject {
    fn log(&self) -> &dyn LogStore;
    fn settle(&self);
    fn reopen(&mut self);
    fn kill(&mut self);
}

struct OnDisk {
    log: Option<SegmentLog>,
    dir: TempDir,
}

fn open(dir: &Path) -> SegmentLog {
    let mut config = SegmentLogConfig::new(dir, 11);
    config.segment_bytes = 16 << 10;
    config.tail_bytes_max = 2 << 10;
    let (log, report) = SegmentLog::open(config).expect("it opens");
    assert!(report.damage.is_empty() && report.damaged.is_empty(), "{report:?}");
    log
}

impl Subject for OnDisk {
    fn log(&self) -> &dyn LogStore {
        self.log.as_ref().expect("it is open")
    }

    fn settle(&self) {}

    fn reopen(&mut self) {
        drop(self.log.take());
        self.log = Some(open(self.dir.path()));
    }

    fn kill(&mut self) {
        // The files as they are while the log is open: what a killed process leaves behind. A file
        // that goes or comes while it is copied makes the copy start over.
        let dir = loop {
            let copy = TempDir::new().expect("a directory");
            let list = || {
                let names = fs::read_dir(self.dir.path()).expect("readable");
                let mut names: Vec<_> = names.map(|name| name.expect("a name").path()).collect();
                names.sort();
                names
            };
            let before = list();
            let copied = before.iter().all(|path| {
                fs::copy(path, copy.path().join(path.file_name().expect("a name"))).is_ok()
            });
            if copied && list() == before {
                break copy;
            }
        };
        drop(self.log.take());
        self.dir = dir;
        self.log = Some(open(self.dir.path()));
    }
}

struct InMemory {
    log: MemoryLog,
    disk: Arc<MemoryDisk>,
}

impl Subject for InMemory {
    fn log(&self) -> &dyn LogStore {
        &self.log
    }

    fn settle(&self) {
        self.log.sync();
    }

    fn reopen(&mut self) {
        self.log.close();
        self.log = MemoryLog::new(self.disk.clone(), Box::new(|| ()));
    }

    fn kill(&mut self) {
        self.log.crash(0);
        self.log = MemoryLog::new(self.disk.clone(), Box::new(|| ()));
    }
}

fn durable(subject: &dyn Subject, write: impl FnOnce(&dyn LogStore, Done)) {
    let (done, result) = done();
    write(subject.log(), done);
    subject.settle();
    result.recv_timeout(DEADLINE).expect("an answer").expect("durable");
}

fn take(subject: &mut dyn Subject, model: &mut BTreeMap<GroupId, Held>, step: &Step) {
    match *step {
        Step::Append { group, term, count, bytes } => {
            let group = GroupId(group);
            let held = model.entry(group).or_default();
            let next = held.known.last.map_or(1, |last| last.index + 1);
            let entries: Vec<LogEntry> =
                (next..next + count).map(|index| entry(group, term, index, bytes)).collect();
            held.entries.extend(entries.iter().map(|entry| (entry.position.index, entry.clone())));
            held.settle_last();
            durable(subject, |log, done| log.append(group, entries, done));
        }
        Step::Vote { group, vote } => {
            let (group, vote) = (GroupId(group), Bytes::from(vote.to_string()));
            model.entry(group).or_default().known.vote = Some(vote.clone());
            durable(subject, |log, done| log.save_vote(group, vote, done));
        }
        Step::Truncate { group, back } => {
            let last = model.get(&GroupId(group)).and_then(|held| held.known.last);
            let index = last.map(|last| last.index.saturating_sub(back));
            truncate(subject, model, GroupId(group), index);
        }
        Step::TruncateAll { group } => truncate(subject, model, GroupId(group), None),
        Step::Purge { group, ahead } => {
            let group = GroupId(group);
            let held = model.entry(group).or_default();
            let index = held.known.purged.map_or(0, |purged| purged.index) + ahead;
            let upto = Position { term: 77, index };
            if held.known.purged.is_none_or(|purged| purged.index < index) {
                held.entries = held.entries.split_off(&(index + 1));
                held.known.purged = Some(upto);
                held.settle_last();
            }
            durable(subject, |log, done| log.purge(group, upto, done));
        }
        Step::Drop { group } => {
            model.remove(&GroupId(group));
            durable(subject, |log, done| log.drop_group(GroupId(group), done));
        }
        Step::Read { group, from, count, bytes_max } => {
            read(subject, model, GroupId(group), from..from + count, bytes_max);
        }
        Step::Reopen => subject.reopen(),
        Step::Kill => subject.kill(),
    }
}

fn truncate(
    subject: &dyn Subject,
    model: &mut BTreeMap<GroupId, Held>,
    group: GroupId,
    index: Option<u64>,
) {
    if let Some(held) = model.get_mut(&group) {
        held.entries.retain(|at, _| index.is_some_and(|index| *at <= index));
        held.settle_last();
    }
    durable(subject, |log, done| log.truncate_after(group, index, done));
}

fn read(
    subject: &dyn Subject,
    model: &BTreeMap<GroupId, Held>,
    group: GroupId,
    range: std::ops::Range<u64>,
    bytes_max: usize,
) {
    let held = model.get(&group).cloned().unwrap_or_default();
    let got = block_on(subject.log().read(group, range.clone(), bytes_max));
    let last = held.known.last.map_or(0, |last| last.index);
    let purged = held.known.purged.map(|purged| purged.index);
    if let Some(purged) =
        purged.filter(|p| range.start <= *p && range.start < range.end.min(last + 1))
    {
        assert!(matches!(got, Err(Error::Purged { purged: told }) if told == purged), "{got:?}");
        return;
    }
    let got = got.expect("readable");
    let expected: Vec<LogEntry> =
        held.entries.range(range).map(|(_, entry)| entry.clone()).collect();
    assert!(expected.starts_with(&got), "{got:?} is not the start of {expected:?}");
    assert_eq!(got.is_empty(), expected.is_empty());
    let taken: usize = got.iter().skip(1).map(|entry| entry.payload.len()).sum();
    assert!(taken <= bytes_max, "{taken} bytes after the first entry");
    if let Some(next) = expected.get(got.len()) {
        let all: usize = got.iter().map(|entry| entry.payload.len()).sum();
        assert!(all + next.payload.len() > bytes_max, "it stopped before the bound");
    }
}

fn compare(log: &dyn LogStore, model: &BTreeMap<GroupId, Held>) {
    assert_eq!(log.groups(), model.keys().copied().collect::<Vec<_>>());
    for (group, held) in model {
        assert_eq!(log.group(*group), held.known);
        let first = held.entries.keys().next().copied().unwrap_or(u64::MAX);
        let expected: Vec<LogEntry> = held.entries.values().cloned().collect();
        assert_eq!(read_all(log, *group, first, u64::MAX), expected);
    }
}

fn run(subject: &mut dyn Subject, steps: &[Step]) {
    let mut model = BTreeMap::new();
    for step in steps {
        take(subject, &mut model, step);
        if matches!(step, Step::Reopen | Step::Kill) {
            compare(subject.log(), &model);
        }
    }
    compare(subject.log(), &model);
    subject.reopen();
    compare(subject.log(), &model);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn segment_log_does_what_the_model_does(steps in prop::collection::vec(step(), 1..120)) {
        let dir = TempDir::new().expect("a directory");
        let log = Some(open(dir.path()));
        run(&mut OnDisk { log, dir }, &steps);
    }

    #[test]
    fn memory_log_does_what_the_model_does(steps in prop::collection::vec(step(), 1..120)) {
        let disk = MemoryDisk::new();
        let log = MemoryLog::new(disk.clone(), Box::new(|| ()));
        run(&mut InMemory { log, disk }, &steps);
    }
}
