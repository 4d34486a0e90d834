//! Why the cluster did not do what its operator asked.

use heliograph_transport::NodeId;

/// Why the cluster did not do what its operator asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AdminError {
    /// There is no cluster yet: its first members have not found together.
    #[error(
        "this node knows no formed cluster yet: start all of its first members, or wait until it has joined"
    )]
    NotFormed,
    /// Nobody leads the registry: nothing was done.
    #[error(
        "the registry has no leader, nothing was done: bring a majority of its nodes back, then repeat"
    )]
    NoLeader,
    /// The leader was lost on the way.
    #[error("it is unknown whether it was done: look at the status, then repeat")]
    Unknown,
    /// The registry has no such node.
    #[error("the cluster has no node {0}: see the status for those it has")]
    UnknownNode(NodeId),
    /// The node has joined before.
    #[error(
        "this node has joined already: `replace` lets it come with an empty disk, `remove` takes it out"
    )]
    AlreadyMember,
    /// Another node has the address.
    #[error("node {0} has this address: each node needs its own")]
    AddressTaken(NodeId),
    /// Too few replicas would know what was accepted.
    #[error(
        "group {0} would be left without a majority that knows what was accepted: bring its other nodes back first"
    )]
    WouldLoseMajority(u32),
    /// The node holds something still.
    #[error("the node still holds a replica of group {0}: wait until it has moved away")]
    StillHolds(u32),
    /// The node is invited and has not come.
    #[error("the node has not joined yet: start it with its token, or `remove` it")]
    NotJoined,
    /// There is no such group.
    #[error("the cluster has no group {0}: 0 is its registry, then come its shards")]
    UnknownGroup(u32),
    /// Nobody led the group in time.
    #[error("group {0} has no leader: bring a majority of its nodes back, then repeat")]
    GroupWithoutLeader(u32),
    /// The leader's disk did not take the copy.
    #[error("node {node} cannot write a copy: {reason}")]
    CopyFailed {
        /// Which.
        node: NodeId,
        /// Why.
        reason: std::sync::Arc<str>,
    },
    /// Newer ones took its place, or the node is gone.
    #[error("node {node} does not keep that copy of group {group} any more: ask for a new one")]
    CopyGone {
        /// Of which group.
        group: u32,
        /// Who kept it.
        node: NodeId,
    },
    /// Something else changed at the same time, or does not fit.
    #[error("the registry has changed meanwhile: look at the status, then repeat")]
    Conflict,
    /// Node ids begin with 1.
    #[error("a node id is a number from 1 to 65535")]
    NodeIdZero,
    /// Not host:port.
    #[error("the address must be host:port, for example relay-4.example.org:7400")]
    Address,
    /// Too long, or with control characters.
    #[error("a zone is a word of at most 64 bytes")]
    Zone,
}

impl AdminError {
    /// Whether the same request may succeed later.
    pub fn is_retryable(&self) -> bool {
        matches!(
            self,
            Self::NotFormed
                | Self::NoLeader
                | Self::Unknown
                | Self::StillHolds(_)
                | Self::GroupWithoutLeader(_)
                | Self::CopyGone { .. }
        )
    }
}
