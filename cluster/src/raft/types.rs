//! The types that tie openraft to the relay.

use std::{collections::BTreeSet, fmt};

use bytes::Bytes;
use heliograph_transport::NodeId;
use serde::{Deserialize, Serialize};

use crate::{machine::Outcome, meta::MetaOutcome};

/// The bytes of one log entry: an encoded batch of commands, opaque to Raft. Cloning shares them.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct EntryData(pub(crate) Bytes);

impl fmt::Debug for EntryData {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EntryData({} bytes)", self.0.len())
    }
}

impl fmt::Display for EntryData {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// What applying one entry answers on the node that proposed it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) enum EntryAnswer {
    /// The entry carried no commands.
    #[default]
    None,
    /// One outcome for each command of a shard's batch.
    Shard(Vec<Outcome>),
    /// The outcome of a meta command.
    Meta(MetaOutcome),
}

openraft::declare_raft_types!(
    /// One leader a term, opaque entry bytes, no node data (the registry has the addresses).
    pub(crate) TypeConfig:
        D = EntryData,
        R = EntryAnswer,
        NodeId = u64,
        Node = openraft::EmptyNode,
        Term = u64,
        LeaderId = openraft::impls::leader_id_std::LeaderId<u64, u64>,
        Vote = openraft::impls::Vote<Self::LeaderId>,
        AsyncRuntime = super::runtime::Runtime,
);

pub(crate) type CommittedLeaderId =
    <<TypeConfig as openraft::RaftTypeConfig>::LeaderId as openraft::vote::RaftLeaderId>::Committed;
pub(crate) type LogId = openraft::LogId<CommittedLeaderId>;
pub(crate) type Vote = openraft::impls::Vote<openraft::impls::leader_id_std::LeaderId<u64, u64>>;
pub(crate) type Entry = <TypeConfig as openraft::RaftTypeConfig>::Entry;
pub(crate) type Payload = <TypeConfig as openraft::RaftTypeConfig>::Payload;
pub(crate) type StoredMembership =
    openraft::StoredMembership<CommittedLeaderId, u64, openraft::EmptyNode>;
pub(crate) type SnapshotMeta = openraft::SnapshotMeta<CommittedLeaderId, u64, openraft::EmptyNode>;

/// A replica's Raft id: the node, and how often it began with an empty disk, so that a node that
/// lost its disk never speaks under an id that has voted (design decision 11).
pub(crate) fn raft_id(node: NodeId, incarnation: u32) -> u64 {
    u64::from(node.0) << 32 | u64::from(incarnation)
}

/// A membership that no Raft agreed on: see [`crate::recovery`].
pub(crate) fn forced_membership(
    voters: &BTreeSet<u64>,
    learners: &BTreeSet<u64>,
) -> openraft::Membership<u64, openraft::EmptyNode> {
    openraft::Membership::new_with_defaults(vec![voters.clone()], learners.clone())
}

/// The incarnation of a Raft id.
pub(crate) fn incarnation_of(raft_id: u64) -> u32 {
    u32::try_from(raft_id & 0xFFFF_FFFF).expect("masked to 32 bits")
}

/// The node of a Raft id.
pub(crate) fn node_of(raft_id: u64) -> NodeId {
    NodeId(u16::try_from(raft_id >> 32 & 0xFFFF).expect("masked to 16 bits"))
}
