//! The simulated cluster: nodes, their disks, their clocks, and the clients around them. What
//! changes who its members are is in `life`, clients at work are in `work`.

mod life;
mod work;

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, BTreeSet},
    hash::{Hash, Hasher},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use heliograph_cluster::{
    Clock, Config, Entropy, FEATURES_KNOWN, FirstMember, JoinToken, Node, NodeFailure, Principal,
    Role, ShardHandle, Storages, Surroundings, model::ShardId,
};
use heliograph_storage::{
    Keyring, MemoryDisk, MemoryKeyDisk, MemoryLog, MemorySnapshotDisk, MemorySnapshots,
    MemoryStateDisk, MemoryStore,
};
use heliograph_transport::{Announcement, NodeId, Protocols, SimFabric};
use parking_lot::Mutex;
use rand::{Rng, RngCore, SeedableRng, rngs::SmallRng};
use tokio::{
    sync::Notify,
    task::{JoinHandle, LocalSet},
    time::Instant,
};

use crate::{
    clients::{self, Relays, SharedLedger},
    ledger::Ledger,
};

/// Nodes of a simulated cluster, where its shape says nothing else.
pub(crate) const NODES: usize = 3;
/// Shards: several leaders on each node, and still quick to simulate.
const SHARDS: u16 = 4;
/// Replicas of each shard.
const REPLICAS: usize = 3;
/// Mailboxes; each is listened to or polled by one client.
const MAILBOXES: usize = 5;
const SENDERS: usize = 3;
/// How long a healed cluster may take to answer everybody, in simulated time.
const PATIENCE: Duration = Duration::from_secs(120);

/// What a simulated cluster is formed of.
#[derive(Clone, Copy)]
pub(crate) struct Shape {
    /// The nodes' zones.
    pub(crate) zones: &'static [&'static str],
    /// How long a node may be silent before its replicas are made anew.
    pub(crate) replace_after: Duration,
}

impl Shape {
    /// Three nodes whose replicas never move.
    pub(crate) const THREE: Self =
        Self { zones: &["", "", ""], replace_after: Duration::from_secs(600) };
    /// Five nodes in three zones, of which each can be lost.
    pub(crate) const FIVE: Self =
        Self { zones: &["a", "b", "c", "a", "b"], replace_after: Duration::from_secs(10) };
}

/// Which release a node runs.
#[derive(Clone, Copy)]
pub(crate) enum Release {
    Older,
    Current,
}

/// What survives a node's death.
struct Disk {
    log: Arc<MemoryDisk>,
    state: MemoryStateDisk,
    snapshots: MemorySnapshotDisk,
    keys: MemoryKeyDisk,
}

/// A running node.
struct Live {
    node: Node,
    log: Arc<MemoryLog>,
    state: Arc<MemoryStore>,
    snapshots: Arc<MemorySnapshots>,
    syncing: JoinHandle<()>,
}

struct SimClock {
    origin: Instant,
    /// Milliseconds by which this node's wall clock is off.
    skew_ms: u64,
}

impl Clock for SimClock {
    fn wall_ms(&self) -> u64 {
        let elapsed = u64::try_from(self.origin.elapsed().as_millis()).unwrap();
        1_800_000_000_000 + elapsed + self.skew_ms
    }
}

struct SimEntropy(Mutex<SmallRng>);

impl Entropy for SimEntropy {
    fn fill(&self, bytes: &mut [u8]) {
        self.0.lock().fill_bytes(bytes);
    }
}

/// The simulated cluster.
pub(crate) struct World {
    seed: u64,
    shape: Shape,
    /// Nodes that were asked to go.
    leaving: BTreeSet<usize>,
    /// Nodes that never come back.
    lost: BTreeSet<usize>,
    pub(crate) rng: SmallRng,
    origin: Instant,
    pub(crate) fabric: SimFabric,
    disks: Vec<Disk>,
    live: Vec<Option<Live>>,
    ending: Vec<JoinHandle<()>>,
    relays: Relays,
    ledger: SharedLedger,
    clients: LocalSet,
    /// How many senders are at work.
    senders: Rc<Cell<usize>>,
    /// The device of each mailbox, registered.
    principals: Vec<Principal>,
    lives: u64,
    /// Nodes that run the release before: it announces nothing and knows no features.
    older: BTreeSet<usize>,
    /// What nodes were given to join with.
    tokens: BTreeMap<usize, JoinToken>,
}

