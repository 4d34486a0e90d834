//! A node of the cluster, as the registry has it.

use heliograph_transport::NodeId;
use serde::{Deserialize, Serialize};

/// Where a node stands in its life as a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MemberState {
    /// The operator has named it; it has not come yet.
    Invited,
    /// It holds replicas and leads shards.
    Active,
    /// It keeps its replicas and leads nothing.
    Draining,
    /// Its replicas move to other nodes; then it can be removed.
    Leaving,
}

/// A node of the cluster, as the registry has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// The node.
    pub id: NodeId,
    /// Where its peers reach it, "host:port": QUIC on UDP, the tripwire on TCP.
    pub address: String,
    /// Counts the disks this node has lost: 0 for its first one.
    pub incarnation: u32,
    /// Whether the node has taken its place with the disk of this incarnation: from then on it
    /// must bring that disk.
    pub admitted: bool,
    /// Where the node stands, in the operator's words; replicas are spread over zones. May be
    /// empty.
    pub zone: String,
    /// Where it stands in its life.
    pub state: MemberState,
    /// BLAKE3 of the one-use token that the node must bring to be admitted.
    #[serde(with = "serde_bytes")]
    pub token: Option<[u8; 32]>,
    /// The mark of the disk with which it was admitted; unknown for members of old.
    #[serde(with = "serde_bytes")]
    pub disk: Option<[u8; 16]>,
}

impl Member {
    /// One of the nodes the cluster is formed of.
    pub fn first(id: NodeId, address: String, zone: String) -> Self {
        Self {
            id,
            address,
            incarnation: 0,
            admitted: false,
            zone,
            state: MemberState::Active,
            token: None,
            disk: None,
        }
    }

    /// A node that the operator has named and that has not come yet.
    pub fn invited(id: NodeId, address: String, zone: String, token: Option<[u8; 32]>) -> Self {
        Self { state: MemberState::Invited, token, ..Self::first(id, address, zone) }
    }

    /// Whether it may lead groups.
    pub fn may_lead(&self) -> bool {
        self.state == MemberState::Active
    }

    /// Whether new replicas may be placed on it.
    pub fn may_hold(&self) -> bool {
        self.admitted && self.state == MemberState::Active
    }
}
