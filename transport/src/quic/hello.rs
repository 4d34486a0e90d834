//! The handshake frame: the first thing either side says on a new connection. Pure.
//!
//! Layout in `docs/reference/node-protocol.md`; every integer is big-endian:
//!
//! ```text
//! u16 length of what follows │ u8 version │ 16 bytes cluster id │ u16 node │ u32 incarnation
//! │ u8 connection (0 control, 1 bulk) │ u16 tripwire port (0: none) │ 32 bytes tripwire token
//! from version 2 on:
//! │ u16 oldest protocol │ u16 newest protocol │ u64 features │ u64 boot │ u8 length │ build
//! │ whatever later releases append
//! ```
//!
//! Which version is spoken TLS has negotiated (ALPN) before the first frame: the newest both know.

use bytes::Buf;

use crate::{
    network::NodeId,
    protocol::{Announcement, BUILD_BYTES_MAX, Protocols},
    tripwire::Token,
};

/// The versions of the handshake frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HelloVersion {
    /// The first release's: of a fixed length, without an announcement.
    First,
    /// With an announcement, and with room for more: what is appended is skipped.
    Announcing,
}

impl HelloVersion {
    /// The version byte.
    fn byte(self) -> u8 {
        match self {
            Self::First => 1,
            Self::Announcing => 2,
        }
    }
}

/// Bytes of the length field.
pub(super) const PREFIX_BYTES: usize = 2;

/// Bytes after the length field in the first version, which all later ones begin with.
const FIRST_BYTES: usize = 1 + 16 + 2 + 4 + 1 + 2 + Token::BYTES;

/// Bytes of an announcement before the build's name.
const ANNOUNCEMENT_BYTES: usize = 2 + 2 + 8 + 8 + 1;

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
    /// What the process says of itself; in the first version, what that release would say.
    pub(super) announced: Announcement,
}

/// Why bytes are no handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HelloError {
    Version,
    Malformed,
}

