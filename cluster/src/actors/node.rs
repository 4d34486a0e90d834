//! The node actor: starts, stops and supervises replicas, and with them checkpointer, keys, pulse,
//! controller, reconciler and scrubber. When one of those dies the node ends: its Raft state cannot be
//! trusted beside a dead actor.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use futures_util::{StreamExt as _, stream};
use heliograph_storage::GroupId;
use ractor::{Actor, ActorProcessingErr, ActorRef, SupervisionEvent};
use tokio::{sync::oneshot, time::Instant};
use tokio_util::task::TaskTracker;

use super::{
    checkpointer::CheckpointerActor,
    controller::ControllerActor,
    election,
    keys::KeysActor,
    pulse::PulseActor,
    reconciler::ReconcilerActor,
    scrubber::ScrubberActor,
    shard::{RaftShard, ShardActor, ShardArguments, ShardMessage},
    shard_inbox::ShardInbox,
    time::ShardTime,
};
use crate::{
    context::{Context, META, NodeFailure, OpenError, group_of, shard_of},
    fail_safe, formation,
    meta::{MetaCommand, MetaOutcome},
    metrics,
    model::ShardId,
    raft::{GroupKind, GroupLog, RaftGroup, raft_id},
    registry::{self, Told},
    residence::{Move, Residence},
    shard_handle::{ShardHandle, ShardObserver},
    topology::Topology,
};

/// How often the node compares its replicas with the registry without being told: what could not be
/// done before is done then.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// How many replicas are opened at a time: enough to keep a disk busy that answers one read in a
/// millisecond.
const OPENED_AT_ONCE: usize = 4;

/// Whom it supervises.
const NAMES: &str = "shard, pulse, controller, reconciler, checkpointer, scrubber or keys";

/// What the node actor is told.
pub(crate) enum NodeMessage {
    /// Compare the replicas with the registry.
    Look,
    /// Start the replica of the meta group, of this incarnation, whose data is here, and tell how
    /// that went. Replicas are started and stopped by this actor alone: two Rafts of one replica
    /// would answer for each other, and write into one log.
    Begin(u32, oneshot::Sender<Result<(), NodeFailure>>),
    /// Start the meta group as the replica of this incarnation; an empty one that runs under
    /// another is replaced.
    StartMeta(u32),
    /// The replica of this group is damaged.
    Reseed(GroupId),
}

/// The node actor.
pub(crate) struct NodeActor;

/// What the node actor starts with.
pub(crate) struct NodeArguments {
    pub(crate) context: Arc<Context>,
    pub(crate) observer: Arc<dyn ShardObserver>,
    pub(crate) tasks: TaskTracker,
}

pub(crate) struct NodeState {
    context: Arc<Context>,
    observer: Arc<dyn ShardObserver>,
    tasks: TaskTracker,
    shards: BTreeMap<ShardId, ActorRef<ShardMessage>>,
}

impl Actor for NodeActor {
    type Msg = NodeMessage;
    type State = NodeState;
    type Arguments = NodeArguments;

    async fn pre_start(
        &self,
        myself: ActorRef<NodeMessage>,
        arguments: NodeArguments,
    ) -> Result<NodeState, ActorProcessingErr> {
        let NodeArguments { context, observer, tasks } = arguments;
        let cell = myself.get_cell();
        Actor::spawn_linked(None, PulseActor, Arc::clone(&context), cell.clone()).await?;
        Actor::spawn_linked(None, CheckpointerActor, Arc::clone(&context), cell.clone()).await?;
        Actor::spawn_linked(None, ControllerActor, Arc::clone(&context), cell.clone()).await?;
        Actor::spawn_linked(None, KeysActor, Arc::clone(&context), cell.clone()).await?;
        Actor::spawn_linked(None, ReconcilerActor, Arc::clone(&context), cell.clone()).await?;
        Actor::spawn_linked(None, ScrubberActor, Arc::clone(&context), cell).await?;
        myself.send_interval(LOOK_INTERVAL, || NodeMessage::Look);
        Ok(NodeState { context, observer, tasks, shards: BTreeMap::new() })
    }

    async fn handle(
        &self,
        myself: ActorRef<NodeMessage>,
        message: NodeMessage,
        state: &mut NodeState,
    ) -> Result<(), ActorProcessingErr> {
        if state.context.stopping.is_cancelled() {
            return Ok(());
        }
        let done = match message {
            NodeMessage::Look => state.look(&myself).await,
            NodeMessage::Begin(incarnation, begun) => {
                let started = start_meta(&state.context, &state.tasks, incarnation).await;
                // Who does not wait any more has given the node up.
                drop(begun.send(started));
                Ok(())
            }
            NodeMessage::StartMeta(incarnation) => state.start_meta(&myself, incarnation).await,
            NodeMessage::Reseed(group) => {
                state.stop(&myself, group).await;
                state.begin_anew(group);
                Ok(())
            }
        };
        if let Err(failure) = done {
            state.context.fail(failure);
        }
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        _myself: ActorRef<NodeMessage>,
        event: SupervisionEvent,
        state: &mut NodeState,
    ) -> Result<(), ActorProcessingErr> {
        let name = match &event {
            SupervisionEvent::ActorFailed(_, error) => {
                tracing::error!(%error, "an actor died");
                NAMES
            }
            SupervisionEvent::ActorTerminated(..) => NAMES,
            _ => return Ok(()),
        };
        state.context.fail(NodeFailure::ActorDied(name));
        Ok(())
    }
}

