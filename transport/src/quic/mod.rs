//! The network over QUIC with mutual TLS, and a TCP tripwire beside it.
//!
//! [`QuicNetwork`] owns the endpoint and the table of peers. Each peer has an actor (`peer`) that
//! owns its two connections (`link`), each of which has lanes (`lane` writes, `reader` reads).
//! `handshake` makes connections, `hello` is their first frame. The protocol is described in
//! `docs/reference/node-protocol.md`.

mod close;
mod config;
mod handshake;
mod hello;
mod lane;
mod link;
mod peer;
mod pending;
mod reader;
mod socket;
mod tls;

use std::{collections::BTreeMap, future::ready, net::SocketAddr, sync::Arc};

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use quinn::{Endpoint, Incoming, VarInt};
use rand::{SeedableRng, rngs::StdRng};
use tokio::{
    sync::{Semaphore, watch},
    time::{Duration, Instant, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub use self::config::{BindError, Limits, QuicConfig};
#[cfg(any(test, fuzzing))]
pub(crate) use self::hello::fuzz as fuzz_hello;
#[cfg(test)]
pub(crate) use self::hello::tests::samples as hello_samples;
pub(crate) use self::{
    close::CloseCode,
    config::{CALLS_PER_PEER_MAX, IDLE_TIMEOUT, LANE_FRAMES_MAX},
};
use self::{
    handshake::HandshakeError,
    hello::{Hello, LinkKind},
    link::LaneLimits,
    peer::{Input, Peer},
};
use crate::{
    metrics::Metrics,
    network::{BoxFuture, CallError, FRAME_BYTES_MAX, Handler, Lane, Network, NodeId, NotifyError},
    protocol::{Announcement, PeerInfo},
    tripwire::{self, Token},
};

/// How long a connection may take from the first packet to open lanes, at either end. 3 s: four
/// round trips and two signatures, on a machine that does much else.
pub(crate) const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(3);

/// Handshakes of strangers under way at once; more are refused. 64: several times the nodes that
/// reconnect at the same time.
const HANDSHAKES_MAX: usize = 64;

/// How long a shutdown waits for the peers to hear of it.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_millis(500);

/// A node's network over QUIC.
pub struct QuicNetwork {
    shared: Arc<Shared>,
}

/// What the network's tasks share.
pub(crate) struct Shared {
    node: NodeId,
    cluster_id: [u8; 16],
    incarnation: u32,
    limits: Limits,
    announced: Announcement,
    local_addr: SocketAddr,
    endpoint: Endpoint,
    tripwires: Arc<tripwire::Listener>,
    peers: RwLock<BTreeMap<NodeId, Arc<Peer>>>,
    handler: watch::Sender<Option<Arc<dyn Handler>>>,
    /// Ends with the network.
    stop: CancellationToken,
    tasks: TaskTracker,
    /// For jitter.
    rng: Mutex<StdRng>,
    metrics: Arc<Metrics>,
}

impl QuicNetwork {
    /// Binds the UDP socket and, on the same port, the tripwire's TCP listener. Must be called
    /// within a tokio runtime, after the process's metrics recorder is installed.
    pub fn bind(config: QuicConfig) -> Result<Arc<Self>, BindError> {
        config.identity.check(config.node, config.cluster_id)?;
        let settings = tls::settings(&config)?;
        let (udp, tripwires, local_addr) = socket::bind(config.listen, &config.limits)?;
        let mut endpoint = Endpoint::new(
            settings.endpoint,
            Some(settings.server),
            udp,
            Arc::new(quinn::TokioRuntime),
        )
        .map_err(|source| BindError::Socket { operation: "set up", source })?;
        endpoint.set_default_client_config(settings.client);
        let shared = Arc::new(Shared {
            node: config.node,
            cluster_id: config.cluster_id,
            incarnation: config.incarnation,
            limits: config.limits,
            announced: config.announced,
            local_addr,
            endpoint,
            tripwires: Arc::new(tripwires),
            peers: RwLock::default(),
            handler: watch::Sender::new(None),
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
            rng: Mutex::new(StdRng::from_os_rng()),
            metrics: Arc::new(Metrics::new()),
        });
        let tripwires = Arc::clone(&shared.tripwires);
        shared.tasks.spawn(tripwires.run(shared.stop.clone()));
        shared.tasks.spawn(accept_all(Arc::clone(&shared)));
        Ok(Arc::new(Self { shared }))
    }

    /// The address the network listens on, with the port that was chosen for port 0.
    pub fn local_addr(&self) -> SocketAddr {
        self.shared.local_addr
    }
}

impl Drop for QuicNetwork {
    fn drop(&mut self) {
        self.shared.close();
    }
}

impl Network for QuicNetwork {
    fn local(&self) -> NodeId {
        self.shared.node
    }

    fn serve(&self, handler: Arc<dyn Handler>) {
        if !self.shared.stop.is_cancelled() {
            let earlier = self.shared.handler.send_replace(Some(handler));
            assert!(earlier.is_none(), "serve is called once");
        }
    }

    fn set_peers(&self, peers: Vec<(NodeId, String)>) {
        let shared = &self.shared;
        let mut wanted: BTreeMap<_, _> = peers.into_iter().collect();
        wanted.remove(&shared.node);
        let mut table = shared.peers.write();
        if shared.stop.is_cancelled() {
            return;
        }
        table.retain(|node, peer| {
            let stays = wanted.contains_key(node);
            if !stays {
                peer.removed.cancel();
            }
            stays
        });
        for (node, address) in wanted {
            match table.get(&node) {
                Some(peer) => peer.set_address(address),
                None => {
                    table.insert(node, shared.start_peer(node, address));
                }
            }
        }
    }

    fn is_connected(&self, peer: NodeId) -> bool {
        self.shared.peer(peer).is_some_and(|peer| peer.is_connected())
    }

    fn peer_info(&self, peer: NodeId) -> Option<PeerInfo> {
        self.shared.peer(peer).and_then(|peer| peer.info())
    }

    fn call(
        &self,
        to: NodeId,
        lane: Lane,
        request: Bytes,
        deadline: Instant,
    ) -> BoxFuture<'static, Result<Bytes, CallError>> {
        let now = Instant::now();
        self.shared.begin_call(to, lane, request, now, deadline).unwrap_or_else(|error| {
            let result = Err(error);
            self.shared.metrics.call_ended(lane, 0.0, &result);
            Box::pin(ready(result))
        })
    }

    fn notify(&self, to: NodeId, lane: Lane, payload: Bytes) -> Result<(), NotifyError> {
        let sent = if payload.len() > FRAME_BYTES_MAX {
            Err(NotifyError::TooLarge)
        } else {
            match self.shared.peer(to).and_then(|peer| peer.link(lane)) {
                Some((link, index)) => link.notify(index, payload),
                None => Err(NotifyError::NotConnected(to)),
            }
        };
        if sent.is_err() {
            self.shared.metrics.notices_dropped.increment(1);
        }
        sent
    }

    fn shutdown(&self) -> BoxFuture<'static, ()> {
        let shared = Arc::clone(&self.shared);
        shared.close();
        Box::pin(async move {
            let ended = timeout(SHUTDOWN_TIMEOUT, async {
                shared.tasks.wait().await;
                shared.endpoint.wait_idle().await;
            });
            if ended.await.is_err() {
                tracing::debug!("peers may not have heard of the shutdown");
            }
        })
    }
}

