//! One simulated node's view of the network.

use std::{future::ready, sync::Arc};

use bytes::Bytes;
use tokio::time::{Instant, timeout_at};

use super::{
    Inner,
    state::{Packet, Rejected, Reply},
};
use crate::{
    network::{BoxFuture, CallError, FRAME_BYTES_MAX, Handler, Lane, Network, NodeId, NotifyError},
    protocol::PeerInfo,
};

/// A process on the simulated network. Dead once its node crashed, was shut down, or started again:
/// then it is connected to nobody. Dropping it shuts it down.
pub struct SimNetwork {
    id: NodeId,
    life: u64,
    inner: Arc<Inner>,
}

impl SimNetwork {
    pub(super) fn new(id: NodeId, life: u64, inner: Arc<Inner>) -> Self {
        Self { id, life, inner }
    }
}

impl Network for SimNetwork {
    fn local(&self) -> NodeId {
        self.id
    }

    fn serve(&self, handler: Arc<dyn Handler>) {
        self.inner.change(|state| state.serve(self.id, self.life, handler));
    }

    fn set_peers(&self, peers: Vec<(NodeId, String)>) {
        let peers = peers.into_iter().map(|(peer, _)| peer).filter(|&peer| peer != self.id);
        self.inner.change(|state| state.set_peers(self.id, self.life, peers.collect()));
    }

    fn is_connected(&self, peer: NodeId) -> bool {
        self.inner.state.lock().is_connected(self.id, self.life, peer)
    }

    fn peer_info(&self, peer: NodeId) -> Option<PeerInfo> {
        self.inner.state.lock().peer_info(self.id, self.life, peer)
    }

    fn call(
        &self,
        to: NodeId,
        lane: Lane,
        request: Bytes,
        deadline: Instant,
    ) -> BoxFuture<'static, Result<Bytes, CallError>> {
        let bytes = request.len();
        if bytes > FRAME_BYTES_MAX {
            return Box::pin(ready(Err(CallError::TooLarge { bytes })));
        }
        let remaining = deadline.saturating_duration_since(Instant::now());
        if remaining.is_zero() {
            return Box::pin(ready(Err(CallError::Deadline(to))));
        }
        let sent = self
            .inner
            .change(|state| state.request((self.id, self.life), to, lane, request, remaining));
        let (call, answer) = match sent {
            Ok(sent) => sent,
            Err(Rejected::NotConnected) => {
                return Box::pin(ready(Err(CallError::NotConnected(to))));
            }
            Err(Rejected::Full) => return Box::pin(ready(Err(CallError::Overloaded(to)))),
        };
        let waiting = Waiting { inner: Arc::clone(&self.inner), id: self.id, to, call };
        Box::pin(async move {
            let _waiting = waiting;
            match timeout_at(deadline, answer).await {
                Err(_) => Err(CallError::Deadline(to)),
                Ok(Err(_) | Ok(Reply::Failed)) => Err(CallError::Lost(to)),
                Ok(Ok(Reply::Answer(answer))) => Ok(answer),
                Ok(Ok(Reply::Declined)) => Err(CallError::Refused(to)),
                Ok(Ok(Reply::Busy)) => Err(CallError::Overloaded(to)),
            }
        })
    }

    fn notify(&self, to: NodeId, lane: Lane, payload: Bytes) -> Result<(), NotifyError> {
        if payload.len() > FRAME_BYTES_MAX {
            return Err(NotifyError::TooLarge);
        }
        let packet = Packet::Notice(payload);
        let sent = self.inner.change(|state| state.send((self.id, self.life), to, lane, packet));
        sent.map_err(|rejected| match rejected {
            Rejected::NotConnected => NotifyError::NotConnected(to),
            Rejected::Full => NotifyError::Overloaded(to),
        })
    }

    fn shutdown(&self) -> BoxFuture<'static, ()> {
        self.inner.change(|state| state.stop(self.id, self.life));
        Box::pin(ready(()))
    }
}

impl Drop for SimNetwork {
    fn drop(&mut self) {
        self.inner.change(|state| state.stop(self.id, self.life));
    }
}

/// Forgets the call when its caller does.
struct Waiting {
    inner: Arc<Inner>,
    id: NodeId,
    to: NodeId,
    call: u64,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.inner.state.lock().forget(self.id, self.to, self.call);
    }
}
