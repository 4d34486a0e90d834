//! The state of the simulated network: who lives, who is connected, what is on its way. Changed
//! under one lock by the nodes' calls and by the pump as time passes; what handlers are to be told
//! is collected in [`State::actions`] and told by the pump, in order, without the lock.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    hash::Hasher,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use rand::{Rng, SeedableRng, rngs::StdRng};
use tokio::{sync::oneshot, time::Instant};
use tokio_util::sync::CancellationToken;

use super::SimConfig;
use crate::{
    backoff::Backoff,
    network::{Handler, Lane, NodeId, PeerEvent},
    protocol::{Announcement, PeerInfo},
};

/// How often one transmission is lost at most: keeps a delay bounded at any loss probability.
const LOSSES_MAX: u32 = 6;

/// How a call ends that did not end with its connection.
pub(crate) enum Reply {
    Answer(Bytes),
    Declined,
    Busy,
    Failed,
}

/// What travels on a lane.
pub(crate) enum Packet {
    Request { id: u64, remaining: Duration, payload: Bytes },
    Reply { id: u64, reply: Reply },
    Notice(Bytes),
}

/// What the pump does without the lock.
pub(crate) enum Action {
    Peer { to: Process, event: PeerEvent },
    Notify { to: Process, from: NodeId, lane: Lane, payload: Bytes },
    Call { to: Process, call: Served, lane: Lane, request: Bytes, deadline: Instant },
}

/// The handler of a living process. `alive` ends with the process.
#[derive(Clone)]
pub(crate) struct Process {
    pub(crate) handler: Arc<dyn Handler>,
    pub(crate) alive: CancellationToken,
}

/// A call being served: where its reply goes.
#[derive(Clone, Copy)]
pub(crate) struct Served {
    pub(crate) local: NodeId,
    pub(crate) from: NodeId,
    pub(super) connection: u64,
    pub(super) id: u64,
    pub(super) stream: u8,
}

/// Why a frame was not taken.
pub(crate) enum Rejected {
    NotConnected,
    Full,
}

/// (from, to, lane number)
pub(super) type StreamKey = (NodeId, NodeId, u8);

pub(super) struct Node {
    pub(super) life: u64,
    pub(super) alive: CancellationToken,
    pub(super) handler: Option<Arc<dyn Handler>>,
    pub(super) peers: BTreeSet<NodeId>,
    pub(super) announced: Announcement,
}

/// One node's side of a connection.
pub(super) struct Side {
    pub(super) connection: u64,
    pub(super) since: Instant,
    /// What is known of the other side.
    pub(super) info: PeerInfo,
    /// Nothing sent on it arrives earlier.
    pub(super) not_before: Instant,
    pub(super) calls: BTreeMap<u64, oneshot::Sender<Reply>>,
    pub(super) served: usize,
}

pub(super) struct InFlight {
    pub(super) ready: Instant,
    pub(super) connection: u64,
    pub(super) packet: Packet,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Event {
    /// The first frame of a stream may have arrived.
    Stream(StreamKey),
    /// The lower node tries to reach the higher one.
    Dial { low: NodeId, high: NodeId, life: u64 },
    /// The answer to a handshake reaches the dialler.
    Welcomed { low: NodeId, high: NodeId, lives: (u64, u64), connection: u64 },
    /// The dialler's first lane frames reach the acceptor.
    Accepted { low: NodeId, high: NodeId, connection: u64 },
    /// `local` has heard nothing for the idle timeout, if the way from `peer` is cut since then.
    Starved { local: NodeId, peer: NodeId, cut: Instant },
    /// `local` has heard nothing for the idle timeout, since the other side is gone.
    Silent { local: NodeId, peer: NodeId, connection: u64 },
    /// The other side closed; its process ended, if `Ending::Process`.
    Closed { local: NodeId, peer: NodeId, connection: u64, ending: Ending },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    Process,
    Connection,
}

pub(crate) struct State {
    pub(crate) config: SimConfig,
    pub(crate) actions: VecDeque<Action>,
    /// Handlers of ended processes, to be dropped without the lock.
    pub(crate) dead: Vec<Arc<dyn Handler>>,
    pub(super) rng: StdRng,
    pub(super) nodes: BTreeMap<NodeId, Node>,
    pub(super) sides: BTreeMap<(NodeId, NodeId), Side>,
    pub(super) streams: BTreeMap<StreamKey, VecDeque<InFlight>>,
    /// Ways that are cut, and since when.
    cut: BTreeMap<(NodeId, NodeId), Instant>,
    isolated: BTreeSet<NodeId>,
    /// Pairs (low, high) with a dial under way.
    pub(super) dialing: BTreeMap<(NodeId, NodeId), u64>,
    pub(super) backoffs: BTreeMap<(NodeId, NodeId), Backoff>,
    events: BTreeMap<(Instant, u64), Event>,
    /// Source of lives, connections, call ids and event numbers: never the same twice.
    counter: u64,
    start: Instant,
    pub(super) trace: std::hash::DefaultHasher,
}

impl State {
    pub(crate) fn new(seed: u64, config: SimConfig) -> Self {
        Self {
            config,
            actions: VecDeque::new(),
            dead: Vec::new(),
            rng: StdRng::seed_from_u64(seed),
            nodes: BTreeMap::new(),
            sides: BTreeMap::new(),
            streams: BTreeMap::new(),
            cut: BTreeMap::new(),
            isolated: BTreeSet::new(),
            dialing: BTreeMap::new(),
            backoffs: BTreeMap::new(),
            events: BTreeMap::new(),
            counter: 0,
            start: Instant::now(),
            // Fixed keys: the same in every run.
            trace: std::hash::DefaultHasher::new(),
        }
    }

