//! The contract of `LogStore`, on the segment log and on its twin in memory.

mod support;

use std::sync::{Arc, Mutex, mpsc};

use bytes::Bytes;
use heliograph_storage::{
    Error, GroupId, Health, LogEntry, LogGroup, LogStore, MemoryDisk, MemoryLog, Position,
    SegmentLog, SegmentLogConfig,
};
use support::{block_on, done, entry, read_all};
use tempfile::TempDir;

const A: GroupId = GroupId(1);
const B: GroupId = GroupId(2);

/// An implementation under test, which can be closed and opened again.
trait Rig {
    fn log(&self) -> &dyn LogStore;
    /// Lets everything queued become durable.
    fn settle(&self);
    fn reopen(self: Box<Self>) -> Box<dyn Rig>;
}

struct OnDisk {
    log: SegmentLog,
    dir: TempDir,
}

fn open(dir: &TempDir) -> SegmentLog {
    let mut config = SegmentLogConfig::new(dir.path(), 7);
    // Small, so that a few writes roll segments and evict entries from memory.
    config.segment_bytes = 16 << 10;
    config.tail_bytes_max = 1 << 10;
    let (log, report) = SegmentLog::open(config).expect("the log opens");
    assert!(report.damage.is_empty() && report.damaged.is_empty(), "{report:?}");
    log
}

impl Rig for OnDisk {
    fn log(&self) -> &dyn LogStore {
        &self.log
    }

    fn settle(&self) {}

    fn reopen(self: Box<Self>) -> Box<dyn Rig> {
        let OnDisk { log, dir } = *self;
        log.close();
        drop(log);
        Box::new(OnDisk { log: open(&dir), dir })
    }
}

struct InMemory {
    log: MemoryLog,
    disk: Arc<MemoryDisk>,
}

impl Rig for InMemory {
    fn log(&self) -> &dyn LogStore {
        &self.log
    }

    fn settle(&self) {
        self.log.sync();
    }

    fn reopen(self: Box<Self>) -> Box<dyn Rig> {
        self.log.close();
        let log = MemoryLog::new(self.disk.clone(), Box::new(|| ()));
        Box::new(InMemory { log, disk: self.disk })
    }
}

fn on_both(test: impl Fn(Box<dyn Rig>)) {
    let disk = MemoryDisk::new();
    test(Box::new(InMemory { log: MemoryLog::new(disk.clone(), Box::new(|| ())), disk }));
    let dir = TempDir::new().expect("a directory");
    test(Box::new(OnDisk { log: open(&dir), dir }));
}

/// Runs one write and waits until it is durable.
fn durable(rig: &dyn Rig, write: impl FnOnce(&dyn LogStore, heliograph_storage::Done)) {
    let (done, result) = done();
    write(rig.log(), done);
    rig.settle();
    result.recv_timeout(support::DEADLINE).expect("an answer").expect("durable");
}

fn append(rig: &dyn Rig, group: GroupId, term: u64, indexes: std::ops::RangeInclusive<u64>) {
    let entries = indexes.map(|index| entry(group, term, index, 100)).collect();
    durable(rig, |log, done| log.append(group, entries, done));
}

fn at(term: u64, index: u64) -> Option<Position> {
    Some(Position { term, index })
}

fn indexes(entries: &[LogEntry]) -> Vec<(u64, u64)> {
    entries.iter().map(|entry| (entry.position.term, entry.position.index)).collect()
}

#[test]
fn unknown_group_is_empty() {
    on_both(|rig| {
        assert_eq!(rig.log().groups(), vec![]);
        assert_eq!(rig.log().group(A), LogGroup::default());
        assert_eq!(block_on(rig.log().read(A, 0..10, 100)).expect("no entries"), vec![]);
        durable(&*rig, |log, done| log.truncate_after(A, None, done));
        durable(&*rig, |log, done| log.drop_group(A, done));
        durable(&*rig, |log, done| log.append(A, vec![], done));
        assert_eq!(rig.log().groups(), vec![]);
        let rig = rig.reopen();
        assert_eq!(rig.log().groups(), vec![]);
    });
}

#[test]
fn entries_and_votes_survive_a_reopen() {
    on_both(|rig| {
        append(&*rig, A, 1, 0..=4);
        append(&*rig, B, 3, 1..=2);
        durable(&*rig, |log, done| log.save_vote(A, Bytes::from_static(b"me"), done));
        append(&*rig, A, 2, 5..=5);
        let rig = rig.reopen();
        assert_eq!(rig.log().groups(), vec![A, B]);
        let expected =
            LogGroup { vote: Some(Bytes::from_static(b"me")), purged: None, last: at(2, 5) };
        assert_eq!(rig.log().group(A), expected);
        assert_eq!(rig.log().group(B).last, at(3, 2));
        let expected: Vec<LogEntry> =
            (0..=5).map(|index| entry(A, if index == 5 { 2 } else { 1 }, index, 100)).collect();
        assert_eq!(read_all(rig.log(), A, 0, 6), expected);
    });
}

