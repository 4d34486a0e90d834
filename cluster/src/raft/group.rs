//! One Raft group on this node: openraft, its log, its state.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use heliograph_storage::{GroupId, SnapshotReceiver, SnapshotStore};
use heliograph_transport::NodeId;
use openraft::{Instant, Raft, async_runtime::WatchReceiver, raft::TransferLeaderRequest};
use parking_lot::Mutex;

use super::{
    core::GroupCore,
    log_adapter::GroupLog,
    network_adapter::GroupNetworkFactory,
    offload::offload,
    rpc::{self, RpcKind, SnapshotBegin, SnapshotChunk, SnapshotEnd, SnapshotOffset},
    state_adapter::GroupStateMachine,
    types::{EntryAnswer, EntryData, TypeConfig, incarnation_of, node_of},
};
use crate::{
    shard_handle::{Leadership, ProposeError, Role},
    watch,
};

/// How long a leader's licence lasts after a quorum last answered it (design decision 4).
const FENCE_LEASE: Duration = Duration::from_secs(1);

pub(crate) type GroupRaft = Raft<TypeConfig, GroupStateMachine>;

/// The snapshot a peer is sending.
struct Incoming {
    applied: Bytes,
    receiver: Box<dyn SnapshotReceiver>,
}

/// One Raft group on this node. Cloning is by `Arc`.
pub(crate) struct RaftGroup {
    pub(crate) id: GroupId,
    pub(crate) raft: GroupRaft,
    pub(crate) core: Arc<GroupCore>,
    pub(crate) log: GroupLog,
    snapshots: Arc<dyn SnapshotStore>,
    incoming: Mutex<Option<Incoming>>,
    leadership: watch::Sender<Leadership>,
    /// The term in which this node began to hand its leadership over; 0 for none.
    ended_term: AtomicU64,
    /// This node's disk failed: the replica is of no more use.
    is_retired: AtomicBool,
    is_stopped: AtomicBool,
}

impl RaftGroup {
    /// Starts the group.
    pub(crate) async fn start(
        id: GroupId,
        raft_id: u64,
        config: Arc<openraft::Config>,
        network: GroupNetworkFactory,
        log: GroupLog,
        core: Arc<GroupCore>,
    ) -> Result<Arc<Self>, io::Error> {
        let snapshots = Arc::clone(&network.snapshots);
        let machine = GroupStateMachine(Arc::clone(&core));
        let raft = Raft::new(raft_id, config, network, log.clone(), machine).await;
        let raft = raft.map_err(io::Error::other)?;
        Ok(Arc::new(Self {
            id,
            raft,
            core,
            log,
            snapshots,
            incoming: Mutex::default(),
            leadership: watch::Sender::new(Leadership::default()),
            ended_term: AtomicU64::new(0),
            is_retired: AtomicBool::new(false),
            is_stopped: AtomicBool::new(false),
        }))
    }

    /// Which of the node's replicas of this group it is.
    pub(crate) fn incarnation(&self) -> u32 {
        incarnation_of(*self.raft.node_id())
    }

    /// Stops Raft and everything that writes for this replica, for good.
    pub(crate) async fn stop(&self) {
        self.is_stopped.store(true, Ordering::Release);
        if let Err(error) = self.raft.shutdown().await {
            tracing::warn!(group = self.id.0, %error, "raft did not stop cleanly");
        }
        *self.incoming.lock() = None;
        self.core.retire().await;
    }

    /// Has the log purged up to `index`, as far as the snapshot file goes.
    pub(crate) async fn purge_log(&self, index: u64) {
        if let Err(error) = self.raft.trigger().purge_log(index).await {
            tracing::warn!(group = self.id.0, %error, "raft is gone");
        }
    }

    /// Has a snapshot written, by openraft in a task of its own; the log is purged up to it, except for
    /// its last entries.
    pub(crate) async fn write_snapshot(&self) {
        if let Err(error) = self.raft.trigger().snapshot().await {
            tracing::warn!(group = self.id.0, %error, "raft is gone");
        }
    }

    /// Whether it was told to stop.
    pub(crate) fn is_stopped(&self) -> bool {
        self.is_stopped.load(Ordering::Acquire)
    }

    /// The Raft id under which `node` votes in the membership in force.
    pub(crate) fn voter_on(&self, node: NodeId) -> Option<u64> {
        self.raft.voter_ids().find(|id| node_of(*id) == node)
    }

    /// Whether this replica votes by a membership that is committed, and no change of voters is on its
    /// way: while one is, the old voters decide as well.
    pub(crate) fn votes(&self) -> bool {
        let metrics = self.raft.server_metrics();
        let committed = metrics.borrow_watched().committed_membership_config.clone();
        let voters = committed.membership().get_joint_config();
        matches!(&voters[..], [voters] if voters.contains(self.raft.node_id()))
    }

