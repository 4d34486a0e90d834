//! The log in memory: the twin that simulations run on.
//!
//! A write is visible at once, as on the real log, but is durable (and its [`Done`] runs) only when
//! the owner says so: a simulation decides when each sync ends, and a crash drops what no sync has
//! reached. [`MemoryDisk`] holds what is durable and outlives the log on it.

use std::{
    collections::{BTreeMap, VecDeque},
    future::{Future, ready},
    ops::Range,
    pin::Pin,
    sync::Arc,
};

use bytes::Bytes;
use parking_lot::Mutex;

use crate::{Done, Error, GroupId, Health, LogEntry, LogGroup, LogStore, Position};

/// What a simulated node has on disk: it survives crashes.
#[derive(Debug, Default)]
pub struct MemoryDisk {
    groups: Mutex<Groups>,
}

type Groups = BTreeMap<GroupId, Held>;

/// Called whenever a write is queued, on the caller's thread and without a lock held.
pub type Wake = Box<dyn Fn() + Send + Sync>;

/// The log of a simulated node.
///
/// Unlike the real log its calls never block: what is queued is bounded by what the simulation
/// proposes between two syncs.
pub struct MemoryLog {
    disk: Arc<MemoryDisk>,
    inner: Mutex<Inner>,
    wake: Wake,
}

struct Inner {
    visible: Groups,
    pending: VecDeque<(Change, Done)>,
    failure: Option<Error>,
    closed: bool,
}

#[derive(Clone, Debug, Default)]
struct Held {
    vote: Option<Bytes>,
    purged: Option<Position>,
    entries: VecDeque<LogEntry>,
}

enum Change {
    Append(GroupId, Vec<LogEntry>),
    Vote(GroupId, Bytes),
    Truncate(GroupId, Option<u64>),
    Purge(GroupId, Position),
    Drop(GroupId),
}

impl MemoryDisk {
    /// An empty disk.
    pub fn new() -> Arc<MemoryDisk> {
        Arc::default()
    }
}

impl MemoryLog {
    /// Opens the log on `disk`. `wake` tells the owner that there is something to sync.
    pub fn new(disk: Arc<MemoryDisk>, wake: Wake) -> MemoryLog {
        let visible = disk.groups.lock().clone();
        let inner = Inner { visible, pending: VecDeque::new(), failure: None, closed: false };
        MemoryLog { disk, inner: Mutex::new(inner), wake }
    }

    /// How many writes wait for a sync.
    pub fn pending(&self) -> usize {
        self.inner.lock().pending.len()
    }

    /// Makes the oldest waiting write durable and runs its callback; `false` where none waits.
    pub fn sync_next(&self) -> bool {
        self.sync_up_to(1) == 1
    }

    /// One sync: makes all that waits now durable, then runs the callbacks in order. Tells how many
    /// there were; what the callbacks write waits for the next sync.
    pub fn sync(&self) -> usize {
        self.sync_up_to(usize::MAX)
    }

    /// The node dies. What was not durable is lost, except for the first `kept` changes (each entry
    /// of an append counts as one): a disk may have written them, though nobody was told. Callbacks
    /// are dropped; later calls answer [`Error::Closed`]. The disk can be opened again.
    pub fn crash(&self, kept: usize) {
        let pending = {
            let mut inner = self.inner.lock();
            inner.closed = true;
            std::mem::take(&mut inner.pending)
        };
        let mut groups = self.disk.groups.lock();
        let mut left = kept;
        for (change, _) in &pending {
            match change {
                _ if left == 0 => break,
                Change::Append(group, entries) => {
                    let written = entries.len().min(left);
                    left -= written;
                    apply(&mut groups, &Change::Append(*group, entries[..written].to_vec()));
                }
                change => {
                    left -= 1;
                    apply(&mut groups, change);
                }
            }
        }
    }

    /// The disk fails for good: what waits fails, and every later write answers
    /// [`Error::FailSafe`]. Reads go on.
    pub fn fail(&self, error: Error) {
        let pending = {
            let mut inner = self.inner.lock();
            inner.failure = Some(error.clone());
            std::mem::take(&mut inner.pending)
        };
        for (_, done) in pending {
            done(Err(error.clone()));
        }
    }

    fn sync_up_to(&self, count: usize) -> usize {
        let synced: Vec<Done> = {
            let mut inner = self.inner.lock();
            let count = count.min(inner.pending.len());
            let mut groups = self.disk.groups.lock();
            let synced = inner.pending.drain(..count).map(|(change, done)| {
                apply(&mut groups, &change);
                done
            });
            synced.collect()
        };
        let count = synced.len();
        for done in synced {
            done(Ok(()));
        }
        count
    }

    fn write(&self, change: Change, done: Done) {
        let refused = {
            let mut inner = self.inner.lock();
            match (inner.closed, &inner.failure) {
                (true, _) => Some((Error::Closed, done)),
                (false, Some(_)) => Some((Error::FailSafe, done)),
                (false, None) => {
                    apply(&mut inner.visible, &change);
                    inner.pending.push_back((change, done));
                    None
                }
            }
        };
        match refused {
            Some((error, done)) => done(Err(error)),
            None => (self.wake)(),
        }
    }

