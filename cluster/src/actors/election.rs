//! Who leads: elections after a death and after a start, and the handing over of leadership (design
//! decision 3).

use std::{sync::Arc, time::Duration};

use heliograph_transport::NodeId;
use openraft::async_runtime::WatchReceiver;
use tokio::time::Instant;

use crate::{
    context::{Context, Transfer},
    member::Member,
    metrics,
    raft::{RaftGroup, node_of},
    replica::Placement,
    shard_handle::Role,
    topology::Topology,
};

/// The first-ranked follower runs after this: its peers have heard of the death as well by then.
const FIRST_RUN: Duration = Duration::from_millis(15);
/// Each further rank waits this much longer (design decision 3).
const RANK_STEP: Duration = Duration::from_millis(150);
/// How often a follower runs before it leaves the matter to Raft's own timeouts.
const RUNS_MAX: u32 = 4;
/// After a start, followers wait this long for a living leader to be heard before they run. Longer
/// than a leader's licence (`FENCE_LEASE`, a second) lasts on what this node may have answered
/// before it went down, and twice as long as heartbeats are apart.
const START_PAUSE: Duration = Duration::from_millis(1100);
/// A preferred leader this many entries behind is not ready yet.
const BALANCE_LAG_MAX: u64 = 64;
/// A transfer that has not arrived after this is begun anew. It takes a round trip and an election:
/// some milliseconds.
const TRANSFER_PATIENCE: Duration = Duration::from_millis(700);

/// Ends a dead leader's lease on this follower and runs for leader when its turn comes.
pub(crate) async fn replace_leader(context: Arc<Context>, group: Arc<RaftGroup>, dead: NodeId) {
    if context.stopping.is_cancelled() {
        return;
    }
    group.forget_lease().await;
    if context.fitness.is_unfit() {
        return; // it votes for others, where it can
    }
    let Some(rank) = rank(&context, &group, Some(dead)) else { return };
    let mut pause = FIRST_RUN + RANK_STEP * rank;
    for _ in 0..RUNS_MAX {
        tokio::time::sleep(pause).await;
        let leader = group.leads().leader;
        let is_led = leader.is_some_and(|leader| leader != dead);
        let is_over = group.is_stopped() || context.stopping.is_cancelled();
        if is_led || is_over || context.detector.lock().is_live(dead) {
            return;
        }
        ::metrics::counter!(metrics::ELECTIONS_TOTAL).increment(1);
        group.forget_lease().await;
        group.elect().await;
        pause = RANK_STEP * 2;
    }
}

/// After a start of all nodes nobody leads, and Raft's own timeouts would take seconds to find out:
/// the first in rank runs once it hears a majority. Where a leader lives the others refuse.
pub(crate) async fn after_start(context: Arc<Context>, group: Arc<RaftGroup>) {
    let mut pause = START_PAUSE;
    for _ in 0..RUNS_MAX {
        let term = group.leads().term;
        tokio::time::sleep(pause).await;
        let leads = group.leads();
        let is_led = group.has_heard_a_leader() || leads.term != term;
        if is_led || leads.role != Role::Follower || context.stopping.is_cancelled() {
            return;
        }
        group.forget_lease().await;
        let Some(rank) = rank(&context, &group, None) else { return };
        // Nodes do not start at the same moment: the first in rank gives the others a step, too.
        tokio::time::sleep(RANK_STEP * (rank + 1)).await;
        if group.leads() == leads {
            group.elect().await;
        }
        pause = RANK_STEP * 2;
    }
}

/// Runs for a group that nobody leads, when this node's turn comes. Who knows of no leader has voted
/// for another since the last one, so there is no promise left that a vote could break.
pub(crate) async fn fill_vacancy(context: Arc<Context>, group: Arc<RaftGroup>) {
    let vacant = group.leads();
    let is_over = group.is_stopped() || context.stopping.is_cancelled();
    if vacant.leader.is_some() || is_over || group.log.is_pristine() || context.fitness.is_unfit() {
        return;
    }
    let Some(rank) = rank(&context, &group, None) else { return };
    tokio::time::sleep(FIRST_RUN + RANK_STEP * rank).await;
    if group.leads() == vacant && !context.stopping.is_cancelled() {
        ::metrics::counter!(metrics::ELECTIONS_TOTAL).increment(1);
        group.elect().await;
    }
}

