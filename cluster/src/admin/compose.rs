//! The cluster's status out of the registry and what its nodes told. Pure.

use std::{collections::BTreeMap, time::Duration};

use heliograph_storage::GroupId;
use heliograph_transport::NodeId;

use super::{
    types::{
        ClusterHealth, ClusterStatus, GroupStatus, LearnerStatus, Liveness, MoveStatus, NodeState,
        NodeStatus, ReplicaStatus,
    },
    wire::{GroupReport, NodeReport},
};
use crate::{
    context::{META, group_of},
    inspect::group_name,
    member::{Member, MemberState},
    placement::Progress,
    raft::{incarnation_of, node_of},
    replica::{Placement, Replica},
    topology::Topology,
};

/// A node that was silent for longer is called gone: longer than a restart takes.
const GONE_AFTER: Duration = Duration::from_secs(30);

/// What is known of one node.
#[derive(Clone, Debug, Default)]
pub(crate) struct Heard {
    /// What it told just now.
    pub(crate) report: Option<NodeReport>,
    /// For how long it has been silent; none when it was never heard.
    pub(crate) silence: Option<Duration>,
}

/// All that is known.
#[derive(Debug)]
pub(crate) struct Known<'a> {
    pub(crate) cluster_id: [u8; 16],
    pub(crate) asked: NodeId,
    pub(crate) topology: &'a Topology,
    pub(crate) heard: BTreeMap<NodeId, Heard>,
}

/// Composes the status.
pub(crate) fn compose(known: &Known<'_>) -> ClusterStatus {
    let groups = groups(known);
    let members = known.topology.members.iter();
    let mut nodes: Vec<_> = members.map(|member| node(known, member, &groups)).collect();
    // The registry has them as they came.
    nodes.sort_by_key(|node| node.id);
    let moves: Vec<_> = groups.iter().filter_map(move_of).collect();
    ClusterStatus {
        cluster_id: hex::encode(known.cluster_id),
        topology_version: known.topology.version,
        answered_by: known.asked,
        health: health(&nodes, &groups, &moves),
        progress: progress(known, &groups),
        nodes,
        groups,
        moves,
    }
}

/// What the leader of meta told.
fn progress(known: &Known<'_>, groups: &[GroupStatus]) -> Option<Progress> {
    let leader = groups.first()?.leader?;
    known.heard.get(&leader)?.report.as_ref()?.progress
}

fn health(nodes: &[NodeStatus], groups: &[GroupStatus], moves: &[MoveStatus]) -> ClusterHealth {
    if groups.iter().any(|group| group.leader.is_none()) {
        return ClusterHealth::Unavailable;
    }
    let is_missed = |node: &NodeStatus| {
        let is_expected = matches!(node.state, NodeState::Active | NodeState::Draining);
        is_expected && (node.liveness != Liveness::Live || !node.ready)
    };
    let lacks_a_voter = |group: &GroupStatus| group.live.len() < group.held.len();
    match nodes.iter().any(is_missed) || groups.iter().any(lacks_a_voter) || !moves.is_empty() {
        true => ClusterHealth::Degraded,
        false => ClusterHealth::Healthy,
    }
}

fn groups(known: &Known<'_>) -> Vec<GroupStatus> {
    let topology = known.topology;
    let meta = group(known, META, &topology.meta);
    let shards = topology
        .shards()
        .zip(&topology.shards)
        .map(|(shard, placement)| group(known, group_of(shard), placement));
    std::iter::once(meta).chain(shards).collect()
}

