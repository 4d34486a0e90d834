//! Which groups have lost their quorum and what becomes of them. Pure.

use std::collections::BTreeSet;

use heliograph_storage::GroupId;
use heliograph_transport::NodeId;
use serde::Serialize;

use super::{Holding, RecoveryError, Survey};
use crate::{
    context::META,
    inspect::group_name,
    raft::{incarnation_of, node_of},
};

/// How far above every term that survivors have heard of the forced term is: lost nodes that were
/// alone may have counted on in vain elections, and one term never has two leaders.
const TERMS_ABOVE: u64 = 1_000;

/// What becomes of one group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct GroupPlan {
    /// `meta` or `shard 3`.
    pub name: String,
    /// The group.
    #[serde(skip)]
    pub group: GroupId,
    /// Whether it has lost its quorum: then its voters are the survivors from now on.
    pub lost_quorum: bool,
    /// The survivor with the longest log: what it holds is what is kept.
    pub kept_from: NodeId,
    /// The voters that survive.
    pub survivors: Vec<NodeId>,
    /// The voters that are lost.
    pub lost: Vec<NodeId>,
    /// The term of the forced entry.
    pub forced_term: u64,
    /// What each survivor holds, the longest log first.
    pub holdings: Vec<Holding>,
    /// The survivors' Raft ids.
    #[serde(skip)]
    pub(super) voters: BTreeSet<u64>,
    /// Surviving replicas without a vote, by Raft id.
    #[serde(skip)]
    pub(super) learners: BTreeSet<u64>,
}

/// What becomes of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RecoveryPlan {
    /// The nodes that go on.
    pub survivors: Vec<NodeId>,
    /// The nodes that are struck out for ever.
    pub removed: Vec<NodeId>,
    /// Meta first, then the shards.
    pub groups: Vec<GroupPlan>,
}

impl RecoveryPlan {
    /// The groups that have lost their quorum.
    pub fn lost(&self) -> impl Iterator<Item = &GroupPlan> {
        self.groups.iter().filter(|group| group.lost_quorum)
    }

    /// What becomes of the registry.
    pub(super) fn meta(&self) -> &GroupPlan {
        &self.groups[0]
    }
}

/// Plans the recovery of a cluster of which `survivors` are left.
///
/// # Errors
/// When it is not needed, or not possible.
pub fn plan(survey: &Survey, survivors: &[NodeId]) -> Result<RecoveryPlan, RecoveryError> {
    let topology = &survey.topology;
    if let Some(stranger) = survivors.iter().find(|node| topology.member(**node).is_none()) {
        return Err(RecoveryError::Stranger(*stranger));
    }
    let removed = topology.members.iter().map(|member| member.id);
    let removed: Vec<_> = removed.filter(|node| !survivors.contains(node)).collect();
    let shards = topology.shards().map(crate::context::group_of);
    let groups: Result<Vec<_>, _> = std::iter::once(META)
        .chain(shards)
        .map(|group| group_plan(group, survey.groups.get(&group)))
        .collect();
    let plan = RecoveryPlan { survivors: survivors.to_vec(), removed, groups: groups? };
    if plan.lost().next().is_none() {
        return Err(RecoveryError::NothingLost);
    }
    if !plan.meta().lost_quorum && elects_without_the_kept(plan.meta()) {
        return Err(RecoveryError::RegistryTooWhole);
    }
    Ok(plan)
}

fn group_plan(group: GroupId, holdings: Option<&Vec<Holding>>) -> Result<GroupPlan, RecoveryError> {
    let no_survivor = || RecoveryError::NoSurvivor { group: group_name(group) };
    let holdings = holdings.ok_or_else(no_survivor)?;
    // Who has no vote by its own word was never part of a quorum: what it holds may be old.
    let votes = |h: &&Holding| h.voters.iter().flatten().any(|voter| node_of(*voter) == h.node);
    let best = holdings.iter().find(votes).ok_or_else(no_survivor)?;
    let holders: BTreeSet<NodeId> = holdings.iter().map(|holding| holding.node).collect();
    let survives = |replica: &u64| holders.contains(&node_of(*replica));
    let all: BTreeSet<u64> = best.voters.iter().flatten().copied().collect();
    let voters: BTreeSet<u64> = all.iter().copied().filter(survives).collect();
    let term = holdings.iter().map(|holding| holding.term).max().unwrap_or(0);
    let lost: BTreeSet<NodeId> =
        all.iter().filter(|replica| !survives(replica)).map(|replica| node_of(*replica)).collect();
    Ok(GroupPlan {
        name: group_name(group),
        group,
        lost_quorum: !is_quorum(&best.voters, &voters),
        kept_from: best.node,
        survivors: voters.iter().map(|replica| node_of(*replica)).collect(),
        lost: lost.into_iter().collect(),
        forced_term: term + TERMS_ABOVE,
        learners: best.learners.iter().copied().filter(survives).collect(),
        holdings: holdings.clone(),
        voters,
    })
}

/// Whether `present` are a majority of each set of voters.
fn is_quorum(voters: &[BTreeSet<u64>], present: &BTreeSet<u64>) -> bool {
    voters.iter().all(|set| set.intersection(present).count() > set.len() / 2)
}

/// Whether the survivors of a group could elect a leader without the one whose log is written to:
/// what is written there could then be outvoted.
fn elects_without_the_kept(group: &GroupPlan) -> bool {
    let mut others = group.voters.clone();
    others.retain(|replica| node_of(*replica) != group.kept_from);
    let best = group.holdings.iter().find(|holding| holding.node == group.kept_from);
    best.is_some_and(|best| is_quorum(&best.voters, &others))
}

impl GroupPlan {
    /// The surviving voters: node and incarnation.
    pub(super) fn replicas(&self) -> Vec<(NodeId, u32)> {
        self.voters.iter().map(|voter| (node_of(*voter), incarnation_of(*voter))).collect()
    }
}

#[cfg(test)]
#[path = "plan_test.rs"]
mod tests;