/// An empty disk.
fn disk() -> Disk {
    Disk {
        log: MemoryDisk::new(),
        state: MemoryStateDisk::new(),
        snapshots: MemorySnapshotDisk::new(),
        keys: MemoryKeyDisk::new(),
    }
}

pub(crate) fn node_id(index: usize) -> NodeId {
    NodeId(u16::try_from(index + 1).unwrap())
}

impl World {
    /// A cluster of three nodes that is ready.
    pub(crate) async fn start(seed: u64) -> Self {
        Self::start_as(seed, Shape::THREE).await
    }

    /// A cluster of this shape that is ready.
    pub(crate) async fn start_as(seed: u64, shape: Shape) -> Self {
        Self::start_with(seed, shape, BTreeSet::new()).await
    }

    /// A cluster of three nodes of which some run the release before.
    pub(crate) async fn start_with_older(seed: u64, older: BTreeSet<usize>) -> Self {
        Self::start_with(seed, Shape::THREE, older).await
    }

    async fn start_with(seed: u64, shape: Shape, older: BTreeSet<usize>) -> Self {
        let nodes = shape.zones.len();
        let mut world = Self {
            seed,
            shape,
            leaving: BTreeSet::new(),
            lost: BTreeSet::new(),
            rng: SmallRng::seed_from_u64(seed),
            origin: Instant::now(),
            fabric: SimFabric::new(seed),
            disks: (0..nodes).map(|_| disk()).collect(),
            live: (0..nodes).map(|_| None).collect(),
            ending: Vec::new(),
            relays: Rc::new(RefCell::new((0..nodes).map(|_| None).collect())),
            ledger: Rc::new(RefCell::new(Ledger::default())),
            clients: LocalSet::new(),
            senders: Rc::default(),
            principals: Vec::new(),
            lives: 0,
            older,
            tokens: BTreeMap::new(),
        };
        for index in 0..nodes {
            world.boot(index).await;
        }
        world.all_ready().await;
        for mailbox in 0..MAILBOXES {
            let relay = world.relays.borrow()[mailbox % nodes].clone();
            let principal = clients::register(relay.unwrap().as_ref(), mailbox).await;
            world.principals.push(principal);
        }
        world
    }

    pub(crate) fn nodes(&self) -> usize {
        self.disks.len()
    }

    pub(crate) fn is_lost(&self, index: usize) -> bool {
        self.lost.contains(&index)
    }

    /// Ends the node for good.
    pub(crate) fn lose(&mut self, index: usize) {
        self.crash(index);
        self.lost.insert(index);
    }

    pub(crate) fn is_up(&self, index: usize) -> bool {
        self.live[index].is_some()
    }

