//! What status tells: plain data, the same in JSON as here. Fields are added, never renamed.

use std::fmt;

use heliograph_transport::NodeId;
use serde::{Deserialize, Serialize};

use crate::placement::Progress;

/// The cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterStatus {
    /// 32 hexadecimal digits.
    pub cluster_id: String,
    /// Counts changes of the registry and the shard map.
    pub topology_version: u64,
    /// The node that answers.
    pub answered_by: NodeId,
    /// The worst of what follows.
    pub health: ClusterHealth,
    /// The registered nodes, by id.
    pub nodes: Vec<NodeStatus>,
    /// Meta first, then the shards.
    pub groups: Vec<GroupStatus>,
    /// Replicas on their way to another node.
    pub moves: Vec<MoveStatus>,
    /// How far the cluster is with moving replicas to where they should be; none while nobody
    /// decides that.
    #[serde(default)]
    pub progress: Option<Progress>,
}

/// How the cluster does as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ClusterHealth {
    /// Every group has a leader and all its replicas.
    Healthy,
    /// Every group has a leader; some replica or node is missing.
    Degraded,
    /// Some group has no leader: its mailboxes take nothing.
    Unavailable,
}

impl fmt::Display for ClusterHealth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Healthy => "healthy",
            Self::Degraded => "degraded",
            Self::Unavailable => "unavailable",
        })
    }
}

/// One registered node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeStatus {
    /// Its id.
    pub id: NodeId,
    /// Where its peers reach it.
    pub address: String,
    /// The failure domain it stands in; empty where none was given.
    pub zone: String,
    /// What the registry says of it.
    pub state: NodeState,
    /// Whether it answers.
    pub liveness: Liveness,
    /// For how long the answering node has heard nothing of it, in milliseconds; none while it
    /// is live, or when it was never heard.
    pub silent_ms: Option<u64>,
    /// The release it runs; none when it does not answer.
    pub version: Option<String>,
    /// Whether it serves clients.
    pub ready: bool,
    /// Why it does not; none when it does.
    pub reason: Option<String>,
    /// How many groups it leads.
    pub leads: u32,
    /// How many groups it holds a replica of.
    pub holds: u32,
    /// Bytes free on its data directory's file system.
    pub disk_free_bytes: Option<u64>,
    /// Bytes of its log on disk.
    pub log_bytes: Option<u64>,
}

/// What the registry says of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NodeState {
    /// It may join and has not yet.
    Invited,
    /// It takes its part.
    Active,
    /// It leads nothing and keeps its replicas.
    Draining,
    /// Its replicas move away; then it is removed.
    Leaving,
}

impl fmt::Display for NodeState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Invited => "invited",
            Self::Active => "active",
            Self::Draining => "draining",
            Self::Leaving => "leaving",
        })
    }
}

/// Whether a node answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Liveness {
    /// It answered this question.
    Live,
    /// It did not, and was heard not long ago.
    Suspected,
    /// It has been silent for a while, or was never heard by the answering node.
    Gone,
}

impl fmt::Display for Liveness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Live => "live",
            Self::Suspected => "suspected",
            Self::Gone => "gone",
        })
    }
}

/// One Raft group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupStatus {
    /// 0 is meta, `shard + 1` a shard.
    pub id: u32,
    /// `"meta"` or `"shard 3"`.
    pub name: String,
    /// The node that leads and acts; none while there is none.
    pub leader: Option<NodeId>,
    /// The term in which that node acts.
    #[serde(default)]
    pub acting_term: Option<u64>,
    /// The highest term heard of.
    pub term: u64,
    /// Where the replicas should be, the preferred leader first.
    pub target: Vec<ReplicaStatus>,
    /// Where the voters are, as last committed and reported.
    pub held: Vec<ReplicaStatus>,
    /// Replicas that catch up and do not vote yet.
    pub learners: Vec<LearnerStatus>,
    /// The index up to which the group's log is committed, as far as anybody answers.
    pub commit_index: Option<u64>,
    /// Voters that answered.
    pub live: Vec<NodeId>,
}

/// One replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ReplicaStatus {
    /// Its node.
    pub node: NodeId,
    /// Counts how often it began anew.
    pub incarnation: u32,
}

/// A replica that catches up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LearnerStatus {
    /// Which.
    pub replica: ReplicaStatus,
    /// How many entries it lacks; none before it has answered its leader.
    pub behind_entries: Option<u64>,
}

/// A group whose replicas are not where they should be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MoveStatus {
    /// The group.
    pub group: u32,
    /// Replicas it is to get.
    pub adding: Vec<ReplicaStatus>,
    /// Replicas it is to lose.
    pub removing: Vec<ReplicaStatus>,
    /// The most entries that one of the new replicas lacks; none before it has answered.
    pub behind_entries: Option<u64>,
}

/// What a process tells of its disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskUse {
    /// Bytes free on the data directory's file system.
    pub free_bytes: u64,
    /// Bytes of the log's files.
    pub log_bytes: u64,
}

/// What a node's process knows of itself and of the machine it is on.
pub trait Host: fmt::Debug + Send + Sync + 'static {
    /// The release that runs.
    fn version(&self) -> &str;

    /// How the disk does; none when that cannot be told. Blocks for a few system calls.
    fn disk(&self) -> Option<DiskUse>;
}

/// The host of nodes without a process of their own: in simulations and tests.
#[derive(Debug)]
pub struct NoHost;

impl Host for NoHost {
    fn version(&self) -> &str {
        env!("CARGO_PKG_VERSION")
    }

    fn disk(&self) -> Option<DiskUse> {
        None
    }
}