impl Shared {
    fn peer(&self, node: NodeId) -> Option<Arc<Peer>> {
        self.peers.read().get(&node).cloned()
    }

    fn lane_limits(&self) -> LaneLimits {
        LaneLimits {
            frames_max: self.limits.lane_frames_max,
            bytes_max: self.limits.lane_bytes_max,
        }
    }

    fn hello(&self, kind: LinkKind, tripwire: Option<(u16, Token)>) -> Hello {
        let (cluster_id, node, incarnation) = (self.cluster_id, self.node, self.incarnation);
        let announced = self.announced.clone();
        Hello { cluster_id, node, incarnation, kind, tripwire, announced }
    }

    fn begin_call(
        &self,
        to: NodeId,
        lane: Lane,
        request: Bytes,
        now: Instant,
        deadline: Instant,
    ) -> Result<BoxFuture<'static, Result<Bytes, CallError>>, CallError> {
        let bytes = request.len();
        if bytes > FRAME_BYTES_MAX {
            return Err(CallError::TooLarge { bytes });
        }
        if deadline <= now {
            return Err(CallError::Deadline(to));
        }
        let link = self.peer(to).and_then(|peer| peer.link(lane));
        let (link, index) = link.ok_or(CallError::NotConnected(to))?;
        link.call(index, request, now, deadline)
    }

    /// Starts the tasks of a peer; they wait until the network serves.
    fn start_peer(self: &Arc<Self>, node: NodeId, address: String) -> Arc<Peer> {
        let removed = self.stop.child_token();
        let (peer, inputs) = Peer::new(node, address, self.limits.calls_per_peer_max, removed);
        let (shared, started) = (Arc::clone(self), Arc::clone(&peer));
        self.tasks.spawn(async move {
            let Some(handler) = shared.serving(&started.removed).await else { return };
            if shared.node < node {
                for kind in [LinkKind::Control, LinkKind::Bulk] {
                    let (shared, peer) = (Arc::clone(&shared), Arc::clone(&started));
                    shared.tasks.clone().spawn(peer::keep_dialling(shared, peer, kind));
                }
            } else {
                let (shared, peer) = (Arc::clone(&shared), Arc::clone(&started));
                shared.tasks.clone().spawn(peer::keep_knocking(shared, peer));
            }
            peer::run(shared, started, inputs, handler).await;
        });
        peer
    }

    /// The handler, once there is one; `None` when `end` comes first.
    async fn serving(&self, end: &CancellationToken) -> Option<Arc<dyn Handler>> {
        let mut handler = self.handler.subscribe();
        // The end first: nothing is started after it.
        tokio::select! {
            biased;
            () = end.cancelled() => None,
            handler = handler.wait_for(Option::is_some) => handler.ok()?.clone(),
        }
    }

    fn close(&self) {
        let mut peers = self.peers.write();
        self.stop.cancel();
        for peer in std::mem::take(&mut *peers).into_values() {
            peer.disconnect(CloseCode::Shutdown);
        }
        drop(peers);
        self.tasks.close();
        // The handler may own this network: the circle ends here.
        self.handler.send_replace(None);
        self.endpoint.close(VarInt::from_u32(0), CloseCode::Shutdown.reason().as_bytes());
    }
}