#[test]
fn writes_are_visible_before_they_are_durable() {
    on_both(|rig| {
        let (done, result) = done();
        rig.log().append(A, vec![entry(A, 1, 1, 10)], done);
        assert_eq!(rig.log().group(A).last, at(1, 1));
        let read = block_on(rig.log().read(A, 1..2, 100)).expect("it is in memory");
        assert_eq!(indexes(&read), vec![(1, 1)]);
        rig.settle();
        result.recv_timeout(support::DEADLINE).expect("an answer").expect("durable");
    });
}

#[test]
fn reads_are_bounded_and_make_progress() {
    on_both(|rig| {
        append(&*rig, A, 1, 1..=50);
        let read = |from, to, bytes| block_on(rig.log().read(A, from..to, bytes)).expect("a read");
        assert_eq!(indexes(&read(7, 9, 1 << 20)), vec![(1, 7), (1, 8)]);
        assert_eq!(indexes(&read(7, 40, 0)), vec![(1, 7)]);
        assert_eq!(read(1, 51, 250).len(), 2);
        assert_eq!(read(45, 100, 1 << 20).len(), 6);
        assert_eq!(read(51, 100, 1 << 20), vec![]);
        #[expect(clippy::reversed_empty_ranges, reason = "what a caller may ask by mistake")]
        let reversed = block_on(rig.log().read(A, 9..3, 100)).expect("an empty range");
        assert_eq!(reversed, vec![]);
        assert_eq!(read_all(rig.log(), A, 1, 51).len(), 50);
    });
}

#[test]
fn truncated_entries_are_gone_and_may_be_written_anew() {
    on_both(|rig| {
        append(&*rig, A, 1, 1..=10);
        durable(&*rig, |log, done| log.truncate_after(A, Some(4), done));
        assert_eq!(rig.log().group(A).last, at(1, 4));
        append(&*rig, A, 2, 5..=6);
        durable(&*rig, |log, done| log.truncate_after(A, Some(20), done));
        let expected = vec![(1, 3), (1, 4), (2, 5), (2, 6)];
        assert_eq!(indexes(&read_all(rig.log(), A, 3, 20)), expected);
        let rig = rig.reopen();
        assert_eq!(rig.log().group(A).last, at(2, 6));
        assert_eq!(indexes(&read_all(rig.log(), A, 3, 20)), expected);
        durable(&*rig, |log, done| log.truncate_after(A, None, done));
        assert_eq!(rig.log().group(A), LogGroup::default());
        append(&*rig, A, 5, 0..=0);
        let rig = rig.reopen();
        assert_eq!(indexes(&read_all(rig.log(), A, 0, 20)), vec![(5, 0)]);
    });
}

#[test]
fn purged_entries_are_refused() {
    on_both(|rig| {
        append(&*rig, A, 1, 1..=10);
        durable(&*rig, |log, done| log.purge(A, Position { term: 1, index: 4 }, done));
        durable(&*rig, |log, done| log.purge(A, Position { term: 1, index: 2 }, done));
        let check = |log: &dyn LogStore| {
            assert_eq!(log.group(A), LogGroup { vote: None, purged: at(1, 4), last: at(1, 10) });
            let refused = block_on(log.read(A, 4..8, 1 << 20));
            assert!(matches!(refused, Err(Error::Purged { purged: 4 })), "{refused:?}");
            assert_eq!(indexes(&read_all(log, A, 5, 7)), vec![(1, 5), (1, 6)]);
        };
        check(rig.log());
        let rig = rig.reopen();
        check(rig.log());
        durable(&*rig, |log, done| log.truncate_after(A, Some(1), done));
        assert_eq!(rig.log().group(A).last, at(1, 4));
    });
}

#[test]
fn purge_may_lie_past_the_last_entry() {
    on_both(|rig| {
        append(&*rig, A, 1, 1..=3);
        durable(&*rig, |log, done| log.purge(A, Position { term: 4, index: 100 }, done));
        durable(&*rig, |log, done| log.purge(B, Position { term: 4, index: 9 }, done));
        assert_eq!(rig.log().group(A).last, at(4, 100));
        append(&*rig, A, 4, 101..=102);
        let rig = rig.reopen();
        assert_eq!(
            rig.log().group(A),
            LogGroup { vote: None, purged: at(4, 100), last: at(4, 102) }
        );
        assert_eq!(rig.log().group(B), LogGroup { vote: None, purged: at(4, 9), last: at(4, 9) });
        assert_eq!(read_all(rig.log(), A, 101, 200).len(), 2);
    });
}

#[test]
fn dropped_group_starts_over() {
    on_both(|rig| {
        append(&*rig, A, 1, 1..=30);
        append(&*rig, B, 1, 1..=3);
        durable(&*rig, |log, done| log.drop_group(A, done));
        assert_eq!(rig.log().groups(), vec![B]);
        append(&*rig, A, 9, 1..=2);
        let rig = rig.reopen();
        assert_eq!(rig.log().groups(), vec![A, B]);
        assert_eq!(rig.log().group(A), LogGroup { vote: None, purged: None, last: at(9, 2) });
        assert_eq!(indexes(&read_all(rig.log(), A, 1, 50)), vec![(9, 1), (9, 2)]);
    });
}

