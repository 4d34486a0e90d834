//! What a follower is sent, by a leader that looks for the end of its log.

use std::sync::Arc;

use heliograph_storage::{MemorySnapshotDisk, MemorySnapshots};
use heliograph_transport::{Handler, NotifyError, PeerInfo};
use openraft::entry::RaftEntry as _;
use parking_lot::Mutex;

use super::*;
use crate::{
    envelope,
    raft::types::{Entry, EntryData, LogId},
};

const TARGET: u64 = 2 << 32;
/// Of an entry.
const ENTRY_BYTES: usize = 4096;

/// A follower's log: so many entries of the leader's, and what it was sent.
#[derive(Default)]
struct Follower {
    last: Mutex<u64>,
    /// Entries of each call.
    sent: Mutex<Vec<usize>>,
    /// The time that the last call had.
    patience: Mutex<Duration>,
}

impl Follower {
    fn with(last: u64) -> Arc<Self> {
        Arc::new(Self { last: Mutex::new(last), ..Self::default() })
    }

    fn answer(&self, request: &AppendRequest) -> AppendAnswer {
        self.sent.lock().push(request.entries.len());
        let mut last = self.last.lock();
        if request.prev_log_id.is_some_and(|prev| prev.index > *last) {
            return AppendAnswer::Conflict;
        }
        *last = request.entries.last().map_or(*last, |entry| last.max(entry.log_id.index));
        AppendAnswer::Success
    }
}

impl Network for Follower {
    fn local(&self) -> NodeId {
        NodeId(1)
    }

    fn serve(&self, _: Arc<dyn Handler>) {}

    fn set_peers(&self, _: Vec<(NodeId, String)>) {}

    fn is_connected(&self, _: NodeId) -> bool {
        true
    }

    fn peer_info(&self, _: NodeId) -> Option<PeerInfo> {
        None
    }

    fn call(
        &self,
        _: NodeId,
        _: Lane,
        request: Bytes,
        deadline: Instant,
    ) -> BoxFuture<'static, Result<Bytes, CallError>> {
        *self.patience.lock() = deadline - Instant::now();
        let (_, body) = envelope::open(request).unwrap();
        let (_, _, body) = rpc::decode_head(body).unwrap();
        let answer = self.answer(&rpc::decode(&body).unwrap());
        Box::pin(std::future::ready(Ok(rpc::encode(&answer))))
    }

    fn notify(&self, _: NodeId, _: Lane, _: Bytes) -> Result<(), NotifyError> {
        Ok(())
    }

    fn shutdown(&self) -> BoxFuture<'static, ()> {
        Box::pin(std::future::ready(()))
    }
}

async fn client(follower: &Arc<Follower>) -> GroupClient {
    let network: Arc<dyn Network> = follower.clone();
    let disk = MemorySnapshotDisk::new();
    let mut factory = GroupNetworkFactory {
        network,
        group: GroupId(1),
        snapshots: Arc::new(MemorySnapshots::open(&disk).unwrap()),
        turns: Arc::new(Semaphore::new(1)),
    };
    factory.new_client(TARGET, &openraft::EmptyNode {}).await
}

fn log_id(index: u64) -> LogId {
    LogId { leader_id: CommittedLeaderId::new(1), index }
}

/// The entries behind `prev`, so many.
fn request(prev: u64, entries: u64) -> AppendRequest {
    let data = EntryData(vec![7; ENTRY_BYTES].into());
    let entry = |index| Entry::new(log_id(index), EntryPayload::Normal(data.clone()));
    AppendRequest {
        vote: Vote::new(1, 1),
        prev_log_id: (prev > 0).then(|| log_id(prev)),
        leader_commit: Some(log_id(prev)),
        entries: (prev + 1..=prev + entries).map(entry).collect(),
    }
}

async fn append(client: &mut GroupClient, prev: u64, entries: u64) -> AppendAnswer {
    let option = RPCOption::new(Duration::from_secs(1));
    client.append_entries(request(prev, entries), option).await.unwrap()
}

#[tokio::test]
async fn a_follower_that_has_nothing_is_sent_each_entry_once() {
    let follower = Follower::with(0);
    let mut client = client(&follower).await;
    for middle in [512, 256, 128] {
        assert_eq!(append(&mut client, middle, 64).await, AppendAnswer::Conflict);
    }
    for prev in [0, 64, 128] {
        assert_eq!(append(&mut client, prev, 64).await, AppendAnswer::Success);
    }
    let sent = follower.sent.lock();
    assert_eq!((sent.iter().sum::<usize>(), *follower.last.lock()), (192, 192));
    // Once it is known where the log ends nothing is asked.
    assert_eq!(sent[sent.len() - 2..], [64, 64]);
}

#[tokio::test]
async fn a_follower_that_has_everything_is_sent_nothing() {
    let follower = Follower::with(1024);
    let mut client = client(&follower).await;
    for middle in [512, 768, 960] {
        assert_eq!(append(&mut client, middle, 64).await, AppendAnswer::Success);
    }
    assert_eq!(*follower.sent.lock(), [0, 0, 0]);
    assert_eq!(append(&mut client, 1024, 64).await, AppendAnswer::Success);
    assert_eq!(follower.sent.lock().last(), Some(&64));
}

#[tokio::test]
async fn little_is_sent_unasked() {
    let follower = Follower::with(8);
    let mut client = client(&follower).await;
    assert_eq!(append(&mut client, 8, 1).await, AppendAnswer::Success);
    assert_eq!(*follower.sent.lock(), [1]);
}

#[tokio::test(start_paused = true)]
async fn a_mebibyte_has_more_time_than_a_heartbeat() {
    let follower = Follower::with(0);
    let mut client = client(&follower).await;
    append(&mut client, 0, 0).await;
    assert_eq!(*follower.patience.lock(), Duration::from_secs(1));
    append(&mut client, 0, 256).await;
    assert!(*follower.patience.lock() > Duration::from_secs(3));
}
