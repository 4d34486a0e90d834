//! What a failed write or sync means: it is final, and nobody is told otherwise.

use std::{sync::mpsc, time::Duration};

use bytes::Bytes;

use super::{
    SegmentLog,
    open::open as open_files,
    sim_disk::SimDisk,
    test_support::{DEADLINE, answer, block_on, config, done, entry, open, see},
};
use crate::{Error, GroupId, Health, LogStore, Position};

const A: GroupId = GroupId(1);

fn append(log: &SegmentLog, index: u64) -> Result<(), Error> {
    answer(log, |log, done| log.append(A, vec![entry(A, 1, index, 100)], done))
}

fn opened(disk: &SimDisk) -> SegmentLog {
    let (log, report) = open(disk).expect("the disk is sound");
    assert!(report.damage.is_empty(), "{report:?}");
    log
}

#[test]
fn failed_sync_is_final_and_reads_go_on() {
    let disk = SimDisk::new(1);
    let log = opened(&disk);
    append(&log, 1).expect("durable");
    assert!(matches!(log.health(), Health::Sound));
    disk.fail_next_sync();
    let failed = append(&log, 2);
    assert!(matches!(failed, Err(Error::Io { operation: "fdatasync", .. })), "{failed:?}");
    assert!(matches!(log.health(), Health::FailSafe(Error::Io { .. })));
    assert!(matches!(append(&log, 3), Err(Error::FailSafe)));
    let vote = answer(&log, |log, done| log.save_vote(A, Bytes::from_static(b"v"), done));
    assert!(matches!(vote, Err(Error::FailSafe)));
    let read = block_on(log.read(A, 1..9, 1 << 20)).expect("it is in memory");
    assert_eq!(read, vec![entry(A, 1, 1, 100), entry(A, 1, 2, 100)]);
    log.close();
}

#[test]
fn every_write_of_a_failed_sync_fails_and_the_queue_behind_it() {
    let disk = SimDisk::new(2);
    let log = opened(&disk);
    disk.hold_syncs();
    disk.fail_next_sync();
    let (sender, answers) = mpsc::channel();
    for index in 1..=50 {
        let sender = sender.clone();
        let done = Box::new(move |result| sender.send((index, result)).expect("the test waits"));
        log.append(A, vec![entry(A, 1, index, 10)], done);
    }
    disk.release_syncs();
    for expected in 1..=50 {
        let (index, result) = answers.recv_timeout(DEADLINE).expect("an answer");
        assert_eq!(index, expected);
        assert!(matches!(result, Err(Error::Io { .. } | Error::FailSafe)), "{result:?}");
    }
}

#[test]
fn tail_that_a_failed_sync_left_is_rewritten_before_it_is_trusted() {
    let disk = SimDisk::new(3);
    let log = opened(&disk);
    append(&log, 1).expect("durable");
    disk.fail_next_sync();
    append(&log, 2).expect_err("the sync failed");
    drop(log);
    // The page cache still gives entry 2, and no later sync of that file writes it.
    let log = opened(&disk);
    let seen = see(&log, A).expect("readable");
    assert_eq!(seen.entries.len(), 2);
    disk.die_in(0);
    drop(log);
    disk.power_cut();
    assert_eq!(see(&opened(&disk), A).expect("readable"), seen);
}

#[test]
fn blocked_caller_is_let_go_when_the_log_fails() {
    let disk = SimDisk::new(4);
    let mut settings = config(std::path::Path::new("/log"));
    settings.queue_writes_max = 2;
    let (log, _) =
        SegmentLog::open_on(std::sync::Arc::new(disk.clone()), settings).expect("it opens");
    disk.hold_syncs();
    disk.fail_next_sync();
    let (sender, results) = mpsc::channel();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for index in 1..=20 {
                let sender = sender.clone();
                let done = Box::new(move |result| sender.send(result).expect("the test waits"));
                log.append(A, vec![entry(A, 1, index, 10)], done);
                assert!(log.shared.inner.lock().queue.len() <= 2, "the queue is bounded");
            }
        });
        // One write is with the writer and two are queued: nobody is answered while a sync hangs.
        assert!(results.recv_timeout(Duration::from_millis(1)).is_err());
        disk.release_syncs();
        for _ in 1..=20 {
            let result = results.recv_timeout(DEADLINE).expect("an answer");
            assert!(matches!(result, Err(Error::Io { .. } | Error::FailSafe)), "{result:?}");
        }
    });
}

