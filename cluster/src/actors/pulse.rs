//! The pulse: beats to the peers, suspicion, and the elections it drives (design decision 3).

use std::{sync::Arc, time::Duration};

use heliograph_transport::{Lane, NodeId, PeerEvent};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::time::Instant;

use crate::{
    context::{Context, META, group_of},
    detector::{BEAT_INTERVAL, Verdict},
    metrics,
    node_wire::{self, Beat},
    raft::{RaftGroup, node_of},
    shard_handle::Role,
};

/// The first-ranked follower runs after this: its peers have heard of the death as well by then.
const FIRST_RUN: Duration = Duration::from_millis(15);
/// Each further rank waits this much longer (design decision 3).
const RANK_STEP: Duration = Duration::from_millis(150);
/// How often a follower runs before it leaves the matter to Raft's own timeouts.
const RUNS_MAX: u32 = 4;
/// How often leaders are compared with the preferred ones. A transfer costs a few milliseconds of
/// silence, so it need not be quick.
const BALANCE_BEATS: u32 = 10;
/// A preferred leader this many entries behind is not ready yet.
const BALANCE_LAG_MAX: u64 = 64;

/// What the pulse is told.
pub(crate) enum PulseMessage {
    /// Half a second has passed.
    Beat,
}

/// The pulse actor. Owned and supervised by the node actor.
pub(crate) struct PulseActor;

pub(crate) struct PulseState {
    context: Arc<Context>,
    beats: u32,
}

impl Actor for PulseActor {
    type Msg = PulseMessage;
    type State = PulseState;
    type Arguments = Arc<Context>;

    async fn pre_start(
        &self,
        myself: ActorRef<PulseMessage>,
        context: Arc<Context>,
    ) -> Result<PulseState, ActorProcessingErr> {
        myself.send_after(BEAT_INTERVAL, || PulseMessage::Beat);
        Ok(PulseState { context, beats: 0 })
    }

    async fn handle(
        &self,
        myself: ActorRef<PulseMessage>,
        PulseMessage::Beat: PulseMessage,
        state: &mut PulseState,
    ) -> Result<(), ActorProcessingErr> {
        myself.send_after(BEAT_INTERVAL, || PulseMessage::Beat);
        let verdict = state.context.detector.lock().tick(Instant::now());
        follow(&state.context, verdict);
        send_beat(&state.context);
        state.beats += 1;
        if state.beats.is_multiple_of(BALANCE_BEATS) {
            balance_leaders(&state.context).await;
        }
        Ok(())
    }
}

/// Takes a peer's beat.
pub(crate) fn take_beat(context: &Arc<Context>, from: NodeId, beat: Beat) {
    let now = Instant::now();
    context.peer_clocks.lock().insert(from, (beat.wall_ms, now));
    for (shard, term) in beat.leads {
        context.leaders.learn(shard, term, from);
    }
    let verdict = context.detector.lock().beat(from, beat.suspects, now);
    follow(context, verdict);
}

/// Takes a change of a peer's connections.
pub(crate) fn take_peer_event(context: &Arc<Context>, event: PeerEvent) {
    match event {
        PeerEvent::Connected(node) => {
            send_beat(context);
            let (context, raft_id) = (Arc::clone(context), context.raft_id_of(node));
            tokio::spawn(async move {
                for group in context.all_groups() {
                    // Replication to the node pauses no longer than it has to.
                    let _ = group.raft.trigger().reset_backoff([raft_id]).await;
                }
            });
        }
        PeerEvent::Disconnected(node) => {
            tracing::info!(peer = %node, "the connection to a peer is gone");
        }
        PeerEvent::TripwireBroken(node) => {
            let verdict = context.detector.lock().tripwire_broken(node, Instant::now());
            follow(context, verdict);
        }
    }
}

/// Acts on what the detector found.
fn follow(context: &Arc<Context>, verdict: Verdict) {
    if verdict.is_empty() {
        return;
    }
    tracing::info!(
        suspected = ?verdict.suspected,
        condemned = ?verdict.condemned,
        recovered = ?verdict.recovered,
        "peers changed"
    );
    if !verdict.suspected.is_empty() {
        ::metrics::counter!(metrics::SUSPICIONS_TOTAL).increment(verdict.suspected.len() as u64);
        // The others need this voice now, not in half a second.
        send_beat(context);
    }
    for node in verdict.condemned {
        for group in context.all_groups() {
            if group.leads().leader == Some(node) {
                tokio::spawn(replace_leader(Arc::clone(context), group, node));
            }
        }
    }
}

