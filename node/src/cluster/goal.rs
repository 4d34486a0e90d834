//! When a change is done, as status tells it. Pure.

use heliograph_cluster::{ClusterStatus, GroupStatus, Liveness, NodeId, NodeStatus};

/// What is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Goal {
    /// The node leads nothing.
    LeadsNothing(NodeId),
    /// The node is back and every group has all its voters.
    Whole(NodeId),
    /// The node may lead again.
    Active(NodeId),
    /// The cluster has forgotten the node.
    Forgotten(NodeId),
    /// Every replica is where it should be.
    Balanced,
}

/// How far a goal is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Distance {
    /// How many steps (leaderships, replicas) are left; zero when it is reached.
    pub(super) left: u64,
    /// What the steps are.
    pub(super) what: &'static str,
}

impl Goal {
    /// How far it is.
    pub(super) fn distance(self, status: &ClusterStatus) -> Distance {
        let find = |id: NodeId| status.nodes.iter().find(|node| node.id == id);
        let (left, what) = match self {
            Self::LeadsNothing(id) => (find(id).map_or(0, |node| node.leads.into()), "leaderships"),
            Self::Active(id) => (u64::from(!find(id).is_some_and(is_active)), "node"),
            Self::Whole(id) => {
                let is_away = !find(id).is_some_and(is_back);
                let lacking = status.groups.iter().filter(|group| !is_whole(status, group)).count();
                (u64::from(is_away) + lacking as u64, "groups")
            }
            // Where nobody decides now, somebody soon does.
            Self::Balanced => {
                let left =
                    status.progress.map_or(1, |progress| progress.under_way + progress.to_do);
                (left.into(), "moves")
            }
            Self::Forgotten(id) => {
                let held = status.groups.iter().filter(|group| is_on(group, id)).count() as u64;
                (find(id).map_or(0, |_| held + 1), "replicas")
            }
        };
        Distance { left, what }
    }

    /// The node that still waits to be forgotten although it holds nothing any more.
    pub(super) fn to_forget(self, status: &ClusterStatus) -> Option<NodeId> {
        let Self::Forgotten(id) = self else { return None };
        let is_known = status.nodes.iter().any(|node| node.id == id);
        (is_known && !status.groups.iter().any(|group| is_on(group, id))).then_some(id)
    }
}

fn is_active(node: &NodeStatus) -> bool {
    node.state == heliograph_cluster::NodeState::Active
}

fn is_back(node: &NodeStatus) -> bool {
    node.liveness == Liveness::Live && node.ready && is_active(node)
}

fn is_whole(status: &ClusterStatus, group: &GroupStatus) -> bool {
    let is_moving = status.moves.iter().any(|moving| moving.group == group.id);
    group.leader.is_some() && group.live.len() == group.held.len() && !is_moving
}

fn is_on(group: &GroupStatus, id: NodeId) -> bool {
    group.target.iter().chain(&group.held).any(|replica| replica.node == id)
}
