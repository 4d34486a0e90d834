//! What an operator can set of the MOSA front door.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The MOSA front door.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct MosaConfig {
    /// Who may register.
    pub registration: RegistrationMode,
    /// How far `X-MOSA-Timestamp` may be from the server's time.
    #[serde(with = "humantime_serde")]
    pub timestamp_skew: Duration,
    /// How long the cluster may take over a request.
    #[serde(with = "humantime_serde")]
    pub request_timeout: Duration,
    /// The WebSocket URL that status names; made from the `Host` field when not set.
    pub websocket_url: Option<String>,
    /// How often one device may ask, at this node.
    pub rate: RateConfig,
}

impl Default for MosaConfig {
    fn default() -> Self {
        Self {
            registration: RegistrationMode::Signed,
            // Phones without network time are minutes off, seldom more.
            timestamp_skew: Duration::from_secs(300),
            // Two elections (2–4 s) fit, and a client's patience is seldom longer.
            request_timeout: Duration::from_secs(10),
            websocket_url: None,
            rate: RateConfig::default(),
        }
    }
}

/// Who may register a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RegistrationMode {
    /// Everybody; the first key of a device id holds it.
    Open,
    /// Everybody who proves the private key by a signature.
    Signed,
    /// Who has a token of the operator. Not offered yet: refused at start.
    Invite,
    /// Nobody.
    Closed,
}

/// How often one device may ask.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct RateConfig {
    /// Requests and frames a second over a long time.
    pub per_second: u32,
    /// Requests and frames at once.
    pub burst: u32,
}

impl Default for RateConfig {
    fn default() -> Self {
        // A phone sends below 10/s, a gateway with 100 devices behind it below 1,000/s: this stops
        // only a client that runs wild.
        Self { per_second: 2_000, burst: 10_000 }
    }
}

/// Why a configuration cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// `registration = "invite"`.
    #[error("registration = \"invite\" is not offered yet: use open, signed or closed")]
    InviteNotOffered,
    /// A rate or burst of zero.
    #[error("mosa.rate.per-second and mosa.rate.burst must be at least 1")]
    RateZero,
    /// Keep-alive bounds out of order, or zero.
    #[error("websocket.ping-min must be above zero and at most websocket.ping-max")]
    PingRange,
    /// A limit below what one message needs.
    #[error("{setting} must be at least {min}")]
    TooSmall {
        /// The setting.
        setting: &'static str,
        /// Its least value.
        min: usize,
    },
    /// A WebSocket URL that is none.
    #[error("mosa.websocket-url must begin with ws:// or wss://")]
    WebSocketUrl,
}
