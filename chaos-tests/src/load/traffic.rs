//! What all loads have in common: what is sent to how many, by which way, for how long.

use std::time::Duration;

use serde::Serialize;

/// The relay's two ways.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Over {
    /// WebSocket: `message` and `ack` frames.
    Ws,
    /// REST over kept-alive connections: send; receive (long poll) and acknowledge.
    Rest,
}

/// What is sent.
#[derive(Clone, Copy, Debug)]
pub struct Traffic {
    /// By which way.
    pub over: Over,
    /// Mailboxes that messages go to, in turn.
    pub mailboxes: u32,
    /// Content of each, in bytes before Base64.
    pub content_bytes: usize,
    /// Not measured.
    pub warm_up: Duration,
    /// Measured.
    pub time: Duration,
}