    /// Whether what is applied here is all that was committed when the leader last spoke: older
    /// states of the group's past are over.
    pub(crate) fn is_current(&self) -> bool {
        if self.leads().role == Role::Acting {
            return true;
        }
        let committed = self.raft.data_metrics().borrow_watched().cluster_committed;
        committed.is_some_and(|committed| self.core.applied().index() >= committed.index)
    }

    /// Who leads now.
    pub(crate) fn leads(&self) -> Leadership {
        *self.leadership.borrow()
    }

    /// Whether somebody leads whose first entry is applied here: a majority has it.
    pub(crate) fn has_acting_leader(&self) -> bool {
        let leads = self.leads();
        leads.leader.is_some() && *self.core.applied_term().borrow() == leads.term
    }

    /// Who leads; wakes on changes.
    pub(crate) fn leadership(&self) -> watch::Receiver<Leadership> {
        self.leadership.subscribe()
    }

    /// Follows Raft's metrics and says each change of leadership to `changed`, until Raft stops.
    pub(crate) async fn watch_leadership(&self, changed: impl Fn(&Leadership)) {
        let mut metrics = self.raft.server_metrics();
        let mut applied_term = self.core.applied_term();
        loop {
            let now = self.observe();
            let is_news =
                self.leadership.send_if_modified(|known| std::mem::replace(known, now) != now);
            if is_news {
                changed(&now);
            }
            tokio::select! {
                biased; // an ended Raft ends the watch
                alive = metrics.changed() => if alive.is_err() { break },
                alive = applied_term.changed() => if alive.is_err() { break },
            }
        }
        // A stopped Raft leads nothing.
        let term = self.leads().term;
        let ended = Leadership { term, leader: None, role: Role::Follower };
        self.leadership.send_replace(ended);
        changed(&ended);
    }

    fn observe(&self) -> Leadership {
        let metrics = self.raft.server_metrics();
        let metrics = metrics.borrow_watched();
        let term = metrics.vote.leader_id.term;
        let leads = metrics.state.is_leader();
        let role = match leads {
            true if *self.core.applied_term().borrow() == term => Role::Acting,
            true => Role::Elected,
            false => Role::Follower,
        };
        Leadership { term, leader: metrics.current_leader.map(node_of), role }
    }

    /// Whether this replica may act as leader now, and in which term.
    pub(crate) fn acting_term(&self) -> Option<u64> {
        let leadership = self.leads();
        let is_ending = self.ended_term.load(Ordering::Relaxed) == leadership.term;
        if leadership.role != Role::Acting || is_ending || self.is_retired() {
            return None;
        }
        let metrics = self.raft.data_metrics();
        let acked = metrics.borrow_watched().last_quorum_acked;
        let is_fresh = acked.is_some_and(|acked| acked.elapsed() < FENCE_LEASE);
        #[cfg(feature = "mutants")]
        let is_fresh = is_fresh || heliograph_storage::mutant::Mutant::NoFence.is_on();
        (is_fresh || self.is_sole_voter()).then_some(leadership.term)
    }

    /// Whether this replica acts, or will act, as leader.
    pub(crate) fn may_act(&self) -> bool {
        self.leads().role != Role::Follower && !self.is_retired()
    }

    /// Whether this replica is a quorum by itself: nobody else can lead, and there are no answers
    /// of peers by which openraft would note that a quorum stands.
    fn is_sole_voter(&self) -> bool {
        self.raft.voter_ids().eq([*self.raft.node_id()])
    }

    /// Ends the licence to act in `term`: leadership is being handed over, and the lease that backs
    /// the licence with it.
    pub(crate) fn end_acting(&self, term: u64) {
        self.ended_term.store(term, Ordering::Relaxed);
    }

    /// Ends this replica's part in its group for good, ahead of its Raft: the disk failed.
    pub(crate) fn retire(&self) {
        self.is_retired.store(true, Ordering::Relaxed);
    }

    fn is_retired(&self) -> bool {
        self.is_retired.load(Ordering::Relaxed) || !self.log.is_sound()
    }

    /// Whether a leader has told this replica what is committed since it started.
    pub(crate) fn has_heard_a_leader(&self) -> bool {
        self.raft.data_metrics().borrow_watched().cluster_committed.is_some()
    }

