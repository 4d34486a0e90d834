//! What the parts of one node share.

use std::{
    collections::BTreeMap,
    io,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
};

use heliograph_storage::{Error as StorageError, GroupId, GroupState};
use heliograph_transport::{Network, NodeId};
use parking_lot::{Mutex, RwLock};
use ractor::ActorRef;
use tokio::{sync::Semaphore, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::{
    actors::{controller::ControllerPort, node::NodeMessage},
    config::{Config, Storages},
    detector::Detector,
    fail_safe::{Fitness, disk_failure},
    features::Feature,
    member::MemberState,
    model::ShardId,
    neighbours::{About, Neighbours, Stance},
    raft::{
        GroupCore, GroupKind, GroupLog, GroupNetworkFactory, RaftGroup, Soundness, durably,
        offload, raft_id,
    },
    surroundings::Surroundings,
    topology::{LeaderTable, LocalShards, Topology},
    watch,
};

/// The meta group.
pub(crate) const META: GroupId = GroupId(0);

/// The group of a shard.
pub(crate) fn group_of(shard: ShardId) -> GroupId {
    GroupId(u32::from(shard.0) + 1)
}

/// The shard of a group; none for what is no shard's.
pub(crate) fn shard_of(group: GroupId) -> Option<ShardId> {
    u16::try_from(group.0.checked_sub(1)?).ok().map(ShardId)
}

/// Why a node may not join.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum JoinRefusal {
    /// The registry does not name it.
    #[error("it was not invited; invite it and give it the token")]
    NotInvited,
    /// It brought no token.
    #[error("it needs the one-use token of its invitation (`node.join-token-file`)")]
    TokenMissing,
    /// It brought another token.
    #[error("its token is not that of its last invitation")]
    TokenWrong,
    /// The token was used with another disk.
    #[error(
        "its token is used: the cluster knows the node with another data directory; bring that back, or tell the cluster to replace the node"
    )]
    TokenUsed,
}

/// Why a node cannot go on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NodeFailure {
    /// An actor died on a broken invariant.
    #[error("the {0} actor died")]
    ActorDied(&'static str),
    /// A Raft group stopped.
    #[error("raft group {0} stopped")]
    RaftStopped(u32),
    /// A shard could not be opened.
    #[error("group {group} could not be opened: {reason}")]
    GroupUnusable {
        /// The group.
        group: u32,
        /// Why.
        reason: Arc<str>,
    },
    /// The disk is empty, but the registry has this node: it lost its disk.
    #[error(
        "this node's disk is empty, but the cluster knows the node: bring its data directory back, or tell the cluster to replace it"
    )]
    DiskLost,
    /// The cluster does things that this process does not know: it is of an older release.
    #[error(
        "the cluster has switched on features {missing:#x}, which this release does not know: start the release that the other nodes run, or a newer one"
    )]
    FeaturesMissing {
        /// The features' bits.
        missing: u64,
    },
    /// The log takes no writes.
    #[error("the log takes no writes: {reason}")]
    DiskUnusable {
        /// Why.
        reason: Arc<str>,
    },
    /// The cluster does not let this node join.
    #[error("the cluster refuses this node: {0}")]
    JoinRefused(JoinRefusal),
}

/// Why a group did not start.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum OpenError {
    /// What the disk holds of it is damaged.
    #[error("the replica is damaged: {0}")]
    Damaged(Arc<str>),
    /// The node cannot go on.
    #[error(transparent)]
    Failed(#[from] NodeFailure),
}

/// A leadership on its way to another node. Until it arrives the leader takes no proposals.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Transfer {
    /// Who is to lead.
    pub(crate) heir: NodeId,
    /// The term that is to end.
    pub(crate) term: u64,
    /// When it was begun.
    pub(crate) since: Instant,
}

