//! What node actors say to each other: forming and beats. Positional MessagePack behind a version
//! byte.

use std::collections::BTreeSet;

use bytes::{BufMut, Bytes};
use heliograph_transport::NodeId;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    envelope, join_token::JoinToken, meta::MetaOutcome, model::ShardId, neighbours::About,
};

/// The version of these messages.
const VERSION: u8 = 1;

/// A question to a peer's node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum NodeRequest {
    /// What do you hold? Asked by a node with an empty disk.
    Probe,
    /// Admit me with this disk, and say which replica of meta I am. To the meta leader.
    Join {
        /// The mark of the asking node's disk.
        #[serde(with = "serde_bytes")]
        disk: [u8; 16],
        /// The one-use token it was given.
        token: Option<JoinToken>,
    },
    /// Apply this command. To the meta leader.
    Registry {
        /// Its bytes, as in meta's log.
        #[serde(with = "serde_bytes")]
        command: Vec<u8>,
    },
}

/// The answer to a [`NodeRequest`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum NodeAnswer {
    /// To [`NodeRequest::Probe`].
    Probe(Probe),
    /// Another node leads meta, perhaps this one.
    NotLeader(Option<NodeId>),
    /// To [`NodeRequest::Join`]: the asker is a member.
    Joined {
        /// The incarnation of its replica of meta.
        meta: u32,
    },
    /// To [`NodeRequest::Registry`]: it is applied, with this outcome. Or to a
    /// [`NodeRequest::Join`] that was refused.
    Registry(MetaOutcome),
    /// To [`NodeRequest::Join`]: another node leads meta. Who joins may know the first members
    /// alone, and that one came later.
    LeaderAt {
        /// Which.
        node: NodeId,
        /// Where its peers reach it, "host:port".
        address: String,
    },
}

/// What a node holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Probe {
    /// Nothing: it has never been part of a cluster.
    Empty,
    /// A cluster that is being formed, or that it has not heard the registry of.
    Forming,
    /// A formed cluster, in whose registry the asker never took its place.
    Formed,
    /// A formed cluster in which the asker took its place: it must bring its disk.
    AskerAdmitted,
}

/// Sent every half second to every peer, and at once when a suspicion arises.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Beat {
    /// The sender's wall clock, milliseconds since the Unix epoch.
    pub(crate) wall_ms: u64,
    /// Shards the sender leads and acts for, with its term.
    pub(crate) leads: Vec<(ShardId, u64)>,
    /// Whom the sender suspects.
    pub(crate) suspects: BTreeSet<NodeId>,
    /// What the sender says of itself.
    pub(crate) about: About,
    /// Up to which version the sender has applied the registry; 0, and not written, until
    /// `Feature::BeatsTellRegistry` is on: the release before does not read it.
    #[serde(default, skip_serializing_if = "is_untold")]
    pub(crate) registry: u64,
}

fn is_untold(version: &u64) -> bool {
    *version == 0
}

/// Encodes with the envelope.
pub(crate) fn encode(message: &impl Serialize) -> Bytes {
    let mut writer = envelope::writer(envelope::NODE, 64);
    writer.get_mut().put_u8(VERSION);
    rmp_serde::encode::write(&mut writer, message).expect("plain data encodes into memory");
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
    use crate::neighbours::Stance;

    #[test]
    fn messages_read_back_and_strange_ones_do_not() {
        let beat = Beat {
            wall_ms: 1000,
            leads: vec![(ShardId(3), 7)],
            suspects: BTreeSet::from([NodeId(2)]),
            about: About {
                boot: 5,
                uptime_ms: 6,
                stance: Stance::Draining,
                client_url: Some("w".into()),
            },
            registry: 0,
        };
        let bytes = encode(&beat);
        let mut wanted = vec![3, 1, 0x94, 0xCD, 3, 0xE8, 0x91, 0x92, 3, 7, 0x91, 2, 0x94, 5, 6];
        wanted.extend_from_slice(b"\xA8Draining\xA1w");
        assert_eq!(bytes.as_ref(), wanted);
        let telling = Beat { registry: 9, ..beat.clone() };
        let told = encode(&telling);
        wanted[2] = 0x95;
        wanted.push(9);
        assert_eq!(told.as_ref(), wanted);
        assert_eq!(decode::<Beat>(&told[1..]), Some(telling));
        let (kind, body) = envelope::open(bytes).unwrap();
        assert_eq!(kind, envelope::NODE);
        assert_eq!(decode::<Beat>(&body), Some(beat));
        assert_eq!(decode::<Beat>(&[]), None);
        assert_eq!(decode::<Beat>(&[2, 0x93]), None);
        assert_eq!(decode::<Beat>(&[1, 0x93]), None);
    }
}