/// This node's place among the live voters of the group; `None` for a node that does not vote. The
/// order begins at the preferred leaders, so that a dead node's shards fall to all others alike.
fn rank(context: &Context, group: &RaftGroup, dead: Option<NodeId>) -> Option<u32> {
    let voters: Vec<NodeId> = group.raft.voter_ids().map(node_of).collect();
    let mut order: Vec<NodeId> = Vec::new();
    if let Some(topology) = context.topology() {
        let placement = topology.placement_of(group.id);
        order.extend(placement.map(Placement::target_nodes).unwrap_or_default());
    }
    order.extend(voters.iter().copied());
    let mut rank = 0;
    let mut counted = Vec::new();
    for node in order {
        if Some(node) == dead || counted.contains(&node) || !voters.contains(&node) {
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

/// Hands leadership to the preferred replica where that one is ready for it. A node that is to lead
/// nothing hands it to any that may.
pub(crate) async fn balance_leaders(context: &Context) {
    let Some(topology) = context.topology() else { return };
    if context.is_draining() || context.fitness.is_unfit() {
        return;
    }
    for group in context.all_groups() {
        let Some(placement) = topology.placement_of(group.id) else { continue };
        let heir = heir(&topology, placement, context.local(), |node| context.may_lead(node));
        if let Some(heir) = heir {
            transfer_if_ready(context, &group, heir).await;
        }
    }
}

/// To whom `local`, if it leads, should hand the group. Pure.
fn heir(
    topology: &Topology,
    placement: &Placement,
    local: NodeId,
    is_ready: impl Fn(NodeId) -> bool,
) -> Option<NodeId> {
    let may_lead = |node: NodeId| topology.member(node).is_some_and(Member::may_lead);
    let mut able = placement.target.iter().filter(|replica| may_lead(replica.node));
    if may_lead(local) {
        // While replicas move the leader stays what it is: it looks after the move.
        let preferred = able.next()?.node;
        let is_other = placement.is_settled() && preferred != local;
        return (is_other && is_ready(preferred)).then_some(preferred);
    }
    // Only a replica that is in place has a vote, and what it takes to lead.
    let mut ready = able.filter(|replica| placement.held.contains(replica));
    ready.find(|replica| is_ready(replica.node)).map(|replica| replica.node)
}

/// Hands leadership to `heir` if this node leads and `heir` lives, votes and is caught up.
pub(crate) async fn transfer_if_ready(context: &Context, group: &RaftGroup, heir: NodeId) {
    let leads = group.leads();
    if leads.role != Role::Acting
        || heir == context.local()
        || !context.detector.lock().is_live(heir)
    {
        return;
    }
    // Only a voter can take over.
    if is_caught_up(group, heir) {
        transfer(context, group, heir, leads.term).await;
    }
}

/// Whether `node`'s replica lacks little of what this leader has.
pub(crate) fn is_caught_up(group: &RaftGroup, node: NodeId) -> bool {
    let Some(raft_id) = group.voter_on(node) else { return false };
    let metrics = group.raft.data_metrics();
    let metrics = metrics.borrow_watched();
    let last = metrics.last_log.map_or(0, |log_id| log_id.index);
    let matched = metrics.replication.as_ref().and_then(|all| all.get(&raft_id).copied());
    matched.flatten().is_some_and(|matched| matched.index + BALANCE_LAG_MAX >= last)
}

async fn transfer(context: &Context, group: &RaftGroup, heir: NodeId, term: u64) {
    let Some(raft_id) = group.voter_on(heir) else { return };
    // The heir may lead at once: from here on this node acts no more.
    group.end_acting(term);
    let begun = Transfer { heir, term, since: Instant::now() };
    context.transfers.lock().insert(group.id, begun);
    if let Err(error) = group.raft.trigger().transfer_leader(raft_id).await {
        tracing::warn!(group = group.id.0, %error, "raft is gone");
    }
}

/// Looks after leaderships on their way: one whose heir died or does not take it goes to another
/// live voter, or once more to the same where there is no other. Otherwise the leader would take no
/// proposals until its followers' timeouts end.
pub(crate) async fn push_transfers(context: &Context) {
    let pending = context.transfers.lock().clone();
    for (id, begun) in pending {
        let Some(group) = context.group(id) else { continue };
        let leads = group.leads();
        match leads.leader {
            Some(leader) if leader == context.local() && leads.term == begun.term => {}
            // The heir is being elected, or takes over.
            _ if !group.has_acting_leader() => continue,
            _ => {
                context.transfers.lock().remove(&id);
                continue;
            }
        }
        let voters = group.raft.voter_ids().map(node_of);
        let mut heirs: Vec<NodeId> = {
            let detector = context.detector.lock();
            voters.filter(|node| detector.is_live(*node)).collect()
        };
        // Those that stay first.
        heirs.sort_by_key(|node| context.neighbours.is_draining(*node));
        if heirs.contains(&begun.heir) && begun.since.elapsed() < TRANSFER_PATIENCE {
            continue;
        }
        let other = heirs.iter().find(|node| **node != begun.heir);
        if let Some(heir) = other.or(heirs.first()) {
            transfer(context, &group, *heir, leads.term).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{member::MemberState, topology::Settings};

    const A: NodeId = NodeId(1);
    const B: NodeId = NodeId(2);
    const C: NodeId = NodeId(3);
    const D: NodeId = NodeId(4);

    /// One shard on A, B and C, of which these are in another state than active.
    fn topology(states: &[(NodeId, MemberState)]) -> Topology {
        let member = |id: NodeId| {
            let state = states.iter().find(|(node, _)| *node == id);
            Member {
                admitted: true,
                state: state.map_or(MemberState::Active, |(_, state)| *state),
                ..Member::first(id, format!("n{id}:7400"), String::new())
            }
        };
        Topology {
            version: 1,
            members: [A, B, C, D].map(member).to_vec(),
            meta: Placement::formed(&[A, B, C]),
            shards: vec![Placement::formed(&[A, B, C])],
            settings: Settings::default(),
            features: 0,
        }
    }

    fn heir_of(topology: &Topology, local: NodeId, dead: &[NodeId]) -> Option<NodeId> {
        heir(topology, &topology.shards[0], local, |node| !dead.contains(&node))
    }

    #[test]
    fn leadership_goes_to_the_first_that_may_lead() {
        let topology = topology(&[]);
        assert_eq!(heir_of(&topology, B, &[]), Some(A));
        assert_eq!(heir_of(&topology, A, &[]), None);
    }

    #[test]
    fn a_draining_node_is_passed_over_and_lets_go() {
        for state in [MemberState::Draining, MemberState::Leaving] {
            let topology = topology(&[(A, state)]);
            assert_eq!(heir_of(&topology, C, &[]), Some(B));
            assert_eq!(heir_of(&topology, A, &[]), Some(B));
            assert_eq!(heir_of(&topology, A, &[B]), Some(C), "it waits for nobody dead");
            assert_eq!(heir_of(&topology, A, &[B, C]), None);
        }
    }

    #[test]
    fn while_replicas_move_the_leader_stays() {
        let mut moving = topology(&[]);
        moving.shards[0].retarget(&[D, A, C]);
        assert_eq!(heir_of(&moving, A, &[]), None);
        moving.shards[0].settle();
        assert_eq!(heir_of(&moving, A, &[]), Some(D));
    }

    #[test]
    fn a_draining_leader_lets_go_even_then_but_to_none_that_arrives() {
        let mut moving = topology(&[(A, MemberState::Draining)]);
        moving.shards[0].retarget(&[D, A, C]);
        assert_eq!(heir_of(&moving, A, &[]), Some(C));
    }
}