/// Takes in whoever comes to the door, until the network ends.
async fn accept_all(shared: Arc<Shared>) {
    let handshakes = Arc::new(Semaphore::new(HANDSHAKES_MAX));
    loop {
        let incoming = tokio::select! {
            biased;
            () = shared.stop.cancelled() => return,
            incoming = shared.endpoint.accept() => incoming,
        };
        let Some(incoming) = incoming else { return };
        let permit = Arc::clone(&handshakes).try_acquire_owned();
        let is_serving = shared.handler.borrow().is_some();
        let (Ok(permit), true) = (permit, is_serving) else {
            incoming.refuse();
            continue;
        };
        // Under a flood, who comes must first show that its address is its own.
        if handshakes.available_permits() < HANDSHAKES_MAX / 2
            && !incoming.remote_address_validated()
        {
            // It fails only for addresses that are validated.
            let _ = incoming.retry();
            continue;
        }
        let shared_too = Arc::clone(&shared);
        shared.tasks.spawn(async move {
            accept_one(&shared_too, incoming).await;
            drop(permit);
        });
    }
}

async fn accept_one(shared: &Shared, incoming: Incoming) {
    match handshake::accept(shared, incoming).await {
        Ok((peer, established)) => peer.tell(Input::Up(established)).await,
        // It has a certificate of ours, and yet does not belong here: somebody should look.
        Err(HandshakeError::Refused(code)) => {
            tracing::warn!(reason = code.reason(), "refused a connection");
        }
        Err(HandshakeError::Protocol(disagreement)) => {
            tracing::warn!(reason = %disagreement, "refused a connection");
        }
        Err(error) => tracing::debug!(%error, "a stranger's handshake failed"),
    }
}
