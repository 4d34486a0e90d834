//! One node of the cluster: composes log, state, network, Raft groups, actors and delivery.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use heliograph_transport::Network;
use parking_lot::Mutex;
use ractor::{Actor, ActorRef};
use tokio::{
    sync::{Semaphore, oneshot},
    time::Instant,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    Relay,
    actors::{
        controller::ControllerPort,
        node::{NodeActor, NodeArguments, NodeMessage},
    },
    admin::{Admin, ClusterAdmin},
    config::{Config, ConfigError, Storages},
    context::{Context, META, NodeFailure},
    delivery::Delivery,
    detector::Detector,
    disk_mark, drain, features, formation,
    node_handler::NodeHandler,
    raft::GroupLog,
    readiness,
    shard_handle::ShardObserver,
    surroundings::Surroundings,
    topology::{LeaderTable, LocalShards, Topology},
    watch,
};

const ACTOR_DIED: NodeFailure = NodeFailure::ActorDied("node");

/// Why a node did not start.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// Its configuration is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// It cannot work.
    #[error(transparent)]
    Failure(#[from] NodeFailure),
}

/// A running node.
pub struct Node {
    context: Arc<Context>,
    delivery: Arc<Delivery>,
    actor: ActorRef<NodeMessage>,
    tasks: TaskTracker,
}

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Node").field(&self.context.local()).finish()
    }
}

impl Node {
    /// Starts a node over its stores and its network. It takes its place in the background: see
    /// [`Node::ready`].
    ///
    /// # Errors
    /// When the configuration is wrong or a store is unusable.
    pub async fn start(
        config: Config,
        storages: Storages,
        network: Arc<dyn Network>,
        surroundings: Surroundings,
    ) -> Result<Self, StartError> {
        config.validate()?;
        let disk = disk_mark::of(&storages, &surroundings)
            .await
            .map_err(|error| NodeFailure::DiskUnusable { reason: error.to_string().into() })?;
        let boot = surroundings.random();
        let context = Arc::new(Context {
            raft_config: config.raft_config(),
            snapshot_turns: Arc::new(Semaphore::new(config.raft.snapshots_sent_max)),
            config,
            storages,
            network,
            surroundings,
            groups: Default::default(),
            shards: Arc::new(LocalShards::default()),
            leaders: Arc::new(LeaderTable::default()),
            topology: watch::Sender::new(None),
            detector: Mutex::new(Detector::default()),
            peer_clocks: Mutex::default(),
            controller: ControllerPort::default(),
            neighbours: Default::default(),
            boot,
            started: Instant::now(),
            peer_registries: Mutex::default(),
            met: Mutex::default(),
            transfers: Mutex::default(),
            failure: watch::Sender::new(None),
            fitness: Default::default(),
            stopping: CancellationToken::new(),
            is_draining: false.into(),
            has_caught_up: watch::Sender::new(false),
            disk,
            damaged: Mutex::default(),
            actor: OnceLock::new(),
        });
        let delivery = Delivery::start(&context);
        let tasks = TaskTracker::new();
        let actor = spawn_actor(&context, delivery.clone(), &tasks).await?;
        if let Some(incarnation) = held_meta(&context) {
            let (begun, is_begun) = oneshot::channel();
            actor.cast(NodeMessage::Begin(incarnation, begun)).map_err(|_| ACTOR_DIED)?;
            is_begun.await.unwrap_or(Err(ACTOR_DIED))?;
        }
        context.network.serve(Arc::new(NodeHandler {
            context: Arc::clone(&context),
            delivery: Arc::clone(&delivery),
        }));
        context.network.set_peers(context.peers());
        tasks.spawn(follow_topology(Arc::clone(&context), actor.clone()));
        tasks.spawn(readiness::catch_up(Arc::clone(&context)));
        let placing = Arc::clone(&context);
        tasks.spawn(async move {
            tokio::select! {
                biased; // a stopping node takes no place
                () = placing.stopping.cancelled() => {}
                placed = formation::take_place(&placing) => {
                    if let Err(failure) = placed {
                        placing.fail(failure);
                    }
                }
            }
        });
        Ok(Self { context, delivery, actor, tasks })
    }

    /// The node as front doors see it.
    pub fn relay(&self) -> Arc<dyn Relay> {
        self.delivery.relay()
    }

    /// The cluster as its operators see it.
    pub fn admin(&self) -> Arc<dyn ClusterAdmin> {
        Arc::new(Admin::new(&self.context))
    }

    /// Nodes, shards and settings, once the cluster is formed.
    pub fn topology(&self) -> Option<Arc<Topology>> {
        self.context.topology()
    }

    /// The replicas on this node.
    pub fn shards(&self) -> Arc<LocalShards> {
        Arc::clone(&self.context.shards)
    }

    /// Waits until this node has its place, its replicas run and have caught up, and it knows a
    /// leader of every shard; or until it fails.
    ///
    /// # Errors
    /// What [`Node::failed`] answers.
    pub async fn ready(&self) -> Result<(), NodeFailure> {
        let mut topology = self.context.topology.subscribe();
        let mut leaders = self.context.leaders.changes();
        let mut failure = self.context.failure.subscribe();
        let mut caught_up = self.context.has_caught_up.subscribe();
        loop {
            if let Some(failure) = failure.borrow_and_update().clone() {
                return Err(failure);
            }
            if self.not_ready_reason().is_none() {
                return Ok(());
            }
            let changed = tokio::select! {
                biased; // a failure first
                changed = failure.changed() => changed,
                changed = topology.changed() => changed,
                changed = leaders.changed() => changed,
                changed = caught_up.changed() => changed,
            };
            if changed.is_err() {
                return Err(ACTOR_DIED);
            }
        }
    }

