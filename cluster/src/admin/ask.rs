//! Asks another node for operators.

use heliograph_transport::{Lane, NodeId};
use tokio::time::Instant;

use super::wire::{self, AdminAnswer, AdminRequest};
use crate::context::Context;

/// Asks `node`; none when there is no answer in time, or none that this build knows.
pub(super) async fn ask(
    context: &Context,
    node: NodeId,
    lane: Lane,
    request: &AdminRequest,
    deadline: Instant,
) -> Option<AdminAnswer> {
    let request = wire::encode(request);
    let answer = context.network.call(node, lane, request, deadline).await.ok()?;
    wire::decode(&answer)
}
