//! Opens what a node is made of, each with its own way to fail.

use std::{fs, io::ErrorKind, panic, path::Path, sync::Arc, thread, time::Duration};

use anyhow::Context as _;
use heliograph_api::{
    RegistrationMode, ServerConfig,
    admin::{AdminConfig, AdminToken},
    server::{Pem, Security, TlsConfig},
    websocket,
};
use heliograph_cluster::{self as cluster, JoinToken, Storages, Surroundings};
use heliograph_storage::{
    Error as StorageError, FileSnapshots, Keyring, OpenReport, SegmentLog, SegmentLogConfig,
    SledConfig, SledStore, StateOpen, log_expectations,
};
use heliograph_transport::{
    Announcement, NodeId,
    identity::Identity,
    quic::{BindError, Limits, QuicConfig, QuicNetwork},
};

use super::host::Machine;
use crate::{
    config::{Acknowledgement, ClientTls, Config, Registration, StorageSection},
    data_dir::{DataDir, Owner},
    exit::{Failure, OrExit as _, Reason},
    pki::roster::Roster,
};

/// Checks the files that the configuration names, as far as that goes without serving.
pub(crate) fn check(config: &Config) -> Result<(), Failure> {
    identity(config)?;
    join_token(config)?;
    admin_port(config).map(drop)
}

/// Reads this node's identity and checks that it is this node's.
pub(super) fn identity(config: &Config) -> Result<Identity, Failure> {
    let read = |key: &str, path: &Path| {
        fs::read(path)
            .with_context(|| format!("`{key}`: cannot read {}", path.display()))
            .or_exit(Reason::Configuration)
    };
    let peer = &config.peer;
    let chain = read("peer.certificate-file", &peer.certificate_file)?;
    let key = read("peer.private-key-file", &peer.private_key_file)?;
    let roots = read("peer.ca-file", &peer.ca_file)?;
    let roster = Roster::from(config);
    Identity::from_pem(&chain, &key, &roots)
        .and_then(|identity| {
            identity.check(NodeId(config.node.id), roster.cluster_id)?;
            Ok(identity)
        })
        .context("`peer.certificate-file`, `peer.private-key-file`, `peer.ca-file`")
        .or_exit(Reason::Configuration)
}

/// Opens the data directory.
pub(crate) fn data_dir(config: &Config) -> Result<DataDir, Failure> {
    let owner = Owner { node: config.node.id, cluster_id: Roster::from(config).cluster_id };
    DataDir::open(&config.node.data_dir, owner).or_exit(Reason::DataDirectory)
}

/// Opens the stores. Blocks, for long where there is much to read.
pub(crate) fn storages(config: &StorageSection, dir: &DataDir) -> Result<Storages, Failure> {
    let keys = keyring(&config.key_dir.clone().unwrap_or_else(|| dir.keys()))?;
    let snapshots = FileSnapshots::open_sealed(&dir.snapshots(), keys.clone())
        .context("cannot open the snapshot files")
        .or_exit(Reason::DataDirectory)?;
    let mut salt = [0; 8];
    getrandom::fill(&mut salt).context("the operating system gives no randomness")?;
    let mut log = SegmentLogConfig::new(dir.log(), u64::from_le_bytes(salt));
    log.keys = keys.clone();
    log.segment_bytes = config.log_segment_size.bytes();
    let (state, log, report) = rows_and_log(config, dir, log, &keys)?;
    tracing::info!(
        segments = report.segments,
        records = report.records,
        outlined = report.outlined,
        bytes = report.bytes,
        epoch = report.epoch,
        torn = report.tear.is_some(),
        "log opened"
    );
    for damage in &report.damage {
        tracing::error!(
            path = %damage.path.display(),
            offset = damage.offset,
            reason = damage.reason,
            "the log is damaged: replicas that lost something do not vote; check this disk"
        );
    }
    Ok(Storages { log: Arc::new(log), state, snapshots: Arc::new(snapshots), keys })
}

/// Opens rows and log at the same time: either may have much to read. The log is written to once
/// the rows have said what it must hold.
fn rows_and_log(
    config: &StorageSection,
    dir: &DataDir,
    log: SegmentLogConfig,
    keys: &Keyring,
) -> Result<(Arc<SledStore>, SegmentLog, OpenReport), Failure> {
    let mut state = None;
    let opened = thread::scope(|scope| -> Result<_, Failure> {
        let opening = thread::Builder::new().name("state-open".into());
        let opening = opening.spawn_scoped(scope, || rows(config, dir, keys));
        let opening = opening.context("cannot start a thread").or_exit(Reason::DataDirectory)?;
        let opened = SegmentLog::open_expecting(log, || {
            let rows = opening.join().unwrap_or_else(|panic| panic::resume_unwind(panic));
            let expectations = match &rows {
                Ok(rows) => log_expectations(&**rows),
                Err(_) => Err(StorageError::Closed),
            };
            state = Some(rows);
            expectations
        });
        Ok(opened)
    })?;
    // Why the rows did not open comes before that the log was not opened for it.
    let state = state.transpose()?;
    let (log, report) = opened.context("cannot open the log").or_exit(Reason::DataDirectory)?;
    let state = state.context("the log did not ask for the rows").or_exit(Reason::DataDirectory)?;
    Ok((state, log, report))
}

