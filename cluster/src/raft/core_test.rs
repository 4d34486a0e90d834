//! What is read between two entries, and snapshots that arrive while others are written.

use std::{
    sync::{Arc, OnceLock, Weak},
    time::Duration,
};

use heliograph_storage::{
    GroupId, GroupState, LogStore, MemoryDisk, MemoryLog, MemorySnapshotDisk, MemorySnapshots,
    MemoryStateDisk, MemoryStore, SnapshotInfo, SnapshotStore,
};
use openraft::{EntryPayload, entry::RaftEntry};
use parking_lot::Mutex;

use super::{
    core::{GroupCore, GroupKind},
    log_adapter::GroupLog,
    types::{CommittedLeaderId, Entry, EntryData, LogId},
};
use crate::{
    machine::{
        Command, CommandBatch, Effect, Limits, MailboxCounts, queries,
        test_support::{mailbox, message},
    },
    model::ShardId,
    shard_handle::{Leadership, ShardObserver},
    watch,
};

const GROUP: GroupId = GroupId(0);

struct Replica {
    core: Arc<GroupCore>,
    snapshots: Arc<MemorySnapshots>,
}

/// A replica of meta that has applied blank entries up to `index`.
fn replica(index: u64) -> Replica {
    replica_of(GroupKind::Meta(watch::Sender::new(None)), index)
}

/// A replica that has applied blank entries up to `index`.
fn replica_of(kind: GroupKind, index: u64) -> Replica {
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

/// Reads the mailbox of each message it hears of.
#[derive(Default)]
struct Listener {
    core: OnceLock<Weak<GroupCore>>,
    counts: Mutex<Vec<u32>>,
}

impl ShardObserver for Listener {
    fn applied(&self, _: ShardId, _: u64, effects: Vec<Effect>) {
        let core = self.core.get().and_then(Weak::upgrade).expect("it is set before entries come");
        for effect in effects {
            let Effect::Arrived { mailbox, .. } = effect else { continue };
            core.read(&mut |rows| {
                let counts = queries::mailbox_counts(rows, &mailbox).unwrap();
                self.counts.lock().push(counts.lanes.iter().map(|lane| lane.count).sum());
            });
        }
    }

    fn leadership(&self, _: ShardId, _: &Leadership) {}
}

#[tokio::test(start_paused = true)]
async fn who_hears_of_a_message_finds_it_in_the_rows_before_any_checkpoint() {
    let listener = Arc::new(Listener::default());
    let observer = Arc::clone(&listener) as Arc<dyn ShardObserver>;
    let kind = GroupKind::Shard { shard: ShardId(0), limits: Limits::default(), observer };
    let Replica { core, .. } = replica_of(kind, 0);
    listener.core.set(Arc::downgrade(&core)).unwrap();
    for index in 1..=3 {
        let id = index.to_string();
        let commands = vec![Command::Enqueue(message(1, "sender", &id, "content"))];
        let data = CommandBatch { time_ms: 1, commands }.encode();
        let log_id = LogId { leader_id: CommittedLeaderId::new(1), index };
        core.apply(Entry::new(log_id, EntryPayload::Normal(EntryData(data)))).unwrap();
    }
    assert_eq!(*listener.counts.lock(), [1, 2, 3]);
    // The state alone shows mailboxes as of the last checkpoint.
    let written = || queries::mailbox_counts(&core.state().read(), &mailbox(1)).unwrap();
    assert_eq!(written(), MailboxCounts::default());
    core.checkpoint().await.unwrap();
    assert_eq!(written().lanes[1].count, 3);
}