#[test]
fn callbacks_of_a_group_run_in_call_order() {
    on_both(|rig| {
        let ran = Arc::new(Mutex::new(Vec::new()));
        let (sender, finished) = mpsc::channel();
        for index in 1..=200 {
            let (ran, sender) = (ran.clone(), sender.clone());
            let done = Box::new(move |result: Result<(), Error>| {
                result.expect("durable");
                ran.lock().expect("the lock").push(index);
                sender.send(()).expect("the test waits");
            });
            match index % 4 {
                0 => rig.log().save_vote(A, Bytes::from_static(b"v"), done),
                1 => rig.log().append(A, vec![], done),
                _ => rig.log().truncate_after(A, None, done),
            }
        }
        rig.settle();
        for _ in 1..=200 {
            finished.recv_timeout(support::DEADLINE).expect("a callback");
        }
        assert_eq!(*ran.lock().expect("the lock"), (1..=200).collect::<Vec<_>>());
    });
}

#[test]
fn closed_log_answers_closed() {
    on_both(|rig| {
        let (first, first_result) = done();
        rig.log().append(A, vec![entry(A, 1, 1, 10)], first);
        rig.log().close();
        rig.log().close();
        first_result.recv_timeout(support::DEADLINE).expect("an answer").expect("finished first");
        let (late, late_result) = done();
        rig.log().append(A, vec![entry(A, 1, 2, 10)], late);
        assert!(matches!(late_result.recv_timeout(support::DEADLINE), Ok(Err(Error::Closed))));
        assert!(matches!(block_on(rig.log().read(A, 1..2, 10)), Err(Error::Closed)));
        assert_eq!(rig.log().group(A).last, at(1, 1));
        assert!(matches!(rig.log().health(), Health::Sound));
    });
}

#[test]
fn gap_is_a_broken_invariant() {
    on_both(|rig| {
        append(&*rig, A, 1, 1..=3);
        let appended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            rig.log().append(A, vec![entry(A, 1, 5, 10)], Box::new(|_| ()));
        }));
        assert!(appended.is_err());
        assert_eq!(rig.log().group(A).last, at(1, 3));
        append(&*rig, A, 1, 4..=4);
        let rig = rig.reopen();
        assert_eq!(rig.log().group(A).last, at(1, 4));
    });
}

#[test]
fn sizes_are_those_of_the_entries_there_are() {
    on_both(|rig| {
        assert_eq!((rig.log().bytes_after(A, 0), rig.log().index_before(A, 0)), (0, 0));
        append(&*rig, A, 1, 1..=9);
        append(&*rig, B, 1, 1..=50);
        let told = |log: &dyn LogStore| {
            let after: Vec<_> = (0..12).map(|index| log.bytes_after(A, index)).collect();
            let before =
                [0, 101, 102, 250, 612, 613, 10_000].map(|bytes| log.index_before(A, bytes));
            (after, before)
        };
        let bytes = |count: u64| count * entry(A, 1, 1, 100).payload.len() as u64;
        let whole: Vec<_> = (0..12u64).map(|index| bytes(9u64.saturating_sub(index))).collect();
        assert_eq!(told(rig.log()), (whole, [9, 9, 8, 7, 3, 3, 0]));
        durable(&*rig, |log, done| log.purge(A, Position { term: 1, index: 3 }, done));
        let rig = rig.reopen();
        let left: Vec<_> = (0..12u64).map(|index| bytes(9 - index.clamp(3, 9))).collect();
        assert_eq!(told(rig.log()), (left, [9, 9, 8, 7, 0, 0, 0]));
    });
}

#[test]
fn long_history_stays_readable() {
    on_both(|mut rig| {
        for round in 0..20u64 {
            append(&*rig, A, round, round * 40 + 1..=round * 40 + 40);
            append(&*rig, B, round, round * 2 + 1..=round * 2 + 2);
            if round % 3 == 2 {
                let purged = Position { term: round, index: round * 40 + 10 };
                durable(&*rig, |log, done| log.purge(A, purged, done));
            }
            if round % 5 == 4 {
                rig = rig.reopen();
            }
            let first = rig.log().group(A).purged.map_or(1, |purged| purged.index + 1);
            let last = rig.log().group(A).last.expect("entries").index;
            let read = read_all(rig.log(), A, first, u64::MAX);
            assert_eq!(read.len() as u64, last + 1 - first);
            assert!(
                read.iter().all(|got| *got == entry(A, got.position.term, got.position.index, 100))
            );
            assert_eq!(read_all(rig.log(), B, 1, u64::MAX).len() as u64, round * 2 + 2);
        }
    });
}