    pub(crate) fn trace(&self) -> u64 {
        self.trace.finish()
    }

    pub(super) fn count(&mut self) -> u64 {
        self.counter += 1;
        self.counter
    }

    pub(super) fn schedule(&mut self, at: Instant, event: Event) {
        let number = self.count();
        self.events.insert((at, number), event);
    }

    pub(super) fn delay(&mut self) -> Duration {
        let config = &self.config;
        let mut delay = self.rng.random_range(config.delay_min..=config.delay_max);
        if self.rng.random_bool(config.spike_probability) {
            delay = self.rng.random_range(delay..=config.spike_max.max(delay));
        }
        let mut losses = 0;
        while losses < LOSSES_MAX && self.rng.random_bool(config.loss_probability) {
            delay += config.retransmit_after * 2u32.pow(losses);
            losses += 1;
        }
        delay
    }

    pub(crate) fn start_node(&mut self, id: NodeId, announced: Announcement) -> u64 {
        self.crash(id);
        for other in self.isolated.clone() {
            if other != id {
                self.block(other, id);
                self.block(id, other);
            }
        }
        self.backoffs.retain(|(low, _), _| *low != id);
        let life = self.count();
        let alive = CancellationToken::new();
        let peers = BTreeSet::new();
        self.nodes.insert(id, Node { life, alive, handler: None, peers, announced });
        life
    }

    pub(crate) fn crash(&mut self, id: NodeId) {
        if let Some(node) = self.nodes.remove(&id) {
            node.alive.cancel();
            self.dead.extend(node.handler);
            self.drop_all_sides(id);
        }
    }

    /// Ends the process `life` of `id`, if it still lives.
    pub(crate) fn stop(&mut self, id: NodeId, life: u64) {
        if self.living(id, life).is_some() {
            self.crash(id);
        }
    }

    fn drop_all_sides(&mut self, id: NodeId) {
        let peers: Vec<_> =
            self.sides.range((id, NodeId(0))..=(id, NodeId(u16::MAX))).map(|(k, _)| k.1).collect();
        for peer in peers {
            self.close(id, peer, Ending::Process);
        }
    }

    fn living(&mut self, id: NodeId, life: u64) -> Option<&mut Node> {
        self.nodes.get_mut(&id).filter(|node| node.life == life)
    }

    pub(crate) fn serve(&mut self, id: NodeId, life: u64, handler: Arc<dyn Handler>) {
        let Some(node) = self.living(id, life) else { return };
        assert!(node.handler.is_none(), "serve is called once");
        node.handler = Some(handler);
        self.dial_missing(id);
    }

    pub(crate) fn set_peers(&mut self, id: NodeId, life: u64, peers: BTreeSet<NodeId>) {
        let Some(node) = self.living(id, life) else { return };
        let removed: Vec<_> = node.peers.difference(&peers).copied().collect();
        node.peers = peers;
        for peer in removed {
            if self.close(id, peer, Ending::Connection) {
                self.tell(id, PeerEvent::Disconnected(peer));
            }
        }
        self.dial_missing(id);
    }

