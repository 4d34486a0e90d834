//! The configuration file of `heliograph serve`.
//!
//! TOML with kebab-case keys, durations as `"5s"`, sizes as `"64MiB"`, secrets by file. Unknown
//! keys are refused. `docs/operations.md` lists every key; a test holds that table against
//! [`Config`].

mod check;
mod load;
mod size;

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use heliograph_cluster::{CheckpointConfig, ScrubConfig};
use serde::{Deserialize, Serialize};

pub(crate) use self::{check::parse_cluster_id, load::load, size::Size};

/// One node's configuration.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Config {
    /// This node.
    pub(crate) node: NodeSection,
    /// The cluster it belongs to; the same on every node.
    pub(crate) cluster: ClusterSection,
    /// How it talks to its peers.
    pub(crate) peer: PeerSection,
    /// How clients talk to it.
    pub(crate) client: ClientSection,
    /// How operators talk to it.
    #[serde(default)]
    pub(crate) admin: AdminSection,
    /// What it keeps on disk.
    #[serde(default)]
    pub(crate) storage: StorageSection,
    /// What it tells about itself.
    #[serde(default)]
    pub(crate) log: LogSection,
    /// How it ends.
    #[serde(default)]
    pub(crate) shutdown: ShutdownSection,
}

/// This node.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct NodeSection {
    /// Its id, never reused for another disk.
    pub(crate) id: u16,
    /// Where its data lies.
    pub(crate) data_dir: PathBuf,
    /// The file with the one-use token with which it joins, or comes back with an empty disk.
    #[serde(default)]
    pub(crate) join_token_file: Option<PathBuf>,
    /// Threads that serve; as many as there are processors when not given.
    #[serde(default)]
    pub(crate) worker_threads: Option<u16>,
}

/// The cluster.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct ClusterSection {
    /// 32 hexadecimal digits, made by `init-tls`.
    pub(crate) id: String,
    /// The first members, all of them on every node; a node that joins finds the cluster by them.
    pub(crate) members: Vec<MemberSection>,
    /// How many shards the mailboxes are spread over; fixed when the cluster forms.
    #[serde(default = "defaults::shards")]
    pub(crate) shards: u16,
    /// How many nodes hold each shard.
    #[serde(default = "defaults::replicas")]
    pub(crate) replicas: u8,
    /// How long a node may be silent before its replicas are made anew on others.
    #[serde(default = "defaults::replace_after", with = "humantime_serde")]
    pub(crate) replace_after: Duration,
}

/// One first member.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct MemberSection {
    /// Its node id.
    pub(crate) id: u16,
    /// Where its peers reach it: `host:port`, UDP for QUIC and TCP for the tripwire.
    pub(crate) address: String,
    /// Where it stands (a room, a building, a provider's zone): replicas are spread over zones.
    #[serde(default)]
    pub(crate) zone: String,
}

/// How this node talks to its peers.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct PeerSection {
    /// Where it listens, UDP and TCP.
    #[serde(default = "defaults::peer_listen")]
    pub(crate) listen: SocketAddr,
    /// Its certificate, PEM.
    pub(crate) certificate_file: PathBuf,
    /// The key to it, PEM, readable by the owner alone.
    pub(crate) private_key_file: PathBuf,
    /// The CA that signs nodes, PEM.
    pub(crate) ca_file: PathBuf,
}

/// How clients talk to this node.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct ClientSection {
    /// Where it listens, HTTPS and WSS (or HTTP and WS without TLS).
    #[serde(default = "defaults::client_listen")]
    pub(crate) listen: SocketAddr,
    /// Whether the client port speaks TLS.
    #[serde(default)]
    pub(crate) tls: ClientTls,
    /// The certificate for it, PEM, with its chain.
    #[serde(default)]
    pub(crate) certificate_file: Option<PathBuf>,
    /// The key to it, PEM.
    #[serde(default)]
    pub(crate) private_key_file: Option<PathBuf>,
    /// Who may register a device.
    #[serde(default)]
    pub(crate) registration: Registration,
    /// What tells that a device on WebSocket has a message.
    #[serde(default)]
    pub(crate) acknowledgement: Acknowledgement,
    /// The WebSocket address that status names; from the request's host when not given.
    #[serde(default)]
    pub(crate) websocket_url: Option<String>,
    /// How far `X-MOSA-Timestamp` may be off.
    #[serde(default = "defaults::timestamp_skew", with = "humantime_serde")]
    pub(crate) timestamp_skew: Duration,
    /// The most connections at a time.
    #[serde(default = "defaults::connections_max")]
    pub(crate) connections_max: usize,
}

impl ClientSection {
    /// The defaults, at another address.
    pub(crate) fn at(listen: SocketAddr) -> Self {
        Self {
            listen,
            tls: ClientTls::default(),
            certificate_file: None,
            private_key_file: None,
            registration: Registration::default(),
            acknowledgement: Acknowledgement::default(),
            websocket_url: None,
            timestamp_skew: defaults::timestamp_skew(),
            connections_max: defaults::connections_max(),
        }
    }
}

/// Whether the client port speaks TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum ClientTls {
    /// It does.
    #[default]
    Required,
    /// It does not: on loopback alone.
    Off,
}

/// Who may register a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Registration {
    /// Anybody, without a proof.
    Open,
    /// Who signs with the key that is registered.
    #[default]
    Signed,
    /// Nobody.
    Closed,
}

