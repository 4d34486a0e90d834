//! The simulated cluster.

use std::{sync::Arc, time::Duration};

use heliograph_cluster::{
    CheckpointConfig, Clock, Config, Entropy, FEATURES_KNOWN, FirstMember, Node, Relay, Storages,
    Surroundings, Topology,
    model::{DeviceId, ShardId},
};
use heliograph_storage::{
    GroupId, Keyring, LogStore as _, MemoryDisk, MemoryLog, MemorySnapshotDisk, MemorySnapshots,
    MemoryStateDisk, MemoryStore, Position,
};
use heliograph_transport::{Announcement, NodeId, SimFabric};
use parking_lot::Mutex;
use rand::{RngCore, SeedableRng, rngs::SmallRng};
use tokio::{
    sync::Notify,
    task::JoinHandle,
    time::{Instant, timeout},
};

use crate::{bulk::Bulk, slow_log::SlowLog, space::Space};

pub(crate) const NODES: usize = 3;
const SHARDS: u16 = 4;
/// How long anything may take before a test fails, in simulated time.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

struct SimClock(Instant);

impl Clock for SimClock {
    fn wall_ms(&self) -> u64 {
        1_800_000_000_000 + u64::try_from(self.0.elapsed().as_millis()).unwrap()
    }
}

struct SimEntropy(Mutex<SmallRng>);

impl Entropy for SimEntropy {
    fn fill(&self, bytes: &mut [u8]) {
        self.0.lock().fill_bytes(bytes);
    }
}

struct Live {
    node: Node,
    log: Arc<MemoryLog>,
    syncing: JoinHandle<()>,
}

/// Three nodes.
pub(crate) struct Cluster {
    seed: u64,
    origin: Instant,
    pub(crate) fabric: SimFabric,
    disks: Vec<(Arc<MemoryDisk>, MemoryStateDisk, MemorySnapshotDisk)>,
    live: Vec<Option<Live>>,
    checkpoint: CheckpointConfig,
    bulk: Bulk,
    /// What its processes announce.
    features: u64,
    /// How much is free on each node's disk.
    pub(crate) space: Vec<Arc<Space>>,
    /// How long a read of the log takes on a node that is started.
    pub(crate) log_read: Duration,
}

fn id(index: usize) -> NodeId {
    NodeId(u16::try_from(index + 1).unwrap())
}

pub(crate) fn deadline() -> Instant {
    Instant::now() + Duration::from_secs(10)
}

/// Waits until `condition` holds.
pub(crate) async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < end, "{what}: not within {PATIENCE:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

impl Cluster {
    /// A cluster that is ready.
    pub(crate) async fn start(seed: u64) -> Self {
        Self::start_with(seed, CheckpointConfig::default(), &Bulk::default()).await
    }

    /// As [`Self::start`], with its own times for snapshots and a bulk lane to interfere with.
    pub(crate) async fn start_with(seed: u64, checkpoint: CheckpointConfig, bulk: &Bulk) -> Self {
        Self::start_announcing(seed, checkpoint, bulk, 0).await
    }

    /// As [`Self::start`], of nodes that announce all features: the cluster switches them on.
    pub(crate) async fn start_latest(seed: u64) -> Self {
        let checkpoint = CheckpointConfig::default();
        let cluster =
            Self::start_announcing(seed, checkpoint, &Bulk::default(), FEATURES_KNOWN).await;
        eventually("the features are on", || {
            let known = |live: &Live| live.node.topology().map(|known| known.features);
            cluster.live.iter().flatten().all(|live| known(live) == Some(FEATURES_KNOWN))
        })
        .await;
        cluster
    }

    async fn start_announcing(
        seed: u64,
        checkpoint: CheckpointConfig,
        bulk: &Bulk,
        features: u64,
    ) -> Self {
        let disk = || (MemoryDisk::new(), MemoryStateDisk::new(), MemorySnapshotDisk::new());
        let mut cluster = Self {
            seed,
            origin: Instant::now(),
            fabric: SimFabric::new(seed),
            disks: (0..NODES).map(|_| disk()).collect(),
            live: (0..NODES).map(|_| None).collect(),
            checkpoint,
            bulk: bulk.clone(),
            features,
            space: (0..NODES).map(|_| Arc::default()).collect(),
            log_read: Duration::ZERO,
        };
        for index in 0..NODES {
            cluster.boot(index).await;
        }
        cluster.ready().await;
        cluster
    }

