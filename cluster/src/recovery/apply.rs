//! Writes a plan into the survivors' logs.

use std::sync::Arc;

use openraft::EntryPayload;

use super::{GroupPlan, RecoveryError, RecoveryPlan, Survivor, survey::storage_error};
use crate::{
    context::META,
    meta::MetaCommand,
    raft::{EntryData, GroupLog, Payload, forced_membership, raft_id},
    replica::Replica,
};

/// Writes `plan`. Groups first, the registry last: where this is interrupted it can be repeated,
/// with a plan made anew.
///
/// # Errors
/// When a log cannot be written.
pub async fn apply(plan: &RecoveryPlan, survivors: &[Survivor]) -> Result<(), RecoveryError> {
    for group in plan.lost().filter(|group| group.group != META) {
        write(group, survivors, vec![membership(group)]).await?;
    }
    let meta = plan.meta();
    let command = MetaCommand::Recover {
        removed: plan.removed.clone(),
        groups: plan.lost().map(|group| (group.group, replicas(group))).collect(),
    };
    let command = EntryPayload::Normal(EntryData(command.encode()));
    let entries = match meta.lost_quorum {
        true => vec![membership(meta), command],
        false => vec![command],
    };
    write(meta, survivors, entries).await
}

fn replicas(group: &GroupPlan) -> Vec<Replica> {
    let replica = |(node, incarnation)| Replica { node, incarnation };
    group.replicas().into_iter().map(replica).collect()
}

fn membership(group: &GroupPlan) -> Payload {
    EntryPayload::Membership(forced_membership(&group.voters, &group.learners))
}

async fn write(
    group: &GroupPlan,
    survivors: &[Survivor],
    payloads: Vec<Payload>,
) -> Result<(), RecoveryError> {
    let node = group.kept_from;
    let survivor = survivors.iter().find(|survivor| survivor.node == node);
    let survivor = survivor.expect("plans keep what survivors hold");
    let replica = group.replicas().into_iter().find(|(holder, _)| *holder == node);
    let (_, incarnation) = replica.expect("the kept log is a voter's");
    let log = GroupLog::new(Arc::clone(&survivor.storages.log), group.group, incarnation);
    log.force(raft_id(node, incarnation), group.forced_term, payloads)
        .await
        .map_err(|error| storage_error(node, group.group, &error))
}
