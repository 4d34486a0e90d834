//! The log of all groups of a node, in segment files: the [`LogStore`] on disk.
//!
//! A call makes its change visible at once and queues it. One thread writes what is queued with one
//! write and one sync, and runs the callbacks. Recent entries stay in memory; older ones are read
//! from the files by a second thread. The bytes are told in `docs/reference/log-format.md`.
//!
//! - `format`, `body`: bytes; `scan`, `replay`, `recover`, `open`: reading them back.
//! - `outline`, `outliner`: what spares an open the reading of sealed segments, and who writes it.
//! - `visible`: what callers see; `index`: what is written; `shared`: both behind the lock.
//! - `writer`, `compact`: writing, and giving space back; `reader`: reading older entries.
//! - `scrub`: reading all of it, slowly; `inspect`: the log of a stopped node, without a change.

mod body;
mod clock;
mod compact;
mod config;
mod disk;
mod format;
mod index;
mod inspect;
mod open;
mod outline;
mod outliner;
mod reader;
mod recover;
mod replay;
mod report;
mod scan;
mod scrub;
mod shared;
mod visible;
mod writer;

#[cfg(test)]
mod crash_test;
#[cfg(test)]
mod damage_test;
#[cfg(test)]
mod fault_test;
#[cfg(test)]
mod format_test;
#[cfg(test)]
mod outline_test;
#[cfg(test)]
mod reseal_test;
#[cfg(test)]
mod sim_disk;
#[cfg(test)]
mod test_support;

use std::{
    collections::{BTreeSet, VecDeque},
    future::{Future, ready},
    ops::Range,
    pin::Pin,
    sync::{Arc, Weak},
    thread::JoinHandle,
};

use bytes::Bytes;
use parking_lot::{Condvar, Mutex};

pub use config::{
    APPEND_BYTES_MAX, OpenExpectations, SEGMENT_BYTES, SEGMENT_BYTES_MAX, SEGMENT_BYTES_MIN,
    SegmentLogConfig, VOTE_BYTES_MAX,
};
pub use inspect::inspect_log;
pub use report::{Damage, OpenReport, Tear};

use self::{
    disk::{Disk, DiskFile, RealDisk},
    outliner::Outliner,
    reader::Reader,
    scrub::LogScrub,
    shared::{Change, Inner, OnDamage, Phase, Shared, Waiting, record_bytes},
    visible::Visible,
    writer::Writer,
};
use crate::{
    Done, Error, GroupId, Health, LogEntry, LogGroup, LogStore, Position, ScrubStep, seal::KeyUser,
};

/// The segment log of a node. Dropping it closes it.
pub struct SegmentLog {
    shared: Arc<Shared>,
    threads: Mutex<Option<Threads>>,
    scrub: Mutex<LogScrub>,
    outliner: Mutex<Outliner>,
}

struct Threads {
    writer: JoinHandle<()>,
    reader: Reader,
    /// Keeps other processes out until the log is closed, also when it is fail-safe.
    _lock: Arc<dyn DiskFile>,
}

impl SegmentLog {
    /// Opens the log in `config.dir`, or starts one there. Everything it then answers is durable.
    ///
    /// # Errors
    /// [`Error::Io`] where the files cannot be read, written or locked (another process has them),
    /// [`Error::Version`] where another build wrote them. Damage is no error: see [`OpenReport`].
    pub fn open(config: SegmentLogConfig) -> Result<(SegmentLog, OpenReport), Error> {
        SegmentLog::open_on(Arc::new(RealDisk), config)
    }

    /// Like [`SegmentLog::open`], where what other files expect of the log is known only later: it is
    /// asked for once the log is read, so that both can be read at the same time.
    ///
    /// # Errors
    /// As [`SegmentLog::open`], and what `expect` answers.
    pub fn open_expecting(
        config: SegmentLogConfig,
        expect: impl FnOnce() -> Result<OpenExpectations, Error>,
    ) -> Result<(SegmentLog, OpenReport), Error> {
        SegmentLog::open_with(Arc::new(RealDisk), config, Box::new(expect))
    }

    fn open_on(
        disk: Arc<dyn Disk>,
        config: SegmentLogConfig,
    ) -> Result<(SegmentLog, OpenReport), Error> {
        let expectations = config.expectations.clone();
        SegmentLog::open_with(disk, config, Box::new(|| Ok(expectations)))
    }

    fn open_with(
        disk: Arc<dyn Disk>,
        mut config: SegmentLogConfig,
        expect: open::Expect<'_>,
    ) -> Result<(SegmentLog, OpenReport), Error> {
        config.segment_bytes = config.segment_bytes.clamp(SEGMENT_BYTES_MIN, SEGMENT_BYTES_MAX);
        let (opened, report) = open::open(&*disk, &mut config, expect)?;
        let visible = opened.groups.iter().map(|(id, group)| (*id, Visible::new(group))).collect();
        let dir = config.dir.clone();
        let shared = Arc::new(Shared {
            config,
            inner: Mutex::new(Inner {
                visible,
                written: opened.groups,
                usage: opened.usage,
                segments: opened.segments,
                queue: VecDeque::new(),
                queue_bytes: 0,
                writes: 0,
                phase: Phase::Open,
                failure: None,
                waiting: Waiting::No,
                unsound: BTreeSet::new(),
                reseal_before: 0,
                writer: None,
            }),
            work: Condvar::new(),
            room: Condvar::new(),
        });
        let user: Weak<dyn KeyUser> = Arc::downgrade(&(shared.clone() as Arc<dyn KeyUser>));
        shared.config.keys.register(user);
        let error = |source| crate::error::io_error("start a thread", &dir, source);
        let reader = Reader::start(shared.clone()).map_err(error)?;
        let outliner = Mutex::new(Outliner::new(disk.clone(), opened.outlined));
        let writer = Writer::new(shared.clone(), disk, opened.active);
        let thread = std::thread::Builder::new().name("log-writer".into());
        let writer = thread.spawn(move || writer.run()).map_err(error)?;
        let threads = Mutex::new(Some(Threads { writer, reader, _lock: opened.lock }));
        Ok((SegmentLog { shared, threads, scrub: Mutex::default(), outliner }, report))
    }

