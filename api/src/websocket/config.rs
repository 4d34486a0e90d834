//! What an operator can set of WebSocket connections.

use std::time::Duration;

use serde::Deserialize;

use crate::mosa::ConfigError;

/// WebSocket connections.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct WebSocketConfig {
    /// Bytes of one message from a client.
    pub message_bytes_max: usize,
    /// How long a client may take to send `auth`.
    #[serde(with = "humantime_serde")]
    pub auth_timeout: Duration,
    /// The shortest pause between keep-alive Pings.
    #[serde(with = "humantime_serde")]
    pub ping_min: Duration,
    /// The longest pause between keep-alive Pings.
    #[serde(with = "humantime_serde")]
    pub ping_max: Duration,
    /// How long a client may read nothing of what is written to it.
    #[serde(with = "humantime_serde")]
    pub write_timeout: Duration,
    /// How long a client may take to answer our close frame.
    #[serde(with = "humantime_serde")]
    pub close_timeout: Duration,
    /// What counts as an acknowledgement.
    pub acknowledgement: Acknowledgement,
    /// Messages and live frames of one connection under way at once; more wait in its socket.
    pub in_flight_max: usize,
    /// Messages the cluster may push ahead of the socket.
    pub window_messages: u32,
    /// Bytes of content the cluster may push ahead of the socket.
    pub window_bytes: u32,
}

impl Default for WebSocketConfig {
    fn default() -> Self {
        Self {
            // 60 KiB of content are 80 KiB of Base64; some encoders write `\/` for each `/`.
            message_bytes_max: 128 * 1024,
            auth_timeout: Duration::from_secs(10),
            // Below the 60 s after which proxies and NATs forget a silent connection.
            ping_min: Duration::from_secs(25),
            ping_max: Duration::from_secs(45),
            write_timeout: Duration::from_secs(20),
            close_timeout: Duration::from_secs(2),
            acknowledgement: Acknowledgement::Pong,
            in_flight_max: 256,
            window_messages: 256,
            window_bytes: 1024 * 1024,
        }
    }
}

/// What counts as an acknowledgement, unless a client says otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Acknowledgement {
    /// The Pong to the Ping after a message, or `ack` frames once a client sends one.
    Pong,
    /// `ack` frames alone. Needed behind a proxy that answers Pings itself.
    Explicit,
}

impl WebSocketConfig {
    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        if self.ping_min.is_zero() || self.ping_min > self.ping_max {
            return Err(ConfigError::PingRange);
        }
        let least = [
            ("websocket.message-bytes-max", self.message_bytes_max, 96 * 1024),
            ("websocket.in-flight-max", self.in_flight_max, 1),
            ("websocket.window-messages", self.window_messages as usize, 1),
            ("websocket.window-bytes", self.window_bytes as usize, 64 * 1024),
        ];
        match least.into_iter().find(|(_, value, min)| value < min) {
            Some((setting, _, min)) => Err(ConfigError::TooSmall { setting, min }),
            None => Ok(()),
        }
    }
}