impl NodeState {
    /// Brings this node's replicas to where the registry wants them.
    async fn look(&mut self, myself: &ActorRef<NodeMessage>) -> Result<(), NodeFailure> {
        let Some(topology) = self.context.topology() else { return Ok(()) };
        if !topology.member(self.context.local()).is_some_and(|member| member.admitted) {
            // Its disk is not known: what it says today it may have forgotten tomorrow.
            return Ok(());
        }
        let is_current = self.context.group(META).is_some_and(|meta| meta.is_current());
        let mut starts = Vec::new();
        let groups = topology.shards().map(|shard| (group_of(shard), Some(shard)));
        for (group, shard) in std::iter::once((META, None)).chain(groups) {
            let residence = self.residence(&topology, group, is_current);
            match (residence.next(), shard) {
                (Move::Stay, _) => {}
                (Move::Start(incarnation), Some(shard)) => starts.push((shard, incarnation)),
                (Move::Start(incarnation), None) => self.start_meta(myself, incarnation).await?,
                (Move::Drop, _) => {
                    self.stop(myself, group).await;
                    self.drop_data(group).await;
                }
            }
        }
        self.start_shards(myself, &topology, starts).await
    }

    /// Starts replicas of these shards, with their incarnations. Each reads what it keeps in memory,
    /// one row after another: some at a time wait for the disk together.
    async fn start_shards(
        &mut self,
        myself: &ActorRef<NodeMessage>,
        topology: &Topology,
        starts: Vec<(ShardId, u32)>,
    ) -> Result<(), NodeFailure> {
        let (context, observer) = (Arc::clone(&self.context), Arc::clone(&self.observer));
        let limits = topology.settings.limits;
        let mut opening = stream::iter(starts)
            .map(|(shard, incarnation)| {
                let observer = Arc::clone(&observer);
                let kind = GroupKind::Shard { shard, limits, observer };
                let opened = context.start_group(group_of(shard), kind, incarnation);
                async move { (shard, opened.await) }
            })
            .buffer_unordered(OPENED_AT_ONCE);
        while let Some((shard, opened)) = opening.next().await {
            match opened {
                Ok(group) => self.run_shard(myself, topology, shard, group).await?,
                Err(OpenError::Damaged(reason)) => context.reseed(group_of(shard), &reason),
                Err(OpenError::Failed(failure)) => return Err(failure),
            }
        }
        Ok(())
    }

    fn residence(&self, topology: &Topology, group: GroupId, is_current: bool) -> Residence {
        let context = &self.context;
        let damaged = context.damaged.lock().get(&group).copied();
        let held = GroupLog::held_incarnation(context.storages.log.as_ref(), group);
        let placement = topology.placement_of(group);
        Residence {
            wanted: placement.and_then(|placement| placement.replica_of(context.local())),
            changes: placement.map_or(0, |placement| placement.changes),
            is_current,
            running: context.group(group).map(|group| group.incarnation()),
            held: damaged.or(held.ok().flatten()),
            is_damaged: damaged.is_some(),
        }
    }

    async fn start_meta(
        &mut self,
        myself: &ActorRef<NodeMessage>,
        incarnation: u32,
    ) -> Result<(), NodeFailure> {
        let damaged = self.context.damaged.lock().get(&META).copied();
        let running = self.context.group(META).map(|group| group.incarnation());
        let held = running.or(damaged);
        if held.is_some_and(|held| held >= incarnation) {
            return Ok(());
        }
        // The registry says that what is here is no replica of meta any more.
        self.stop(myself, META).await;
        if held.is_some() && !self.drop_data(META).await {
            return Ok(());
        }
        start_meta(&self.context, &self.tasks, incarnation).await
    }

    /// Stops the replica of `group`, if one runs.
    async fn stop(&mut self, myself: &ActorRef<NodeMessage>, group: GroupId) {
        let Some(running) = self.context.groups.write().remove(&group) else { return };
        tracing::info!(group = group.0, incarnation = running.incarnation(), "stopping a replica");
        let shard = shard_of(group);
        if let Some(shard) = shard {
            self.context.shards.remove(shard);
        }
        running.stop().await;
        if let Some(actor) = shard.and_then(|shard| self.shards.remove(&shard)) {
            // It ends because it should: that is no failure of the node.
            actor.get_cell().unlink(myself.get_cell());
            actor.stop(None);
        }
    }

