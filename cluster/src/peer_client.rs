//! Relay traffic to peers: the envelope byte and the shard's lane around the node's network.

use std::{fmt, sync::Arc};

use bytes::{BufMut, Bytes, BytesMut};
use heliograph_transport::{CallError, Lane, Network, NodeId, NotifyError};
use tokio::time::Instant;

use crate::{envelope, model::ShardId};

/// Sends requests and notices of the relay. Cloning shares the network.
#[derive(Clone)]
pub(crate) struct PeerClient {
    network: Arc<dyn Network>,
}

impl fmt::Debug for PeerClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PeerClient")
    }
}

impl PeerClient {
    pub(crate) fn new(network: Arc<dyn Network>) -> Self {
        Self { network }
    }

    /// Asks `to` on the lane of `shard`. `request` comes from [`PeerClient::buffer`].
    pub(crate) async fn call(
        &self,
        to: NodeId,
        shard: ShardId,
        request: Bytes,
        deadline: Instant,
    ) -> Result<Bytes, CallError> {
        self.network.call(to, lane(shard), request, deadline).await
    }

    /// Tells `to` on the lane of `shard`; may be lost. `payload` comes from [`PeerClient::buffer`].
    pub(crate) fn notify(
        &self,
        to: NodeId,
        shard: ShardId,
        payload: Bytes,
    ) -> Result<(), NotifyError> {
        self.network.notify(to, lane(shard), payload)
    }

    /// A buffer that begins with the envelope.
    pub(crate) fn buffer(capacity: usize) -> BytesMut {
        let mut buffer = BytesMut::with_capacity(capacity + 1);
        buffer.put_u8(envelope::RELAY);
        buffer
    }
}

fn lane(shard: ShardId) -> Lane {
    Lane::Shared(u32::from(shard.0))
}
