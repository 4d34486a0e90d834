//! A log whose reads take their time, as they do on a disk that is busy.

use std::{ops::Range, pin::Pin, sync::Arc, time::Duration};

use bytes::Bytes;
use heliograph_storage::{
    Done, Error, GroupId, Health, LogEntry, LogGroup, LogStore, MemoryLog, Position,
};

/// A log of which each read takes `pause` of simulated time.
pub(crate) struct SlowLog {
    pub(crate) log: Arc<MemoryLog>,
    pub(crate) pause: Duration,
}

impl LogStore for SlowLog {
    fn groups(&self) -> Vec<GroupId> {
        self.log.groups()
    }

    fn group(&self, group: GroupId) -> LogGroup {
        self.log.group(group)
    }

    fn bytes_after(&self, group: GroupId, index: u64) -> u64 {
        self.log.bytes_after(group, index)
    }

    fn index_before(&self, group: GroupId, bytes: u64) -> u64 {
        self.log.index_before(group, bytes)
    }

    fn append(&self, group: GroupId, entries: Vec<LogEntry>, done: Done) {
        self.log.append(group, entries, done);
    }

    fn save_vote(&self, group: GroupId, vote: Bytes, done: Done) {
        self.log.save_vote(group, vote, done);
    }

    fn truncate_after(&self, group: GroupId, index: Option<u64>, done: Done) {
        self.log.truncate_after(group, index, done);
    }

    fn purge(&self, group: GroupId, upto: Position, done: Done) {
        self.log.purge(group, upto, done);
    }

    fn drop_group(&self, group: GroupId, done: Done) {
        self.log.drop_group(group, done);
    }

    fn read(
        &self,
        group: GroupId,
        range: Range<u64>,
        bytes_max: usize,
    ) -> Pin<Box<dyn Future<Output = Result<Vec<LogEntry>, Error>> + Send>> {
        let entries = self.log.read(group, range, bytes_max);
        let pause = self.pause;
        Box::pin(async move {
            tokio::time::sleep(pause).await;
            entries.await
        })
    }

    fn health(&self) -> Health {
        self.log.health()
    }

    fn close(&self) {
        self.log.close();
    }
}