    /// Drops what the disk holds of a stopped replica; whether that worked.
    async fn drop_data(&mut self, group: GroupId) -> bool {
        match self.context.drop_group(group).await {
            Ok(()) => {
                self.context.damaged.lock().remove(&group);
                tracing::info!(group = group.0, "dropped what this node held of a group");
                true
            }
            Err(error) => {
                tracing::error!(group = group.0, %error, "cannot drop a group, trying again");
                false
            }
        }
    }

    /// Asks the registry for leave to begin anew, until it is known.
    fn begin_anew(&self, group: GroupId) {
        let context = &self.context;
        let held = GroupLog::held_incarnation(context.storages.log.as_ref(), group);
        let topology = context.topology();
        let placement = topology.as_ref().and_then(|topology| topology.placement_of(group));
        let wanted = placement.and_then(|placement| placement.replica_of(context.local()));
        let wanted = wanted.map_or(0, |replica| replica.incarnation);
        let incarnation = held.ok().flatten().unwrap_or(wanted);
        if context.damaged.lock().insert(group, incarnation).is_none() {
            ::metrics::counter!(metrics::DAMAGED_REPLICAS_TOTAL).increment(1);
            let context = Arc::clone(context);
            self.tasks.spawn(async move { ask_leave(&context, group, incarnation).await });
        }
    }

    /// Gives a replica that was opened its actor, and its part in the cluster.
    async fn run_shard(
        &mut self,
        myself: &ActorRef<NodeMessage>,
        topology: &Topology,
        shard: ShardId,
        group: Arc<RaftGroup>,
    ) -> Result<(), NodeFailure> {
        let context = Arc::clone(&self.context);
        let time = Arc::new(ShardTime::new(Arc::clone(&context)));
        let inbox = Arc::new(ShardInbox::default());
        let arguments =
            ShardArguments { shard, group: Arc::clone(&group), time, inbox: Arc::clone(&inbox) };
        let spawned = Actor::spawn_linked(None, ShardActor, arguments, myself.get_cell()).await;
        let (actor, _) = spawned.map_err(|error| NodeFailure::GroupUnusable {
            group: group.id.0,
            reason: error.to_string().into(),
        })?;
        self.shards.insert(shard, actor.clone());
        let port = RaftShard::new(shard, Arc::clone(&context), Arc::clone(&group), inbox, actor);
        context.shards.insert(ShardHandle::new(Arc::new(port)));
        self.tasks.spawn(watch(
            Arc::clone(&context),
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
            self.tasks.spawn(election::after_start(context, group));
        }
        Ok(())
    }
}

/// Starts the meta group.
async fn start_meta(
    context: &Arc<Context>,
    tasks: &TaskTracker,
    incarnation: u32,
) -> Result<(), NodeFailure> {
    let kind = GroupKind::Meta(context.topology.clone());
    let meta = match context.start_group(META, kind, incarnation).await {
        Ok(meta) => meta,
        Err(OpenError::Damaged(reason)) => {
            context.reseed(META, &reason);
            return Ok(());
        }
        Err(OpenError::Failed(failure)) => return Err(failure),
    };
    tasks.spawn(watch(Arc::clone(context), Arc::clone(&meta), None));
    if !meta.log.is_pristine() {
        tasks.spawn(election::after_start(Arc::clone(context), meta));
    }
    Ok(())
}

/// Asks until the registry has answered: a damaged replica begins anew only with its leave.
async fn ask_leave(context: &Arc<Context>, group: GroupId, incarnation: u32) {
    /// The pause between two questions.
    const PAUSE: Duration = Duration::from_secs(1);
    /// How long one question may take.
    const PATIENCE: Duration = Duration::from_secs(5);
    let node = context.local();
    while !context.stopping.is_cancelled() && context.damaged.lock().contains_key(&group) {
        let command = MetaCommand::Reseed { node, group, incarnation };
        match registry::tell(context, &command, Instant::now() + PATIENCE).await {
            Told::Applied(MetaOutcome::Done) if group == META => {
                formation::find_meta(context).await;
            }
            Told::Applied(MetaOutcome::WouldLoseMajority(_)) => tracing::error!(
                group = group.0,
                "a damaged replica cannot begin anew: too few sound ones are left; repair those first"
            ),
            _ => {}
        }
        tokio::select! {
            biased; // a stopping node asks nothing
            () = context.stopping.cancelled() => return,
            () = tokio::time::sleep(PAUSE) => {}
        }
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
    if group.is_stopped() {
        return;
    }
    if let Some(damage) = context.storages.log.damage(group.id) {
        // Raft met it; the node's other replicas go on.
        context.reseed(group.id, &damage.to_string());
        return;
    }
    // Raft stops by itself only on a fatal error. After a disk's error the node stays, red, and
    // routes its clients to others; anything else is a broken invariant.
    if !fail_safe::look(&context) {
        context.fail(NodeFailure::RaftStopped(group.id.0));
    }
}
