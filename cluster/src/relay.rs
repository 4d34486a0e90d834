//! What a front door sees of the cluster.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use heliograph_transport::BoxFuture;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::model::{DeviceId, Message, MessageId, Priority};

/// An API key as a client holds it: `hg1_` and 56 characters of unpadded base64url over
/// slot (u16 BE) ‖ key id (u64 BE) ‖ secret (32 bytes). Never logged.
#[derive(Clone, PartialEq, Eq)]
pub struct ApiKey(pub(crate) String);

impl ApiKey {
    /// The text, to be shown once to its owner.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Takes any text; what is not a key of this cluster fails to authenticate.
    pub fn from_text(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl std::fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ApiKey(…)")
    }
}

/// A one-use ticket: taken once, by the node it is for, in place of an API key. Never logged.
#[derive(Clone, PartialEq, Eq)]
pub struct ResumeTicket(String);

impl ResumeTicket {
    /// The text, to be sent to its bearer.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Takes any text; what is no ticket is refused where it is used.
    pub fn from_text(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl std::fmt::Debug for ResumeTicket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ResumeTicket(…)")
    }
}

/// Where a connection may go on when its node goes away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResumeHint {
    /// The WebSocket address of a node that serves.
    pub url: String,
    /// Takes the place of the API key there, once.
    pub ticket: ResumeTicket,
    /// How long the ticket may be used.
    pub expires_in: Duration,
}

/// Why the cluster did not do what a front door asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RelayError {
    /// The API key is unknown or revoked.
    #[error("the API key is not valid")]
    Unauthenticated,
    /// The device id belongs to another public key, or a known device must sign.
    #[error("the device id is taken")]
    DeviceTaken,
    /// The same message id came before with another content.
    #[error("this message id was used for another content")]
    MessageConflict,
    /// The content exceeds [`crate::model::CONTENT_BYTES_MAX`].
    #[error("the content is too large")]
    TooLarge,
    /// The recipient's mailbox is at its limit.
    #[error("the recipient's mailbox is full")]
    MailboxFull,
    /// Too much is queued on this node: nothing was done, try again later.
    #[error("overloaded, try again later")]
    Overloaded,
    /// No quorum answered in time: nothing was done, or it is *unknown* whether it was done.
    /// Try again with the same message id.
    #[error("no quorum in time, try again with the same message id")]
    Unavailable,
    /// A disk failed under the request: it is *unknown* whether it was done.
    #[error("a node's storage failed, try again with the same message id")]
    Storage,
}

impl RelayError {
    /// Whether the same request may succeed later.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Overloaded | Self::Unavailable | Self::Storage | Self::MailboxFull)
    }
}

/// A device that proved its API key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Principal {
    /// The device.
    pub device: DeviceId,
    /// Which of its keys it used.
    pub key_id: u64,
}

/// A request to register.
#[derive(Clone, Debug)]
pub struct Registration {
    /// The device.
    pub device: DeviceId,
    /// Its Ed25519 public key.
    pub public_key: [u8; 32],
    /// Whether the front door checked a valid signature by `public_key`.
    pub signed: bool,
}

/// A message to be stored.
#[derive(Clone, Debug)]
pub struct Outgoing {
    /// Who sends; authenticated.
    pub sender: DeviceId,
    /// To whom.
    pub recipient: DeviceId,
    /// The sender's id for it.
    pub message_id: MessageId,
    /// The priority.
    pub priority: Priority,
    /// How long it may wait; the cluster's default for `None`.
    pub ttl: Option<Duration>,
    /// The ciphertext, at most [`crate::model::CONTENT_BYTES_MAX`].
    pub content: Bytes,
}

/// The promise: on disk on a majority.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// The message's number in (mailbox, priority).
    pub seq: u64,
    /// Shard time of acceptance, milliseconds since the Unix epoch.
    pub accepted_ms: u64,
    /// Whether it was accepted by an earlier request.
    pub duplicate: bool,
}

/// What to read from a mailbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fetch {
    /// At most so many messages (1 to 1,000).
    pub limit: usize,
    /// How long to wait for a first message (at most 60 s); zero answers at once.
    pub wait: Duration,
    /// Only what comes after this (priority, seq) in the order of delivery.
    pub after: Option<(Priority, u64)>,
}

/// Names a message in an acknowledgement.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum AckItem {
    /// By its sender's id: the copy offered to this device.
    Id(MessageId),
    /// By its number.
    Seq(Priority, u64),
}

/// A frame that is never stored: `audio_stream`, `video_signal`.
#[derive(Clone, Debug)]
pub struct LiveFrame {
    /// Who sends; authenticated.
    pub sender: DeviceId,
    /// To whom.
    pub recipient: DeviceId,
    /// The front door's encoding of the frame, opaque here.
    pub payload: Bytes,
}

/// Whether anybody listened to a live frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LiveOutcome {
    /// It was handed to at least one connection's node.
    Forwarded,
    /// The recipient has no connection.
    Unavailable,
}

/// What the cluster pushes to a connection.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Push {
    /// Messages, in the order of delivery. Each takes one from the connection's window until the
    /// connection says [`Session::written`].
    Messages(Vec<Arc<Message>>),
    /// Numbers that will never come, in one range.
    Skipped {
        /// The priority.
        priority: Priority,
        /// First number.
        from: u64,
        /// Last number.
        to: u64,
        /// Why: `"expired"` or `"cancelled"`.
        reason: &'static str,
    },
    /// A live frame, in the sender's front door's encoding.
    Live(Bytes),
    /// Close the connection.
    Close(CloseReason),
}

