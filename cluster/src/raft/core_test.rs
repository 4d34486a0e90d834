//! Snapshots that arrive while others are written.

use std::{sync::Arc, time::Duration};

use heliograph_storage::{
    GroupId, GroupState, LogStore, MemoryDisk, MemoryLog, MemorySnapshotDisk, MemorySnapshots,
    MemoryStateDisk, MemoryStore, SnapshotInfo, SnapshotStore,
};
use openraft::{EntryPayload, entry::RaftEntry};

use super::{
    core::{GroupCore, GroupKind},
    log_adapter::GroupLog,
    types::{CommittedLeaderId, Entry, LogId},
};
use crate::watch;

const GROUP: GroupId = GroupId(0);

struct Replica {
    core: Arc<GroupCore>,
    snapshots: Arc<MemorySnapshots>,
}

/// A replica that has applied blank entries up to `index`.
fn replica(index: u64) -> Replica {
    let synced = Arc::new(tokio::sync::Notify::new());
    let wake = Arc::clone(&synced);
    let log = Arc::new(MemoryLog::new(MemoryDisk::new(), Box::new(move || wake.notify_one())));
    let disk = Arc::clone(&log);
    tokio::spawn(async move {
        loop {
            synced.notified().await;
            disk.sync();
        }
    });
    let state = MemoryStore::open(&MemoryStateDisk::new());
    let state = GroupState::open(Arc::new(state), GROUP).unwrap();
    let snapshots = Arc::new(MemorySnapshots::open(&MemorySnapshotDisk::new()).unwrap());
    let log = GroupLog::new(log as Arc<dyn LogStore>, GROUP, 0);
    let kind = GroupKind::Meta(watch::Sender::new(None));
    let core = GroupCore::open(kind, state, GROUP, snapshots.clone(), log).unwrap();
    for index in 1..=index {
        let log_id = LogId { leader_id: CommittedLeaderId::new(1), index };
        core.apply(Entry::new(log_id, EntryPayload::Blank)).unwrap();
    }
    Replica { core: Arc::new(core), snapshots }
}

/// What a snapshot of `of` is on `at`, once it has arrived there.
async fn arrive(of: &Replica, at: &Replica) -> SnapshotInfo {
    let (_, info) = of.core.write_snapshot().await.unwrap();
    let bytes = usize::try_from(info.bytes).unwrap();
    let content = of.snapshots.read_chunk(&info, 0, bytes).unwrap();
    let mut receiver = at.snapshots.receive(GROUP, info.applied, info.bytes).unwrap();
    receiver.append(0, content).unwrap();
    receiver.finish().unwrap()
}

fn current(of: &Replica) -> u64 {
    let (meta, _) = of.core.current_snapshot().unwrap().unwrap();
    meta.last_log_id.unwrap().index
}

/// Or the log would be purged up to what no snapshot holds.
#[tokio::test(start_paused = true)]
async fn a_snapshot_that_arrived_is_not_replaced_by_an_older_one() {
    let (ahead, behind) = (replica(17), replica(14));
    let arrived = arrive(&ahead, &behind).await;
    let writer = Arc::clone(&behind.core);
    let writing = tokio::spawn(async move { writer.write_snapshot().await });
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(current(&behind), 17);
    behind.core.install_snapshot(arrived).await.unwrap();
    let (meta, _) = writing.await.unwrap().unwrap();
    assert_eq!((meta.last_log_id.unwrap().index, current(&behind)), (17, 17));
}
