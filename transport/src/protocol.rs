//! What processes of different releases say of themselves in the handshake, and what two of them
//! agree on. Pure; the bytes are in `quic::hello`.

use std::{fmt, sync::Arc};

/// The oldest protocol this release speaks: its predecessor's.
pub const PROTOCOL_MIN: u16 = 1;

/// The newest protocol this release speaks. 1: the first. 2: a handshake with announcements.
pub const PROTOCOL_MAX: u16 = 2;

/// The protocol from which on a handshake carries an [`Announcement`].
pub(crate) const PROTOCOL_ANNOUNCING: u16 = 2;

/// The longest name of a build, in bytes. 32: a version, and a word behind it.
pub(crate) const BUILD_BYTES_MAX: usize = 32;

/// The protocols a process speaks, from the oldest to the newest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Protocols {
    /// The oldest.
    pub min: u16,
    /// The newest.
    pub max: u16,
}

impl Protocols {
    /// What this release speaks.
    pub const CURRENT: Self = Self { min: PROTOCOL_MIN, max: PROTOCOL_MAX };

    /// What the first release speaks, whose handshake does not say it.
    pub const FIRST: Self = Self { min: 1, max: 1 };

    /// The newest protocol that both speak.
    pub fn agree(self, other: Self) -> Option<u16> {
        let newest = self.max.min(other.max);
        (newest >= self.min.max(other.min)).then_some(newest)
    }
}

impl fmt::Display for Protocols {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} to {}", self.min, self.max)
    }
}

/// What a process says of itself in the handshake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Announcement {
    /// The protocols it speaks.
    pub protocols: Protocols,
    /// What it knows beyond them, a bit each. The layer above says what the bits mean.
    pub features: u64,
    /// A random number of this process: two processes that claim one identity are told apart by it.
    /// 0 where the handshake does not say it.
    pub boot: u64,
    /// The build's version, for people. Printable ASCII, at most 32 bytes; more is cut off.
    pub build: Arc<str>,
}

impl Announcement {
    /// What a process of this release says that has drawn `boot` and knows `features`.
    pub fn new(boot: u64, features: u64) -> Self {
        let build = env!("CARGO_PKG_VERSION").into();
        Self { protocols: Protocols::CURRENT, features, boot, build }
    }

    /// What a process of the first release would say.
    pub(crate) fn first() -> Self {
        Self { protocols: Protocols::FIRST, features: 0, boot: 0, build: "".into() }
    }

    /// The build's name as it goes over the wire.
    pub(crate) fn build_bytes(&self) -> &[u8] {
        let bytes = self.build.as_bytes();
        &bytes[..bytes.len().min(BUILD_BYTES_MAX)]
    }
}

/// What is known of a connected peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerInfo {
    /// The protocol both sides agreed on.
    pub protocol: u16,
    /// What the peer said of itself.
    pub announced: Announcement,
}

impl PeerInfo {
    /// What a process that announces `ours` knows of one that announces `theirs`.
    pub(crate) fn agree(ours: &Announcement, theirs: Announcement) -> Result<Self, Disagreement> {
        let common = ours.protocols.agree(theirs.protocols);
        let disagreement = Disagreement { ours: ours.protocols, theirs: theirs.protocols };
        let protocol = common.ok_or(disagreement)?;
        let announced = if protocol < PROTOCOL_ANNOUNCING { Announcement::first() } else { theirs };
        Ok(Self { protocol, announced })
    }

    /// Whether a process that announces `newcomer` under the same identity is another one.
    pub(crate) fn is_other_process(&self, newcomer: &Announcement) -> bool {
        let (known, new) = (self.announced.boot, newcomer.boot);
        known != 0 && new != 0 && known != new
    }
}

/// Two processes speak no protocol in common: their releases are not neighbours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "no protocol in common: one side speaks {ours}, the other {theirs}; \
     upgrade by way of a release that speaks both"
)]
pub(crate) struct Disagreement {
    pub(crate) ours: Protocols,
    pub(crate) theirs: Protocols,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(min: u16, max: u16) -> Protocols {
        Protocols { min, max }
    }

    #[test]
    fn the_newest_common_protocol_is_agreed_on() {
        for (a, b, agreed) in [
            (range(1, 2), range(1, 1), Some(1)),
            (range(1, 2), range(1, 2), Some(2)),
            (range(1, 2), range(2, 9), Some(2)),
            (range(2, 3), range(1, 1), None),
            (range(3, 4), range(1, 2), None),
        ] {
            assert_eq!((a.agree(b), b.agree(a)), (agreed, agreed), "{a} and {b}");
        }
        assert_eq!(Protocols::CURRENT.agree(Protocols::FIRST), Some(1), "the release before");
    }

    #[test]
    fn a_disagreement_names_both_ranges() {
        let ours = Announcement { protocols: range(3, 4), ..Announcement::new(1, 0) };
        let error = PeerInfo::agree(&ours, Announcement::first()).unwrap_err().to_string();
        assert!(error.contains("3 to 4") && error.contains("1 to 1"), "{error}");
    }

    #[test]
    fn who_speaks_the_first_protocol_has_announced_nothing() {
        let pinned = Announcement { protocols: Protocols::FIRST, ..Announcement::new(7, 7) };
        let info = PeerInfo::agree(&Announcement::new(8, 0), pinned.clone()).unwrap();
        assert_eq!(info, PeerInfo { protocol: 1, announced: Announcement::first() });
        assert!(!info.is_other_process(&Announcement::new(9, 0)), "it cannot be told");
        let info = PeerInfo::agree(&pinned, Announcement::new(8, 3)).unwrap();
        assert_eq!(info.announced, Announcement::first(), "nor has it heard anything");
    }

    #[test]
    fn two_boots_are_two_processes() {
        let info = PeerInfo::agree(&Announcement::new(1, 0), Announcement::new(2, 5)).unwrap();
        assert_eq!((info.protocol, info.announced.features), (PROTOCOL_MAX, 5));
        assert!(info.is_other_process(&Announcement::new(3, 5)));
        assert!(!info.is_other_process(&Announcement::new(2, 0)));
    }
}
