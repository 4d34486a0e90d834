//! How a node takes its place: forming a cluster, or finding its own again (design decision 15).

use std::{sync::Arc, time::Duration};

use heliograph_transport::NodeId;
use rand::{Rng, SeedableRng, rngs::SmallRng};
use tokio::time::Instant;

use crate::{
    actors::node::NodeMessage,
    config::Config,
    context::{Context, JoinRefusal, META, NodeFailure},
    member::Member,
    meta::{MetaCommand, MetaOutcome},
    node_wire::{NodeAnswer, NodeRequest, Probe},
    placement,
    raft::{EntryAnswer, RaftGroup, raft_id},
    registry,
    replica::Placement,
    shard_handle::Role,
    topology::{Settings, Topology},
};

/// After how many rounds without news of meta its leader is asked: a little longer than a new leader
/// usually takes.
const UNHEARD_ROUNDS: u32 = 30;
/// How long taking a place may take in one round.
const JOIN_PATIENCE: Duration = Duration::from_secs(5);
/// The pause between two rounds, before jitter.
const ROUND_PAUSE: Duration = Duration::from_millis(100);

/// Works until this node has its place in a formed cluster.
///
/// # Errors
/// When it can never have one.
pub(crate) async fn take_place(context: &Arc<Context>) -> Result<(), NodeFailure> {
    let mut rng = SmallRng::seed_from_u64(context.surroundings.random());
    let mut topology = context.topology.subscribe();
    let mut rounds = 0_u32;
    loop {
        match (context.topology(), context.group(META)) {
            (Some(formed), meta) => match formed.member(context.local()) {
                Some(member) if member.admitted => {
                    if meta.is_some_and(|meta| meta.is_current()) {
                        context.forget_met();
                        return Ok(());
                    }
                    // Nobody speaks to this replica of meta: perhaps it is no more.
                    if rounds % UNHEARD_ROUNDS == UNHEARD_ROUNDS - 1 {
                        join(context).await?;
                    }
                }
                // Or the registry as it was before this node came: its log is still arriving.
                Some(_) => join(context).await?,
                None => {}
            },
            (None, Some(meta)) if !meta.log.is_pristine() => {
                bootstrap_if_leader(context, &meta).await;
            }
            (None, meta) => found_or_join(context, meta.as_deref()).await?,
        }
        rounds += 1;
        if rounds.is_multiple_of(50) {
            match context.is_first_member() {
                true => tracing::info!(
                    "still waiting for the other first members or for a quorum of them"
                ),
                false => tracing::info!(
                    "still waiting to join: no member of the cluster takes this node; was it invited there, under this id?"
                ),
            }
        }
        let pause = ROUND_PAUSE.mul_f64(rng.random_range(0.5..1.5));
        tokio::select! {
            biased; // news first, so that a round sees it
            changed = topology.changed() => if changed.is_err() { return Ok(()) },
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// With an empty disk: asks all first members what they hold. Where one knows a formed cluster, this
/// node joins it. The cluster forms only when all are empty, and by the member with the lowest id.
///
/// Before that is known no replica of meta runs here: a first member that has lost its disk would
/// be taken for the voter it was, and vote again on what it has forgotten.
async fn found_or_join(
    context: &Arc<Context>,
    meta: Option<&RaftGroup>,
) -> Result<(), NodeFailure> {
    if !context.is_first_member() {
        return join(context).await;
    }
    let (mut all_empty, mut all_unformed) = (true, true);
    for member in &context.config.members {
        if member.id == context.local() {
            continue;
        }
        let deadline = Instant::now() + JOIN_PATIENCE;
        match registry::ask(context, member.id, &NodeRequest::Probe, deadline).await {
            // With another disk it is refused; with this one it lost no more than this group.
            Ok(NodeAnswer::Probe(Probe::AskerAdmitted | Probe::Formed)) => {
                return join(context).await;
            }
            Ok(NodeAnswer::Probe(Probe::Empty)) => {}
            Ok(NodeAnswer::Probe(Probe::Forming)) => all_empty = false,
            _ => (all_empty, all_unformed) = (false, false),
        }
    }
    let Some(meta) = meta else {
        if all_unformed {
            start_meta(context, 0);
        }
        return Ok(());
    };
    let lowest = context.config.members.iter().map(|member| member.id).min();
    // Something may have arrived while the others were asked.
    if !all_empty || lowest != Some(context.local()) || !meta.log.is_pristine() {
        return Ok(());
    }
    tracing::info!("all first members are empty: forming the cluster");
    let voters = context.config.members.iter().map(|member| raft_id(member.id, 0));
    initialize(meta, voters.collect()).await;
    Ok(())
}

/// Gives a pristine group its first membership.
pub(crate) async fn initialize(group: &RaftGroup, voters: std::collections::BTreeSet<u64>) {
    if let Err(error) = group.raft.initialize(voters).await {
        // Another membership was there first: as good.
        tracing::debug!(group = group.id.0, %error, "the group has a membership already");
    }
}

async fn bootstrap_if_leader(context: &Arc<Context>, meta: &RaftGroup) {
    if meta.leads().role != Role::Acting {
        return;
    }
    let command = MetaCommand::Bootstrap(Box::new(first_topology(context)));
    match meta.write(command.encode()).await {
        Ok(EntryAnswer::Meta(MetaOutcome::Done)) => tracing::info!("the cluster is formed"),
        Ok(_) => {}
        Err(error) => tracing::warn!(%error, "forming the cluster failed, trying again"),
    }
}

fn first_topology(context: &Context) -> Topology {
    let config = &context.config;
    let zoned = config.members.iter().map(|member| (member.id, member.zone.clone()));
    let mut zoned: Vec<(NodeId, String)> = zoned.collect();
    zoned.sort_unstable();
    let nodes: Vec<NodeId> = zoned.iter().map(|(id, _)| *id).collect();
    let mut settings = Settings { replicas: config.replicas, ..config.settings.clone() };
    context.surroundings.entropy.fill(&mut settings.routing_key);
    context.surroundings.entropy.fill(&mut settings.secret_key);
    let members = config
        .members
        .iter()
        .map(|member| Member::first(member.id, member.address.clone(), member.zone.clone()));
    let shards = placement::initial(&zoned, config.shards, config.replicas);
    Topology {
        version: 1,
        members: members.collect(),
        meta: Placement::formed(&nodes),
        shards: shards.iter().map(|nodes| Placement::formed(nodes)).collect(),
        settings,
        features: 0,
    }
}

/// Takes this node's place in the registry and finds out which replica of meta it is.
async fn join(context: &Arc<Context>) -> Result<(), NodeFailure> {
    let config = &context.config;
    let request = NodeRequest::Join { disk: context.disk, token: config.join_token.clone() };
    match registry::ask_leader(context, request, Instant::now() + JOIN_PATIENCE).await {
        Ok(NodeAnswer::Joined { meta }) => {
            start_meta(context, meta);
            Ok(())
        }
        // A member of old, of whose disk the registry has no mark.
        Ok(NodeAnswer::Registry(MetaOutcome::OtherDisk)) if holds_meta(context) => Ok(()),
        Ok(NodeAnswer::Registry(outcome)) => match refusal(config, &outcome) {
            Some(failure) => Err(failure),
            None => Ok(()),
        },
        _ => Ok(()),
    }
}

fn start_meta(context: &Context, incarnation: u32) {
    if let Some(actor) = context.actor.get() {
        // The actor is gone only when the node stops.
        let _ = actor.cast(NodeMessage::StartMeta(incarnation));
    }
}

fn holds_meta(context: &Context) -> bool {
    context.group(META).is_some_and(|meta| !meta.log.is_pristine())
}

fn refusal(config: &Config, outcome: &MetaOutcome) -> Option<NodeFailure> {
    Some(NodeFailure::JoinRefused(match outcome {
        MetaOutcome::OtherDisk if config.join_token.is_some() => JoinRefusal::TokenUsed,
        MetaOutcome::OtherDisk => return Some(NodeFailure::DiskLost),
        MetaOutcome::UnknownNode(_) => JoinRefusal::NotInvited,
        MetaOutcome::TokenMissing => JoinRefusal::TokenMissing,
        MetaOutcome::TokenWrong => JoinRefusal::TokenWrong,
        _ => return None,
    }))
}

/// Finds out which replica of meta this node is by now, and starts it.
pub(crate) async fn find_meta(context: &Arc<Context>) {
    if let Err(failure) = join(context).await {
        context.fail(failure);
    }
}

/// Answers a peer's question.
pub(crate) async fn answer(
    context: &Arc<Context>,
    from: NodeId,
    request: NodeRequest,
) -> Option<NodeAnswer> {
    if request != NodeRequest::Probe {
        return registry::serve(context, from, request).await;
    }
    let topology = context.topology();
    let member = topology.as_ref().map(|topology| topology.member(from));
    let is_pristine = context.group(META).is_none_or(|meta| meta.log.is_pristine());
    let probe = match member {
        Some(Some(member)) if member.admitted => Probe::AskerAdmitted,
        Some(_) => Probe::Formed,
        None if is_pristine => Probe::Empty,
        None => Probe::Forming,
    };
    Some(NodeAnswer::Probe(probe))
}
