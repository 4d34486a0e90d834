//! Close codes: those we send and those a peer may send.

/// Why a connection ends, as the peer learns it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CloseCode {
    /// 1000: all is said.
    Normal,
    /// 1002: the peer broke RFC 6455.
    Protocol,
    /// 1003: binary frames where JSON is spoken.
    Unsupported,
    /// 1007: not UTF-8, or not JSON.
    Invalid,
    /// 1009: a message over the limit.
    TooLarge,
    /// 1011: a defect of ours.
    Internal,
    /// 1012: the node restarts; reconnect to any other.
    Restart,
    /// 1013: the cluster cannot serve it now; reconnect after a pause.
    TryAgainLater,
    /// 3000: not authenticated; do not reconnect with the same key.
    Unauthenticated,
    /// 4401: the API key was revoked; do not reconnect with it.
    KeyRevoked,
    /// 4408: the peer reads too slowly; reconnect, what was not acknowledged comes again.
    SlowReader,
}

impl CloseCode {
    /// The number on the wire.
    pub fn code(self) -> u16 {
        match self {
            Self::Normal => 1000,
            Self::Protocol => 1002,
            Self::Unsupported => 1003,
            Self::Invalid => 1007,
            Self::TooLarge => 1009,
            Self::Internal => 1011,
            Self::Restart => 1012,
            Self::TryAgainLater => 1013,
            Self::Unauthenticated => 3000,
            Self::KeyRevoked => 4401,
            Self::SlowReader => 4408,
        }
    }

    /// The number as a metric's label.
    pub fn label(self) -> &'static str {
        match self {
            Self::Normal => "1000",
            Self::Protocol => "1002",
            Self::Unsupported => "1003",
            Self::Invalid => "1007",
            Self::TooLarge => "1009",
            Self::Internal => "1011",
            Self::Restart => "1012",
            Self::TryAgainLater => "1013",
            Self::Unauthenticated => "3000",
            Self::KeyRevoked => "4401",
            Self::SlowReader => "4408",
        }
    }

    /// The reason sent with it: what the client should do.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Normal => "",
            Self::Protocol => "protocol error",
            Self::Unsupported => "send JSON in text frames",
            Self::Invalid => "send JSON in UTF-8",
            Self::TooLarge => "frame too large",
            Self::Internal => "internal error, reconnect",
            Self::Restart => "node restarts, reconnect to any other; resume",
            Self::TryAgainLater => "try again later",
            Self::Unauthenticated => "not authenticated",
            Self::KeyRevoked => "API key revoked, register again",
            Self::SlowReader => "reading too slowly, reconnect",
        }
    }
}

/// Whether a peer may send this code (RFC 6455 section 7.4, IANA registry).
pub fn is_valid_received(code: u16) -> bool {
    matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999)
}
