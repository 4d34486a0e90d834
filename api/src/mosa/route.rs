//! Paths and methods.

use std::borrow::Cow;

use http::Method;

/// Where a request goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Route<'a> {
    Status,
    Register,
    Revoke,
    Send,
    /// With the mailbox's owner, decoded; `None` when it is not UTF-8.
    Receive(Option<Cow<'a, str>>),
    Acknowledge,
    WebSocket,
    Live,
    Ready,
    Metrics,
}

impl<'a> Route<'a> {
    /// The route of a path.
    pub(crate) fn find(path: &'a str) -> Option<Self> {
        let route = match path {
            "/api/v1/gateway/status" => Self::Status,
            "/api/v1/auth/register" => Self::Register,
            "/api/v1/auth/revoke" => Self::Revoke,
            "/api/v1/messages/send" => Self::Send,
            "/api/v1/messages/acknowledge" => Self::Acknowledge,
            "/ws" => Self::WebSocket,
            "/livez" => Self::Live,
            "/readyz" => Self::Ready,
            "/metrics" => Self::Metrics,
            _ => {
                let user = path.strip_prefix("/api/v1/messages/receive/")?;
                if user.is_empty() || user.contains('/') {
                    return None;
                }
                Self::Receive(percent_encoding::percent_decode_str(user).decode_utf8().ok())
            }
        };
        Some(route)
    }

    /// The methods it takes, as in `Allow`.
    pub(crate) fn allow(&self) -> &'static str {
        match self {
            Self::Register | Self::Revoke | Self::Send | Self::Acknowledge => "POST, OPTIONS",
            Self::WebSocket => "GET",
            _ => "GET, HEAD, OPTIONS",
        }
    }

    /// Whether it takes `method`.
    pub(crate) fn takes(&self, method: &Method) -> bool {
        self.allow().split(", ").any(|allowed| allowed == method.as_str())
    }

    /// Its name in metrics.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Status => "status",
            Self::Register => "register",
            Self::Revoke => "revoke",
            Self::Send => "send",
            Self::Receive(_) => "receive",
            Self::Acknowledge => "acknowledge",
            Self::WebSocket => "websocket",
            Self::Live => "livez",
            Self::Ready => "readyz",
            Self::Metrics => "metrics",
        }
    }
}
