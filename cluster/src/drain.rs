//! Going away: no leadership comes to a draining node, and those it has go to nodes that stay.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use heliograph_transport::NodeId;
use tokio::time::Instant;

use crate::{
    actors::{election, pulse},
    context::Context,
    raft::{RaftGroup, node_of},
};

/// How often to look whether the heirs have taken over.
const LOOK: Duration = Duration::from_millis(20);
/// A leadership that has not moved after this is offered anew, to another heir where there is
/// one. A transfer takes a round trip, a flush and an election: some milliseconds; meanwhile the
/// shard takes no proposals, so this is a part of the second that a request may wait.
const OFFER_PATIENCE: Duration = Duration::from_millis(250);

/// From here on this node is not ready, and its peers know that it goes away.
pub(crate) fn begin(context: &Context) {
    if !context.is_draining.swap(true, Ordering::Relaxed) {
        tracing::info!("draining: leaderships and clients move to other nodes");
        pulse::send_beat(context);
    }
}

/// Moves all leaderships away; answers how many are left when none is or the deadline has come. One
/// that nobody has taken yet is left: who goes before its heir is elected takes a vote along.
pub(crate) async fn hand_over(context: &Arc<Context>, deadline: Instant) -> usize {
    let mut offers = 0;
    loop {
        let led = offer_all(context, offers).await;
        if led == 0 || Instant::now() >= deadline {
            return led;
        }
        offers += 1;
        tokio::time::sleep(LOOK).await;
    }
}

/// Offers each leadership of this node to an heir, unless that is under way; answers how many this
/// node has, or had and nobody has yet.
async fn offer_all(context: &Context, round: usize) -> usize {
    let mut led = 0;
    for group in context.all_groups() {
        let leads = group.leads();
        let heirs = heirs(context, &group);
        if heirs.is_empty() {
            // Nobody else could lead: what this node leads ends with it.
            continue;
        }
        let offered = context.transfers.lock().get(&group.id).copied();
        match leads.leader {
            Some(leader) if leader == context.local() => led += 1,
            // Its entry of the new term may need this node's disk for a majority.
            _ if offered.is_some() && !group.has_acting_leader() => {
                led += 1;
                continue;
            }
            _ => continue,
        }
        let offered = offered.filter(|transfer| transfer.term == leads.term);
        if offered.is_some_and(|transfer| transfer.since.elapsed() < OFFER_PATIENCE) {
            continue;
        }
        let first = group.id.0 as usize + round;
        let order = heirs.iter().cycle().skip(first % heirs.len()).take(heirs.len());
        let mut ready = order.filter(|heir| election::is_caught_up(&group, **heir));
        let last = offered.map(|transfer| transfer.heir);
        let heir = ready.clone().find(|heir| Some(**heir) != last).or_else(|| ready.next());
        if let Some(heir) = heir {
            election::transfer_if_ready(context, &group, *heir).await;
        }
    }
    led
}

/// The voters that live, stay and have space. A node that goes away takes whoever lives where there
/// is none such; one that is short of space stays what it is: the others are as short as itself, and
/// it would go round and round.
fn heirs(context: &Context, group: &RaftGroup) -> Vec<NodeId> {
    let voters = group.raft.voter_ids().map(node_of);
    let others: Vec<NodeId> = voters.filter(|node| *node != context.local()).collect();
    let stay: Vec<NodeId> = others.iter().copied().filter(|node| context.may_lead(*node)).collect();
    if !stay.is_empty() || !context.is_draining() {
        return stay;
    }
    let detector = context.detector.lock();
    others.into_iter().filter(|node| detector.is_live(*node)).collect()
}
