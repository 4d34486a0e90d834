//! openraft's own storage suite, over the stores on disk and over their twins in memory.

use std::{io, sync::Arc};

use super::{
    core::{GroupCore, GroupKind},
    log_adapter::GroupLog,
    state_adapter::GroupStateMachine,
    types::{CommittedLeaderId, LogId, SnapshotMeta, StoredMembership, TypeConfig},
};
use crate::watch;
use futures_util::Stream;
use heliograph_storage::{
    FileSnapshots, GroupId, GroupState, LogStore, MemoryDisk, MemoryLog, MemorySnapshotDisk,
    MemorySnapshots, MemoryStateDisk, MemoryStore, SegmentLog, SegmentLogConfig, SledConfig,
    SledStore, SnapshotInfo, SnapshotStore, StateStore,
};
use openraft::{
    Snapshot, StorageError,
    storage::{EntryResponder, RaftStateMachine},
    testing::log::{StoreBuilder, Suite},
};
use parking_lot::Mutex;
use tempfile::TempDir;

/// All snapshot stores a suite has made: it hands a snapshot of one machine to another, which in
/// a cluster is the network's work.
type Shelf = Arc<Mutex<Vec<Arc<dyn SnapshotStore>>>>;

struct Machine {
    inner: GroupStateMachine,
    own: Arc<dyn SnapshotStore>,
    shelf: Shelf,
}

impl RaftStateMachine<TypeConfig> for Machine {
    type SnapshotData = SnapshotInfo;
    type SnapshotBuilder = GroupStateMachine;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        self.inner.applied_state().await
    }

    async fn apply<Entries>(&mut self, entries: Entries) -> Result<(), io::Error>
    where
        Entries: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + Send,
    {
        self.inner.apply(entries).await
    }

    async fn get_snapshot_builder(&mut self) -> GroupStateMachine {
        self.inner.clone()
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        snapshot: SnapshotInfo,
    ) -> Result<(), io::Error> {
        let bytes = usize::try_from(snapshot.bytes).unwrap();
        let shelf = self.shelf.lock().clone();
        let content = shelf.iter().find_map(|store| store.read_chunk(&snapshot, 0, bytes).ok());
        let content = content.expect("one of the stores wrote it");
        let received = self.own.receive(snapshot.group, snapshot.applied, snapshot.bytes);
        let mut receiver = received.unwrap();
        receiver.append(0, content).unwrap();
        self.inner.install_snapshot(meta, receiver.finish().unwrap()).await
    }

    async fn get_current_snapshot(
        &mut self,
    ) -> Result<
        Option<Snapshot<CommittedLeaderId, u64, openraft::EmptyNode, SnapshotInfo>>,
        io::Error,
    > {
        self.inner.get_current_snapshot().await
    }
}

fn adapters(
    log: Arc<dyn LogStore>,
    state: Arc<dyn StateStore>,
    own: Arc<dyn SnapshotStore>,
    shelf: &Shelf,
) -> (GroupLog, Machine) {
    let group = GroupId(0);
    let state = GroupState::open(state, group).unwrap();
    let kind = GroupKind::Meta(watch::Sender::new(None));
    let log = GroupLog::new(log, group, 0);
    let core = GroupCore::open(kind, state, group, Arc::clone(&own), log.clone()).unwrap();
    shelf.lock().push(Arc::clone(&own));
    let inner = GroupStateMachine(Arc::new(core));
    (log, Machine { inner, own, shelf: Arc::clone(shelf) })
}

#[derive(Default)]
struct OnDisk(Shelf);

impl StoreBuilder<TypeConfig, GroupLog, Machine, TempDir> for OnDisk {
    async fn build(&self) -> Result<(TempDir, GroupLog, Machine), StorageError<TypeConfig>> {
        let dir = tempfile::tempdir().unwrap();
        let config = SegmentLogConfig {
            segment_bytes: 1024 * 1024,
            ..SegmentLogConfig::new(dir.path().join("log"), 1)
        };
        let (log, _) = SegmentLog::open(config).unwrap();
        let (state, _) = SledStore::open(&dir.path().join("state"), SledConfig::default()).unwrap();
        let snapshots = FileSnapshots::open(&dir.path().join("snapshots")).unwrap();
        let (log, machine) = adapters(Arc::new(log), Arc::new(state), Arc::new(snapshots), &self.0);
        Ok((dir, log, machine))
    }
}

#[derive(Default)]
struct InMemory(Shelf);

impl StoreBuilder<TypeConfig, GroupLog, Machine> for InMemory {
    async fn build(&self) -> Result<((), GroupLog, Machine), StorageError<TypeConfig>> {
        let synced = Arc::new(tokio::sync::Notify::new());
        let wake = Arc::clone(&synced);
        let log = MemoryLog::new(MemoryDisk::new(), Box::new(move || wake.notify_one()));
        let log = Arc::new(log);
        let disk = Arc::downgrade(&log);
        tokio::spawn(async move {
            loop {
                synced.notified().await;
                let Some(log) = disk.upgrade() else { return };
                log.sync();
            }
        });
        let state = MemoryStore::open(&MemoryStateDisk::new());
        let snapshots = MemorySnapshots::open(&MemorySnapshotDisk::new()).unwrap();
        let (log, machine) = adapters(log, Arc::new(state), Arc::new(snapshots), &self.0);
        Ok(((), log, machine))
    }
}

fn run(suite: impl Future<Output = Result<(), StorageError<TypeConfig>>>) {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(suite).unwrap();
}

#[test]
fn stores_on_disk_pass_openrafts_suite() {
    run(Suite::test_all(OnDisk::default()));
}

#[test]
fn stores_in_memory_pass_openrafts_suite() {
    run(Suite::test_all(InMemory::default()));
}