/// What the parts of one node share.
pub(crate) struct Context {
    pub(crate) config: Config,
    pub(crate) storages: Storages,
    pub(crate) network: Arc<dyn Network>,
    pub(crate) surroundings: Surroundings,
    pub(crate) raft_config: Arc<openraft::Config>,
    pub(crate) groups: RwLock<BTreeMap<GroupId, Arc<RaftGroup>>>,
    pub(crate) shards: Arc<LocalShards>,
    pub(crate) leaders: Arc<LeaderTable>,
    pub(crate) topology: watch::Sender<Option<Arc<Topology>>>,
    pub(crate) detector: Mutex<Detector>,
    /// Peers' wall clocks (milliseconds since the Unix epoch) as their last beats told, and when.
    pub(crate) peer_clocks: Mutex<BTreeMap<NodeId, (u64, Instant)>>,
    /// What the controller of this node is asked, and what it tells.
    pub(crate) controller: ControllerPort,
    /// What peers said of themselves.
    pub(crate) neighbours: Neighbours,
    /// A random number of this process.
    pub(crate) boot: u64,
    /// When this process began.
    pub(crate) started: Instant,
    /// How far peers have applied the registry, as their last beats told.
    pub(crate) peer_registries: Mutex<BTreeMap<NodeId, u64>>,
    /// Where peers are that this node was told of while it takes its place: its own registry, if it
    /// has one, may be older than they.
    pub(crate) met: Mutex<BTreeMap<NodeId, String>>,
    /// Leaderships this node is handing over.
    pub(crate) transfers: Mutex<BTreeMap<GroupId, Transfer>>,
    /// How many snapshots may be on their way to peers.
    pub(crate) snapshot_turns: Arc<Semaphore>,
    pub(crate) failure: watch::Sender<Option<NodeFailure>>,
    /// Whether the disk lets this node lead.
    pub(crate) fitness: Fitness,
    pub(crate) stopping: CancellationToken,
    pub(crate) is_draining: AtomicBool,
    /// Whether every replica has caught up with its leader since this process began.
    pub(crate) has_caught_up: watch::Sender<bool>,
    /// The mark of this node's disk.
    pub(crate) disk: [u8; 16],
    /// Damaged replicas, by incarnation, that wait for the registry's leave to begin anew.
    pub(crate) damaged: Mutex<BTreeMap<GroupId, u32>>,
    /// Starts and stops replicas.
    pub(crate) actor: OnceLock<ActorRef<NodeMessage>>,
}

impl Context {
    pub(crate) fn local(&self) -> NodeId {
        self.config.node
    }

    pub(crate) fn group(&self, group: GroupId) -> Option<Arc<RaftGroup>> {
        self.groups.read().get(&group).cloned()
    }

    pub(crate) fn all_groups(&self) -> Vec<Arc<RaftGroup>> {
        self.groups.read().values().cloned().collect()
    }

    pub(crate) fn topology(&self) -> Option<Arc<Topology>> {
        self.topology.borrow().clone()
    }

    /// Whether the cluster has switched a feature on.
    pub(crate) fn is_active(&self, feature: Feature) -> bool {
        self.topology().is_some_and(|topology| topology.features & feature.bit() != 0)
    }

    /// All peers: the registry's, the configured ones, and those that this node was told of.
    pub(crate) fn peers(&self) -> Vec<(NodeId, String)> {
        let mut peers: BTreeMap<NodeId, String> =
            self.config.members.iter().map(|member| (member.id, member.address.clone())).collect();
        if let Some(topology) = self.topology() {
            for member in &topology.members {
                peers.entry(member.id).or_insert_with(|| member.address.clone());
            }
        }
        for (node, address) in &*self.met.lock() {
            peers.entry(*node).or_insert_with(|| address.clone());
        }
        peers.remove(&self.local());
        peers.into_iter().collect()
    }

    /// Connects to a peer that this node was told of. Whom it knows already it need not meet, and
    /// must not keep once the registry forgets them.
    pub(crate) fn meet(&self, node: NodeId, address: String) {
        let is_met = self.met.lock().contains_key(&node);
        if !is_met && self.peers().iter().any(|(known, _)| *known == node) {
            return;
        }
        self.met.lock().insert(node, address);
        self.network.set_peers(self.peers());
    }

    /// Forgets whom it was told of: its registry knows them by now, or they are gone.
    pub(crate) fn forget_met(&self) {
        if !std::mem::take(&mut *self.met.lock()).is_empty() {
            self.network.set_peers(self.peers());
        }
    }

    /// Whether the cluster was formed with this node, as far as its configuration tells.
    pub(crate) fn is_first_member(&self) -> bool {
        self.config.members.iter().any(|member| member.id == self.local())
    }

    /// How many nodes the cluster has.
    pub(crate) fn node_count(&self) -> usize {
        match self.topology() {
            Some(topology) => topology.members.len(),
            None => self.config.members.len(),
        }
    }

    /// Whether this node's disks still take writes.
    pub(crate) fn storage_is_sound(&self) -> bool {
        disk_failure(self).is_none()
    }

    /// Ends the node; the first reason stays.
    pub(crate) fn fail(&self, failure: NodeFailure) {
        if self.stopping.is_cancelled() {
            return;
        }
        self.failure.send_if_modified(|known| {
            if known.is_some() {
                return false;
            }
            tracing::error!(%failure, "the node cannot go on");
            *known = Some(failure);
            true
        });
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.is_draining.load(Ordering::Relaxed) || self.is_asked_to_drain(self.local())
    }

    /// How long this process runs.
    pub(crate) fn uptime_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// What this node says of itself in a beat.
    pub(crate) fn about(&self) -> About {
        let stance = match self.not_ready_reason() {
            _ if self.is_draining() => Stance::Draining,
            _ if self.tells_short() => Stance::Short,
            None => Stance::Ready,
            Some(_) => Stance::Unready,
        };
        About {
            boot: self.boot,
            uptime_ms: self.uptime_ms(),
            stance,
            client_url: self.config.client_url.clone(),
        }
    }

