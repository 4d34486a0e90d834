//! What this node tells of itself.

use heliograph_transport::NodeId;
use openraft::async_runtime::WatchReceiver as _;

use super::wire::{GroupReport, NodeReport};
use crate::{
    context::Context,
    raft::{RaftGroup, offload},
};

/// What a node without space says of itself. Its clients are served through it: load balancers
/// (`/readyz`) are told nothing of it, operators are.
const SHORT: &str = "short of disk space: it takes no new messages and leads nothing";

/// Looks at this node.
pub(crate) async fn report(context: &Context) -> NodeReport {
    let host = std::sync::Arc::clone(&context.config.host);
    let version = host.version().to_owned();
    let disk = offload(move || host.disk()).await;
    let groups = context.all_groups().iter().map(|group| group_report(group)).collect();
    let lacks = context.fitness.is_short().then_some(SHORT);
    let not_ready = context.not_ready_reason().or(lacks).map(str::to_owned);
    let progress = context.controller.progress();
    NodeReport { version, not_ready, disk, groups, progress }
}

fn group_report(group: &RaftGroup) -> GroupReport {
    let leadership = group.leads();
    let acts = group.acting_term().is_some();
    let metrics = group.raft.data_metrics();
    let metrics = metrics.borrow_watched();
    let voters: Vec<u64> = group.raft.voter_ids().collect();
    let replication = metrics.replication.iter().flatten();
    let learners = replication
        .filter(|(id, _)| !voters.contains(id))
        .map(|(id, matching)| (*id, matching.as_ref().map(|log_id| log_id.index)));
    GroupReport {
        group: group.id.0,
        term: leadership.term,
        leader: leadership.leader.filter(|leader| *leader != NodeId(0)),
        acts,
        committed: metrics.local_committed.as_ref().map(|log_id| log_id.index),
        last: metrics.last_log.as_ref().map(|log_id| log_id.index),
        learners: learners.collect(),
    }
}
