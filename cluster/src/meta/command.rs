//! What the meta group's log says.

use bytes::{BufMut, Bytes, BytesMut};
use heliograph_storage::GroupId;
use heliograph_transport::NodeId;
use serde::{Deserialize, Serialize};

use super::version_one;
use crate::{member::MemberState, replica::Replica, topology::Topology};

/// Leads every encoded command; below 0x80, which marks memberships.
const VERSION: u8 = 2;

/// A change to the meta group. New variants go at the end.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum MetaCommand {
    /// Forms the cluster. Does nothing in a formed one.
    Bootstrap(Box<Topology>),
    /// Names a node that may join. Naming one again that has not come yet replaces its token.
    Invite {
        /// The node.
        node: NodeId,
        /// Where its peers will reach it.
        address: String,
        /// Where it will stand.
        zone: String,
        /// BLAKE3 of the token it must bring; none where the cluster's CA vouches for it.
        #[serde(with = "serde_bytes")]
        token: Option<[u8; 32]>,
    },
    /// The node has taken its place: from now on it must bring its disk. Repeating it changes
    /// nothing.
    Admit {
        /// The node.
        node: NodeId,
        /// Its incarnation.
        incarnation: u32,
        /// The mark of its disk.
        #[serde(with = "serde_bytes")]
        disk: Option<[u8; 16]>,
        /// BLAKE3 of the token it brought.
        #[serde(with = "serde_bytes")]
        token: Option<[u8; 32]>,
    },
    /// Sets where a group's replicas should be; the registry numbers the new ones.
    SetTarget {
        /// The group.
        group: GroupId,
        /// The nodes, the preferred leader first.
        target: Vec<NodeId>,
        /// The placement's count of changes when this was decided.
        expected_changes: u64,
    },
    /// The group's membership is the target of this count of changes.
    Settled {
        /// The group.
        group: GroupId,
        /// The placement's count of changes.
        changes: u64,
    },
    /// A replica is damaged and begins anew, with a vote once it has caught up.
    Reseed {
        /// Whose.
        node: NodeId,
        /// Of which group.
        group: GroupId,
        /// The damaged replica's incarnation.
        incarnation: u32,
    },
    /// The node has lost its disk: all its replicas begin anew once it comes with an empty one.
    Replace {
        /// The node.
        node: NodeId,
        /// BLAKE3 of the token it must bring.
        #[serde(with = "serde_bytes")]
        token: Option<[u8; 32]>,
    },
    /// Changes where an admitted node stands in its life.
    SetState {
        /// The node.
        node: NodeId,
        /// `Active`, `Draining` or `Leaving`.
        state: MemberState,
    },
    /// Forgets a node that holds nothing any more.
    Remove {
        /// The node.
        node: NodeId,
    },
    /// The node moved.
    SetAddress {
        /// The node.
        node: NodeId,
        /// Where its peers reach it now.
        address: String,
    },
    /// The node stands elsewhere.
    SetZone {
        /// The node.
        node: NodeId,
        /// Its zone.
        zone: String,
    },
    /// An operator has formed new quorums out of what was left. Only ever written by
    /// [`crate::recovery`], offline.
    Recover {
        /// The nodes that never come back.
        removed: Vec<NodeId>,
        /// The groups that had lost their quorum, with the replicas that vote now.
        groups: Vec<(GroupId, Vec<Replica>)>,
    },
    /// All members know these features: they are on from now on, for ever.
    ActivateFeatures {
        /// Their bits.
        features: u64,
    },
}

/// What applying a [`MetaCommand`] answers. New variants go at the end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum MetaOutcome {
    /// Done, or was so already.
    Done,
    /// The cluster was formed before.
    AlreadyFormed,
    /// There is no cluster yet.
    NotFormed,
    /// The registry has no such node.
    UnknownNode(NodeId),
    /// There is no such group.
    UnknownGroup(GroupId),
    /// The node is a member already.
    AlreadyMember,
    /// The node has not taken its place (yet).
    NotAdmitted(NodeId),
    /// Another node has this address.
    AddressTaken(NodeId),
    /// The node must bring a token and brought none.
    TokenMissing,
    /// The token is not the one the registry waits for.
    TokenWrong,
    /// The node was admitted with another disk: its token is used, or its disk is lost.
    OtherDisk,
    /// The registry waits for this incarnation of the node.
    Incarnation(u32),
    /// The placement changed since this was decided; it has this count of changes now.
    Changed(u64),
    /// A target must name one to seven nodes, each once.
    BadTarget,
    /// No new replica may be placed on this node.
    NotPlaceable(NodeId),
    /// The replica is not (or no longer) to run: there is nothing to begin anew.
    NotTargeted,
    /// Too few sound replicas of this group would be left.
    WouldLoseMajority(GroupId),
    /// The node still holds, or is to hold, a replica of this group.
    StillHolds(GroupId),
    /// The node cannot have that state.
    BadState,
}

impl MetaCommand {
    /// The command as a log entry's bytes.
    pub(crate) fn encode(&self) -> Bytes {
        let mut bytes = BytesMut::new().writer();
        bytes.get_mut().put_u8(VERSION);
        rmp_serde::encode::write(&mut bytes, self).expect("plain data encodes into memory");
        bytes.into_inner().freeze()
    }

    /// Reads a log entry's bytes; `None` for bytes this build does not know.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        match bytes.split_first()? {
            (1, body) => version_one::command(body),
            (&VERSION, body) => rmp_serde::from_slice(body).ok(),
            _ => None,
        }
    }
}