fn rows(config: &StorageSection, dir: &DataDir, keys: &Keyring) -> Result<Arc<SledStore>, Failure> {
    let cache_bytes = config.state_cache_size.bytes();
    let sled = SledConfig { cache_bytes, ..SledConfig::default() };
    let (state, opened) = SledStore::open_sealed(&dir.state(), sled, keys)
        .context("cannot open the state database")
        .or_exit(Reason::DataDirectory)?;
    if let StateOpen::Rebuilt { moved_to } = opened {
        tracing::warn!(
            moved_to = %moved_to.display(),
            "the state database was unreadable: it is rebuilt from snapshots and log"
        );
    }
    Ok(state)
}

/// Opens the storage keys of a stopped node, to read; nothing in the directory changes.
pub(crate) fn keyring_read_only(dir: &Path) -> Result<Keyring, Failure> {
    Keyring::inspect(dir, Box::new(entropy))
        .context("cannot read the storage keys")
        .or_exit(Reason::DataDirectory)
}

fn entropy(bytes: &mut [u8]) {
    getrandom::fill(bytes).expect("the operating system gives randomness after boot");
}

/// Opens the storage keys in a directory, and draws one for this life of the process.
pub(crate) fn keyring(dir: &Path) -> Result<Keyring, Failure> {
    let now_ms = Surroundings::system().clock.wall_ms();
    Keyring::open(dir, Box::new(entropy), now_ms)
        .context("cannot open the storage keys")
        .or_exit(Reason::DataDirectory)
}

/// Binds the node's address for peers.
pub(super) fn network(config: &Config, dir: &DataDir) -> Result<Arc<QuicNetwork>, Failure> {
    let listen = config.peer.listen;
    let quic = QuicConfig {
        node: NodeId(config.node.id),
        cluster_id: Roster::from(config).cluster_id,
        incarnation: dir.incarnation(),
        listen,
        identity: identity(config)?,
        limits: Limits::default(),
        announced: Announcement::new(
            cluster::Surroundings::system().random(),
            cluster::FEATURES_KNOWN,
        ),
    };
    QuicNetwork::bind(quic).map_err(|error| {
        let reason = match &error {
            BindError::Socket { source, .. } if source.kind() == ErrorKind::AddrInUse => {
                Reason::AddressInUse
            }
            _ => Reason::Configuration,
        };
        let context = format!("`peer.listen`: cannot listen on {listen} (UDP and TCP)");
        Failure::new(reason, anyhow::Error::new(error).context(context))
    })
}

/// The token with which this node joins, while there is one.
fn join_token(config: &Config) -> Result<Option<JoinToken>, Failure> {
    let Some(path) = &config.node.join_token_file else { return Ok(None) };
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        // It was checked that a node that has not joined yet has it.
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Failure::new(Reason::Configuration, error)),
    };
    text.parse()
        .map(Some)
        .map_err(anyhow::Error::new)
        .with_context(|| format!("`node.join-token-file`: {}", path.display()))
        .or_exit(Reason::Configuration)
}

/// What the cluster is told.
pub(crate) fn cluster(config: &Config) -> Result<cluster::Config, Failure> {
    let cluster_id = Roster::from(config).cluster_id;
    let members = config.cluster.members.iter().map(|member| cluster::FirstMember {
        id: NodeId(member.id),
        address: member.address.clone(),
        zone: member.zone.clone(),
    });
    let members = members.collect();
    let mut cluster = cluster::Config::new(NodeId(config.node.id), cluster_id, members);
    cluster.shards = config.cluster.shards;
    cluster.replicas = config.cluster.replicas;
    cluster.join_token = join_token(config)?;
    cluster.replace_after = config.cluster.replace_after;
    cluster.client_url.clone_from(&config.client.websocket_url);
    cluster.key_epoch = config.storage.key_epoch;
    cluster.host = Arc::new(Machine::new(&config.node.data_dir));
    cluster.disk_free_min = config.storage.disk_free_min.bytes();
    cluster.scrub.interval = config.storage.scrub_interval;
    cluster.scrub.bytes_per_second = config.storage.scrub_rate.bytes();
    cluster.checkpoint.age_max = config.storage.checkpoint_age;
    cluster.checkpoint.snapshot_age_max = config.storage.snapshot_age;
    cluster.checkpoint.snapshot_log_bytes = config.storage.snapshot_log_size.bytes();
    Ok(cluster)
}

