//! Two ways to make networks, for the contract suite.

use std::{
    collections::BTreeMap,
    io::ErrorKind,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use heliograph_transport::{
    Announcement, BindError, Limits, Network, NodeId, PeerEvent, QuicConfig, QuicNetwork,
    SimConfig, SimFabric,
};
use tokio::{sync::mpsc, time::Instant};

use super::{Seen, TestHandler, certs::Authority, expect, patient};

pub const CLUSTER: [u8; 16] = *b"contract-cluster";

/// A node under test.
pub struct Node {
    pub id: NodeId,
    pub network: Arc<dyn Network>,
    pub handler: Arc<TestHandler>,
    pub seen: mpsc::UnboundedReceiver<Seen>,
}

impl Node {
    /// Waits for an event of a peer.
    pub async fn event(&mut self, event: PeerEvent) {
        expect(&mut self.seen, |seen| *seen == Seen::Peer(event)).await;
    }
}

/// Makes networks of one implementation.
pub trait Harness {
    /// How many calls of a peer a node serves at once.
    fn new(calls_per_peer_max: usize) -> Self;

    /// A network of node `id`, again if the former has ended. It does not serve yet.
    fn network(&mut self, id: NodeId) -> Arc<dyn Network> {
        let announced = announcement();
        self.network_announcing(id, announced)
    }

    /// The same, of a process that says this of itself.
    fn network_announcing(&mut self, id: NodeId, announced: Announcement) -> Arc<dyn Network>;

    /// Where node `id` listens.
    fn address(&self, id: NodeId) -> String;

    /// A node that serves and knows these peers.
    fn node(&mut self, id: u16, peers: &[u16]) -> Node {
        self.node_announcing(id, peers, announcement())
    }

    /// The same, of a process that says this of itself.
    fn node_announcing(&mut self, id: u16, peers: &[u16], announced: Announcement) -> Node {
        let id = NodeId(id);
        let network = self.network_announcing(id, announced);
        let (handler, seen) = TestHandler::new();
        network.serve(Arc::clone(&handler) as _);
        let node = Node { id, network, handler, seen };
        self.introduce(&node, peers);
        node
    }

    /// Sets the peers of a node.
    fn introduce(&self, node: &Node, peers: &[u16]) {
        let peers = peers.iter().map(|&peer| (NodeId(peer), self.address(NodeId(peer))));
        node.network.set_peers(peers.collect());
    }
}

/// What a new process of this release says, with features 5.
pub fn announcement() -> Announcement {
    static BOOTS: AtomicU64 = AtomicU64::new(1);
    Announcement::new(BOOTS.fetch_add(1, Ordering::Relaxed), 5)
}

/// Nodes 1 and 2, connected both ways on both connections.
pub async fn pair<H: Harness>(harness: &mut H) -> (Node, Node) {
    let mut one = harness.node(1, &[]);
    let mut two = harness.node(2, &[1]);
    harness.introduce(&one, &[2]);
    one.event(PeerEvent::Connected(two.id)).await;
    two.event(PeerEvent::Connected(one.id)).await;
    (one, two)
}

pub struct QuicHarness {
    authority: Authority,
    addresses: BTreeMap<NodeId, SocketAddr>,
    calls_per_peer_max: usize,
}

impl QuicHarness {
    /// A network with this identity and these limits.
    pub fn bind(&mut self, id: NodeId, incarnation: u32, limits: Limits) -> Arc<QuicNetwork> {
        self.bind_announcing(id, incarnation, limits, announcement())
    }

    /// The same, of a process that says this of itself.
    pub fn bind_announcing(
        &mut self,
        id: NodeId,
        incarnation: u32,
        limits: Limits,
        announced: Announcement,
    ) -> Arc<QuicNetwork> {
        let listen = self.addresses.get(&id).copied();
        let deadline = patient();
        let network = loop {
            let config = QuicConfig {
                node: id,
                cluster_id: CLUSTER,
                incarnation,
                listen: listen.unwrap_or_else(|| "127.0.0.1:0".parse().unwrap()),
                identity: self.authority.node(id, CLUSTER),
                limits: limits.clone(),
                announced: announced.clone(),
            };
            match QuicNetwork::bind(config) {
                Ok(network) => break network,
                // The node's former network is shut down; its sockets close a moment later.
                Err(BindError::Socket { source, .. })
                    if source.kind() == ErrorKind::AddrInUse && Instant::now() < deadline =>
                {
                    std::thread::yield_now();
                }
                Err(error) => panic!("{error}"),
            }
        };
        self.addresses.insert(id, network.local_addr());
        network
    }

    /// A harness whose certificates the nodes of another one accept.
    pub fn with_authority(authority: Authority, calls_per_peer_max: usize) -> Self {
        Self { authority, addresses: BTreeMap::new(), calls_per_peer_max }
    }

    pub fn into_authority(self) -> Authority {
        self.authority
    }

    pub fn authority(&self) -> &Authority {
        &self.authority
    }

    pub fn socket_address(&self, id: NodeId) -> SocketAddr {
        self.addresses[&id]
    }
}

impl Harness for QuicHarness {
    fn new(calls_per_peer_max: usize) -> Self {
        Self::with_authority(Authority::new(), calls_per_peer_max)
    }

    fn network_announcing(&mut self, id: NodeId, announced: Announcement) -> Arc<dyn Network> {
        let limits = Limits { calls_per_peer_max: self.calls_per_peer_max, ..Limits::default() };
        self.bind_announcing(id, 1, limits, announced)
    }

    fn address(&self, id: NodeId) -> String {
        self.addresses[&id].to_string()
    }
}

pub struct SimHarness {
    pub fabric: SimFabric,
}

impl Harness for SimHarness {
    fn new(calls_per_peer_max: usize) -> Self {
        let config = SimConfig { calls_per_peer_max, ..SimConfig::default() };
        Self { fabric: SimFabric::with_config(7, config) }
    }

    fn network_announcing(&mut self, id: NodeId, announced: Announcement) -> Arc<dyn Network> {
        self.fabric.node_announcing(id, announced)
    }

    fn address(&self, id: NodeId) -> String {
        format!("sim:{id}")
    }
}
