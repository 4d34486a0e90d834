//! The pulse: beats to the peers, and what their silence means (design decision 3).

use std::{collections::BTreeSet, sync::Arc};

use heliograph_storage::GroupId;
use heliograph_transport::{Lane, NodeId, PeerEvent};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::{
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval},
};

use super::election;
use crate::{
    context::Context,
    detector::{BEAT_INTERVAL, LOOK_INTERVAL, Verdict},
    drain, fail_safe,
    features::{self, Feature},
    metrics,
    node_wire::{self, Beat},
    raft::node_of,
    shard_handle::Role,
};

/// How often leaders are compared with the preferred ones. A transfer costs a few milliseconds of
/// silence, so it need not be quick.
const BALANCE_BEATS: u32 = 10;
/// How often free space is looked at. Two seconds: at 200 MB/s the disk takes 400 MB meanwhile,
/// which the default minimum leaves room for.
const SPACE_BEATS: u32 = 4;
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
    /// Looks for silence by itself: what the actor does may take a while. Ends with the actor.
    _look: JoinSet<()>,
    /// The groups without a leader at the last beat.
    leaderless: BTreeSet<GroupId>,
}

impl PulseState {
    /// Runs for groups that had no leader a beat ago and have none now: an election that failed
    /// for a lost vote would be repeated after seconds only.
    fn lead_the_leaderless(&mut self) {
        let mut leaderless = self.context.all_groups();
        leaderless.retain(|group| group.leads().leader.is_none());
        for group in &leaderless {
            if self.leaderless.contains(&group.id) {
                let run = election::fill_vacancy(Arc::clone(&self.context), Arc::clone(group));
                tokio::spawn(run);
            }
        }
        self.leaderless = leaderless.iter().map(|group| group.id).collect();
    }
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
        let mut look = JoinSet::new();
        look.spawn(look_for_silence(Arc::clone(&context)));
        Ok(PulseState { context, beats: 0, _look: look, leaderless: BTreeSet::new() })
    }

    async fn handle(
        &self,
        myself: ActorRef<PulseMessage>,
        PulseMessage::Beat: PulseMessage,
        state: &mut PulseState,
    ) -> Result<(), ActorProcessingErr> {
        myself.send_after(BEAT_INTERVAL, || PulseMessage::Beat);
        fail_safe::look(&state.context);
        if state.beats.is_multiple_of(SPACE_BEATS) {
            fail_safe::measure(&state.context).await;
        }
        if state.context.fitness.is_short() {
            drain::hand_over(&state.context, Instant::now()).await;
        }
        send_beat(&state.context);
        election::push_transfers(&state.context).await;
        state.lead_the_leaderless();
        if state.context.is_draining() {
            // One may have come by an election.
            drain::hand_over(&state.context, Instant::now()).await;
        }
        state.beats += 1;
        if state.beats.is_multiple_of(BALANCE_BEATS) {
            election::balance_leaders(&state.context).await;
            features::activate(&state.context).await;
        }
        Ok(())
    }
}

/// Looks again and again who has been silent for too long.
async fn look_for_silence(context: Arc<Context>) {
    let mut looks = interval(LOOK_INTERVAL);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        looks.tick().await;
        let verdict = context.detector.lock().tick(Instant::now());
        follow(&context, verdict);
    }
}

/// Takes a peer's beat.
pub(crate) fn take_beat(context: &Arc<Context>, from: NodeId, beat: Beat) {
    let now = Instant::now();
    context.peer_clocks.lock().insert(from, (beat.wall_ms, now));
    if beat.registry > 0 {
        note_registry(context, from, beat.registry);
    }
    for (shard, term) in beat.leads {
        context.leaders.learn(shard, term, from);
    }
    context.neighbours.heard(from, beat.about, now);
    let verdict = context.detector.lock().beat(from, beat.suspects, now);
    follow(context, verdict);
}

/// A peer has applied the registry up to this version.
fn note_registry(context: &Context, from: NodeId, version: u64) {
    let mut registries = context.peer_registries.lock();
    registries.insert(from, version);
    let newest = registries.values().copied().max().unwrap_or(0);
    let own = context.topology().map_or(0, |topology| topology.version);
    ::metrics::gauge!(metrics::REGISTRY_LAG).set(newest.saturating_sub(own) as f64);
}

/// Takes a change of a peer's connections.
pub(crate) fn take_peer_event(context: &Arc<Context>, event: PeerEvent) {
    match event {
        PeerEvent::Connected(node) => {
            send_beat(context);
            let context = Arc::clone(context);
            tokio::spawn(async move {
                for group in context.all_groups() {
                    let members = group.raft.voter_ids().chain(group.raft.learner_ids());
                    let there: Vec<u64> = members.filter(|id| node_of(*id) == node).collect();
                    // Replication to the node pauses no longer than it has to.
                    let _ = group.raft.trigger().reset_backoff(there).await;
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
            // Or one whose new leader needs votes that the dead took along.
            if group.leads().leader.is_none_or(|leader| leader == node) {
                tokio::spawn(election::replace_leader(Arc::clone(context), group, node));
            }
        }
        let context = Arc::clone(context);
        // What was on its way to the dead goes to somebody else.
        tokio::spawn(async move { election::push_transfers(&context).await });
    }
}

/// Tells all peers that this node lives, what it leads and whom it suspects.
pub(crate) fn send_beat(context: &Context) {
    let mut leads = Vec::new();
    for shard in context.shards.all() {
        let leadership = *shard.leadership().borrow();
        if leadership.role == Role::Acting && !context.fitness.has_failed() {
            leads.push((shard.id(), leadership.term));
        }
    }
    ::metrics::gauge!(metrics::SHARDS_LED).set(leads.len() as f64);
    let mut suspects = context.detector.lock().suspects();
    // Only who leads nothing may say so: the others elect at once, and two would act.
    let leads_nothing = context.all_groups().iter().all(|group| !group.may_act());
    // A node short of space would be as good as dead by that: it says what it is where it can.
    let is_unfit = context.fitness.is_unfit() && !context.tells_short();
    if is_unfit && leads_nothing {
        suspects.insert(context.local());
    }
    let beat = Beat {
        wall_ms: context.surroundings.clock.wall_ms(),
        leads,
        suspects,
        about: context.about(),
        registry: match context.is_active(Feature::BeatsTellRegistry) {
            true => context.topology().map_or(0, |topology| topology.version),
            false => 0,
        },
    };
    let beat = node_wire::encode(&beat);
    for (peer, _) in context.peers() {
        // A peer that is away hears the next one.
        let _ = context.network.notify(peer, Lane::Urgent, beat.clone());
    }
}
