//! The way to the registry: commands go to whoever leads the meta group, from any node.

use std::{sync::Arc, time::Duration};

use heliograph_transport::{CallError, Lane, NodeId};
use tokio::time::Instant;

use crate::{
    ProposeError,
    context::{Context, META},
    join_token::JoinToken,
    meta::{MetaCommand, MetaOutcome},
    node_wire::{self, NodeAnswer, NodeRequest},
    raft::EntryAnswer,
    topology::Topology,
};

/// How long one question to a peer may take.
const ASK_DEADLINE: Duration = Duration::from_secs(2);
/// How many nodes are asked for the leader in one try: the members of a meta group, and one more.
const ASKED_MAX: usize = 8;

/// What came of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Told {
    /// It is applied, with this outcome.
    Applied(MetaOutcome),
    /// Certainly nothing was done: nobody leads.
    NotDone,
    /// It may or may not be done.
    Unknown,
}

/// Brings `command` to the leader of meta. Commands may be repeated.
pub(crate) async fn tell(context: &Arc<Context>, command: &MetaCommand, deadline: Instant) -> Told {
    let request = NodeRequest::Registry { command: command.encode().to_vec() };
    match ask_leader(context, request, deadline).await {
        Ok(NodeAnswer::Registry(outcome)) => Told::Applied(outcome),
        Err(Unheard::Unsent) => Told::NotDone,
        Ok(_) | Err(Unheard::Unknown) => Told::Unknown,
    }
}

/// Why a question has no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unheard {
    /// It reached nobody who would do something about it.
    Unsent,
    /// Perhaps it was heard.
    Unknown,
}

/// Asks a peer's node.
pub(crate) async fn ask(
    context: &Context,
    node: NodeId,
    request: &NodeRequest,
    deadline: Instant,
) -> Result<NodeAnswer, Unheard> {
    let deadline = deadline.min(Instant::now() + ASK_DEADLINE);
    let request = node_wire::encode(request);
    let unheard = |error: CallError| match error.is_unsent() {
        true => Unheard::Unsent,
        false => Unheard::Unknown,
    };
    let answer = context.network.call(node, Lane::Urgent, request, deadline).await;
    node_wire::decode(&answer.map_err(unheard)?).ok_or(Unheard::Unknown)
}

/// Asks whoever leads the meta group, here or elsewhere.
pub(crate) async fn ask_leader(
    context: &Arc<Context>,
    request: NodeRequest,
    deadline: Instant,
) -> Result<NodeAnswer, Unheard> {
    let local = context.local();
    let mut next = context.group(META).and_then(|meta| meta.leads().leader);
    let mut others = context.peers().into_iter().map(|(node, _)| node);
    let mut unheard = Unheard::Unsent;
    for _ in 0..ASKED_MAX {
        let Some(node) = next.take().or_else(|| others.next()) else { break };
        let answer = match node == local {
            true => serve(context, local, request.clone()).await.ok_or(Unheard::Unknown),
            false => ask(context, node, &request, deadline).await,
        };
        match answer {
            Ok(NodeAnswer::NotLeader(hint)) => next = hint.filter(|hint| *hint != node),
            Ok(NodeAnswer::LeaderAt { node: leader, address }) => {
                context.meet(leader, address);
                next = Some(leader).filter(|leader| *leader != node);
            }
            Ok(answer) => return Ok(answer),
            Err(Unheard::Unsent) => {}
            // Whoever asks may be told twice: nothing that is said here may not be repeated.
            Err(Unheard::Unknown) => unheard = Unheard::Unknown,
        }
        if Instant::now() >= deadline {
            break;
        }
    }
    Err(unheard)
}

/// Answers what is asked of the leader of meta.
pub(crate) async fn serve(
    context: &Arc<Context>,
    from: NodeId,
    request: NodeRequest,
) -> Option<NodeAnswer> {
    match request {
        NodeRequest::Probe => None,
        NodeRequest::Join { disk, token } => join(context, from, disk, token).await,
        NodeRequest::Registry { command } => {
            // Bytes that are no command never enter the log.
            let command = MetaCommand::decode(&command)?;
            let topology = context.topology();
            let member = topology.as_ref().and_then(|topology| topology.member(from));
            if topology.is_some() && !member.is_some_and(|member| member.admitted) {
                // Who was only invited has no say yet.
                return Some(NodeAnswer::Registry(MetaOutcome::NotAdmitted(from)));
            }
            propose(context, &command).await
        }
    }
}

async fn join(
    context: &Arc<Context>,
    node: NodeId,
    disk: [u8; 16],
    token: Option<JoinToken>,
) -> Option<NodeAnswer> {
    // This node's registry may be older than the leader's: then the command is refused.
    let Some(topology) = context.topology() else { return Some(NodeAnswer::NotLeader(None)) };
    let incarnation = topology.member(node).map_or(0, |member| member.incarnation);
    let token = token.map(|token| token.hash());
    let command = MetaCommand::Admit { node, incarnation, disk: Some(disk), token };
    match propose(context, &command).await? {
        NodeAnswer::Registry(MetaOutcome::Done) => {}
        NodeAnswer::NotLeader(Some(leader)) => return Some(leader_at(&topology, leader)),
        other => return Some(other),
    }
    let replica = context.topology()?.meta.replica_of(node)?;
    Some(NodeAnswer::Joined { meta: replica.incarnation })
}

/// Where the leader is, as far as the registry here tells.
fn leader_at(topology: &Topology, leader: NodeId) -> NodeAnswer {
    match topology.member(leader) {
        Some(member) => NodeAnswer::LeaderAt { node: leader, address: member.address.clone() },
        None => NodeAnswer::NotLeader(Some(leader)),
    }
}

/// Proposes as the leader of meta; `None` when it is unknown what came of it.
async fn propose(context: &Context, command: &MetaCommand) -> Option<NodeAnswer> {
    let Some(meta) = context.group(META) else { return Some(NodeAnswer::NotLeader(None)) };
    match meta.write(command.encode()).await {
        Ok(EntryAnswer::Meta(outcome)) => Some(NodeAnswer::Registry(outcome)),
        Err(ProposeError::NotLeader { .. }) => Some(NodeAnswer::NotLeader(meta.leads().leader)),
        _ => None,
    }
}
