//! MOSA over WebSocket: one device's connection.

#[cfg(test)]
mod allocations_test;
mod frames;
mod mailbox;
mod open;
mod protocol;

use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;

use super::Gateway;
use crate::{
    entropy::Entropy, server::departure::Departure, stream::Stream, websocket::Connection,
};
use protocol::DeviceProtocol;

/// Runs a connection after its handshake.
pub(super) fn run(
    gateway: Arc<Gateway>,
    stream: Stream,
    read: Bytes,
    departure: Arc<Departure>,
    mut entropy: Entropy,
) -> BoxFuture<'static, ()> {
    let config = Arc::clone(&gateway.websocket);
    let protocol = DeviceProtocol::new(gateway, entropy.fork());
    Box::pin(Connection::new(stream, &read, config, protocol, departure, entropy))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// With tokio's task and socket, the subscription and the kernel's share this keeps an idle
    /// connection below 4 KiB; the measurement is in the tests of this crate.
    #[test]
    fn idle_state_is_small() {
        assert!(size_of::<Connection<Stream, DeviceProtocol>>() <= 512);
        assert!(size_of::<DeviceProtocol>() <= 96);
        assert!(size_of::<open::Open>() <= 384);
    }
}