    /// Puts one entry into the log and answers what applying it gave.
    pub(crate) async fn write(&self, data: Bytes) -> Result<EntryAnswer, ProposeError> {
        use openraft::errors::{ClientWriteError, RaftError};
        match self.raft.client_write(EntryData(data)).await {
            Ok(response) => Ok(response.data),
            // openraft answers this one only before the entry is appended.
            Err(RaftError::APIError(ClientWriteError::ForwardToLeader(forward))) => {
                Err(ProposeError::NotLeader { leader: forward.leader_id.map(node_of) })
            }
            Err(_) => Err(ProposeError::Unknown),
        }
    }

    /// Answers a peer's call; `None` refuses it.
    pub(crate) async fn serve(&self, kind: RpcKind, body: Bytes) -> Option<Bytes> {
        if self.is_retired() {
            return None;
        }
        match kind {
            RpcKind::Append => {
                let answer = self.raft.append_entries(rpc::decode(&body)?).await.ok()?;
                Some(rpc::encode(&answer))
            }
            RpcKind::Vote => Some(rpc::encode(&self.raft.vote(rpc::decode(&body)?).await.ok()?)),
            RpcKind::PreVote => {
                Some(rpc::encode(&self.raft.pre_vote(rpc::decode(&body)?).await.ok()?))
            }
            RpcKind::TransferLeader => {
                let request = rpc::decode(&body)?;
                let answer = self.raft.handle_transfer_leader(request).await.ok()?;
                Some(rpc::encode(&answer))
            }
            RpcKind::SnapshotBegin => self.begin_snapshot(rpc::decode(&body)?),
            RpcKind::SnapshotChunk => self.append_snapshot(rpc::decode(&body)?).await,
            RpcKind::SnapshotEnd => self.end_snapshot(rpc::decode(&body)?).await,
        }
    }

    /// A repeated announcement of the same snapshot resumes where its pieces ended.
    fn begin_snapshot(&self, begin: SnapshotBegin) -> Option<Bytes> {
        let mut incoming = self.incoming.lock();
        if incoming.as_ref().is_none_or(|known| known.applied != begin.applied) {
            *incoming = None;
            let receiver = self.snapshots.receive(self.id, begin.applied.clone(), begin.bytes);
            let receiver = receiver.inspect_err(|error| {
                tracing::error!(group = self.id.0, %error, "cannot receive a snapshot");
            });
            *incoming = Some(Incoming { applied: begin.applied, receiver: receiver.ok()? });
        }
        let offset = incoming.as_ref()?.receiver.offset();
        Some(rpc::encode(&SnapshotOffset(offset)))
    }

    async fn append_snapshot(&self, piece: SnapshotChunk) -> Option<Bytes> {
        let mut incoming = self.incoming.lock().take()?;
        if incoming.applied != piece.applied {
            *self.incoming.lock() = Some(incoming);
            return None;
        }
        let (incoming, appended) = offload(move || {
            let appended = match incoming.receiver.offset() {
                offset if offset == piece.offset => {
                    incoming.receiver.append(piece.offset, piece.chunk)
                }
                _ => Ok(()), // a repeated piece: the answer says from where to go on
            };
            (incoming, appended)
        })
        .await;
        appended.ok()?;
        let offset = incoming.receiver.offset();
        *self.incoming.lock() = Some(incoming);
        Some(rpc::encode(&SnapshotOffset(offset)))
    }

    async fn end_snapshot(&self, end: SnapshotEnd) -> Option<Bytes> {
        let incoming = self.incoming.lock().take()?;
        if incoming.applied != end.applied {
            return None;
        }
        let working = self.core.working().await?;
        let info = offload(move || incoming.receiver.finish()).await.inspect_err(|error| {
            tracing::warn!(group = self.id.0, %error, "a received snapshot is unusable");
        });
        let info = info.ok()?;
        drop(working);
        let meta = super::core::Applied::decode(&info.applied).ok()?.snapshot_meta();
        let snapshot = openraft::Snapshot { meta, snapshot: info };
        let answer = self.raft.install_full_snapshot(end.vote, snapshot).await.ok()?;
        Some(rpc::encode(&answer))
    }

    /// Ends the current leader's lease on this follower, so that it grants votes at once (design
    /// decision 3: openraft refuses votes while the lease runs).
    pub(crate) async fn forget_lease(&self) {
        let vote = self.raft.server_metrics().borrow_watched().vote;
        // A target that is no node: openraft then only disables the lease.
        let nobody = u64::MAX;
        let request = TransferLeaderRequest::new(vote, nobody, None);
        if let Err(error) = self.raft.handle_transfer_leader(request).await {
            tracing::warn!(group = self.id.0, %error, "raft is gone");
        }
    }

    /// Runs for leader now.
    pub(crate) async fn elect(&self) {
        if let Err(error) = self.raft.trigger().elect(true).await {
            tracing::warn!(group = self.id.0, %error, "raft is gone");
        }
    }
}
