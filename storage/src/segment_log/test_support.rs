//! What the tests of the segment log share.

use std::{
    collections::BTreeMap,
    future::Future,
    path::Path,
    pin::pin,
    sync::{Arc, mpsc},
    task::{Context, Poll, Wake, Waker},
    thread::Thread,
    time::Duration,
};

use bytes::Bytes;

use super::{OpenReport, SegmentLog, SegmentLogConfig, disk::Disk, sim_disk::SimDisk};
use crate::{Done, Error, GroupId, Keyring, LogEntry, LogGroup, LogStore, MemoryKeyDisk, Position};

/// Far longer than any step takes: a test that waits so long has failed.
pub(super) const DEADLINE: Duration = Duration::from_secs(60);

/// A small seeded generator (splitmix64).
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Random {
        Random(seed)
    }

    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound.max(1)
    }
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Waits for a future on this thread.
pub(super) fn block_on<F: Future>(future: F) -> F::Output {
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(output) => return output,
            Poll::Pending => std::thread::park_timeout(DEADLINE),
        }
    }
}

/// A callback and where its result arrives.
pub(super) fn done() -> (Done, mpsc::Receiver<Result<(), Error>>) {
    let (sender, receiver) = mpsc::channel();
    let done = Box::new(move |result| {
        // A test that no longer waits is no error.
        let _ = sender.send(result);
    });
    (done, receiver)
}

/// Runs one write and waits for its answer.
pub(super) fn answer(
    log: &dyn LogStore,
    write: impl FnOnce(&dyn LogStore, Done),
) -> Result<(), Error> {
    let (done, result) = done();
    write(log, done);
    result.recv_timeout(DEADLINE).expect("an answer")
}

/// An entry whose payload tells group, term and index, and is `bytes` long at least.
pub(super) fn entry(group: GroupId, term: u64, index: u64, bytes: usize) -> LogEntry {
    let mut payload = format!("{}/{term}/{index};", group.0).into_bytes();
    let fill = payload.clone();
    while payload.len() < bytes {
        payload.extend_from_slice(&fill);
    }
    LogEntry { position: Position { term, index }, payload: Bytes::from(payload) }
}

thread_local! {
    /// The keys of all logs that a test opens, one after the other.
    static KEYS: Keyring = keys(&MemoryKeyDisk::new(), 0x5e);
}

/// The keys on `disk`; each open draws `fill` as its key.
pub(super) fn keys(disk: &MemoryKeyDisk, fill: u8) -> Keyring {
    let ring = Keyring::open_memory(disk, Box::new(move |bytes| bytes.fill(fill)), 0);
    ring.expect("a disk in memory takes writes")
}

/// The settings tests use: sealed, and small, so that little data rolls segments and leaves memory.
pub(super) fn config(dir: &Path) -> SegmentLogConfig {
    let mut config = SegmentLogConfig::new(dir, 0x5eed);
    config.keys = KEYS.with(Keyring::clone);
    config.segment_bytes = 16 << 10;
    config.tail_bytes_max = 1 << 10;
    config
}

/// Opens the log of `/log` on a simulated disk.
pub(super) fn open(
    disk: &(impl Disk + Clone + 'static),
) -> Result<(SegmentLog, OpenReport), Error> {
    SegmentLog::open_on(Arc::new(disk.clone()), config(Path::new("/log")))
}

/// Opens the log of `/log` on a simulated disk; what it writes is legible.
pub(super) fn open_unsealed(disk: &SimDisk) -> SegmentLog {
    let mut config = config(Path::new("/log"));
    config.keys = Keyring::unsealed();
    SegmentLog::open_on(Arc::new(disk.clone()), config).expect("it opens").0
}

/// Lets the log write all its outlines.
pub(super) fn outline(log: &dyn LogStore) {
    while log.outline(4 << 10).expect("the disk is sound") > 0 {}
}

/// A group with all its entries.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) group: LogGroup,
    pub(super) entries: Vec<LogEntry>,
}

/// What the log answers of `group`.
pub(super) fn see(log: &dyn LogStore, group: GroupId) -> Result<Seen, Error> {
    let known = log.group(group);
    let first = known.purged.map_or(0, |purged| purged.index.saturating_add(1));
    let mut entries: Vec<LogEntry> = Vec::new();
    let mut next = first;
    if known.purged.is_none() && block_on(log.read(group, 0..1, 1))?.is_empty() {
        // Logs that begin at index 1.
        next = 1;
    }
    loop {
        let read = block_on(log.read(group, next..u64::MAX, 4 << 10))?;
        match read.last() {
            Some(last) => next = last.position.index.saturating_add(1),
            None => return Ok(Seen { group: known, entries }),
        }
        entries.extend(read);
    }
}

/// What the log answers of all groups.
pub(super) fn see_all(log: &dyn LogStore) -> BTreeMap<GroupId, Seen> {
    let groups = log.groups().into_iter();
    groups.map(|group| (group, see(log, group).expect("a readable group"))).collect()
}