/// Ends a dead leader's lease on this follower and runs for leader when its turn comes.
async fn replace_leader(context: Arc<Context>, group: Arc<RaftGroup>, dead: NodeId) {
    group.forget_lease().await;
    let Some(rank) = rank(&context, &group, dead) else { return };
    let mut pause = FIRST_RUN + RANK_STEP * rank;
    for _ in 0..RUNS_MAX {
        tokio::time::sleep(pause).await;
        let leader = group.leads().leader;
        if leader.is_some_and(|leader| leader != dead) || context.detector.lock().is_live(dead) {
            return;
        }
        ::metrics::counter!(metrics::ELECTIONS_TOTAL).increment(1);
        group.forget_lease().await;
        group.elect().await;
        pause = RANK_STEP * 2;
    }
}

/// This node's place among the live voters of the group; `None` for a node that does not vote. The
/// order begins at the preferred leaders, so that a dead node's shards fall to all others alike.
fn rank(context: &Context, group: &RaftGroup, dead: NodeId) -> Option<u32> {
    let voters: Vec<NodeId> = group.raft.voter_ids().map(node_of).collect();
    let mut order: Vec<NodeId> = Vec::new();
    if let Some(topology) = context.topology() {
        let shard = topology.shards().find(|shard| group_of(*shard) == group.id);
        order.extend(shard.map(|shard| topology.replicas(shard).to_vec()).unwrap_or_default());
    }
    order.extend(voters.iter().copied());
    let mut rank = 0;
    let mut counted = Vec::new();
    for node in order {
        if node == dead || counted.contains(&node) || !voters.contains(&node) {
            continue;
        }
        counted.push(node);
        if node == context.local() {
            return Some(rank);
        }
        if context.detector.lock().is_live(node) {
            rank += 1;
        }
    }
    None
}

/// Tells all peers that this node lives, what it leads and whom it suspects.
fn send_beat(context: &Context) {
    let mut leads = Vec::new();
    for shard in context.shards.all() {
        let leadership = *shard.leadership().borrow();
        if leadership.role == Role::Acting {
            leads.push((shard.id(), leadership.term));
        }
    }
    ::metrics::gauge!(metrics::SHARDS_LED).set(leads.len() as f64);
    let beat = Beat {
        wall_ms: context.surroundings.clock.wall_ms(),
        leads,
        suspects: context.detector.lock().suspects(),
    };
    let beat = node_wire::encode(&beat);
    for (peer, _) in context.peers() {
        // A peer that is away hears the next one.
        let _ = context.network.notify(peer, Lane::Urgent, beat.clone());
    }
}

/// Hands leadership to the preferred replica where that one is ready for it.
async fn balance_leaders(context: &Context) {
    let Some(topology) = context.topology() else { return };
    if context.is_draining() {
        return;
    }
    for shard in topology.shards() {
        let Some(group) = context.group(group_of(shard)) else { continue };
        let Some(&preferred) = topology.replicas(shard).first() else { continue };
        transfer_if_ready(context, &group, preferred).await;
    }
    if let (Some(group), Some(first)) = (context.group(META), topology.members.first()) {
        transfer_if_ready(context, &group, first.id).await;
    }
}

/// Hands leadership to `heir` if this node leads and `heir` lives and is caught up.
pub(crate) async fn transfer_if_ready(context: &Context, group: &RaftGroup, heir: NodeId) {
    use openraft::async_runtime::WatchReceiver;
    let leads = group.leads().role == Role::Acting;
    if !leads || heir == context.local() || !context.detector.lock().is_live(heir) {
        return;
    }
    let raft_id = context.raft_id_of(heir);
    let is_caught_up = {
        let metrics = group.raft.data_metrics();
        let metrics = metrics.borrow_watched();
        let last = metrics.last_log.map_or(0, |log_id| log_id.index);
        let matched = metrics.replication.as_ref().and_then(|all| all.get(&raft_id).copied());
        matched.flatten().is_some_and(|matched| matched.index + BALANCE_LAG_MAX >= last)
    };
    if is_caught_up && let Err(error) = group.raft.trigger().transfer_leader(raft_id).await {
        tracing::warn!(group = group.id.0, %error, "raft is gone");
    }
}
