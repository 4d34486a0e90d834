//! What only the twin does: syncs and crashes by its owner's word.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use bytes::Bytes;

use super::{MemoryDisk, MemoryLog};
use crate::{Error, GroupId, Health, LogEntry, LogStore, Position};

const GROUP: GroupId = GroupId(3);

fn entry(index: u64) -> LogEntry {
    LogEntry { position: Position { term: 1, index }, payload: Bytes::from(index.to_string()) }
}

fn counted(counter: &Arc<AtomicUsize>) -> crate::Done {
    let counter = counter.clone();
    Box::new(move |result| {
        result.expect("the write is durable");
        counter.fetch_add(1, Ordering::SeqCst);
    })
}

fn silent() -> crate::Wake {
    Box::new(|| ())
}

fn last(log: &MemoryLog) -> Option<u64> {
    log.group(GROUP).last.map(|last| last.index)
}

#[test]
fn done_runs_when_the_owner_syncs() {
    let (disk, woken, done) = (MemoryDisk::new(), Arc::new(AtomicUsize::new(0)), Arc::default());
    let wakes = woken.clone();
    let wake = Box::new(move || {
        wakes.fetch_add(1, Ordering::SeqCst);
    });
    let log = MemoryLog::new(disk, wake);
    log.append(GROUP, vec![entry(1)], counted(&done));
    log.append(GROUP, vec![entry(2)], counted(&done));
    assert_eq!((log.pending(), woken.load(Ordering::SeqCst)), (2, 2));
    assert_eq!((last(&log), done.load(Ordering::SeqCst)), (Some(2), 0));
    assert!(log.sync_next());
    assert_eq!((log.pending(), done.load(Ordering::SeqCst)), (1, 1));
    assert_eq!(log.sync(), 1);
    assert!(!log.sync_next());
    assert_eq!(done.load(Ordering::SeqCst), 2);
}

#[test]
fn crash_drops_what_was_not_synced() {
    let (disk, done) = (MemoryDisk::new(), Arc::default());
    let log = MemoryLog::new(disk.clone(), silent());
    log.append(GROUP, vec![entry(1)], counted(&done));
    log.sync();
    log.append(GROUP, vec![entry(2)], counted(&done));
    log.save_vote(GROUP, Bytes::from_static(b"vote"), counted(&done));
    log.crash(0);
    assert_eq!(done.load(Ordering::SeqCst), 1);
    log.append(GROUP, vec![], Box::new(|result| assert!(matches!(result, Err(Error::Closed)))));
    let log = MemoryLog::new(disk, silent());
    assert_eq!((last(&log), log.group(GROUP).vote), (Some(1), None));
}

#[test]
fn crash_may_keep_the_first_unsynced_changes() {
    let expected =
        [(0, None, None), (2, Some(2), None), (3, Some(3), None), (4, Some(3), Some("v"))];
    for (kept, index, vote) in expected {
        let (disk, done) = (MemoryDisk::new(), Arc::default());
        let log = MemoryLog::new(disk.clone(), silent());
        log.append(GROUP, vec![entry(1), entry(2), entry(3)], counted(&done));
        log.save_vote(GROUP, Bytes::from_static(b"v"), counted(&done));
        log.crash(kept);
        let log = MemoryLog::new(disk, silent());
        assert_eq!((last(&log), log.group(GROUP).vote), (index, vote.map(Bytes::from)));
    }
}

#[test]
fn failed_disk_fails_what_waits_and_keeps_answering_reads() {
    let log = MemoryLog::new(MemoryDisk::new(), silent());
    log.append(GROUP, vec![entry(1)], Box::new(|r| assert!(matches!(r, Err(Error::Closed)))));
    log.fail(Error::Closed);
    assert!(matches!(log.health(), Health::FailSafe(_)));
    log.append(GROUP, vec![entry(2)], Box::new(|r| assert!(matches!(r, Err(Error::FailSafe)))));
    assert_eq!(last(&log), Some(1));
}
