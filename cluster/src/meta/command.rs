//! What the meta group's log says.

use bytes::{BufMut, Bytes, BytesMut};
use heliograph_transport::NodeId;
use serde::{Deserialize, Serialize};

use crate::topology::{Member, Topology};

/// Leads every encoded command; below 0x80, which marks memberships.
const VERSION: u8 = 1;

/// A change to the meta group. New variants go at the end.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum MetaCommand {
    /// Forms the cluster. Does nothing in a formed one.
    Bootstrap(Box<Topology>),
    /// The node has taken its place: from now on it must bring its disk.
    Admit {
        /// The node.
        node: NodeId,
        /// Its incarnation.
        incarnation: u32,
    },
    /// Adds a node that holds no replicas, or moves a known one to another address.
    Join(Member),
}

/// What applying a [`MetaCommand`] answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum MetaOutcome {
    /// Done, or was so already.
    Done,
    /// The cluster was formed before.
    AlreadyFormed,
    /// There is no cluster yet, or no such node.
    Unknown,
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
        let (version, body) = bytes.split_first()?;
        (*version == VERSION).then(|| rmp_serde::from_slice(body).ok())?
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_read_back() {
        let command = MetaCommand::Admit { node: NodeId(3), incarnation: 1 };
        let bytes = command.encode();
        assert_eq!(bytes.as_ref(), hex("0181a541646d6974920301"));
        assert_eq!(MetaCommand::decode(&bytes), Some(command));
        assert_eq!(MetaCommand::decode(&[]), None);
        assert_eq!(MetaCommand::decode(&[9, 1, 2]), None);
    }

    fn hex(text: &str) -> Vec<u8> {
        let digits = text.as_bytes().chunks(2);
        digits
            .map(|two| u8::from_str_radix(std::str::from_utf8(two).unwrap(), 16).unwrap())
            .collect()
    }
}
