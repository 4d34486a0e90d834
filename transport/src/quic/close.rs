//! Why one side closes a connection, as it tells the other.

use quinn::{Connection, ConnectionError, VarInt};

/// Where QUIC's error codes for TLS alerts begin (RFC 9000, section 20.1).
const TLS_ALERTS: u64 = 0x100;

/// Application close codes. Numbers are part of the protocol: they are never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CloseCode {
    /// The process shuts down.
    Shutdown,
    /// A newer connection from the same peer took its place.
    Replaced,
    /// The peer is not (or no longer) in the list of peers.
    NotAPeer,
    /// The peer's process has ended, as its tripwire told.
    ProcessEnded,
    /// The handshake's version is unknown.
    Version,
    /// The peer belongs to another cluster.
    Cluster,
    /// The node id claimed is not the one the certificate proves, or not the one dialled.
    Identity,
    /// A later incarnation of the peer was seen before.
    Incarnation,
    /// The higher node id dialled.
    Direction,
    /// The handshake is not one.
    BadHandshake,
    /// The handshake took too long.
    HandshakeTimeout,
    /// The two sides speak no protocol in common.
    Protocol,
    /// Another process is connected under this identity.
    Twin,
    /// A frame of impossible length.
    FrameLength,
    /// A frame of unknown version.
    FrameVersion,
    /// A frame of unknown kind.
    FrameKind,
    /// A lane was ended or reset.
    LaneClosed,
    /// More streams than lanes.
    StreamFlood,
    /// This node failed.
    Internal,
}

impl CloseCode {
    fn wire(self) -> (u32, &'static str) {
        match self {
            Self::Shutdown => (0, "shutting down"),
            Self::Replaced => (1, "replaced by a newer connection"),
            Self::NotAPeer => (2, "not a peer"),
            Self::ProcessEnded => (3, "process ended"),
            Self::Version => (16, "unknown handshake version"),
            Self::Cluster => (17, "another cluster"),
            Self::Identity => (18, "node id is not the certificate's"),
            Self::Incarnation => (19, "older incarnation"),
            Self::Direction => (20, "the lower node id dials"),
            Self::BadHandshake => (21, "malformed handshake"),
            Self::HandshakeTimeout => (22, "handshake timeout"),
            Self::Protocol => (23, "no protocol in common"),
            Self::Twin => (24, "another process is connected under this identity"),
            Self::FrameLength => (32, "impossible frame length"),
            Self::FrameVersion => (33, "unknown frame version"),
            Self::FrameKind => (34, "unknown frame kind"),
            Self::LaneClosed => (35, "lane closed"),
            Self::StreamFlood => (36, "more streams than lanes"),
            Self::Internal => (48, "internal error"),
        }
    }

    /// What the code says, for people.
    pub(crate) fn reason(self) -> &'static str {
        self.wire().1
    }

    /// Whether `error` is that the other end closed the connection with this code.
    pub(crate) fn is_in(self, error: &ConnectionError) -> bool {
        match error {
            ConnectionError::ApplicationClosed(close) => {
                close.error_code == VarInt::from_u32(self.wire().0)
            }
            _ => false,
        }
    }

    /// Whether the peer broke the protocol on a standing connection.
    pub(crate) fn is_violation(self) -> bool {
        (32..48).contains(&self.wire().0)
    }

    /// Closes the connection with this code. The first code given is the one that counts.
    pub(crate) fn close(self, connection: &Connection) {
        self.close_saying(connection, self.reason());
    }

    /// Closes the connection with this code and a reason that says more.
    pub(crate) fn close_saying(self, connection: &Connection, reason: &str) {
        connection.close(VarInt::from_u32(self.wire().0), reason.as_bytes());
    }
}

/// Whether a handshake failed because the two sides do not agree (on certificates, cluster,
/// version), and not because one of them is not there yet or no more.
pub(crate) fn is_disagreement(error: &ConnectionError) -> bool {
    match error {
        // It said why.
        ConnectionError::ApplicationClosed(_) => true,
        // Its certificate is not good enough for us.
        ConnectionError::TransportError(_) => true,
        // Ours is not good enough for it. Below are refusals, of a node that is about to serve.
        ConnectionError::ConnectionClosed(close) => u64::from(close.error_code) >= TLS_ALERTS,
        _ => false,
    }
}
