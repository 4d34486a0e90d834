//! What nodes ask each other for their operators. Behind the envelope [`envelope::ADMIN`] and a
//! version byte: MessagePack with named fields, so that neighbouring releases understand each
//! other's additions.

use bytes::{BufMut, Bytes};
use heliograph_transport::NodeId;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_bytes::ByteBuf;

use super::{copy::GroupCopy, types::DiskUse};
use crate::{envelope, placement::Progress};

/// The version of these messages.
const VERSION: u8 = 1;

/// A question to a peer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum AdminRequest {
    /// How do you do?
    Report,
    /// Even the load out now. To the leader of meta.
    Rebalance,
    /// Write a copy of this group. To its leader.
    Copy {
        /// Which.
        group: u32,
    },
    /// Read a piece of a copy that you keep.
    Piece {
        /// Which.
        copy: GroupCopy,
        /// From where.
        offset: u64,
    },
}

/// The answer to an [`AdminRequest`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum AdminAnswer {
    /// To [`AdminRequest::Report`].
    Report(NodeReport),
    /// To [`AdminRequest::Rebalance`]: it has begun.
    Begun,
    /// Nothing was done, another node leads.
    NotLeader,
    /// To [`AdminRequest::Copy`]: it is written.
    Copied(GroupCopy),
    /// To [`AdminRequest::Copy`]: it could not be written.
    CopyFailed(String),
    /// To [`AdminRequest::Piece`].
    Piece(ByteBuf),
    /// To [`AdminRequest::Piece`]: it is not kept (any more).
    Gone,
}

/// What a node tells of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NodeReport {
    /// The release it runs.
    pub(crate) version: String,
    /// Why it does not serve.
    pub(crate) not_ready: Option<String>,
    pub(crate) disk: Option<DiskUse>,
    /// Its replicas.
    pub(crate) groups: Vec<GroupReport>,
    /// How far the cluster is with moving replicas, where this node decides that.
    #[serde(default)]
    pub(crate) progress: Option<Progress>,
}

/// What a node tells of one of its replicas.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct GroupReport {
    pub(crate) group: u32,
    pub(crate) term: u64,
    /// Whom it follows.
    pub(crate) leader: Option<NodeId>,
    /// Whether it may act as leader now.
    pub(crate) acts: bool,
    /// The committed index it knows of.
    pub(crate) committed: Option<u64>,
    /// The last index of its log.
    pub(crate) last: Option<u64>,
    /// As a leader: the replicas that do not vote, by Raft id, and up to where their logs agree.
    pub(crate) learners: Vec<(u64, Option<u64>)>,
}

/// Encodes with the envelope.
pub(crate) fn encode(message: &impl Serialize) -> Bytes {
    let mut writer = envelope::writer(envelope::ADMIN, 64);
    writer.get_mut().put_u8(VERSION);
    let mut named = rmp_serde::Serializer::new(&mut writer).with_struct_map();
    message.serialize(&mut named).expect("plain data encodes into memory");
    writer.into_inner().freeze()
}

/// Reads what follows the envelope; `None` for bytes this build does not know.
pub(crate) fn decode<T: DeserializeOwned>(body: &[u8]) -> Option<T> {
    let (version, message) = body.split_first()?;
    (*version == VERSION).then(|| rmp_serde::from_slice(message).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> NodeReport {
        let group = GroupReport { group: 1, term: 2, learners: vec![(3, None)], ..<_>::default() };
        NodeReport { version: "1".into(), groups: vec![group], ..NodeReport::default() }
    }

    #[test]
    fn messages_read_back_and_strange_ones_do_not() {
        let bytes = encode(&AdminRequest::Report);
        assert_eq!(bytes.as_ref(), b"\x04\x01\xA6Report");
        let answer = AdminAnswer::Report(report());
        let (kind, body) = envelope::open(encode(&answer)).unwrap();
        assert_eq!(kind, envelope::ADMIN);
        assert_eq!(decode::<AdminAnswer>(&body), Some(answer));
        assert_eq!(decode::<AdminRequest>(&[]), None);
        assert_eq!(decode::<AdminRequest>(&[2, 0x93]), None);
        assert_eq!(decode::<AdminRequest>(b"\x01\xA5Other"), None);
    }

    #[test]
    fn fields_of_a_later_release_are_passed_over() {
        #[derive(Serialize)]
        struct Later {
            version: &'static str,
            not_ready: Option<String>,
            disk: Option<DiskUse>,
            groups: Vec<GroupReport>,
            addition: u8,
        }
        let groups = report().groups;
        let later = Later { version: "1", not_ready: None, disk: None, groups, addition: 9 };
        let bytes = encode(&later);
        assert_eq!(decode::<NodeReport>(&bytes[1..]), Some(report()));
    }
}
