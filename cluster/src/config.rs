//! What a node of the cluster is told at its start.

use std::{sync::Arc, time::Duration};

use heliograph_storage::{Keyring, LogStore, SnapshotStore, StateStore};
use heliograph_transport::NodeId;

use crate::{
    admin::{Host, NoHost},
    features::FEATURES_KNOWN,
    join_token::JoinToken,
    topology::Settings,
};

/// Longer than an upgrade of a node takes with its restart, and far shorter than it takes on
/// average for a second disk to die.
const REPLACE_AFTER: Duration = Duration::from_secs(10 * 60);
/// Shorter, restarts alone would move replicas.
const REPLACE_AFTER_MIN: Duration = Duration::from_secs(10);

/// A node that the cluster is formed of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FirstMember {
    /// The node.
    pub id: NodeId,
    /// Where its peers reach it, "host:port".
    pub address: String,
    /// Where it stands: replicas are spread over zones. May be empty.
    pub zone: String,
}

impl FirstMember {
    /// A first member without a zone.
    pub fn new(id: NodeId, address: String) -> Self {
        Self { id, address, zone: String::new() }
    }
}

/// When checkpoints and snapshots are written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckpointConfig {
    /// A group with changes is checkpointed after this long at the latest.
    pub age_max: Duration,
    /// A group whose changes take this many bytes is checkpointed now.
    pub overlay_bytes_max: usize,
    /// Snapshots are written while the log behind them, of all groups together, exceeds this and
    /// the state's size: that of all groups' last snapshots. Not that of the database, which is
    /// more than twice as much after a busy time; and a start reads all of the log. As much, in
    /// equal shares, is kept for followers that are a little behind.
    pub snapshot_log_bytes: u64,
    /// A snapshot of a group is written once its log holds this many entries more than the last
    /// one, however small they are.
    pub snapshot_entries: u64,
    /// A snapshot of a changed group is written after this long at the latest.
    pub snapshot_age_max: Duration,
}

impl Default for CheckpointConfig {
    fn default() -> Self {
        Self {
            // A crash replays at most this much of the log.
            age_max: Duration::from_secs(30),
            // 16 shards of it stay far below the memory bar of a node.
            overlay_bytes_max: 8 * 1024 * 1024,
            // Design decision 8.
            snapshot_log_bytes: 256 * 1024 * 1024,
            // The log keeps some 50 bytes of memory for each: 10 MiB a group.
            snapshot_entries: 200_000,
            snapshot_age_max: Duration::from_secs(60 * 60),
        }
    }
}

/// How everything on disk is read again and again, to find damage early.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScrubConfig {
    /// From the begin of one pass to that of the next.
    pub interval: Duration,
    /// How fast it reads.
    pub bytes_per_second: u64,
}

impl Default for ScrubConfig {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(24 * 60 * 60),
            // 340 GiB a day; a hundredth of what a disk gives.
            bytes_per_second: 4 * 1024 * 1024,
        }
    }
}

/// Raft's timings (design decision 2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RaftConfig {
    /// How often a leader without traffic shows that it lives.
    pub heartbeat_interval: Duration,
    /// The shortest silence after which a follower runs for leader by itself. The failure detector
    /// is quicker; this is the net below it.
    pub election_timeout_min: Duration,
    /// The longest such silence.
    pub election_timeout_max: Duration,
    /// How many snapshots this node sends to peers at a time, of all groups it leads; the others
    /// wait their turn.
    pub snapshots_sent_max: usize,
}

impl Default for RaftConfig {
    fn default() -> Self {
        Self {
            heartbeat_interval: Duration::from_millis(500),
            election_timeout_min: Duration::from_secs(2),
            election_timeout_max: Duration::from_secs(4),
            // One keeps a link busy; a second one goes on where the first one's peer is slow.
            snapshots_sent_max: 2,
        }
    }
}

/// A day: what waits is written anew that often.
const KEY_EPOCH: Duration = Duration::from_secs(24 * 60 * 60);
/// Below this a node would do nothing but seal anew.
const KEY_EPOCH_MIN: Duration = Duration::from_secs(1);

/// What a node is told at its start.
#[derive(Clone, Debug)]
pub struct Config {
    /// This node.
    pub node: NodeId,
    /// The cluster: chosen once, the same on every node.
    pub cluster_id: [u8; 16],
    /// The nodes the cluster is formed of. A node that is not among them joins them: they tell it
    /// where the cluster is.
    pub members: Vec<FirstMember>,
    /// How many shards the cluster is formed with (1 to 256).
    pub shards: u16,
    /// How many replicas a shard has (1, 3 or 5).
    pub replicas: u8,
    /// Settings the cluster is formed with; the keys are drawn anew.
    pub settings: Settings,
    /// How long a node may be silent before its replicas are made anew on others.
    pub replace_after: Duration,
    /// The one-use token with which a node joins that is not one of `members`, or comes back after
    /// its disk was lost.
    pub join_token: Option<JoinToken>,
    /// See [`RaftConfig`].
    pub raft: RaftConfig,
    /// See [`CheckpointConfig`].
    pub checkpoint: CheckpointConfig,
    /// See [`ScrubConfig`].
    pub scrub: ScrubConfig,
    /// With fewer free bytes than this the node takes no new messages and leads nothing; 0 for no
    /// bound.
    pub disk_free_min: u64,
    /// How long a storage key seals before it is replaced. What was acknowledged is unreadable on
    /// this node's disk after this and the time it takes to seal anew what lives.
    pub key_epoch: Duration,
    /// What the process knows of itself, for operators.
    pub host: Arc<dyn Host>,
    /// The WebSocket address of this very node, for clients of a node that goes away.
    pub client_url: Option<String>,
    /// The features this process knows and announces: [`FEATURES_KNOWN`]. Less only in tests, to
    /// be of the release before.
    pub features: u64,
}