    /// Starts a node on its disk.
    pub(crate) async fn boot(&mut self, index: usize) {
        let (log_disk, state_disk, snapshot_disk) = &self.disks[index];
        let queued = Arc::new(Notify::new());
        let wake = Arc::clone(&queued);
        let log =
            Arc::new(MemoryLog::new(Arc::clone(log_disk), Box::new(move || wake.notify_one())));
        let syncing = tokio::spawn(sync(Arc::clone(&log), queued));
        let members = (0..NODES).map(|index| FirstMember::new(id(index), format!("n{index}:1")));
        let mut config = Config::new(id(index), [7; 16], members.collect());
        config.shards = SHARDS;
        config.checkpoint = self.checkpoint.clone();
        config.raft.snapshots_sent_max = 1;
        config.host = self.space[index].clone();
        config.disk_free_min = Space::FREE_MIN;
        config.client_url = Some(Self::client_url(index));
        let rng = SmallRng::seed_from_u64(self.seed * 100 + index as u64);
        let surroundings = Surroundings {
            clock: Arc::new(SimClock(self.origin)),
            entropy: Arc::new(SimEntropy(Mutex::new(rng))),
        };
        let storages = Storages {
            log: Arc::new(SlowLog { log: log.clone(), pause: self.log_read }),
            state: Arc::new(MemoryStore::open(state_disk)),
            snapshots: Arc::new(MemorySnapshots::open(snapshot_disk).unwrap()),
            keys: Keyring::unsealed(),
        };
        let announced = Announcement::new(0, self.features);
        let network = self.bulk.over(self.fabric.node_announcing(id(index), announced));
        let node = Node::start(config, storages, network, surroundings).await.unwrap();
        self.live[index] = Some(Live { node, log, syncing });
    }

    pub(crate) async fn ready(&self) {
        for live in self.live.iter().flatten() {
            timeout(PATIENCE, live.node.ready()).await.expect("a node gets ready").unwrap();
        }
    }

    /// Ends a node as `kill -9` would, with all that was not synced lost.
    pub(crate) fn crash(&mut self, index: usize) {
        let live = self.live[index].take().expect("it runs");
        self.fabric.crash(id(index));
        live.log.crash(0);
        live.syncing.abort();
        tokio::spawn(live.node.shutdown(Duration::ZERO));
    }

    /// Stops a node in order.
    pub(crate) async fn stop(&mut self, index: usize) {
        let live = self.live[index].take().expect("it runs");
        live.node.shutdown(Duration::from_secs(5)).await;
        live.syncing.abort();
    }

    /// The first and last index that a node's log holds of a device's shard.
    pub(crate) fn log_range(&self, index: usize, device: &DeviceId) -> (u64, u64) {
        let group = GroupId(u32::from(self.shard_of(device).0) + 1);
        let log = self.live[index].as_ref().expect("it runs").log.group(group);
        let index = |position: Option<Position>| position.map_or(0, |position| position.index);
        (index(log.purged) + 1, index(log.last))
    }

    /// How far a node has applied a device's shard.
    pub(crate) fn applied(&self, index: usize, device: &DeviceId) -> u64 {
        let shards = self.live[index].as_ref().expect("it runs").node.shards();
        shards.get(self.shard_of(device)).map_or(0, |shard| shard.applied_index())
    }

    /// The term of a device's shard, as a node knows it.
    pub(crate) fn term(&self, index: usize, device: &DeviceId) -> u64 {
        let shards = self.live[index].as_ref().expect("it runs").node.shards();
        shards.get(self.shard_of(device)).map_or(0, |shard| shard.leadership().borrow().term)
    }

    /// Where clients would reach a node.
    pub(crate) fn client_url(index: usize) -> String {
        format!("ws://n{index}/ws")
    }

    pub(crate) fn node(&self, index: usize) -> &Node {
        &self.live[index].as_ref().expect("it runs").node
    }

    /// How many shards some node takes `leader` for the leader of.
    pub(crate) fn led_by(&self, leader: NodeId) -> usize {
        let handles = self.live.iter().flatten().flat_map(|live| live.node.shards().all());
        handles.filter(|handle| handle.leadership().borrow().leader == Some(leader)).count()
    }

    pub(crate) fn relay(&self, index: usize) -> Arc<dyn Relay> {
        self.live[index].as_ref().expect("it runs").node.relay()
    }

    pub(crate) fn shard_of(&self, device: &DeviceId) -> ShardId {
        let mut known = self.live.iter().flatten().filter_map(|live| live.node.topology());
        let topology: Arc<Topology> = known.next().expect("the cluster is formed");
        topology.shard_of(topology.key_hasher().mailbox(device).slot())
    }

    /// Which node leads the device's mailbox.
    pub(crate) async fn leader_of(&self, device: &DeviceId) -> usize {
        let shard = self.shard_of(device);
        let mut leader = None;
        eventually("a leader", || {
            leader = (0..NODES).find(|index| {
                let live = self.live[*index].as_ref();
                let handle = live.and_then(|live| live.node.shards().get(shard));
                handle.is_some_and(|handle| handle.fence().is_some())
            });
            leader.is_some()
        })
        .await;
        leader.unwrap()
    }
}

/// The disk: syncs what is queued after half a millisecond.
async fn sync(log: Arc<MemoryLog>, queued: Arc<Notify>) {
    loop {
        queued.notified().await;
        tokio::time::sleep(Duration::from_micros(500)).await;
        log.sync();
    }
}