    /// Why this node does not serve; `None` when it does.
    pub fn not_ready_reason(&self) -> Option<&'static str> {
        self.context.not_ready_reason()
    }

    /// Waits until the node cannot go on; the process should exit then.
    pub async fn failed(&self) -> NodeFailure {
        let mut failure = self.context.failure.subscribe();
        let failed = failure.wait_for(Option::is_some).await;
        failed.ok().and_then(|failure| failure.clone()).unwrap_or(ACTOR_DIED)
    }

    /// Waits until this node's disk has failed, and says why. The node then serves what needs no disk
    /// here, and the process should be started anew once the disk is well.
    pub async fn disk_failed(&self) -> Arc<str> {
        self.context.fitness.failure().await
    }

    /// Waits until an operator has asked this node to drain.
    pub async fn asked_to_drain(&self) {
        self.asked(|context| context.is_asked_to_drain(context.local())).await;
    }

    /// Waits until no operator asks this node to drain any more.
    pub async fn asked_to_stay(&self) {
        self.asked(|context| !context.is_asked_to_drain(context.local())).await;
    }

    async fn asked(&self, condition: impl Fn(&Context) -> bool) {
        let mut topology = self.context.topology.subscribe();
        while !condition(&self.context) {
            if topology.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }

    /// Begins to go away: the node is not ready any more, nobody hands it a leadership, and those
    /// it has move to nodes that stay. Answers when they have, or `patience` is over. Clients are
    /// still served, and connections stay.
    pub async fn drain(&self, patience: Duration) {
        drain::begin(&self.context);
        self.hand_over(patience).await;
    }

    /// Moves all leaderships to nodes that stay; answers when they have moved, or `patience` is
    /// over.
    pub async fn hand_over(&self, patience: Duration) {
        let left = drain::hand_over(&self.context, Instant::now() + patience).await;
        if left > 0 {
            tracing::warn!(left, "leaderships did not move in time: the others will elect");
        }
    }

    /// Drains what is not drained yet and stops: connections' last words, Raft, actors, network,
    /// then the log. Takes `patience` at most for the leaderships and as long for the last words,
    /// and a little more for the rest.
    pub async fn shutdown(self, patience: Duration) {
        let context = &self.context;
        self.drain(patience).await;
        self.delivery.drain(patience).await;
        context.stopping.cancel();
        for group in context.all_groups() {
            // A failed disk takes no checkpoint.
            if context.fitness.has_failed() {
                continue;
            }
            if let Err(error) = group.core.checkpoint().await {
                tracing::warn!(group = group.id.0, %error, "the last checkpoint failed; the log has everything");
            }
            if let Err(error) = group.raft.shutdown().await {
                tracing::warn!(group = group.id.0, %error, "raft did not stop cleanly");
            }
        }
        self.delivery.stop().await;
        self.actor.stop(None);
        context.network.shutdown().await;
        context.shards.clear();
        context.groups.write().clear();
        self.tasks.close();
        self.tasks.wait().await;
        context.storages.log.close();
    }
}

/// Spawns the node actor; the node cannot go on without it.
async fn spawn_actor(
    context: &Arc<Context>,
    observer: Arc<dyn ShardObserver>,
    tasks: &TaskTracker,
) -> Result<ActorRef<NodeMessage>, NodeFailure> {
    let arguments = NodeArguments { context: Arc::clone(context), observer, tasks: tasks.clone() };
    let spawned = Actor::spawn(None, NodeActor, arguments).await;
    let (actor, ended) = spawned.map_err(|_| ACTOR_DIED)?;
    context.actor.get_or_init(|| actor.clone());
    let context = Arc::clone(context);
    tasks.spawn(async move {
        // However it ended. Of a node that stops it is no failure.
        drop(ended.await);
        context.fail(ACTOR_DIED);
    });
    Ok(actor)
}

/// Which replica of meta to start with: the one whose data is here. Others have to ask first: see
/// [`formation`].
fn held_meta(context: &Context) -> Option<u32> {
    let held = GroupLog::held_incarnation(context.storages.log.as_ref(), META);
    // What cannot be read turns out when the group is opened.
    held.unwrap_or(Some(0))
}

/// Connects to the nodes of each new topology and starts its shards.
async fn follow_topology(context: Arc<Context>, actor: ActorRef<NodeMessage>) {
    let mut topology = context.topology.subscribe();
    loop {
        if let Some(topology) = context.topology() {
            if let Err(failure) = features::check(context.config.features, &topology) {
                context.fail(failure);
                return;
            }
            context.network.set_peers(context.peers());
            if actor.cast(NodeMessage::Look).is_err() {
                return;
            }
        }
        tokio::select! {
            biased; // a stopping node starts nothing
            () = context.stopping.cancelled() => return,
            changed = topology.changed() => if changed.is_err() { return },
        }
    }
}