    /// Starts the node on its disk.
    pub(crate) async fn boot(&mut self, index: usize) {
        self.lives += 1;
        let skew_ms = self.rng.random_range(0..2000);
        let disk = &self.disks[index];
        let queued = Arc::new(Notify::new());
        let wake = Arc::clone(&queued);
        let log =
            Arc::new(MemoryLog::new(Arc::clone(&disk.log), Box::new(move || wake.notify_one())));
        let state = Arc::new(MemoryStore::open(&disk.state));
        let rng = SmallRng::seed_from_u64(self.seed ^ self.lives << 32);
        let clock = SimClock { origin: self.origin, skew_ms };
        let entropy = SimEntropy(Mutex::new(rng.clone()));
        let entropy = Box::new(move |bytes: &mut [u8]| entropy.fill(bytes));
        let keys = Keyring::open_memory(&disk.keys, entropy, clock.wall_ms()).unwrap();
        let snapshots = MemorySnapshots::open_sealed(&disk.snapshots, keys.clone()).unwrap();
        let snapshots = Arc::new(snapshots);
        let syncing = tokio::spawn(sync(Arc::clone(&log), queued, rng.clone()));
        let members = self.shape.zones.iter().enumerate().map(|(index, zone)| FirstMember {
            zone: (*zone).to_owned(),
            ..FirstMember::new(node_id(index), format!("node-{index}:1"))
        });
        let mut config = Config::new(node_id(index), [7; 16], members.collect());
        config.shards = SHARDS;
        config.replace_after = self.shape.replace_after;
        config.join_token = self.tokens.get(&index).cloned();
        // Small bounds bring checkpoints, snapshots and purges into every run.
        config.checkpoint.age_max = Duration::from_secs(2);
        config.checkpoint.snapshot_age_max = Duration::from_secs(7);
        // Short, so that keys end in the middle of trouble.
        config.key_epoch = Duration::from_secs(6);
        let surroundings =
            Surroundings { clock: Arc::new(clock), entropy: Arc::new(SimEntropy(Mutex::new(rng))) };
        let storages =
            Storages { log: log.clone(), state: state.clone(), snapshots: snapshots.clone(), keys };
        let mut announced = Announcement::new(self.lives, FEATURES_KNOWN);
        if self.older.contains(&index) {
            announced = Announcement { protocols: Protocols::FIRST, ..Announcement::new(0, 0) };
        }
        config.features = announced.features;
        let network = self.fabric.node_announcing(node_id(index), announced);
        let started = Node::start(config, storages, network, surroundings).await;
        let node = started.unwrap_or_else(|error| panic!("node {index}: {error}"));
        self.relays.borrow_mut()[index] = Some(node.relay());
        self.live[index] = Some(Live { node, log, state, snapshots, syncing });
    }

    /// Ends the node as `kill -9` and a power cut would: what was not synced is lost, but for a
    /// random part that the disk happened to write.
    pub(crate) fn crash(&mut self, index: usize) {
        let Some(live) = self.live[index].take() else { return };
        self.relays.borrow_mut()[index] = None;
        self.fabric.crash(node_id(index));
        let kept = self.rng.random_range(0..=live.log.pending());
        live.log.crash(kept);
        live.state.crash();
        live.snapshots.crash();
        self.disks[index].keys = self.disks[index].keys.unplug();
        live.syncing.abort();
        // The tasks of the dead end; network and disks take nothing from them any more.
        self.ending.push(tokio::spawn(live.node.shutdown(Duration::ZERO)));
    }

    /// Puts another release on a node that is down.
    pub(crate) fn install(&mut self, index: usize, release: Release) {
        assert!(!self.is_up(index));
        match release {
            Release::Older => self.older.insert(index),
            Release::Current => self.older.remove(&index),
        };
    }

    /// What each running node has switched on, as far as it has heard.
    pub(crate) fn features(&self) -> Vec<u64> {
        let topologies = self.live.iter().flatten().filter_map(|live| live.node.topology());
        topologies.map(|topology| topology.features).collect()
    }

    /// Waits until a node gives up, and answers why.
    pub(crate) async fn failure(&self, index: usize) -> NodeFailure {
        let live = self.live[index].as_ref().unwrap();
        tokio::time::timeout(PATIENCE, live.node.failed()).await.expect("it fails")
    }

    pub(crate) async fn all_ready(&mut self) {
        for (index, live) in self.live.iter().enumerate() {
            let Some(live) = live else { continue };
            if self.leaving.contains(&index) {
                continue;
            }
            let ready = tokio::time::timeout(PATIENCE, live.node.ready()).await;
            let reason = live.node.not_ready_reason();
            ready
                .unwrap_or_else(|_| panic!("node {index} is not ready: {reason:?}"))
                .unwrap_or_else(|failure| panic!("node {index} failed: {failure}"));
        }
    }

    /// Waits until leaders are spread evenly.
    pub(crate) async fn balanced(&self) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let led: Vec<usize> = (0..self.nodes()).map(|index| self.led_by(index)).collect();
            let (least, most) = (led.iter().min().unwrap(), led.iter().max().unwrap());
            if led.iter().sum::<usize>() == usize::from(SHARDS) && most - least <= 1 {
                return;
            }
            assert!(Instant::now() < deadline, "seed {}: leaders {led:?}", self.seed);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    fn led_by(&self, index: usize) -> usize {
        let Some(live) = &self.live[index] else { return 0 };
        let all = live.node.shards().all();
        all.iter().filter(|shard| shard.fence().is_some()).count()
    }