#[test]
fn oversized_writes_are_refused_and_harm_nothing() {
    let disk = SimDisk::new(5);
    let log = opened(&disk);
    let large = entry(A, 1, 1, super::APPEND_BYTES_MAX);
    let refused = answer(&log, |log, done| log.append(A, vec![large], done));
    assert!(matches!(refused, Err(Error::TooLarge { .. })), "{refused:?}");
    let vote = Bytes::from(vec![0; super::VOTE_BYTES_MAX + 1]);
    let refused = answer(&log, |log, done| log.save_vote(A, vote, done));
    assert!(matches!(refused, Err(Error::TooLarge { .. })), "{refused:?}");
    append(&log, 1).expect("durable");
    assert_eq!(see(&log, A).expect("readable").entries.len(), 1);
}

#[test]
fn append_larger_than_a_segment_is_kept() {
    let disk = SimDisk::new(6);
    let log = opened(&disk);
    append(&log, 1).expect("durable");
    let large = entry(A, 1, 2, 100 << 10);
    answer(&log, |log, done| log.append(A, vec![large.clone()], done)).expect("durable");
    append(&log, 3).expect("durable");
    drop(log);
    let seen = see(&opened(&disk), A).expect("readable");
    assert_eq!(seen.entries, vec![entry(A, 1, 1, 100), large, entry(A, 1, 3, 100)]);
}

#[test]
fn dead_segments_go_and_a_slow_group_is_moved_out_of_their_way() {
    let disk = SimDisk::new(7);
    let log = opened(&disk);
    let slow = GroupId(9);
    answer(&log, |log, done| log.append(slow, vec![entry(slow, 1, 1, 100)], done))
        .expect("durable");
    answer(&log, |log, done| log.save_vote(slow, Bytes::from_static(b"v"), done)).expect("durable");
    for index in 1..=2000 {
        append(&log, index).expect("durable");
        if index % 50 == 0 {
            let upto = Position { term: 1, index };
            answer(&log, |log, done| log.purge(A, upto, done)).expect("durable");
        }
    }
    let log = {
        drop(log);
        opened(&disk)
    };
    assert!(disk.contents().len() <= 8, "{} files are left", disk.contents().len());
    let seen = see(&log, slow).expect("readable");
    assert_eq!(seen.entries, vec![entry(slow, 1, 1, 100)]);
    assert_eq!(seen.group.vote, Some(Bytes::from_static(b"v")));
    assert_eq!(log.group(A).last, Some(Position { term: 1, index: 2000 }));
}

#[test]
fn two_openings_of_one_directory_exclude_each_other() {
    let dir = tempfile::TempDir::new().expect("a directory");
    let (log, _) = SegmentLog::open(config(dir.path())).expect("it opens");
    let second = SegmentLog::open(config(dir.path())).map(|_| ());
    assert!(matches!(second, Err(Error::Io { operation: "lock", .. })), "{second:?}");
    drop(log);
    SegmentLog::open(config(dir.path())).expect("it is free again");
}

#[test]
fn callback_may_write_even_when_the_queue_is_full() {
    let disk = SimDisk::new(8);
    let mut settings = config(std::path::Path::new("/log"));
    settings.queue_writes_max = 1;
    let log = SegmentLog::open_on(std::sync::Arc::new(disk), settings).expect("it opens").0;
    let log = std::sync::Arc::new(log);
    let (within, inner_answer) = done();
    let (again, again_answer) = done();
    let inner = log.clone();
    let outer = Box::new(move |result: Result<(), Error>| {
        result.expect("durable");
        inner.save_vote(A, Bytes::from_static(b"1"), within);
        inner.save_vote(A, Bytes::from_static(b"2"), again);
    });
    log.save_vote(A, Bytes::from_static(b"0"), outer);
    inner_answer.recv_timeout(DEADLINE).expect("an answer").expect("durable");
    again_answer.recv_timeout(DEADLINE).expect("an answer").expect("durable");
}

#[test]
fn open_syncs_all_files_before_it_answers() {
    let disk = SimDisk::new(10);
    let log = opened(&disk);
    for index in 1..=300 {
        append(&log, index).expect("durable");
    }
    let written = disk.contents().len();
    drop(log);
    let before = disk.syncs();
    let mut settings = config(std::path::Path::new("/log"));
    let expect = Box::new(|| Ok(crate::OpenExpectations::default()));
    open_files(&disk, &mut settings, expect).map(|_| ()).expect("it opens");
    assert!(disk.syncs() - before > written as u64, "each file and the new one are synced");
}
