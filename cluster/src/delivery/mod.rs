//! Delivery: what the node composes it from, and what the node hands to it.
//!
//! This file fixes the edge between the node and delivery; router, sessions and mailbox actors come
//! behind it.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use heliograph_transport::{BoxFuture, NodeId, PeerEvent};
use tokio::time::Instant;

use crate::{
    Relay, ShardObserver, context::Context, machine::Effect, model::ShardId,
    shard_handle::Leadership,
};

/// Delivery on one node. It takes what it needs from the node's context: `topology`, `leaders`,
/// `shards`, `network`, `surroundings`, `not_ready_reason()`, `shards_without_leader()`.
pub(crate) struct Delivery {
    relay: OnceLock<Arc<dyn Relay>>,
}

impl Delivery {
    /// Starts delivery; called before any shard runs.
    pub(crate) fn start(_context: &Arc<Context>) -> Arc<Self> {
        Arc::new(Self { relay: OnceLock::new() })
    }

    /// The node as front doors see it.
    pub(crate) fn relay(&self) -> Arc<dyn Relay> {
        Arc::clone(self.relay.get().expect("delivery sets its relay when it starts"))
    }

    /// The node goes away: tell the connections.
    pub(crate) fn drain(&self) {}

    /// Ends all actors and tasks.
    pub(crate) async fn stop(&self) {}

    /// Answers a peer's request; `None` refuses it.
    pub(crate) fn call(
        self: Arc<Self>,
        _from: NodeId,
        _request: Bytes,
        _deadline: Instant,
    ) -> BoxFuture<'static, Option<Bytes>> {
        Box::pin(std::future::ready(None))
    }

    /// Takes a peer's notice.
    pub(crate) fn notify(&self, _from: NodeId, _payload: Bytes) {}

    /// Takes a change of a peer's connections.
    pub(crate) fn peer(&self, _event: PeerEvent) {}
}

impl ShardObserver for Delivery {
    fn applied(&self, _shard: ShardId, _term: u64, _effects: Vec<Effect>) {}

    fn leadership(&self, _shard: ShardId, _leadership: &Leadership) {}
}
