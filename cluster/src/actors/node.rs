//! The node actor: starts and supervises shard actors, checkpointer, keys, pulse and controller. When
//! one of them dies the node ends: its Raft state cannot be trusted beside a dead actor.

use std::{collections::BTreeSet, sync::Arc};

use ractor::{Actor, ActorProcessingErr, ActorRef, SupervisionEvent};
use tokio_util::task::TaskTracker;

use super::{
    checkpointer::CheckpointerActor,
    controller::ControllerActor,
    election,
    keys::KeysActor,
    pulse::PulseActor,
    shard::{RaftShard, ShardActor, ShardArguments},
    time::ShardTime,
};
use crate::{
    context::{Context, NodeFailure, group_of},
    fail_safe, formation,
    model::ShardId,
    raft::{GroupKind, RaftGroup, raft_id},
    shard_handle::{ShardHandle, ShardObserver},
    topology::Topology,
};

/// What the node actor is told.
pub(crate) enum NodeMessage {
    /// Start the replicas that the topology gives this node and that do not run yet.
    StartShards(Arc<Topology>),
}

/// The node actor.
pub(crate) struct NodeActor;

/// What the node actor starts with.
pub(crate) struct NodeArguments {
    pub(crate) context: Arc<Context>,
    pub(crate) observer: Arc<dyn ShardObserver>,
    pub(crate) tasks: TaskTracker,
}

impl Actor for NodeActor {
    type Msg = NodeMessage;
    type State = NodeArguments;
    type Arguments = NodeArguments;

    async fn pre_start(
        &self,
        myself: ActorRef<NodeMessage>,
        arguments: NodeArguments,
    ) -> Result<NodeArguments, ActorProcessingErr> {
        let context = &arguments.context;
        let cell = myself.get_cell();
        Actor::spawn_linked(None, PulseActor, Arc::clone(context), cell.clone()).await?;
        Actor::spawn_linked(None, CheckpointerActor, Arc::clone(context), cell.clone()).await?;
        Actor::spawn_linked(None, ControllerActor, Arc::clone(context), cell.clone()).await?;
        Actor::spawn_linked(None, KeysActor, Arc::clone(context), cell).await?;
        Ok(arguments)
    }

    async fn handle(
        &self,
        myself: ActorRef<NodeMessage>,
        NodeMessage::StartShards(topology): NodeMessage,
        state: &mut NodeArguments,
    ) -> Result<(), ActorProcessingErr> {
        for shard in topology.shards() {
            let is_ours = topology.replica_of(state.context.local(), shard).is_some();
            if !is_ours || state.context.shards.get(shard).is_some() {
                continue;
            }
            if let Err(failure) = state.start_shard(&myself, &topology, shard).await {
                state.context.fail(failure);
                return Ok(());
            }
        }
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        _myself: ActorRef<NodeMessage>,
        event: SupervisionEvent,
        state: &mut NodeArguments,
    ) -> Result<(), ActorProcessingErr> {
        let name = match &event {
            SupervisionEvent::ActorFailed(_, error) => {
                tracing::error!(%error, "an actor died");
                "shard, pulse, controller, checkpointer or keys"
            }
            SupervisionEvent::ActorTerminated(..) => {
                "shard, pulse, controller, checkpointer or keys"
            }
            _ => return Ok(()),
        };
        state.context.fail(NodeFailure::ActorDied(name));
        Ok(())
    }
}

impl NodeArguments {
    async fn start_shard(
        &self,
        myself: &ActorRef<NodeMessage>,
        topology: &Topology,
        shard: ShardId,
    ) -> Result<(), NodeFailure> {
        let context = &self.context;
        let kind = GroupKind::Shard {
            shard,
            limits: topology.settings.limits,
            observer: Arc::clone(&self.observer),
        };
        let group = context.start_group(group_of(shard), kind).await?;
        let time = Arc::new(ShardTime::new(Arc::clone(context)));
        let arguments = ShardArguments { shard, group: Arc::clone(&group), time };
        let spawned = Actor::spawn_linked(None, ShardActor, arguments, myself.get_cell()).await;
        let (actor, _) = spawned.map_err(|error| NodeFailure::GroupUnusable {
            group: group.id.0,
            reason: error.to_string().into(),
        })?;
        let port = RaftShard::new(shard, Arc::clone(context), Arc::clone(&group), actor);
        context.shards.insert(ShardHandle::new(Arc::new(port)));
        self.tasks.spawn(watch(
            Arc::clone(context),
            Arc::clone(&group),
            Some((shard, Arc::clone(&self.observer))),
        ));
        if let Some(placement) = topology.placement(shard)
            && placement.changes == 0
            && placement.target.first().map(|first| first.node) == Some(context.local())
            && group.log.is_pristine()
        {
            // As formed. Once replicas have moved, an empty one waits for its leader instead.
            let voters = placement.target.iter();
            let voters = voters.map(|replica| raft_id(replica.node, replica.incarnation));
            formation::initialize(&group, voters.collect::<BTreeSet<_>>()).await;
        }
        if !group.log.is_pristine() {
            self.tasks.spawn(election::after_start(Arc::clone(context), group));
        }
        Ok(())
    }
}

/// Tells the leader table and the observer who leads `group`, until its Raft stops.
pub(crate) async fn watch(
    context: Arc<Context>,
    group: Arc<RaftGroup>,
    shard: Option<(ShardId, Arc<dyn ShardObserver>)>,
) {
    group
        .watch_leadership(|leadership| {
            tracing::debug!(group = group.id.0, ?leadership, "leadership changed");
            let Some((shard, observer)) = &shard else { return };
            if let Some(leader) = leadership.leader {
                context.leaders.learn(*shard, leadership.term, leader);
            }
            observer.leadership(*shard, leadership);
        })
        .await;
    // Raft stops by itself only on a fatal error. After a disk's error the node stays, red, and
    // routes its clients to others; anything else is a broken invariant.
    if !fail_safe::look(&context) {
        context.fail(NodeFailure::RaftStopped(group.id.0));
    }
}
