//! The simulated network: many nodes in one runtime, one seed for everything that is random.
//!
//! [`SimFabric`] is what joins the nodes and what a test pulls strings on; [`SimNetwork`] is one
//! node's [`crate::Network`]. It behaves as the QUIC implementation does, where the difference
//! could be observed: payloads of a lane arrive in order or not at all, a lost packet delays what
//! is behind it, a partition delays frames until it heals or the connection times out, a crashed
//! process breaks its peers' tripwires unless a partition is in the way, a restarted one is dialled
//! with the same back-off.
//!
//! A node's handler lives until the node crashes, is shut down, or its [`SimNetwork`] is dropped:
//! where the handler owns the network, that takes one of the first two.
//!
//! All time is tokio's: under `start_paused` in a current-thread runtime the same seed and the same
//! program give the same run, event by event. Frames are not encoded; that is what the codec's own
//! tests are for.

mod connect;
mod network;
mod pump;
mod state;
mod traffic;

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::sync::Notify;

pub use self::network::SimNetwork;
use self::state::State;
use crate::{network::NodeId, protocol::Announcement};

/// How the simulated network behaves when nothing is broken.
#[derive(Clone, Debug)]
pub struct SimConfig {
    /// The shortest one-way delay.
    pub delay_min: Duration,
    /// The longest ordinary one-way delay; delays are uniform between the two.
    pub delay_max: Duration,
    /// How likely a packet takes a much longer way, 0 to 1.
    pub spike_probability: f64,
    /// The longest delay of such a packet.
    pub spike_max: Duration,
    /// How likely a transmission is lost, 0 to 1: it is repeated after `retransmit_after`, doubled
    /// each time, and what is behind it on the lane waits.
    pub loss_probability: f64,
    /// When a lost transmission is repeated.
    pub retransmit_after: Duration,
    /// When a side that hears nothing gives a connection up.
    pub idle_timeout: Duration,
    /// Frames that may be on their way on one lane; more are [`crate::CallError::Overloaded`].
    pub lane_frames_max: usize,
    /// Calls of one peer that a node serves at once.
    pub calls_per_peer_max: usize,
}

impl Default for SimConfig {
    /// A rack with a bad cable: fractions of a millisecond, now and then a long way, one packet in
    /// a thousand lost.
    fn default() -> Self {
        Self {
            delay_min: Duration::from_micros(100),
            delay_max: Duration::from_millis(2),
            spike_probability: 0.01,
            spike_max: Duration::from_millis(40),
            loss_probability: 0.001,
            retransmit_after: Duration::from_millis(20),
            idle_timeout: crate::quic::IDLE_TIMEOUT,
            lane_frames_max: crate::quic::LANE_FRAMES_MAX,
            calls_per_peer_max: crate::quic::CALLS_PER_PEER_MAX,
        }
    }
}

/// What the fabric and its nodes share.
pub(crate) struct Inner {
    state: Mutex<State>,
    /// Tells the pump that something is due earlier than it thinks.
    wake: Arc<Notify>,
}

impl Inner {
    /// Changes the state, then lets the pump look at what is due.
    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let (result, dead) = {
            let mut state = self.state.lock();
            (change(&mut state), std::mem::take(&mut state.dead))
        };
        // Without the lock: what a handler owns may use the network while it is dropped.
        drop(dead);
        self.wake.notify_one();
        result
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.wake.notify_one();
    }
}

/// Joins simulated nodes, and breaks what joins them.
#[derive(Clone)]
pub struct SimFabric {
    inner: Arc<Inner>,
}

impl SimFabric {
    /// A fabric with the default behaviour. Must be called within a tokio runtime.
    pub fn new(seed: u64) -> Self {
        Self::with_config(seed, SimConfig::default())
    }

    /// A fabric with the given behaviour. Must be called within a tokio runtime.
    pub fn with_config(seed: u64, config: SimConfig) -> Self {
        let wake = Arc::new(Notify::new());
        let state = Mutex::new(State::new(seed, config));
        let inner = Arc::new(Inner { state, wake: Arc::clone(&wake) });
        tokio::spawn(pump::run(Arc::downgrade(&inner), wake));
        Self { inner }
    }

    /// A process of node `id`. One that still lives under this id crashes first.
    pub fn node(&self, id: NodeId) -> Arc<SimNetwork> {
        // Nobody's boot: what is random comes from outside.
        self.node_announcing(id, Announcement::new(0, 0))
    }

    /// A process of node `id` that says this of itself: of another release, say.
    pub fn node_announcing(&self, id: NodeId, announced: Announcement) -> Arc<SimNetwork> {
        let life = self.inner.change(|state| state.start_node(id, announced));
        Arc::new(SimNetwork::new(id, life, Arc::clone(&self.inner)))
    }

    /// Ends the process of node `id` as `kill -9` would: its calls end, what it serves stops, its
    /// peers' tripwires break. Its [`SimNetwork`] is dead from then on.
    pub fn crash(&self, id: NodeId) {
        self.inner.change(|state| state.crash(id));
    }

    /// Cuts both ways between two nodes.
    pub fn partition(&self, a: NodeId, b: NodeId) {
        self.inner.change(|state| {
            state.block(a, b);
            state.block(b, a);
        });
    }

    /// Cuts the way from one node to another; the way back stays.
    pub fn partition_one_way(&self, from: NodeId, to: NodeId) {
        self.inner.change(|state| state.block(from, to));
    }

    /// Cuts a node off from all others, also from those that start later.
    pub fn isolate(&self, id: NodeId) {
        self.inner.change(|state| state.isolate(id));
    }

    /// Mends everything.
    pub fn heal(&self) {
        self.inner.change(State::heal);
    }

    /// Mends both ways between two nodes.
    pub fn heal_between(&self, a: NodeId, b: NodeId) {
        self.inner.change(|state| {
            state.unblock(a, b);
            state.unblock(b, a);
        });
    }

    /// Changes how the network behaves, for packets sent from now on.
    pub fn reconfigure(&self, change: impl FnOnce(&mut SimConfig)) {
        self.inner.change(|state| change(&mut state.config));
    }

    /// A number that is equal for two runs as long as the same things happened in the same order:
    /// for tests that a run can be repeated from its seed.
    pub fn trace(&self) -> u64 {
        self.inner.state.lock().trace()
    }
}