    /// Waits until every shard has a leader that may act; answers how long that took.
    pub(crate) async fn led_again(&self) -> Duration {
        let start = Instant::now();
        while (0..self.nodes()).map(|index| self.led_by(index)).sum::<usize>() < usize::from(SHARDS)
        {
            assert!(start.elapsed() < PATIENCE, "seed {}: no leaders", self.seed);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        start.elapsed()
    }

    /// A number that two runs share if the same happened in them: the same frames at the same
    /// times, the same promises to the same clients.
    pub(crate) fn history(&self) -> u64 {
        // Its keys are fixed, unlike those of `RandomState`.
        let mut history = std::hash::DefaultHasher::new();
        self.fabric.trace().hash(&mut history);
        self.origin.elapsed().hash(&mut history);
        self.ledger.borrow().hash(&mut history);
        history.finish()
    }

    /// Checks the promises to clients and the equality of replicas.
    pub(crate) async fn check(&mut self) {
        self.check_ledger();
        for shard in (0..SHARDS).map(ShardId) {
            self.check_replicas(shard).await;
        }
    }

    fn check_ledger(&self) {
        let ledger = self.ledger.borrow();
        ledger.check().unwrap_or_else(|broken| panic!("seed {}: {broken}", self.seed));
        assert!(ledger.accepted_count() > 0, "seed {}: nothing was accepted", self.seed);
    }

    fn replicas(&self, shard: ShardId) -> Vec<ShardHandle> {
        self.live.iter().flatten().filter_map(|live| live.node.shards().get(shard)).collect()
    }

    /// Replicas that have applied the same entries hold the same rows.
    async fn check_replicas(&self, shard: ShardId) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            // A node that just lost its replica may still be letting go of it.
            let replicas = self.replicas(shard);
            let applied: Vec<u64> = replicas.iter().map(ShardHandle::applied_index).collect();
            if replicas.len() == REPLICAS && applied.iter().all(|index| *index == applied[0]) {
                let digests: Vec<_> =
                    replicas.iter().map(|replica| replica.digest().unwrap()).collect();
                assert!(
                    digests.iter().all(|digest| *digest == digests[0]),
                    "seed {}: replicas of {shard:?} differ at index {}",
                    self.seed,
                    applied[0]
                );
                return;
            }
            assert!(
                Instant::now() < deadline,
                "seed {}: {shard:?} is applied up to {applied:?}",
                self.seed
            );
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// For `span`, at no moment have two nodes the licence to act for one shard.
    pub(crate) async fn check_licences(&self, span: Duration) {
        let end = Instant::now() + span;
        while Instant::now() < end {
            for shard in (0..SHARDS).map(ShardId) {
                let replicas = self.replicas(shard);
                let licensed = replicas.iter().filter(|replica| replica.fence().is_some()).count();
                assert!(licensed <= 1, "seed {}: {licensed} act for {shard:?}", self.seed);
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// At most one node acts for a shard in a term.
    pub(crate) fn check_single_leaders(&self) {
        for shard in (0..SHARDS).map(ShardId) {
            let mut acting = std::collections::BTreeMap::new();
            for (index, live) in self.live.iter().enumerate() {
                let Some(handle) = live.as_ref().and_then(|live| live.node.shards().get(shard))
                else {
                    continue;
                };
                let leadership = *handle.leadership().borrow();
                if leadership.role == Role::Acting {
                    let other = acting.insert(leadership.term, index);
                    assert_eq!(other, None, "two leaders of {shard:?} in {}", leadership.term);
                }
            }
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("seed {}: the history until then is {:016x}", self.seed, self.history());
        }
    }
}

/// The disk: syncs what is queued after a while, now and then after a long while.
async fn sync(log: Arc<MemoryLog>, queued: Arc<Notify>, mut rng: SmallRng) {
    loop {
        queued.notified().await;
        let micros = match rng.random_range(0..100) {
            0 => rng.random_range(5_000..60_000),
            _ => rng.random_range(50..1_500),
        };
        tokio::time::sleep(Duration::from_micros(micros)).await;
        log.sync();
    }
}
