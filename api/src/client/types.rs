//! What is said between a client and a gateway.

use std::time::Duration;

use bytes::Bytes;
use heliograph_cluster::{
    AckItem,
    model::{DeviceId, MessageId, Priority},
};
use serde::{Deserialize, Deserializer, de::Error as _};
use serde_json::{Value, json};

use crate::{base64, mosa::generate_message_id};

/// A message to be sent. The same letter sent twice is accepted once.
#[derive(Debug, Clone)]
pub struct Letter {
    /// To whom.
    pub recipient: DeviceId,
    /// The sender's id for it: what makes repeating safe.
    pub message_id: MessageId,
    /// The priority.
    pub priority: Priority,
    /// How long it may wait; the gateway's default for `None`.
    pub ttl: Option<Duration>,
    /// The ciphertext.
    pub content: Bytes,
}

impl Letter {
    /// A letter of normal priority with a fresh message id.
    pub fn new(recipient: DeviceId, content: impl Into<Bytes>) -> Self {
        Self {
            recipient,
            message_id: generate_message_id(),
            priority: Priority::default(),
            ttl: None,
            content: content.into(),
        }
    }

    pub(super) fn to_json(&self) -> Value {
        let mut body = json!({
            "recipient_id": self.recipient.as_str(),
            "message_id": self.message_id.as_str(),
            "priority": self.priority.name(),
            "content": base64::encode(&self.content),
        });
        if let Some(ttl) = self.ttl {
            body["ttl_seconds"] = Value::from(ttl.as_secs().max(1));
        }
        body
    }
}

/// The gateway's promise: the message is on disk on a majority.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[non_exhaustive]
pub struct Receipt {
    /// When it was accepted, in Unix seconds.
    #[serde(default)]
    pub timestamp: u64,
    /// Whether an earlier attempt had been accepted.
    #[serde(default)]
    pub duplicate: bool,
}

/// A message as it was received.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[non_exhaustive]
pub struct Received {
    /// The sender's id for it.
    pub message_id: MessageId,
    /// Who sent it.
    #[serde(rename = "sender_id")]
    pub sender: DeviceId,
    /// To whom.
    #[serde(rename = "recipient_id")]
    pub recipient: DeviceId,
    /// The ciphertext.
    #[serde(deserialize_with = "content")]
    pub content: Bytes,
    /// Its priority.
    #[serde(deserialize_with = "priority")]
    pub priority: Priority,
    /// When it was accepted, in Unix seconds.
    pub timestamp: u64,
    /// When it was accepted, in Unix milliseconds; 0 from another gateway than ours.
    #[serde(default)]
    pub timestamp_ms: u64,
    /// Its number in (mailbox, priority).
    pub seq: u64,
}

impl Received {
    /// What acknowledges it: its number, which no other message has.
    pub fn ack(&self) -> AckItem {
        AckItem::Seq(self.priority, self.seq)
    }
}

fn content<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Bytes, D::Error> {
    let text = String::deserialize(deserializer)?;
    base64::decode(&text).map(Bytes::from).map_err(D::Error::custom)
}

pub(super) fn priority<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Priority, D::Error> {
    let text = String::deserialize(deserializer)?;
    let mut all = Priority::ALL.into_iter();
    all.find(|priority| priority.name() == text)
        .ok_or_else(|| D::Error::custom("an unknown priority"))
}

/// What to read from a mailbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fetch {
    /// At most so many messages.
    pub limit: usize,
    /// How long to wait for a first message; zero answers at once.
    pub wait: Duration,
    /// Only what comes after this (priority, seq) in the order of delivery.
    pub after: Option<(Priority, u64)>,
}

impl Default for Fetch {
    fn default() -> Self {
        Self { limit: 100, wait: Duration::ZERO, after: None }
    }
}

impl Fetch {
    pub(super) fn query(&self) -> String {
        let mut query = format!("limit={}&wait={}", self.limit, self.wait.as_secs());
        if let Some((priority, seq)) = self.after {
            query.push_str(&format!("&after={}:{seq}", priority.name()));
        }
        query
    }
}

/// What a gateway says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[non_exhaustive]
pub struct GatewayStatus {
    /// `online`, `degraded` or `draining`.
    pub status: String,
    /// The version of the protocol.
    pub version: String,
    /// What it offers.
    pub capabilities: Capabilities,
}

/// What a gateway offers.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[non_exhaustive]
pub struct Capabilities {
    /// Whether it speaks WebSocket.
    pub websocket_enabled: bool,
    /// Where.
    pub websocket_url: String,
    /// `open`, `signed`, `invite` or `closed`; empty from another gateway than ours.
    #[serde(default)]
    pub registration: String,
    /// Its clock, in Unix seconds; 0 from another gateway than ours.
    #[serde(default)]
    pub server_time: u64,
    /// How long it recognises a repeated message id; 0 from another gateway than ours.
    #[serde(default)]
    pub dedup_window_seconds: u64,
}

/// An acknowledgement as JSON fields.
pub(super) fn ack_fields(items: &[AckItem]) -> Value {
    let mut ids = Vec::new();
    let mut seqs = Vec::new();
    for item in items {
        match item {
            AckItem::Id(id) => ids.push(id.as_str()),
            AckItem::Seq(priority, seq) => {
                seqs.push(json!({ "priority": priority.name(), "seq": seq }));
            }
        }
    }
    json!({ "message_ids": ids, "seqs": seqs })
}