    pub(super) fn tell(&mut self, id: NodeId, event: PeerEvent) {
        let Some(node) = self.nodes.get(&id) else { return };
        if let Some(handler) = &node.handler {
            let to = Process { handler: Arc::clone(handler), alive: node.alive.clone() };
            self.actions.push_back(Action::Peer { to, event });
        }
    }

    pub(crate) fn block(&mut self, from: NodeId, to: NodeId) {
        if from == to || self.cut.contains_key(&(from, to)) {
            return;
        }
        let now = Instant::now();
        self.cut.insert((from, to), now);
        let timeout = self.config.idle_timeout;
        self.schedule(now + timeout, Event::Starved { local: to, peer: from, cut: now });
    }

    pub(crate) fn isolate(&mut self, id: NodeId) {
        self.isolated.insert(id);
        let others: Vec<_> = self.nodes.keys().copied().filter(|&other| other != id).collect();
        for other in others {
            self.block(id, other);
            self.block(other, id);
        }
    }

    pub(crate) fn heal(&mut self) {
        self.isolated.clear();
        let ways: Vec<_> = self.cut.keys().copied().collect();
        for (from, to) in ways {
            self.unblock(from, to);
        }
    }

    pub(crate) fn unblock(&mut self, from: NodeId, to: NodeId) {
        if self.cut.remove(&(from, to)).is_none() {
            return;
        }
        // What the partition swallowed is repeated, as long as its sender still tries.
        let connection = self.sides.get(&(from, to)).map(|side| side.connection);
        let keys: Vec<_> =
            self.streams.range((from, to, 0)..=(from, to, u8::MAX)).map(|(key, _)| *key).collect();
        for key in keys {
            let pause = self.config.retransmit_after + self.delay();
            let ready = Instant::now() + pause;
            let stream = self.streams.get_mut(&key).expect("the key was just read");
            stream.retain(|frame| Some(frame.connection) == connection);
            if let Some(first) = stream.front_mut() {
                first.ready = first.ready.max(ready);
                let at = first.ready;
                self.schedule(at, Event::Stream(key));
            }
        }
    }

    pub(super) fn is_cut(&self, from: NodeId, to: NodeId) -> bool {
        self.cut.contains_key(&(from, to))
    }

    /// What node `id` knows of `peer`.
    pub(crate) fn peer_info(&self, id: NodeId, life: u64, peer: NodeId) -> Option<PeerInfo> {
        let side = self.sides.get(&(id, peer))?;
        self.nodes.get(&id).is_some_and(|node| node.life == life).then(|| side.info.clone())
    }

    /// What node `local` would know of `peer` once they are connected; none if they cannot agree.
    pub(super) fn agree(&self, local: NodeId, peer: NodeId) -> Option<PeerInfo> {
        let (ours, theirs) = (self.nodes.get(&local)?, self.nodes.get(&peer)?);
        PeerInfo::agree(&ours.announced, theirs.announced.clone()).ok()
    }

    /// When something is due next.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        self.events.first_key_value().map(|((at, _), _)| *at)
    }

    /// Does the next thing that is due at `now`; false when nothing is.
    pub(crate) fn step(&mut self, now: Instant) -> bool {
        let Some(entry) = self.events.first_entry() else { return false };
        if entry.key().0 > now {
            return false;
        }
        let (at, number) = *entry.key();
        let after = at - self.start;
        tracing::trace!(number, ?after, event = ?entry.get(), "a step of the simulated network");
        self.trace.write_u64(number);
        self.trace.write_u128(after.as_nanos());
        match entry.remove() {
            Event::Stream(key) => self.arrive(key, now),
            Event::Dial { low, high, life } => self.dial(low, high, life),
            Event::Welcomed { low, high, lives, connection } => {
                self.welcomed(low, high, lives, connection);
            }
            Event::Accepted { low, high, connection } => self.accepted(low, high, connection),
            Event::Starved { local, peer, cut } => {
                if self.cut.get(&(peer, local)) == Some(&cut) {
                    self.time_out(local, peer);
                }
            }
            Event::Silent { local, peer, connection } => {
                if self.sides.get(&(local, peer)).is_some_and(|s| s.connection == connection) {
                    self.time_out(local, peer);
                }
            }
            Event::Closed { local, peer, connection, ending } => {
                self.closed(local, peer, connection, ending);
            }
        }
        true
    }
}
