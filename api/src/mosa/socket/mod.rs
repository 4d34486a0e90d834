//! MOSA over WebSocket: one device's connection.

mod frames;
mod mailbox;
mod open;
mod protocol;

use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio_util::sync::CancellationToken;

use super::Gateway;
use crate::{entropy::Entropy, server::stream::Stream, websocket::Connection};
use protocol::DeviceProtocol;

/// Runs a connection after its handshake.
pub(super) fn run(
    gateway: Arc<Gateway>,
    stream: Stream,
    read: Bytes,
    drain: CancellationToken,
    mut entropy: Entropy,
) -> BoxFuture<'static, ()> {
    let config = Arc::clone(&gateway.websocket);
    let protocol = DeviceProtocol::new(gateway, entropy.fork());
    Box::pin(Connection::new(stream, &read, config, protocol, drain, entropy).run())
}
