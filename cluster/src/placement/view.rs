//! What the planner is told, and what it answers.

use heliograph_storage::GroupId;
use heliograph_transport::NodeId;

/// Groups that move at a time: each copies its rows once over the bulk connections, and while it
/// does its log cannot be purged. More at a time would not finish sooner.
const MOVING_MAX: usize = 16;
/// Replicas that arrive at one node at a time: one streams while the other catches up.
const INCOMING_MAX: usize = 2;
/// Groups that move at a time only to even the load out, where nobody asked for it to be quick.
const BALANCING_MAX: usize = 2;
/// Preferred leaders changed by one plan: each is a transfer of leadership, some milliseconds
/// without a leader, and must not fall on all shards at once.
const LEADERS_MAX: usize = 8;

/// What a node is to the placement of replicas.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It keeps what it has and takes more.
    Open,
    /// It keeps what it has and takes nothing now: it drains, or has not been heard for a while.
    Keeping,
    /// Its replicas move away; it is to hold nothing.
    Leaving,
    /// It has not been heard for so long that its replicas are made anew elsewhere, where there is
    /// an elsewhere.
    Gone,
}

/// A node as the planner sees it.
#[derive(Clone, Debug)]
pub(crate) struct NodeView {
    pub(crate) id: NodeId,
    pub(crate) zone: String,
    pub(crate) standing: Standing,
    /// Whether it is heard at this moment.
    pub(crate) is_live: bool,
}

/// A Raft group as the planner sees it.
#[derive(Clone, Debug)]
pub(crate) struct GroupView {
    pub(crate) group: GroupId,
    /// How many replicas it should have where there are nodes enough.
    pub(crate) wanted: usize,
    /// What a replica of it counts in its node's load; 0 for meta, which is not balanced.
    pub(crate) weight: usize,
    /// Where its replicas should be, the preferred leader first.
    pub(crate) target: Vec<NodeId>,
    /// Its voters as last reported.
    pub(crate) held: Vec<NodeId>,
    /// Nodes of `target` whose replica is not a voter yet, also where an earlier one of the same
    /// node is.
    pub(crate) arriving: Vec<NodeId>,
    /// Whether the voters are known to be what the target says.
    pub(crate) is_settled: bool,
}

/// All of it.
#[derive(Clone, Debug, Default)]
pub(crate) struct View {
    pub(crate) nodes: Vec<NodeView>,
    pub(crate) groups: Vec<GroupView>,
}

/// How much may move at a time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Groups that move at a time.
    pub(crate) moving: usize,
    /// Of these, such that only even the load out: they begin while no more than this move.
    pub(crate) balancing: usize,
    /// Replicas that arrive at one node at a time.
    pub(crate) incoming: usize,
    /// Preferred leaders changed by one plan.
    pub(crate) leaders: usize,
}

impl Limits {
    /// Repairs go on quickly, evening out does not.
    pub(crate) const PACED: Self = Self {
        moving: MOVING_MAX,
        balancing: BALANCING_MAX,
        incoming: INCOMING_MAX,
        leaders: LEADERS_MAX,
    };
    /// Somebody asked for the load to be evened out now.
    pub(crate) const PROMPT: Self = Self { balancing: MOVING_MAX, ..Self::PACED };
    /// Only what is lost is made anew; nothing moves merely to even the load out.
    pub(crate) const REPAIRS: Self = Self { balancing: 0, leaders: 0, ..Self::PACED };
    /// Everything at once: for a cluster without data, and for counting what is to do.
    pub(crate) const NONE: Self = Self {
        moving: usize::MAX,
        balancing: usize::MAX,
        incoming: usize::MAX,
        leaders: usize::MAX,
    };
}

/// Why a target changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Reason {
    /// A replica's node is gone.
    Replace,
    /// A replica's node is leaving.
    Evacuate,
    /// The group has too few replicas.
    Grow,
    /// The group has too many replicas.
    Shrink,
    /// Its replicas can be spread better over the zones.
    Zones,
    /// A node holds more replicas than others.
    Balance,
    /// A node is the preferred leader of more groups than others.
    Leaders,
}

impl Reason {
    /// Whether voters change, and not only their order.
    pub(crate) fn moves_replicas(self) -> bool {
        self != Self::Leaders
    }

    /// Its name, as a metric's label.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Replace => "replace",
            Self::Evacuate => "evacuate",
            Self::Grow => "grow",
            Self::Shrink => "shrink",
            Self::Zones => "zones",
            Self::Balance => "balance",
            Self::Leaders => "leaders",
        }
    }
}

/// A group's new target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Step {
    pub(crate) group: GroupId,
    pub(crate) target: Vec<NodeId>,
    pub(crate) reason: Reason,
}