    fn write(
        &self,
        group: GroupId,
        done: Done,
        bytes: usize,
        prepare: impl FnOnce(&mut Inner, u64) -> Change,
    ) {
        self.shared.write(group, done, bytes, OnDamage::Refuse, prepare);
    }
}

impl LogStore for SegmentLog {
    fn groups(&self) -> Vec<GroupId> {
        self.shared.inner.lock().visible.keys().copied().collect()
    }

    fn group(&self, group: GroupId) -> LogGroup {
        let inner = self.shared.inner.lock();
        inner.visible.get(&group).map(Visible::group).unwrap_or_default()
    }

    fn durable_records(&self, group: GroupId) -> u64 {
        self.shared.inner.lock().written.get(&group).map_or(0, |written| written.number)
    }

    fn bytes_after(&self, group: GroupId, index: u64) -> u64 {
        let inner = self.shared.inner.lock();
        inner.written.get(&group).map_or(0, |written| written.bytes_after(index))
    }

    fn index_before(&self, group: GroupId, bytes: u64) -> u64 {
        let inner = self.shared.inner.lock();
        inner.written.get(&group).map_or(0, |written| written.index_before(bytes))
    }

    fn append(&self, group: GroupId, entries: Vec<LogEntry>, done: Done) {
        let change = Change::Append(entries);
        let bytes = record_bytes(&change, 0);
        if bytes > APPEND_BYTES_MAX {
            return done(Err(Error::TooLarge { bytes, bytes_max: APPEND_BYTES_MAX }));
        }
        self.write(group, done, bytes, |inner, number| match change {
            Change::Append(entries) if !entries.is_empty() => {
                inner.visible.entry(group).or_default().append(&entries, number);
                Change::Append(entries)
            }
            _ => Change::Nothing,
        });
    }

    fn save_vote(&self, group: GroupId, vote: Bytes, done: Done) {
        if vote.len() > VOTE_BYTES_MAX {
            let bytes = vote.len();
            return done(Err(Error::TooLarge { bytes, bytes_max: VOTE_BYTES_MAX }));
        }
        self.write(group, done, vote.len(), |inner, _| {
            inner.visible.entry(group).or_default().vote = Some(vote.clone());
            Change::Vote(vote)
        });
    }

    fn truncate_after(&self, group: GroupId, index: Option<u64>, done: Done) {
        self.write(group, done, 0, |inner, _| {
            let written = inner.written.get(&group);
            match inner.visible.get_mut(&group) {
                Some(visible) => Change::Truncate(visible.truncate(index, written)),
                None => Change::Nothing,
            }
        });
    }

    fn purge(&self, group: GroupId, upto: Position, done: Done) {
        self.write(group, done, 0, |inner, _| {
            match inner.visible.entry(group).or_default().purge(upto) {
                true => Change::Purge(upto),
                false => Change::Nothing,
            }
        });
    }

    fn drop_group(&self, group: GroupId, done: Done) {
        self.shared.write(group, done, 0, OnDamage::Take, |inner, _| {
            match inner.visible.remove(&group) {
                Some(_) => Change::Drop,
                None => Change::Nothing,
            }
        });
    }

    fn read(
        &self,
        group: GroupId,
        range: Range<u64>,
        bytes_max: usize,
    ) -> Pin<Box<dyn Future<Output = Result<Vec<LogEntry>, Error>> + Send>> {
        let plan = match self.shared.plan(group, range, bytes_max) {
            Ok(plan) if !plan.spans.is_empty() => plan,
            Ok(plan) => return Box::pin(ready(Ok(plan.recent))),
            Err(error) => return Box::pin(ready(Err(error))),
        };
        let answer = self.threads.lock().as_ref().map(|threads| threads.reader.read(group, plan));
        Box::pin(async move {
            match answer {
                Some(answer) => answer.await.unwrap_or(Err(Error::Closed)),
                None => Err(Error::Closed),
            }
        })
    }

    fn damage(&self, group: GroupId) -> Option<Error> {
        self.shared.inner.lock().damage(group)
    }

    fn scrub(&self, bytes_max: usize) -> Result<ScrubStep, Error> {
        self.scrub.lock().step(&self.shared, bytes_max)
    }

    fn outline(&self, bytes_max: usize) -> Result<u64, Error> {
        self.outliner.lock().step(&self.shared, bytes_max)
    }

    fn health(&self) -> Health {
        self.shared.inner.lock().health()
    }

    fn close(&self) {
        {
            let mut inner = self.shared.inner.lock();
            if inner.phase == Phase::Open {
                inner.phase = Phase::Closing;
            }
        }
        self.shared.work.notify_all();
        self.shared.room.notify_all();
        // Whoever takes the threads waits for them; a second close meanwhile returns at once.
        let threads = self.threads.lock().take();
        if let Some(threads) = threads {
            threads.reader.stop();
            // A writer that panicked has turned the log fail-safe already.
            let _ = threads.writer.join();
            self.shared.inner.lock().phase = Phase::Closed;
        }
    }
}

impl Drop for SegmentLog {
    fn drop(&mut self) {
        self.close();
    }
}
