//! What types cannot check: values that are well formed and still cannot work together.

use std::{collections::BTreeSet, net::SocketAddr, path::PathBuf, time::Duration};

use super::{ClientTls, Config, Size};
use crate::{cli::is_host, data_dir::DataDir};

/// The most shards a cluster has (design decision 1).
const SHARDS_MAX: u16 = 256;
/// The most threads that serve: past it somebody took the setting for another one.
const WORKER_THREADS_MAX: u16 = 1024;
/// Shorter, restarts alone would move replicas.
const REPLACE_AFTER_MIN: Duration = Duration::from_secs(10);
/// The replicas a shard can have: odd numbers alone survive one failure more than they cost; 1 is
/// for trying out.
const REPLICAS: [u8; 3] = [1, 3, 5];
/// The bounds of a log segment: smaller ones roll too often, larger ones are freed too late.
const SEGMENT: [Size; 2] = [Size::mib(1), Size::mib(1024)];
/// The least page cache that sled works with at a bearable speed.
const CACHE_MIN: Size = Size::mib(1);
/// The longest shutdown: past it the supervisor's own patience (systemd: 90 s) decides anyhow.
const SHUTDOWN_MAX: Duration = Duration::from_secs(600);

/// The longest key epoch: past it nobody can call it forgetting.
const KEY_EPOCH_MAX: Duration = Duration::from_secs(90 * 86_400);

/// The longest time between two scrubs: damage that waits longer may meet a second one.
const SCRUB_INTERVAL_MAX: Duration = Duration::from_secs(30 * 86_400);

/// A value that cannot work. Each names the key and the fix.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum CheckError {
    /// The cluster id is not 16 bytes of hex.
    #[error(
        "`cluster.id` must be 32 hexadecimal digits; take it from the cluster.toml that `heliograph init-tls` wrote"
    )]
    ClusterId,
    /// A node id is zero.
    #[error("`{key}` must be from 1 to 65535")]
    NodeIdZero {
        /// Which key.
        key: &'static str,
    },
    /// Two members share an id.
    #[error("`cluster.members` names node {id} twice; each id once")]
    MemberTwice {
        /// Which.
        id: u16,
    },
    /// Two members share an address.
    #[error("`cluster.members` names the address {address} twice; each node has its own")]
    AddressTwice {
        /// Which.
        address: String,
    },
    /// A member's address is not host:port.
    #[error(
        "`cluster.members`: \"{address}\" is not an address; write host:port, for example relay-1.example.org:7400"
    )]
    Address {
        /// Which.
        address: String,
    },
    /// This node is no first member, has not joined, and brings no token.
    #[error(
        "`node.id` is {id}, which `cluster.members` does not name; a node that is to join needs `node.join-token-file`, with the token that `heliograph cluster join {id}` printed"
    )]
    NotMember {
        /// This node.
        id: u16,
    },
    /// The number of threads is out of range.
    #[error(
        "`node.worker-threads` must be from 1 to {WORKER_THREADS_MAX}; without it there is one for each processor"
    )]
    WorkerThreads,
    /// The number of shards is out of range.
    #[error("`cluster.shards` must be from 1 to {SHARDS_MAX}")]
    Shards,
    /// The number of replicas is not one that works.
    #[error("`cluster.replicas` must be 1, 3 or 5")]
    Replicas,
    /// Nodes would be replaced while they restart.
    #[error("`cluster.replace-after` must be at least \"10s\": a restart takes some seconds")]
    ReplaceAfter,
    /// There are fewer members than replicas.
    #[error(
        "`cluster.replicas` is {replicas}, but `cluster.members` names {members} nodes; name at least as many"
    )]
    TooFewMembers {
        /// Wanted replicas.
        replicas: u8,
        /// Known members.
        members: usize,
    },
    /// Plain HTTP on an address that others can reach.
    #[error(
        "`client.tls` is \"off\", but `client.listen` is {listen}, which is not loopback; without TLS API keys would cross the network in the clear: listen on 127.0.0.1, or set `client.certificate-file` and `client.private-key-file`"
    )]
    PlainHttp {
        /// Where it would listen.
        listen: SocketAddr,
    },
    /// TLS without a certificate.
    #[error(
        "`{key}` is missing; the client port speaks TLS (for a try on loopback set `client.tls = \"off\"`)"
    )]
    NoCertificate {
        /// Which key.
        key: &'static str,
    },
    /// A file that is named is not there.
    #[error("`{key}` names {path}, which is not a readable file")]
    File {
        /// Which key.
        key: &'static str,
        /// The file.
        path: PathBuf,
    },
    /// A size is out of its bounds.
    #[error("`{key}` must be from {min} to {max}")]
    Size {
        /// Which key.
        key: &'static str,
        /// Least.
        min: Size,
        /// Most.
        max: Size,
    },
    /// A duration is out of its bounds.
    #[error("`{key}` must be from \"1s\" to \"{max_seconds}s\"")]
    Duration {
        /// Which key.
        key: &'static str,
        /// Most, in seconds.
        max_seconds: u64,
    },
    /// Nobody could connect.
    #[error("`client.connections-max` must be at least 1")]
    Connections,
    /// The log level cannot be parsed.
    #[error(
        "`log.level` is not a filter; write a level (error, warn, info, debug, trace) or e.g. \"info,heliograph_cluster=debug\""
    )]
    LogLevel,
}