impl Hello {
    /// The frame's bytes in this version.
    pub(super) fn encode(&self, version: HelloVersion) -> Vec<u8> {
        let build = self.announced.build_bytes();
        let body_bytes = match version {
            HelloVersion::First => FIRST_BYTES,
            HelloVersion::Announcing => FIRST_BYTES + ANNOUNCEMENT_BYTES + build.len(),
        };
        let mut bytes = Vec::with_capacity(PREFIX_BYTES + body_bytes);
        bytes.extend_from_slice(&(body_bytes as u16).to_be_bytes());
        bytes.push(version.byte());
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
        if version == HelloVersion::Announcing {
            let Announcement { protocols, features, boot, .. } = &self.announced;
            bytes.extend_from_slice(&protocols.min.to_be_bytes());
            bytes.extend_from_slice(&protocols.max.to_be_bytes());
            bytes.extend_from_slice(&features.to_be_bytes());
            bytes.extend_from_slice(&boot.to_be_bytes());
            bytes.push(build.len() as u8);
            bytes.extend_from_slice(build);
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

    /// Reads what follows the length field of a frame in the version that was negotiated. The
    /// version comes first: another version's frame is told from garbage.
    pub(super) fn decode(version: HelloVersion, mut body: &[u8]) -> Result<Self, HelloError> {
        let bytes = body.len();
        if body.try_get_u8().map_err(|_| HelloError::Malformed)? != version.byte() {
            return Err(HelloError::Version);
        }
        let fits = match version {
            HelloVersion::First => bytes == FIRST_BYTES,
            HelloVersion::Announcing => bytes >= FIRST_BYTES + ANNOUNCEMENT_BYTES,
        };
        if !fits {
            return Err(HelloError::Malformed);
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
        let announced = match version {
            HelloVersion::First => Announcement::first(),
            HelloVersion::Announcing => decode_announcement(body)?,
        };
        Ok(Self { cluster_id, node, incarnation, kind, tripwire, announced })
    }
}

/// Reads an announcement whose fixed fields are there; what is behind it belongs to later releases.
fn decode_announcement(mut body: &[u8]) -> Result<Announcement, HelloError> {
    let protocols = Protocols { min: body.get_u16(), max: body.get_u16() };
    let (features, boot) = (body.get_u64(), body.get_u64());
    let length = usize::from(body.get_u8());
    let build = body.get(..length).ok_or(HelloError::Malformed)?;
    let is_printable = build.iter().all(u8::is_ascii_graphic);
    if protocols.min == 0
        || protocols.min > protocols.max
        || length > BUILD_BYTES_MAX
        || !is_printable
    {
        return Err(HelloError::Malformed);
    }
    let build = String::from_utf8_lossy(build).into();
    Ok(Announcement { protocols, features, boot, build })
}

/// Decodes `body` in every version; what is a frame encodes to the same again.
#[cfg(any(test, fuzzing))]
pub(crate) fn fuzz(body: &[u8]) {
    for version in [HelloVersion::First, HelloVersion::Announcing] {
        let Ok(hello) = Hello::decode(version, body) else { continue };
        let bytes = hello.encode(version);
        let (prefix, again) = bytes.split_at(PREFIX_BYTES);
        assert_eq!(Hello::body_bytes([prefix[0], prefix[1]]), Ok(again.len()));
        // Behind it may be what later releases append.
        assert!(again.len() <= body.len());
        assert_eq!(Hello::decode(version, again), Ok(hello));
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    const VERSIONS: [HelloVersion; 2] = [HelloVersion::First, HelloVersion::Announcing];

    fn sample(announced: Announcement) -> Hello {
        Hello {
            cluster_id: *b"0123456789abcdef",
            node: NodeId(258),
            incarnation: 3,
            kind: LinkKind::Bulk,
            tripwire: Some((4_433, Token::new([0xee; Token::BYTES]))),
            announced,
        }
    }

    fn announcement() -> Announcement {
        Announcement {
            protocols: Protocols { min: 1, max: 2 },
            features: 5,
            boot: 0x0102_0304_0506_0708,
            build: "0.1.0".into(),
        }
    }

    /// A fixture: its name, its bytes, and whether bytes read as it.
    pub(crate) type Sample = (&'static str, Vec<u8>, fn(&[u8]) -> bool);

    /// The handshakes that are kept of each release.
    pub(crate) fn samples() -> [Sample; 2] {
        [
            ("hello-first", sample(Announcement::first()).encode(HelloVersion::First), |bytes| {
                let body = &bytes[PREFIX_BYTES..];
                Hello::decode(HelloVersion::First, body) == Ok(sample(Announcement::first()))
            }),
            ("hello", sample(announcement()).encode(HelloVersion::Announcing), |bytes| {
                let body = &bytes[PREFIX_BYTES..];
                Hello::decode(HelloVersion::Announcing, body) == Ok(sample(announcement()))
            }),
        ]
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn layout_is_as_documented() {
        let token = "ee".repeat(32);
        let first = hex(&sample(Announcement::first()).encode(HelloVersion::First));
        let body = format!("30313233343536373839616263646566010200000003011151{token}");
        assert_eq!(first, format!("003a01{body}"));
        let announcing = hex(&sample(announcement()).encode(HelloVersion::Announcing));
        let tail = "000100020000000000000005010203040506070805302e312e30";
        assert_eq!(announcing, format!("005402{body}{tail}"));
    }

    #[test]
    fn other_version_is_told_from_garbage() {
        for version in VERSIONS {
            let mut bytes = sample(announcement()).encode(version);
            bytes[PREFIX_BYTES] = 3;
            let decoded = Hello::decode(version, &bytes[PREFIX_BYTES..]);
            assert_eq!(decoded, Err(HelloError::Version));
            assert_eq!(Hello::decode(version, &[]), Err(HelloError::Malformed));
            let short = [version.byte(), 2, 3];
            assert_eq!(Hello::decode(version, &short), Err(HelloError::Malformed));
        }
        assert_eq!(Hello::body_bytes([0, 0]), Err(HelloError::Malformed));
        assert_eq!(Hello::body_bytes([1, 1]), Err(HelloError::Malformed));
        assert_eq!(Hello::body_bytes([1, 0]), Ok(BODY_BYTES_MAX));
    }

    #[test]
    fn what_later_releases_append_is_skipped() {
        let mut bytes = sample(announcement()).encode(HelloVersion::Announcing);
        bytes.extend_from_slice(b"something new");
        let decoded = Hello::decode(HelloVersion::Announcing, &bytes[PREFIX_BYTES..]);
        assert_eq!(decoded, Ok(sample(announcement())));
        let mut bytes = sample(Announcement::first()).encode(HelloVersion::First);
        bytes.push(0);
        let decoded = Hello::decode(HelloVersion::First, &bytes[PREFIX_BYTES..]);
        assert_eq!(decoded, Err(HelloError::Malformed), "the first release has a fixed length");
    }

    #[test]
    fn impossible_announcements_are_refused() {
        let bytes = sample(announcement()).encode(HelloVersion::Announcing);
        let at = PREFIX_BYTES + FIRST_BYTES;
        for (offset, byte) in [(1, 0), (1, 3), (20, 33), (20, 200), (21, b'\n')] {
            let mut bytes = bytes.clone();
            bytes[at + offset] = byte;
            let decoded = Hello::decode(HelloVersion::Announcing, &bytes[PREFIX_BYTES..]);
            assert_eq!(decoded, Err(HelloError::Malformed), "{byte} at {offset}");
        }
    }

    proptest! {
        #[test]
        fn every_hello_survives_the_wire(
            cluster_id in any::<[u8; 16]>(),
            node in any::<u16>(),
            incarnation in any::<u32>(),
            bulk in any::<bool>(),
            tripwire in proptest::option::of((1u16.., any::<[u8; Token::BYTES]>())),
            protocols in (1u16..100, 0u16..100),
            features in any::<u64>(),
            boot in any::<u64>(),
            build in "[!-~]{0,32}",
        ) {
            let protocols = Protocols { min: protocols.0, max: protocols.0 + protocols.1 };
            let announced = Announcement { protocols, features, boot, build: build.into() };
            let mut hello = Hello {
                cluster_id,
                node: NodeId(node),
                incarnation,
                kind: if bulk { LinkKind::Bulk } else { LinkKind::Control },
                tripwire: tripwire.map(|(port, token)| (port, Token::new(token))),
                announced,
            };
            for version in [HelloVersion::Announcing, HelloVersion::First] {
                let bytes = hello.encode(version);
                let (prefix, body) = bytes.split_at(PREFIX_BYTES);
                prop_assert_eq!(Hello::body_bytes([prefix[0], prefix[1]]), Ok(body.len()));
                if version == HelloVersion::First {
                    hello.announced = Announcement::first();
                }
                prop_assert_eq!(Hello::decode(version, body), Ok(hello.clone()));
            }
        }

        #[test]
        fn garbage_never_panics(body in vec(any::<u8>(), 0..120)) {
            for version in VERSIONS {
                let _ = Hello::decode(version, &body);
                let mut body = body.clone();
                body.insert(0, version.byte());
                let _ = Hello::decode(version, &body);
            }
        }
    }
}