fn group(known: &Known<'_>, group: GroupId, placement: &Placement) -> GroupStatus {
    let (id, name) = (group.0, group_name(group));
    let replicas = |replicas: &[Replica]| -> Vec<ReplicaStatus> {
        let status = |one: &Replica| ReplicaStatus { node: one.node, incarnation: one.incarnation };
        replicas.iter().map(status).collect()
    };
    let (target, held) = (replicas(&placement.target), replicas(&placement.held));
    let reports: Vec<(NodeId, &GroupReport)> = known
        .heard
        .iter()
        .filter_map(|(node, heard)| {
            let groups = &heard.report.as_ref()?.groups;
            Some((*node, groups.iter().find(|group| group.group == id)?))
        })
        .collect();
    let leader = reports.iter().filter(|(_, report)| report.acts).max_by_key(|(_, r)| r.term);
    let learners = leader.map_or_else(Vec::new, |(_, report)| learners(report));
    let is_held = |node: NodeId| held.iter().any(|replica| replica.node == node);
    GroupStatus {
        id,
        name,
        leader: leader.map(|(node, _)| *node),
        acting_term: leader.map(|(_, report)| report.term),
        term: reports.iter().map(|(_, report)| report.term).max().unwrap_or(0),
        learners,
        commit_index: reports.iter().filter_map(|(_, report)| report.committed).max(),
        live: reports.iter().map(|(node, _)| *node).filter(|node| is_held(*node)).collect(),
        target,
        held,
    }
}

fn learners(leader: &GroupReport) -> Vec<LearnerStatus> {
    let learner = |(id, matching): &(u64, Option<u64>)| LearnerStatus {
        replica: ReplicaStatus { node: node_of(*id), incarnation: incarnation_of(*id) },
        behind_entries: matching
            .map(|matching| leader.last.unwrap_or(matching).saturating_sub(matching)),
    };
    leader.learners.iter().map(learner).collect()
}

fn move_of(group: &GroupStatus) -> Option<MoveStatus> {
    let lacking = |of: &[ReplicaStatus], all: &[ReplicaStatus]| -> Vec<ReplicaStatus> {
        all.iter().filter(|replica| !of.contains(replica)).copied().collect()
    };
    let adding = lacking(&group.held, &group.target);
    let removing = lacking(&group.target, &group.held);
    if adding.is_empty() && removing.is_empty() {
        return None;
    }
    let behind: Option<Vec<u64>> = adding
        .iter()
        .map(|replica| {
            let learner = group.learners.iter().find(|learner| learner.replica == *replica);
            learner.and_then(|learner| learner.behind_entries)
        })
        .collect();
    let behind_entries = behind.map(|behind| behind.into_iter().max().unwrap_or(0));
    Some(MoveStatus { group: group.id, adding, removing, behind_entries })
}

fn node(known: &Known<'_>, member: &Member, groups: &[GroupStatus]) -> NodeStatus {
    let heard = known.heard.get(&member.id).cloned().unwrap_or_default();
    let liveness = match (&heard.report, heard.silence) {
        (Some(_), _) => Liveness::Live,
        (None, Some(silence)) if silence < GONE_AFTER => Liveness::Suspected,
        (None, _) => Liveness::Gone,
    };
    let silence = heard.silence.filter(|_| liveness != Liveness::Live);
    let count = |is: &dyn Fn(&GroupStatus) -> bool| {
        u32::try_from(groups.iter().filter(|group| is(group)).count()).unwrap_or(u32::MAX)
    };
    let disk = heard.report.as_ref().and_then(|report| report.disk);
    let reason = match &heard.report {
        Some(report) => report.not_ready.clone(),
        None => Some("it does not answer".to_owned()),
    };
    NodeStatus {
        id: member.id,
        address: member.address.clone(),
        zone: member.zone.clone(),
        state: match member.state {
            _ if !member.admitted => NodeState::Invited,
            MemberState::Invited => NodeState::Invited,
            MemberState::Active => NodeState::Active,
            MemberState::Draining => NodeState::Draining,
            MemberState::Leaving => NodeState::Leaving,
        },
        liveness,
        silent_ms: silence.map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX)),
        ready: reason.is_none(),
        reason,
        leads: count(&|group| group.leader == Some(member.id)),
        holds: count(&|group| group.held.iter().any(|replica| replica.node == member.id)),
        disk_free_bytes: disk.map(|disk| disk.free_bytes),
        log_bytes: disk.map(|disk| disk.log_bytes),
        version: heard.report.map(|report| report.version),
    }
}

#[cfg(test)]
#[path = "compose_test.rs"]
mod tests;