impl Config {
    /// The defaults for `node` of a cluster formed of `members`.
    pub fn new(node: NodeId, cluster_id: [u8; 16], members: Vec<FirstMember>) -> Self {
        Self {
            node,
            cluster_id,
            members,
            shards: 16,
            replicas: 3,
            settings: Settings::default(),
            replace_after: REPLACE_AFTER,
            join_token: None,
            raft: RaftConfig::default(),
            checkpoint: CheckpointConfig::default(),
            scrub: ScrubConfig::default(),
            disk_free_min: 0,
            key_epoch: KEY_EPOCH,
            host: Arc::new(NoHost),
            client_url: None,
            features: FEATURES_KNOWN,
        }
    }

    pub(crate) fn raft_config(&self) -> Arc<openraft::Config> {
        let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        let config = openraft::Config {
            cluster_name: "heliograph".to_owned(),
            heartbeat_interval: millis(self.raft.heartbeat_interval),
            // Under traffic replication itself shows that the leader lives.
            heartbeat_min_interval: Some(millis(self.raft.heartbeat_interval / 2)),
            election_timeout_min: millis(self.raft.election_timeout_min),
            election_timeout_max: millis(self.raft.election_timeout_max),
            snapshot_policy: openraft::SnapshotPolicy::Never,
            // A follower that missed a little is better served from the log than by a snapshot.
            max_in_snapshot_log_to_keep: 1000,
            purge_batch_size: 256,
            // Only a follower behind the purged log needs a snapshot.
            replication_lag_threshold: u64::MAX,
            max_payload_entries: 64,
            install_snapshot_timeout: 20_000,
            enable_pre_vote: Some(true),
            enable_leader_restore: Some(false),
            allow_log_reversion: Some(false),
            // A follower that is back may be the one that a quorum needs: its leaders must not let
            // it wait for long.
            backoff: "20ms 40ms 80ms ..160ms".to_owned(),
            ..openraft::Config::default()
        };
        Arc::new(config.validate().expect("Config::validate checked the timings"))
    }

    /// Checks what can be wrong.
    ///
    /// # Errors
    /// Names the first thing that is.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let ids: std::collections::BTreeSet<_> =
            self.members.iter().map(|member| member.id).collect();
        if self.members.is_empty() {
            return Err(ConfigError::NoMembers);
        }
        if ids.len() != self.members.len() {
            return Err(ConfigError::MemberTwice);
        }
        if !(1..=256).contains(&self.shards) {
            return Err(ConfigError::Shards { shards: self.shards });
        }
        if ![1, 3, 5].contains(&self.replicas) {
            return Err(ConfigError::Replicas { replicas: self.replicas });
        }
        if self.replace_after < REPLACE_AFTER_MIN {
            return Err(ConfigError::ReplaceAfter);
        }
        if self.key_epoch < KEY_EPOCH_MIN {
            return Err(ConfigError::KeyEpoch);
        }
        let raft = &self.raft;
        if raft.heartbeat_interval * 2 >= raft.election_timeout_min
            || raft.election_timeout_min >= raft.election_timeout_max
        {
            return Err(ConfigError::Timings);
        }
        Ok(())
    }
}

/// What is wrong with a [`Config`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// Nobody to form a cluster with, nobody to join.
    #[error("members must list the nodes the cluster is formed of")]
    NoMembers,
    /// A node id stands twice.
    #[error("members lists a node id twice")]
    MemberTwice,
    /// Too few or too many shards.
    #[error("shards must be 1 to 256, not {shards}")]
    Shards {
        /// What was given.
        shards: u16,
    },
    /// An unusable number of replicas.
    #[error("replicas must be 1, 3 or 5, not {replicas}")]
    Replicas {
        /// What was given.
        replicas: u8,
    },
    /// Nodes would be replaced while they restart.
    #[error("replace-after must be at least 10s: a restart takes some seconds")]
    ReplaceAfter,
    /// Storage keys would be replaced all the time.
    #[error("the key epoch must be a second at least")]
    KeyEpoch,
    /// The timings contradict each other.
    #[error(
        "raft timings must satisfy 2 x heartbeat-interval < election-timeout-min < election-timeout-max"
    )]
    Timings,
}

/// A node's stores.
#[derive(Clone)]
pub struct Storages {
    /// The log of all groups.
    pub log: Arc<dyn LogStore>,
    /// The rows of all groups.
    pub state: Arc<dyn StateStore>,
    /// The snapshot files of all groups.
    pub snapshots: Arc<dyn SnapshotStore>,
    /// What they seal with.
    pub keys: Keyring,
}

impl std::fmt::Debug for Storages {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Storages")
    }
}
