//! How a node takes its place: forming a cluster, or finding its own again (design decision 15).

use std::{sync::Arc, time::Duration};

use heliograph_transport::{Lane, NodeId};
use rand::{Rng, SeedableRng, rngs::SmallRng};
use tokio::time::Instant;

use crate::{
    context::{Context, META, NodeFailure},
    member::Member,
    meta::{MetaCommand, MetaOutcome},
    node_wire::{self, NodeAnswer, NodeRequest, Probe},
    placement,
    raft::{EntryAnswer, RaftGroup, raft_id},
    replica::Placement,
    shard_handle::Role,
    topology::{Settings, Topology},
};

/// How long one question to a peer may take.
const ASK_DEADLINE: Duration = Duration::from_secs(2);
/// The pause between two rounds, before jitter.
const ROUND_PAUSE: Duration = Duration::from_millis(100);

/// Works until this node has its place in a formed cluster.
///
/// # Errors
/// When it can never have one.
pub(crate) async fn take_place(
    context: &Arc<Context>,
    meta: &RaftGroup,
) -> Result<(), NodeFailure> {
    let mut rng = SmallRng::seed_from_u64(context.surroundings.random());
    let mut topology = context.topology.subscribe();
    let mut rounds = 0_u32;
    loop {
        match context.topology() {
            Some(formed) => match formed.member(context.local()) {
                Some(member) if member.admitted => return Ok(()),
                Some(_) => admit(context, meta).await,
                None => {}
            },
            None if meta.log.is_pristine() => found_or_wait(context, meta).await?,
            None => bootstrap_if_leader(context, meta).await,
        }
        rounds += 1;
        if rounds.is_multiple_of(50) {
            tracing::info!("still waiting for the other first members or for a quorum of them");
        }
        let pause = ROUND_PAUSE.mul_f64(rng.random_range(0.5..1.5));
        tokio::select! {
            biased; // news first, so that a round sees it
            changed = topology.changed() => if changed.is_err() { return Ok(()) },
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// With an empty disk: asks all first members what they hold. The cluster forms only when all are
/// empty, and by the member with the lowest id.
async fn found_or_wait(context: &Arc<Context>, meta: &RaftGroup) -> Result<(), NodeFailure> {
    let mut all_empty = true;
    for member in &context.config.members {
        if member.id == context.local() {
            continue;
        }
        match ask(context, member.id, &NodeRequest::Probe).await {
            Some(NodeAnswer::Probe(Probe::AskerAdmitted)) => return Err(NodeFailure::DiskLost),
            Some(NodeAnswer::Probe(Probe::Empty)) => {}
            _ => all_empty = false,
        }
    }
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

/// Notes in the registry that this node has taken its place.
async fn admit(context: &Arc<Context>, meta: &RaftGroup) {
    let incarnation = context.incarnation();
    let leadership = meta.leads();
    match leadership.leader {
        Some(leader) if leader == context.local() => {
            admit_here(context.local(), incarnation, meta).await;
        }
        Some(leader) => {
            ask(context, leader, &NodeRequest::Admit { incarnation }).await;
        }
        None => {}
    }
}

async fn admit_here(node: NodeId, incarnation: u32, meta: &RaftGroup) -> NodeAnswer {
    let command = MetaCommand::Admit { node, incarnation, disk: None, token: None };
    match meta.write(command.encode()).await {
        Ok(EntryAnswer::Meta(MetaOutcome::Done)) => NodeAnswer::Done,
        _ => NodeAnswer::NotLeader(meta.leads().leader),
    }
}

/// Answers a peer's question.
pub(crate) async fn answer(
    context: &Arc<Context>,
    from: NodeId,
    request: NodeRequest,
) -> Option<NodeAnswer> {
    let meta = context.group(META)?;
    match request {
        NodeRequest::Probe => {
            let topology = context.topology();
            let member = topology.as_ref().map(|topology| topology.member(from));
            let probe = match member {
                Some(Some(member)) if member.admitted => Probe::AskerAdmitted,
                Some(_) => Probe::Formed,
                None if meta.log.is_pristine() => Probe::Empty,
                None => Probe::Forming,
            };
            Some(NodeAnswer::Probe(probe))
        }
        NodeRequest::Admit { incarnation } => Some(admit_here(from, incarnation, &meta).await),
    }
}

async fn ask(context: &Context, node: NodeId, request: &NodeRequest) -> Option<NodeAnswer> {
    let deadline = Instant::now() + ASK_DEADLINE;
    let request = node_wire::encode(request);
    let answer = context.network.call(node, Lane::Urgent, request, deadline).await.ok()?;
    node_wire::decode(&answer)
}