/// What the client port is told.
pub(super) fn client_port(config: &Config) -> ServerConfig {
    let client = &config.client;
    let mut server = ServerConfig::new(client.listen, security(config));
    server.limits.connections_max = client.connections_max;
    server.limits.drain_timeout = StopShares::of(config.shutdown.deadline).requests;
    server.mosa.registration = match client.registration {
        Registration::Open => RegistrationMode::Open,
        Registration::Signed => RegistrationMode::Signed,
        Registration::Closed => RegistrationMode::Closed,
    };
    server.mosa.timestamp_skew = client.timestamp_skew;
    server.mosa.websocket_url.clone_from(&client.websocket_url);
    server.websocket.acknowledgement = match client.acknowledgement {
        Acknowledgement::Pong => websocket::Acknowledgement::Pong,
        Acknowledgement::Explicit => websocket::Acknowledgement::Explicit,
    };
    server
}

/// What the operators' port is told; none where it stays closed.
pub(super) fn admin_port(config: &Config) -> Result<Option<AdminConfig>, Failure> {
    let Some(path) = &config.admin.token_file else { return Ok(None) };
    let token = fs::read_to_string(path)
        .map_err(anyhow::Error::new)
        .and_then(|text| Ok(AdminToken::from_text(&text)?))
        .with_context(|| format!("`admin.token-file`: {}", path.display()))
        .or_exit(Reason::Configuration)?;
    let security = match security(config) {
        _ if config.admin.listen.ip().is_loopback() => Security::Plain,
        Security::Plain => Security::Tls(TlsConfig {
            certificate: Pem::File(config.peer.certificate_file.clone()),
            key: Pem::File(config.peer.private_key_file.clone()),
        }),
        tls => tls,
    };
    Ok(Some(AdminConfig { listen: config.admin.listen, security, token }))
}

/// What each step of a clean shutdown may take of its deadline. Together three quarters: the rest
/// is for closing handshakes and the last checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct StopShares {
    /// Moving leaderships: milliseconds, unless the heirs lag.
    pub(super) hand_over: Duration,
    /// Sending WebSockets away in turn: 50,000 of them at the default deadline make 10,000 a
    /// second on all other nodes together.
    pub(super) send_off: Duration,
    /// Finishing requests under way.
    pub(super) requests: Duration,
    /// Leaderships that came late, and last acknowledgements.
    pub(super) close: Duration,
}

impl StopShares {
    pub(super) fn of(deadline: Duration) -> Self {
        Self {
            hand_over: deadline / 8,
            send_off: deadline / 4,
            requests: deadline / 4,
            close: deadline / 16,
        }
    }
}

/// The certificate of the client port, or none on loopback.
pub(super) fn security(config: &Config) -> Security {
    let client = &config.client;
    match (client.tls, &client.certificate_file, &client.private_key_file) {
        (ClientTls::Required, Some(certificate), Some(key)) => Security::Tls(TlsConfig {
            certificate: Pem::File(certificate.clone()),
            key: Pem::File(key.clone()),
        }),
        (ClientTls::Required, ..) => unreachable!("the configuration was checked"),
        (ClientTls::Off, ..) => Security::Plain,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn security(extra: &str, listen: &str) -> Security {
        let dir = tempfile::tempdir().unwrap();
        for name in ["n.crt", "n.key", "ca.crt", "s.crt", "s.key"] {
            std::fs::write(dir.path().join(name), "").unwrap();
        }
        std::fs::write(dir.path().join("token"), "0123456789abcdef".repeat(2)).unwrap();
        let path = dir.path().join("heliograph.toml");
        let text = format!(
            "[node]\nid = 1\ndata-dir = \"data\"\n\
             [cluster]\nid = \"{}\"\nreplicas = 1\n\
             members = [{{ id = 1, address = \"a:7400\" }}]\n\
             [peer]\ncertificate-file = \"n.crt\"\nprivate-key-file = \"n.key\"\n\
             ca-file = \"ca.crt\"\n[client]\n{extra}\n\
             [admin]\nlisten = \"{listen}\"\ntoken-file = \"token\"\n",
            "00".repeat(16)
        );
        std::fs::write(&path, text).unwrap();
        let config = crate::config::load(&path, []).unwrap();
        admin_port(&config).unwrap().unwrap().security
    }

    fn certificate(security: &Security) -> Option<String> {
        let Security::Tls(TlsConfig { certificate: Pem::File(path), .. }) = security else {
            return None;
        };
        Some(path.file_name()?.to_str()?.to_owned())
    }

    #[test]
    fn operators_never_speak_plain_off_loopback() {
        let with = "certificate-file = \"s.crt\"\nprivate-key-file = \"s.key\"";
        let without = "listen = \"127.0.0.1:1\"\ntls = \"off\"";
        for extra in [with, without] {
            for loopback in ["127.0.0.1:7401", "[::1]:7401"] {
                assert!(matches!(security(extra, loopback), Security::Plain));
            }
        }
        let name = |extra| certificate(&security(extra, "0.0.0.0:7401"));
        assert_eq!(name(with).as_deref(), Some("s.crt"));
        assert_eq!(name(without).as_deref(), Some("n.crt"), "the node's own");
    }
}