/// Reads a cluster id.
pub(crate) fn parse_cluster_id(text: &str) -> Option<[u8; 16]> {
    hex::decode(text).ok()?.try_into().ok()
}

/// Checks the whole.
pub(super) fn check(config: &Config) -> Result<(), CheckError> {
    members(config)?;
    client(config)?;
    limits(config)?;
    files(config)
}

fn members(config: &Config) -> Result<(), CheckError> {
    let cluster = &config.cluster;
    parse_cluster_id(&cluster.id).ok_or(CheckError::ClusterId)?;
    if config.node.id == 0 {
        return Err(CheckError::NodeIdZero { key: "node.id" });
    }
    let (mut ids, mut addresses) = (BTreeSet::new(), BTreeSet::new());
    for member in &cluster.members {
        let address = || member.address.clone();
        if member.id == 0 {
            return Err(CheckError::NodeIdZero { key: "cluster.members.id" });
        }
        if !is_address(&member.address) {
            return Err(CheckError::Address { address: address() });
        }
        if !ids.insert(member.id) {
            return Err(CheckError::MemberTwice { id: member.id });
        }
        if !addresses.insert(&member.address) {
            return Err(CheckError::AddressTwice { address: address() });
        }
    }
    let may_join = config.node.join_token_file.is_some();
    if !ids.contains(&config.node.id) && !may_join && !DataDir::is_taken(&config.node.data_dir) {
        return Err(CheckError::NotMember { id: config.node.id });
    }
    if !(1..=SHARDS_MAX).contains(&cluster.shards) {
        return Err(CheckError::Shards);
    }
    if config.node.worker_threads.is_some_and(|count| !(1..=WORKER_THREADS_MAX).contains(&count)) {
        return Err(CheckError::WorkerThreads);
    }
    if !REPLICAS.contains(&cluster.replicas) {
        return Err(CheckError::Replicas);
    }
    if cluster.replace_after < REPLACE_AFTER_MIN {
        return Err(CheckError::ReplaceAfter);
    }
    if usize::from(cluster.replicas) > ids.len() {
        return Err(CheckError::TooFewMembers { replicas: cluster.replicas, members: ids.len() });
    }
    Ok(())
}

fn is_address(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else { return false };
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let host = match bare {
        Some(v6) => v6.parse::<std::net::Ipv6Addr>().is_ok(),
        None => is_host(host) && !host.contains(':'),
    };
    host && port.parse::<u16>().is_ok_and(|port| port > 0)
}

