//! What the parts of one node share.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use heliograph_storage::{GroupId, GroupState};
use heliograph_transport::{Network, NodeId};
use parking_lot::{Mutex, RwLock};
use tokio::{sync::Semaphore, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::{
    actors::controller::ControllerPort,
    config::{Config, Storages},
    detector::Detector,
    fail_safe::{Fitness, disk_failure},
    features::Feature,
    member::MemberState,
    model::ShardId,
    neighbours::{About, Neighbours, Stance},
    raft::{GroupCore, GroupKind, GroupLog, GroupNetworkFactory, RaftGroup, raft_id},
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
        "this node's disk is empty, but the cluster knows the node: bring its data directory back, or replace the node under a new id"
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
    /// Leaderships this node is handing over.
    pub(crate) transfers: Mutex<BTreeMap<GroupId, Transfer>>,
    /// How many snapshots may be on their way to peers.
    pub(crate) snapshot_turns: Arc<Semaphore>,
    pub(crate) failure: watch::Sender<Option<NodeFailure>>,
    /// Whether the disk lets this node lead.
    pub(crate) fitness: Fitness,
    pub(crate) stopping: CancellationToken,
    pub(crate) is_draining: AtomicBool,
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

    /// This node's incarnation: how often it began with an empty disk.
    pub(crate) fn incarnation(&self) -> u32 {
        let topology = self.topology();
        let member = topology.as_ref().and_then(|topology| topology.member(self.local()));
        member.map_or(0, |member| member.incarnation)
    }

    /// The Raft id of `node`'s replica of `group`: a replica has an incarnation of its own.
    pub(crate) fn raft_id_of(&self, node: NodeId, group: GroupId) -> u64 {
        let topology = self.topology();
        let placement = topology.as_ref().and_then(|topology| topology.placement_of(group));
        let replica = placement.and_then(|placement| placement.replica_of(node));
        raft_id(node, replica.map_or(0, |replica| replica.incarnation))
    }

    /// All peers: the registry's, or before the cluster is formed the configured ones.
    pub(crate) fn peers(&self) -> Vec<(NodeId, String)> {
        let mut peers: BTreeMap<NodeId, String> =
            self.config.members.iter().map(|member| (member.id, member.address.clone())).collect();
        if let Some(topology) = self.topology() {
            for member in &topology.members {
                peers.entry(member.id).or_insert_with(|| member.address.clone());
            }
        }
        peers.remove(&self.local());
        peers.into_iter().collect()
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

    /// Whether the registry wants `node` to lead nothing and serve nobody.
    pub(crate) fn is_asked_to_drain(&self, node: NodeId) -> bool {
        let topology = self.topology();
        let member = topology.as_ref().and_then(|topology| topology.member(node));
        let leaves = [MemberState::Draining, MemberState::Leaving];
        member.is_some_and(|member| leaves.contains(&member.state))
    }

    /// Whether `node` may be handed a leadership: it lives and stays.
    pub(crate) fn may_lead(&self, node: NodeId) -> bool {
        let stays = !self.neighbours.is_draining(node) && !self.is_asked_to_drain(node);
        stays && self.detector.lock().is_live(node)
    }

    /// How many shards have no leader that this node knows of.
    pub(crate) fn shards_without_leader(&self) -> usize {
        let Some(topology) = self.topology() else { return 0 };
        topology.shards().filter(|shard| self.leaders.leader(*shard).is_none()).count()
    }

    /// Whether all shards this node holds are open.
    pub(crate) fn has_opened_shards(&self) -> bool {
        let Some(topology) = self.topology() else { return false };
        topology.shards_of(self.local()).count() == self.shards.all().len()
    }

    /// Why this node does not serve; `None` when it does.
    pub(crate) fn not_ready_reason(&self) -> Option<&'static str> {
        let Some(topology) = self.topology() else {
            return Some("waiting for a quorum of the first members");
        };
        if !self.storage_is_sound() {
            return Some("this node's disk failed: it restarts by itself once the disk is well");
        }
        if self.is_draining() {
            return Some("the node is going away");
        }
        if !topology.member(self.local()).is_some_and(|member| member.admitted) {
            return Some("waiting for the registry to note this node");
        }
        if !self.has_opened_shards() {
            return Some("opening the shards");
        }
        if self.shards_without_leader() > 0 {
            return Some("waiting for leaders of all shards");
        }
        None
    }

    /// Opens a group's state and starts its Raft.
    pub(crate) async fn start_group(
        self: &Arc<Self>,
        id: GroupId,
        kind: GroupKind,
    ) -> Result<Arc<RaftGroup>, NodeFailure> {
        let unusable =
            |reason: String| NodeFailure::GroupUnusable { group: id.0, reason: reason.into() };
        let state = GroupState::open(Arc::clone(&self.storages.state), id)
            .map_err(|error| unusable(error.to_string()))?;
        let snapshots = Arc::clone(&self.storages.snapshots);
        let log = GroupLog::new(Arc::clone(&self.storages.log), id);
        let core = GroupCore::open(kind, state, id, Arc::clone(&snapshots), log.clone())
            .map_err(|error| unusable(error.to_string()))?;
        let applied = core.applied();
        if applied.log_id.is_some() && log.last_index() < Some(applied.index()) {
            // What was applied was in the log: the log lost its end.
            return Err(unusable(format!(
                "the log ends before what the checkpoint holds (index {}): damage",
                applied.index()
            )));
        }
        let network = GroupNetworkFactory {
            network: Arc::clone(&self.network),
            group: id,
            snapshots,
            turns: Arc::clone(&self.snapshot_turns),
        };
        let group = RaftGroup::start(
            id,
            self.raft_id_of(self.local(), id),
            Arc::clone(&self.raft_config),
            network,
            log,
            Arc::new(core),
        )
        .await
        .map_err(|error| unusable(error.to_string()))?;
        self.groups.write().insert(id, Arc::clone(&group));
        Ok(group)
    }
}
