//! What a node does with what its peers send: opens the envelope and hands the rest on.

use std::sync::Arc;

use bytes::Bytes;
use heliograph_transport::{BoxFuture, Handler, Lane, NodeId, PeerEvent};
use tokio::time::Instant;

use crate::{
    actors::pulse,
    admin,
    context::Context,
    delivery::Delivery,
    envelope, formation,
    node_wire::{self, Beat, NodeRequest},
    raft,
};

/// The node's [`Handler`].
pub(crate) struct NodeHandler {
    pub(crate) context: Arc<Context>,
    pub(crate) delivery: Arc<Delivery>,
}

impl Handler for NodeHandler {
    fn call(
        self: Arc<Self>,
        from: NodeId,
        _lane: Lane,
        request: Bytes,
        deadline: Instant,
    ) -> BoxFuture<'static, Option<Bytes>> {
        match envelope::open(request) {
            Some((envelope::RAFT, body)) => Box::pin(async move {
                let (kind, asked, body) = raft::decode_head(body)?;
                let group = self.context.group(asked.group)?;
                if group.incarnation() != asked.incarnation {
                    return None;
                }
                group.serve(kind, body).await
            }),
            Some((envelope::RELAY, body)) => Arc::clone(&self.delivery).call(from, body, deadline),
            Some((envelope::NODE, body)) => Box::pin(async move {
                let request = node_wire::decode::<NodeRequest>(&body)?;
                let answer = formation::answer(&self.context, from, request).await?;
                // Peers read answers without an envelope.
                Some(node_wire::encode(&answer).slice(1..))
            }),
            Some((envelope::ADMIN, body)) => {
                Box::pin(admin::answer(Arc::clone(&self.context), body, deadline))
            }
            _ => Box::pin(std::future::ready(None)),
        }
    }

    fn notify(&self, from: NodeId, _lane: Lane, payload: Bytes) {
        match envelope::open(payload) {
            Some((envelope::NODE, body)) => {
                if let Some(beat) = node_wire::decode::<Beat>(&body) {
                    pulse::take_beat(&self.context, from, beat);
                }
            }
            Some((envelope::RELAY, body)) => self.delivery.notify(from, body),
            _ => tracing::warn!(peer = %from, "dropped a notice of an unknown kind"),
        }
    }

    fn peer(&self, event: PeerEvent) {
        pulse::take_peer_event(&self.context, event);
        self.delivery.peer(event);
    }
}