fn client(config: &Config) -> Result<(), CheckError> {
    let client = &config.client;
    match client.tls {
        ClientTls::Off if !client.listen.ip().is_loopback() => {
            Err(CheckError::PlainHttp { listen: client.listen })
        }
        ClientTls::Off => Ok(()),
        ClientTls::Required if client.certificate_file.is_none() => {
            Err(CheckError::NoCertificate { key: "client.certificate-file" })
        }
        ClientTls::Required if client.private_key_file.is_none() => {
            Err(CheckError::NoCertificate { key: "client.private-key-file" })
        }
        ClientTls::Required => Ok(()),
    }
}

fn limits(config: &Config) -> Result<(), CheckError> {
    let [min, max] = SEGMENT;
    if !(min..=max).contains(&config.storage.log_segment_size) {
        return Err(CheckError::Size { key: "storage.log-segment-size", min, max });
    }
    let (min, max) = (CACHE_MIN, Size::mib(1 << 20));
    if !(min..=max).contains(&config.storage.state_cache_size) {
        return Err(CheckError::Size { key: "storage.state-cache-size", min, max });
    }
    let (min, max) = (Size::mib(1), Size::mib(1 << 20));
    if !(min..=max).contains(&config.storage.snapshot_log_size) {
        return Err(CheckError::Size { key: "storage.snapshot-log-size", min, max });
    }
    if !(min..=max).contains(&config.storage.scrub_rate) {
        return Err(CheckError::Size { key: "storage.scrub-rate", min, max });
    }
    let (min, max) = (Size(0), Size::mib(1 << 20));
    if !(min..=max).contains(&config.storage.disk_free_min) {
        return Err(CheckError::Size { key: "storage.disk-free-min", min, max });
    }
    for (key, value, most) in [
        ("storage.checkpoint-age", config.storage.checkpoint_age, Duration::from_secs(3600)),
        ("storage.snapshot-age", config.storage.snapshot_age, Duration::from_secs(86_400)),
        ("storage.scrub-interval", config.storage.scrub_interval, SCRUB_INTERVAL_MAX),
        ("shutdown.deadline", config.shutdown.deadline, SHUTDOWN_MAX),
        ("client.timestamp-skew", config.client.timestamp_skew, Duration::from_secs(86_400)),
        ("storage.key-epoch", config.storage.key_epoch, KEY_EPOCH_MAX),
    ] {
        if !(Duration::from_secs(1)..=most).contains(&value) {
            return Err(CheckError::Duration { key, max_seconds: most.as_secs() });
        }
    }
    if config.client.connections_max == 0 {
        return Err(CheckError::Connections);
    }
    crate::telemetry::filter(&config.log.level).map(drop).ok_or(CheckError::LogLevel)
}

fn files(config: &Config) -> Result<(), CheckError> {
    let peer = [
        ("peer.certificate-file", &config.peer.certificate_file),
        ("peer.private-key-file", &config.peer.private_key_file),
        ("peer.ca-file", &config.peer.ca_file),
    ];
    let client = [
        ("client.certificate-file", config.client.certificate_file.as_ref()),
        ("client.private-key-file", config.client.private_key_file.as_ref()),
    ];
    let token = ("admin.token-file", config.admin.token_file.as_ref());
    // Whoever has joined needs its token no more.
    let join_token = config.node.join_token_file.as_ref();
    let join_token = join_token.filter(|_| !DataDir::is_taken(&config.node.data_dir));
    let client = client.into_iter().chain([token, ("node.join-token-file", join_token)]);
    let client = client.filter_map(|(key, path)| path.map(|path| (key, path)));
    for (key, path) in peer.into_iter().chain(client) {
        let is_file = std::fs::File::open(path)
            .and_then(|file| file.metadata())
            .is_ok_and(|metadata| metadata.is_file());
        if !is_file {
            return Err(CheckError::File { key, path: path.clone() });
        }
    }
    Ok(())
}