    /// Whether this node is short of space and its peers understand when it says so.
    pub(crate) fn tells_short(&self) -> bool {
        self.fitness.is_short() && self.is_active(Feature::BeatsTellSpace)
    }

    /// Whether the registry wants `node` to lead nothing and serve nobody.
    pub(crate) fn is_asked_to_drain(&self, node: NodeId) -> bool {
        let topology = self.topology();
        let member = topology.as_ref().and_then(|topology| topology.member(node));
        let leaves = [MemberState::Draining, MemberState::Leaving];
        member.is_some_and(|member| leaves.contains(&member.state))
    }

    /// Whether `node` may be handed a leadership: it lives, stays and has space.
    pub(crate) fn may_lead(&self, node: NodeId) -> bool {
        let stays = !self.neighbours.is_draining(node) && !self.is_asked_to_drain(node);
        stays && !self.neighbours.is_short(node) && self.detector.lock().is_live(node)
    }

    /// Opens a group's state and starts its Raft, on its data or empty.
    pub(crate) async fn start_group(
        self: &Arc<Self>,
        id: GroupId,
        kind: GroupKind,
        incarnation: u32,
    ) -> Result<Arc<RaftGroup>, OpenError> {
        let opened = self.open_group(id, kind, incarnation).await;
        let group = opened.map_err(|error| self.judge(id, &error))?;
        let earlier = self.groups.write().insert(id, Arc::clone(&group));
        assert!(earlier.is_none(), "two replicas of group {} would write into one log", id.0);
        Ok(group)
    }

    async fn open_group(
        &self,
        id: GroupId,
        kind: GroupKind,
        incarnation: u32,
    ) -> Result<Arc<RaftGroup>, io::Error> {
        if let Some(damage) = self.storages.log.damage(id) {
            return Err(io::Error::other(damage));
        }
        let snapshots = Arc::clone(&self.storages.snapshots);
        let log = GroupLog::new(Arc::clone(&self.storages.log), id, incarnation);
        let open = {
            let (rows, snapshots) = (Arc::clone(&self.storages.state), Arc::clone(&snapshots));
            let log = log.clone();
            move || {
                let state = GroupState::open(rows, id).map_err(io::Error::other)?;
                GroupCore::open(kind, state, id, snapshots, log)
            }
        };
        // It reads rows, which may take a second or, where a snapshot is installed, far longer.
        let core = offload(open).await?;
        let soundness = core.soundness()?;
        if let Soundness::Damaged(reason) = soundness {
            return Err(io::Error::other(reason));
        }
        let core = Arc::new(core);
        if soundness == Soundness::SnapshotMissing {
            tracing::error!(group = id.0, "its snapshot is damaged or gone: writing another");
            // Raft takes it for granted that there is one of what was purged.
            core.write_snapshot().await?;
        }
        let network = GroupNetworkFactory {
            network: Arc::clone(&self.network),
            group: id,
            snapshots,
            turns: Arc::clone(&self.snapshot_turns),
        };
        let raft_id = raft_id(self.local(), incarnation);
        let config = Arc::clone(&self.raft_config);
        let group = RaftGroup::start(id, raft_id, config, network, log, core).await?;
        Ok(group)
    }

    /// A replica that cannot be opened on disks that work is damaged.
    fn judge(&self, id: GroupId, error: &io::Error) -> OpenError {
        let reason: Arc<str> = error.to_string().into();
        match self.storage_is_sound() {
            true => OpenError::Damaged(reason),
            false => NodeFailure::GroupUnusable { group: id.0, reason }.into(),
        }
    }

    /// Drops what this node holds of `group`; nothing of it runs any more. The log goes last: as
    /// long as it knows the group, the next start goes on with this.
    pub(crate) async fn drop_group(&self, group: GroupId) -> Result<(), StorageError> {
        let (state, snapshots) =
            (Arc::clone(&self.storages.state), Arc::clone(&self.storages.snapshots));
        offload(move || {
            GroupState::open(state, group)?.erase()?;
            snapshots.remove(group);
            Ok::<_, StorageError>(())
        })
        .await?;
        durably(self.storages.log.as_ref(), |log, done| log.drop_group(group, done)).await
    }

    /// Lets the replica of `group` on this node begin anew: it is damaged. It stops at once, and
    /// begins empty as soon as the registry has given leave, which it does not where too few sound
    /// replicas would be left.
    pub(crate) fn reseed(&self, group: GroupId, reason: &str) {
        tracing::error!(group = group.0, reason, "a replica is damaged: it begins anew");
        if let Some(actor) = self.actor.get() {
            // The actor is gone only when the node stops.
            let _ = actor.cast(NodeMessage::Reseed(group));
        }
    }
}