    fn plan(
        &self,
        group: GroupId,
        range: Range<u64>,
        bytes_max: usize,
    ) -> Result<Vec<LogEntry>, Error> {
        let inner = self.inner.lock();
        if inner.closed {
            return Err(Error::Closed);
        }
        let Some(held) = inner.visible.get(&group) else { return Ok(Vec::new()) };
        let end = held.last().map_or(0, |last| last.index.saturating_add(1)).min(range.end);
        if range.start >= range.end {
            return Ok(Vec::new());
        }
        if let Some(purged) = held.purged.filter(|purged| range.start <= purged.index) {
            return Err(Error::Purged { purged: purged.index });
        }
        let mut bytes = 0usize;
        let from = held.entries.partition_point(|entry| entry.position.index < range.start);
        let wanted = held.entries.range(from..).take_while(|entry| {
            let fits = bytes == 0 || bytes + entry.payload.len() <= bytes_max;
            bytes += entry.payload.len().max(1);
            fits && entry.position.index < end
        });
        Ok(wanted.cloned().collect())
    }
}

impl Held {
    fn last(&self) -> Option<Position> {
        self.entries.back().map(|entry| entry.position).or(self.purged)
    }
}

fn apply(groups: &mut Groups, change: &Change) {
    match change {
        // Nothing to write keeps its turn, and makes no group known.
        Change::Append(_, entries) if entries.is_empty() => (),
        Change::Append(group, entries) => {
            let held = groups.entry(*group).or_default();
            for entry in entries {
                let follows = match held.last() {
                    Some(last) => last.index + 1 == entry.position.index,
                    // Where a group's log begins is the caller's choice.
                    None => true,
                };
                assert!(follows, "entry {:?} does not follow {:?}", entry.position, held.last());
                held.entries.push_back(entry.clone());
            }
        }
        Change::Vote(group, vote) => groups.entry(*group).or_default().vote = Some(vote.clone()),
        Change::Truncate(group, index) => {
            if let Some(held) = groups.get_mut(group) {
                let end = index.map_or(0, |index| index.saturating_add(1));
                let keep = held.entries.partition_point(|entry| entry.position.index < end);
                held.entries.truncate(keep);
            }
        }
        Change::Purge(group, upto) => {
            let held = groups.entry(*group).or_default();
            if held.purged.is_none_or(|purged| purged.index < upto.index) {
                let gone = held.entries.partition_point(|e| e.position.index <= upto.index);
                held.entries.drain(..gone);
                held.purged = Some(*upto);
            }
        }
        Change::Drop(group) => {
            groups.remove(group);
        }
    }
}

impl LogStore for MemoryLog {
    fn groups(&self) -> Vec<GroupId> {
        self.inner.lock().visible.keys().copied().collect()
    }

    fn group(&self, group: GroupId) -> LogGroup {
        let inner = self.inner.lock();
        let held = inner.visible.get(&group);
        let told = held.map(|held| LogGroup {
            vote: held.vote.clone(),
            purged: held.purged,
            last: held.last(),
        });
        told.unwrap_or_default()
    }

    fn bytes_after(&self, group: GroupId, index: u64) -> u64 {
        let inner = self.inner.lock();
        let entries = inner.visible.get(&group).into_iter().flat_map(|held| &held.entries);
        let after = entries.filter(|entry| entry.position.index > index);
        after.map(|entry| entry.payload.len() as u64).sum()
    }

    fn index_before(&self, group: GroupId, bytes: u64) -> u64 {
        let inner = self.inner.lock();
        let entries =
            inner.visible.get(&group).into_iter().flat_map(|held| held.entries.iter().rev());
        let mut taken = 0;
        for entry in entries {
            taken += entry.payload.len() as u64;
            if taken > bytes {
                return entry.position.index;
            }
        }
        0
    }

    fn append(&self, group: GroupId, entries: Vec<LogEntry>, done: Done) {
        self.write(Change::Append(group, entries), done);
    }

    fn save_vote(&self, group: GroupId, vote: Bytes, done: Done) {
        self.write(Change::Vote(group, vote), done);
    }

    fn truncate_after(&self, group: GroupId, index: Option<u64>, done: Done) {
        self.write(Change::Truncate(group, index), done);
    }

    fn purge(&self, group: GroupId, upto: Position, done: Done) {
        self.write(Change::Purge(group, upto), done);
    }

    fn drop_group(&self, group: GroupId, done: Done) {
        self.write(Change::Drop(group), done);
    }

    fn read(
        &self,
        group: GroupId,
        range: Range<u64>,
        bytes_max: usize,
    ) -> Pin<Box<dyn Future<Output = Result<Vec<LogEntry>, Error>> + Send>> {
        Box::pin(ready(self.plan(group, range, bytes_max)))
    }

    fn health(&self) -> Health {
        self.inner.lock().failure.clone().map_or(Health::Sound, Health::FailSafe)
    }

    fn close(&self) {
        self.sync();
        self.inner.lock().closed = true;
    }
}

#[cfg(test)]
#[path = "memory_log_test.rs"]
mod tests;