/// What tells that a device on WebSocket has a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Acknowledgement {
    /// The Pong to a Ping after it, until the client acknowledges by itself.
    #[default]
    Pong,
    /// The client's acknowledgement alone: behind a proxy that answers Pings itself.
    Explicit,
}

/// How operators talk to this node.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct AdminSection {
    /// Where it listens: plain HTTP on loopback, else HTTPS.
    pub(crate) listen: SocketAddr,
    /// The file with the operators' token; without it the port stays closed.
    pub(crate) token_file: Option<PathBuf>,
}

impl Default for AdminSection {
    fn default() -> Self {
        Self { listen: defaults::admin_listen(), token_file: None }
    }
}

/// What this node keeps on disk.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct StorageSection {
    /// The size of one file of the log.
    pub(crate) log_segment_size: Size,
    /// sled's page cache.
    pub(crate) state_cache_size: Size,
    /// How long changes stay out of the state database at most: what a start replays.
    #[serde(with = "humantime_serde")]
    pub(crate) checkpoint_age: Duration,
    /// How old a changed shard's snapshot becomes at most.
    #[serde(with = "humantime_serde")]
    pub(crate) snapshot_age: Duration,
    /// How much log of all shards lies behind their snapshots, unless the state is larger.
    pub(crate) snapshot_log_size: Size,
    /// With less free space than this the node takes no new messages and leads nothing.
    pub(crate) disk_free_min: Size,
    /// How often all of it is read to find damage.
    #[serde(with = "humantime_serde")]
    pub(crate) scrub_interval: Duration,
    /// How fast, per second.
    pub(crate) scrub_rate: Size,
    /// How long a storage key seals before it is replaced and destroyed.
    #[serde(with = "humantime_serde")]
    pub(crate) key_epoch: Duration,
    /// Where the storage keys lie; in the data directory when left out.
    pub(crate) key_dir: Option<PathBuf>,
}

impl Default for StorageSection {
    fn default() -> Self {
        // 64 MiB: design decision 7. A small page cache: the overlay holds what is hot.
        let checkpoint = CheckpointConfig::default();
        let scrub = ScrubConfig::default();
        Self {
            log_segment_size: Size::mib(64),
            state_cache_size: Size::mib(8),
            checkpoint_age: checkpoint.age_max,
            snapshot_age: checkpoint.snapshot_age_max,
            snapshot_log_size: Size(checkpoint.snapshot_log_bytes),
            // Several segments of the log, a snapshot or two and a checkpoint: what is under way
            // when the guard falls still fits.
            disk_free_min: Size::mib(512),
            scrub_interval: scrub.interval,
            scrub_rate: Size(scrub.bytes_per_second),
            // What was acknowledged yesterday is gone; what waits is written anew once a day.
            key_epoch: Duration::from_secs(24 * 60 * 60),
            key_dir: None,
        }
    }
}

/// What this node tells about itself.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct LogSection {
    /// What is logged: a level, or per module as in `info,heliograph_cluster=debug`.
    pub(crate) level: String,
    /// How.
    pub(crate) format: LogFormat,
}

impl Default for LogSection {
    fn default() -> Self {
        // openraft tells at info what we tell in our own words, and warns twice a second and group of
        // every peer that is away. That a Raft has ended, which its handle tells as an error of every
        // late call, we tell ourselves.
        // Refused changes of membership are repeated by the next leader.
        Self {
            level: [
                "info",
                "openraft=error",
                "openraft::raft::raft_inner=off",
                "openraft::raft::api::management=off",
                "openraft::core::heartbeat=off",
            ]
            .join(","),
            format: LogFormat::default(),
        }
    }
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum LogFormat {
    /// Text for people, with colours on a terminal.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// How this node ends.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct ShutdownSection {
    /// How long a clean shutdown may take: closing client connections, handing leadership away,
    /// the last checkpoint.
    #[serde(with = "humantime_serde")]
    pub(crate) deadline: Duration,
}

impl Default for ShutdownSection {
    fn default() -> Self {
        // Two thirds of the 30 s that Kubernetes grants before it kills.
        Self { deadline: Duration::from_secs(20) }
    }
}

mod defaults {
    use std::{
        net::{IpAddr, Ipv4Addr, SocketAddr},
        time::Duration,
    };

    /// Design decision 1.
    pub(super) fn shards() -> u16 {
        16
    }

    /// Design decision 1.
    pub(super) fn replicas() -> u8 {
        3
    }

    /// Longer than an upgrade of a node takes with its restart, and far shorter than it takes on
    /// average for a second disk to die.
    pub(super) fn replace_after() -> Duration {
        Duration::from_secs(10 * 60)
    }

    pub(super) fn peer_listen() -> SocketAddr {
        SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), crate::pki::roster::PEER_PORT)
    }

    pub(super) fn client_listen() -> SocketAddr {
        SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 8443)
    }

    pub(super) fn admin_listen() -> SocketAddr {
        SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 7401)
    }

    /// The published contract of the front door.
    pub(super) fn timestamp_skew() -> Duration {
        Duration::from_secs(300)
    }

    /// At 10 KB a TLS connection this is half a GB.
    pub(super) fn connections_max() -> usize {
        50_000
    }
}

#[cfg(test)]
#[path = "config_test.rs"]
mod tests;
