//! The contract between a node and the network that joins it to its peers.

use std::{fmt, future::Future, pin::Pin, sync::Arc};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::protocol::PeerInfo;

/// The largest payload of one call, answer or notice, in bytes.
///
/// 4 MiB: one Raft append of a full batch, or one snapshot chunk with room to spare; small enough
/// that a peer cannot make a node allocate without bound.
pub const FRAME_BYTES_MAX: usize = 4 * 1024 * 1024;

/// A boxed future that can move between threads.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// The identity of a node: assigned by the operator, certified by the cluster's CA, never reused.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct NodeId(pub u16);

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "n{}", self.0)
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// How many lanes [`Lane::Shared`] keys are spread over.
///
/// 8: enough that one Raft group's full append does not hold up the others, few enough that a
/// lane's writer still finds several frames to put into one packet.
pub const SHARED_LANES: u32 = 8;

/// Which road a payload takes to a peer. Payloads on one lane keep their order; lanes do not wait
/// for each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Lane {
    /// Lane 0 of the control connection: votes, beats, leadership transfers.
    Urgent,
    /// A shared lane of the control connection, chosen by `key` (the Raft group). The receiver
    /// sees the lane's number, `key % SHARED_LANES`, not the key.
    Shared(u32),
    /// The bulk connection: snapshots, later blobs. Never delays the control connection. Raises no
    /// [`PeerEvent`]: it may stand a moment later than the control connection, or break alone.
    Bulk,
}

impl Lane {
    /// How many lane numbers there are: urgent, the shared ones, bulk.
    pub(crate) const NUMBERS: u8 = SHARED_LANES as u8 + 2;

    /// The lane's number: 0 is urgent, the shared ones follow, the last is bulk.
    pub(crate) fn number(self) -> u8 {
        match self {
            Self::Urgent => 0,
            Self::Shared(key) => 1 + (key % SHARED_LANES) as u8,
            Self::Bulk => Self::NUMBERS - 1,
        }
    }

    /// The lane with this number, which is below [`Self::NUMBERS`].
    pub(crate) fn from_number(number: u8) -> Self {
        match number {
            0 => Self::Urgent,
            shared if shared < Self::NUMBERS - 1 => Self::Shared(u32::from(shared) - 1),
            _ => Self::Bulk,
        }
    }
}

/// Why a call has no answer.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum CallError {
    /// The payload never left this node: the peer is unknown or not connected. Safe to retry
    /// elsewhere.
    #[error("node {0} is not connected")]
    NotConnected(NodeId),
    /// The lane's queue is full and the payload never left this node, or the peer has as many
    /// calls of this node under way as it takes and did not begin this one. Retry after a pause.
    #[error("the lane to node {0} is full")]
    Overloaded(NodeId),
    /// The payload exceeds [`FRAME_BYTES_MAX`]: it never left this node.
    #[error("payload of {bytes} bytes exceeds the limit of {FRAME_BYTES_MAX}")]
    TooLarge {
        /// The size of the refused payload.
        bytes: usize,
    },
    /// The connection broke after the payload may have left, or the peer's handler failed: the peer
    /// may or may not have acted.
    #[error("the connection to node {0} broke while waiting")]
    Lost(NodeId),
    /// The deadline passed: the peer may or may not have acted.
    #[error("node {0} did not answer in time")]
    Deadline(NodeId),
    /// The peer refused the request without acting on it (unknown version, shutting down).
    #[error("node {0} refused the request")]
    Refused(NodeId),
}

impl CallError {
    /// Whether the peer certainly did not act on the request.
    pub fn is_unsent(&self) -> bool {
        matches!(
            self,
            Self::NotConnected(_) | Self::Overloaded(_) | Self::TooLarge { .. } | Self::Refused(_)
        )
    }
}

/// Why a notice was dropped at the sender.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NotifyError {
    /// The peer is unknown or not connected.
    #[error("node {0} is not connected")]
    NotConnected(NodeId),
    /// The lane's queue is full.
    #[error("the lane to node {0} is full")]
    Overloaded(NodeId),
    /// The payload exceeds [`FRAME_BYTES_MAX`].
    #[error("the payload is too large")]
    TooLarge,
}

/// A change in what this node knows of a peer. `Connected` and `Disconnected` of a peer alternate;
/// none come once [`Network::shutdown`] was called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PeerEvent {
    /// The control connection to the peer stands.
    Connected(NodeId),
    /// The control connection is gone; calls under way ended with [`CallError::Lost`].
    Disconnected(NodeId),
    /// The peer's process has ended: its kernel closed the tripwire. Comes within milliseconds of
    /// a `kill -9`, long before QUIC notices.
    TripwireBroken(NodeId),
}

/// What a node does with what its peers send. Called on the network's tasks: a handler hands work
/// on and returns soon.
pub trait Handler: Send + Sync + 'static {
    /// Answers a call. `None` refuses it ([`CallError::Refused`] at the caller).
    /// `from` is the TLS-proven identity of the peer. Calls of one peer on one lane are begun
    /// (first polled) in order, among its notices; they end in any order. The future is dropped at
    /// the deadline.
    fn call(
        self: Arc<Self>,
        from: NodeId,
        lane: Lane,
        request: Bytes,
        deadline: Instant,
    ) -> BoxFuture<'static, Option<Bytes>>;

    /// Takes a notice. Notices of one peer on one lane arrive in order.
    fn notify(&self, from: NodeId, lane: Lane, payload: Bytes);

    /// Takes a change of a peer's state.
    fn peer(&self, event: PeerEvent);
}

/// The network as one node sees it.
pub trait Network: Send + Sync + 'static {
    /// This node.
    fn local(&self) -> NodeId;

    /// Starts to reach peers and to answer them with `handler`. Called once; before it, peers are
    /// neither dialled nor taken in. The handler is let go at [`Network::shutdown`].
    fn serve(&self, handler: Arc<dyn Handler>);

    /// Sets where the peers are: (node, "host:port"). Peers not in the list are disconnected and
    /// refused; new ones are dialled in the background with jittered, capped back-off.
    fn set_peers(&self, peers: Vec<(NodeId, String)>);

    /// Whether the control connection to `peer` stands.
    fn is_connected(&self, peer: NodeId) -> bool;

    /// What is known of `peer`, while the control connection to it stands.
    fn peer_info(&self, peer: NodeId) -> Option<PeerInfo>;

    /// Asks `to` and waits for the answer, until `deadline` at the latest. The request is queued
    /// before this returns: requests of one task on one lane keep their order. Dropping the future
    /// forgets the call; the peer may still act on it.
    fn call(
        &self,
        to: NodeId,
        lane: Lane,
        request: Bytes,
        deadline: Instant,
    ) -> BoxFuture<'static, Result<Bytes, CallError>>;

    /// Sends `payload` without waiting. It may be lost; in order if it arrives.
    fn notify(&self, to: NodeId, lane: Lane, payload: Bytes) -> Result<(), NotifyError>;

    /// Closes all connections; calls under way end with [`CallError::Lost`].
    fn shutdown(&self) -> BoxFuture<'static, ()>;
}
