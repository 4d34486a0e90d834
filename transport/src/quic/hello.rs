//! The handshake frame: the first thing either side says on a new connection. Pure.
//!
//! Layout in `docs/reference/node-protocol.md`; every integer is big-endian:
//!
//! ```text
//! u16 length of what follows │ u8 version │ 16 bytes cluster id │ u16 node │ u32 incarnation
//! │ u8 connection (0 control, 1 bulk) │ u16 tripwire port (0: none) │ 32 bytes tripwire token
//! ```

use bytes::Buf;

use crate::{network::NodeId, tripwire::Token};

/// The version of the handshake and of all that follows it. 1: the first.
const HANDSHAKE_VERSION: u8 = 1;

/// Bytes of the length field.
pub(super) const PREFIX_BYTES: usize = 2;

/// Bytes after the length field in this version.
const BODY_BYTES: usize = 1 + 16 + 2 + 4 + 1 + 2 + Token::BYTES;

/// The largest length any version may have: what a stranger can make us wait for.
const BODY_BYTES_MAX: usize = 256;

/// Which of a pair's two connections this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LinkKind {
    /// Urgent and shared lanes.
    Control,
    /// The bulk lanes.
    Bulk,
}

impl LinkKind {
    /// The name in logs.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Control => "control",
            Self::Bulk => "bulk",
        }
    }
}

/// A handshake frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Hello {
    pub(super) cluster_id: [u8; 16],
    pub(super) node: NodeId,
    pub(super) incarnation: u32,
    pub(super) kind: LinkKind,
    /// Where the acceptor of a control connection waits for the tripwire, and with which token.
    pub(super) tripwire: Option<(u16, Token)>,
}

/// Why bytes are no handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HelloError {
    Version,
    Malformed,
}

impl Hello {
    /// The frame's bytes.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(PREFIX_BYTES + BODY_BYTES);
        bytes.extend_from_slice(&(BODY_BYTES as u16).to_be_bytes());
        bytes.push(HANDSHAKE_VERSION);
        bytes.extend_from_slice(&self.cluster_id);
        bytes.extend_from_slice(&self.node.0.to_be_bytes());
        bytes.extend_from_slice(&self.incarnation.to_be_bytes());
        bytes.push(match self.kind {
            LinkKind::Control => 0,
            LinkKind::Bulk => 1,
        });
        match &self.tripwire {
            Some((port, token)) => {
                bytes.extend_from_slice(&port.to_be_bytes());
                bytes.extend_from_slice(token.expose());
            }
            None => bytes.extend_from_slice(&[0; 2 + Token::BYTES]),
        }
        bytes
    }

    /// How many bytes follow the length field.
    pub(super) fn body_bytes(prefix: [u8; PREFIX_BYTES]) -> Result<usize, HelloError> {
        match usize::from(u16::from_be_bytes(prefix)) {
            0 => Err(HelloError::Malformed),
            bytes if bytes <= BODY_BYTES_MAX => Ok(bytes),
            _ => Err(HelloError::Malformed),
        }
    }

    /// Reads what follows the length field. The version comes first: a later version's frame is
    /// told from garbage.
    pub(super) fn decode(mut body: &[u8]) -> Result<Self, HelloError> {
        let bytes = body.len();
        match body.try_get_u8() {
            Ok(HANDSHAKE_VERSION) if bytes == BODY_BYTES => {}
            Ok(HANDSHAKE_VERSION) | Err(_) => return Err(HelloError::Malformed),
            Ok(_) => return Err(HelloError::Version),
        }
        let mut cluster_id = [0; 16];
        body.copy_to_slice(&mut cluster_id);
        let node = NodeId(body.get_u16());
        let incarnation = body.get_u32();
        let kind = match body.get_u8() {
            0 => LinkKind::Control,
            1 => LinkKind::Bulk,
            _ => return Err(HelloError::Malformed),
        };
        let port = body.get_u16();
        let mut token = [0; Token::BYTES];
        body.copy_to_slice(&mut token);
        let tripwire = (port != 0).then_some((port, Token::new(token)));
        Ok(Self { cluster_id, node, incarnation, kind, tripwire })
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    fn sample() -> Hello {
        Hello {
            cluster_id: *b"0123456789abcdef",
            node: NodeId(258),
            incarnation: 3,
            kind: LinkKind::Bulk,
            tripwire: Some((4_433, Token::new([0xee; Token::BYTES]))),
        }
    }

    #[test]
    fn layout_is_as_documented() {
        let hex: String = sample().encode().iter().map(|byte| format!("{byte:02x}")).collect();
        let token = "ee".repeat(32);
        assert_eq!(hex, format!("003a0130313233343536373839616263646566010200000003011151{token}"));
    }

    #[test]
    fn other_version_is_told_from_garbage() {
        let mut bytes = sample().encode();
        bytes[PREFIX_BYTES] = 2;
        assert_eq!(Hello::decode(&bytes[PREFIX_BYTES..]), Err(HelloError::Version));
        assert_eq!(Hello::decode(&[]), Err(HelloError::Malformed));
        assert_eq!(Hello::decode(&[1, 2, 3]), Err(HelloError::Malformed));
        assert_eq!(Hello::body_bytes([0, 0]), Err(HelloError::Malformed));
        assert_eq!(Hello::body_bytes([1, 1]), Err(HelloError::Malformed));
        assert_eq!(Hello::body_bytes([1, 0]), Ok(BODY_BYTES_MAX));
    }

    proptest! {
        #[test]
        fn every_hello_survives_the_wire(
            cluster_id in any::<[u8; 16]>(),
            node in any::<u16>(),
            incarnation in any::<u32>(),
            bulk in any::<bool>(),
            tripwire in proptest::option::of((1u16.., any::<[u8; Token::BYTES]>())),
        ) {
            let hello = Hello {
                cluster_id,
                node: NodeId(node),
                incarnation,
                kind: if bulk { LinkKind::Bulk } else { LinkKind::Control },
                tripwire: tripwire.map(|(port, token)| (port, Token::new(token))),
            };
            let bytes = hello.encode();
            let (prefix, body) = bytes.split_at(PREFIX_BYTES);
            prop_assert_eq!(Hello::body_bytes([prefix[0], prefix[1]]), Ok(body.len()));
            prop_assert_eq!(Hello::decode(body), Ok(hello));
        }

        #[test]
        fn garbage_never_panics(body in vec(any::<u8>(), 0..100)) {
            let _ = Hello::decode(&body);
        }
    }
}