/// Why the cluster closes a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CloseReason {
    /// Its API key was revoked.
    KeyRevoked,
    /// It reads too slowly.
    SlowReader,
    /// The node goes away: reconnect to any other.
    NodeRestarts,
    /// The cluster cannot serve it now.
    TryAgainLater,
}

/// Where a connection's pushes go: a bounded queue owned by the connection.
pub trait PushSink: Send + Sync + 'static {
    /// Takes a push without waiting, or hands it back when the connection's queue is full or gone.
    fn push(&self, push: Push) -> Result<(), Push>;
}

/// A connection's side of its mailbox. Dropping it ends the subscription.
pub trait Session: Send + Sync + 'static {
    /// The connection has written these messages to its socket (*delivered*): frees its window.
    fn written(&self, items: &[(Priority, u64)]);

    /// The device has these messages. Returns at once; the session repeats the acknowledgement
    /// until a majority has it. What was not offered to this connection is ignored. The answer is
    /// how many were taken up.
    fn acknowledge(&self, items: &[AckItem]) -> u32;
}

/// How a node's cluster side does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Condition {
    /// Every shard has a leader that a quorum follows, as far as this node knows.
    Online,
    /// Some shard has none, or this node's disk failed.
    Degraded,
    /// This node is going away.
    Draining,
}

/// What `status` tells.
#[derive(Clone, Debug)]
pub struct RelayStatus {
    /// See [`Condition`].
    pub condition: Condition,
    /// Shards without a leader that a quorum follows.
    pub shards_without_leader: u32,
    /// Why this node is not ready to serve, in words for an operator; `None` when it is.
    pub not_ready: Option<&'static str>,
    /// Deduplication window.
    pub dedup_window: Duration,
    /// How long a message waits by default.
    pub ttl_default: Duration,
    /// How long a sender may let it wait at most.
    pub ttl_max: Duration,
}

/// The cluster as a front door sees it. Every call has a deadline, passed down and never reset.
pub trait Relay: Send + Sync + 'static {
    /// Creates a device or gives a known one a fresh key.
    fn register(
        &self,
        request: Registration,
        deadline: Instant,
    ) -> BoxFuture<'_, Result<ApiKey, RelayError>>;

    /// Who holds this key.
    fn authenticate(
        &self,
        key: &ApiKey,
        deadline: Instant,
    ) -> BoxFuture<'_, Result<Principal, RelayError>>;

    /// Where a connection of `principal` goes on when this node goes away; `None` where no other
    /// node is known to serve, or has an address of its own: then to any other, with its key.
    fn farewell(&self, principal: &Principal) -> Option<ResumeHint>;

    /// Takes a ticket, at once and without asking anybody. What the answer names may be shown its
    /// mailbox by [`Relay::connect`], which checks the key; before anything is done in its name
    /// [`Relay::confirm`] must have succeeded.
    ///
    /// # Errors
    /// [`RelayError::Unauthenticated`] for a ticket that is not for this node, expired, used or
    /// forged; [`RelayError::Unavailable`] where this node is in no cluster yet.
    fn resume(&self, ticket: &ResumeTicket) -> Result<Principal, RelayError>;

    /// Checks that the key behind a ticket still is one, as [`Relay::authenticate`] would.
    fn confirm(
        &self,
        principal: &Principal,
        deadline: Instant,
    ) -> BoxFuture<'_, Result<(), RelayError>>;

    /// Revokes the key of `principal` (all of the device's keys for [`RevokeScope::EveryKey`]), and answers once
    /// no node honours it any more. Live sockets get [`CloseReason::KeyRevoked`].
    fn revoke(
        &self,
        principal: &Principal,
        scope: RevokeScope,
        deadline: Instant,
    ) -> BoxFuture<'_, Result<(), RelayError>>;

    /// Stores a message; answers once it is on disk on a majority.
    fn send(
        &self,
        message: Outgoing,
        deadline: Instant,
    ) -> BoxFuture<'_, Result<Accepted, RelayError>>;

    /// Reads pending messages, the highest priority first, then the oldest; removes nothing.
    fn receive(
        &self,
        device: &DeviceId,
        fetch: Fetch,
        deadline: Instant,
    ) -> BoxFuture<'_, Result<Vec<Message>, RelayError>>;

    /// Forgets messages the device has; answers how many after a majority has that on disk.
    fn acknowledge(
        &self,
        device: &DeviceId,
        items: Vec<AckItem>,
        deadline: Instant,
    ) -> BoxFuture<'_, Result<u32, RelayError>>;

    /// Subscribes a connection to its device's mailbox: the backlog, then what arrives. `principal`
    /// comes from [`Relay::authenticate`]: the shard checks its key with every subscription, and a
    /// connection of an unregistered device is told [`CloseReason::KeyRevoked`]. `received` is what
    /// the device got over an earlier connection and did not see acknowledged: it is not pushed
    /// again, and may be acknowledged over this one.
    fn connect(
        &self,
        principal: &Principal,
        received: &[(Priority, u64)],
        window: Window,
        sink: Arc<dyn PushSink>,
    ) -> Arc<dyn Session>;

    /// Forwards a frame to the recipient's live connections, if there are any.
    fn live(
        &self,
        frame: LiveFrame,
        deadline: Instant,
    ) -> BoxFuture<'_, Result<LiveOutcome, RelayError>>;

    /// How this node does.
    fn status(&self) -> RelayStatus;
}

/// Which keys [`Relay::revoke`] takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RevokeScope {
    /// The one that was used.
    ThisKey,
    /// All of the device's.
    EveryKey,
}

/// How much may be pushed to a connection and not yet be written by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    /// Messages.
    pub messages: u32,
    /// Bytes of content.
    pub bytes: u32,
}
