//! What lies in the data directory of `dev`:
//!
//! ```text
//! dev.json        the cluster's id and its nodes' peer ports, made once
//! dev.lock        held while a `dev` runs
//! cluster.json    the running processes, written once all are ready
//! admin-token     the operators' token of all nodes, made once
//! tls/            as `init-tls` makes it
//! node-1/         heliograph.toml, log, data/
//! ```

use std::{
    fs, io,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use super::ports;
use crate::{
    cli::{DevArgs, NodeSpec},
    clock,
    config::{
        Acknowledgement, AdminSection, ClientSection, ClientTls, ClusterSection, Config,
        LogSection, MemberSection, NodeSection, PeerSection, Registration, ShutdownSection,
        StorageSection, parse_cluster_id,
    },
    exit::{Failure, OrExit as _, Reason},
    files::{self, Access},
    pki::init_tls,
};

/// The version of `dev.json`.
const FORMAT: u32 = 1;
/// What is remembered.
const MEMORY: &str = "dev.json";
/// The running processes.
pub(super) const CLUSTER: &str = "cluster.json";
/// The operators' token.
const TOKEN: &str = "admin-token";
/// Who kills a node of a trial cluster and looks what happens does not wait ten minutes.
const REPLACE_AFTER: Duration = Duration::from_secs(60);
/// As many replicas as a real cluster has by default.
const REPLICAS: u8 = 3;
/// A log longer than this is set aside at the next start, so that two files of about this size are
/// the most that stays.
const LOG_BYTES_MAX: u64 = 16 << 20;

/// Why the directory cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum LayoutError {
    /// It holds another number of nodes.
    #[error(
        "{dir} holds a cluster of {found} nodes, and --nodes is {wanted}; start it with --nodes {found}, or choose another --data-dir"
    )]
    Nodes {
        /// The directory.
        dir: PathBuf,
        /// Nodes in it.
        found: usize,
        /// Nodes asked for.
        wanted: u16,
    },
    /// The ports do not fit.
    #[error("--http-port {first} leaves no room for {nodes} ports below 65536")]
    HttpPorts {
        /// The first port.
        first: u16,
        /// How many.
        nodes: u16,
    },
    /// It has files of a cluster, and no memory of one.
    #[error(
        "{0} exists, but {MEMORY} beside it does not: this is not a directory of `heliograph dev`; choose another --data-dir"
    )]
    Foreign(PathBuf),
    /// The memory cannot be read.
    #[error("{path} is damaged; restore it, or start anew on another --data-dir")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Why, if it is not JSON.
        source: Option<serde_json::Error>,
    },
    /// No port is free.
    #[error("no free loopback port was found for the nodes to talk to each other")]
    NoPort,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Memory {
    format: u32,
    cluster_id: String,
    nodes: Vec<NodeMemory>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct NodeMemory {
    id: u16,
    peer_port: u16,
    /// None in what an earlier release wrote.
    #[serde(default)]
    admin_port: Option<u16>,
}

/// One node of the directory.
#[derive(Debug, Clone)]
pub(super) struct NodeLayout {
    /// Its id, from 1.
    pub(super) id: u16,
    /// Where peers reach it.
    pub(super) peer: SocketAddr,
    /// Where clients reach it.
    pub(super) http: SocketAddr,
    /// Where operators reach it.
    pub(super) admin: SocketAddr,
    /// Its directory.
    pub(super) dir: PathBuf,
}

impl NodeLayout {
    /// Its configuration.
    pub(super) fn config(&self) -> PathBuf {
        self.dir.join("heliograph.toml")
    }

    /// Its log.
    pub(super) fn log(&self) -> PathBuf {
        self.dir.join("log")
    }

    /// Its data.
    pub(super) fn data(&self) -> PathBuf {
        self.dir.join("data")
    }

    /// The address for clients.
    pub(super) fn http_url(&self) -> String {
        format!("http://{}", self.http)
    }

    /// The address for operators.
    pub(super) fn admin_url(&self) -> String {
        format!("http://{}", self.admin)
    }

    /// Opens its log for a new process, at the end.
    pub(super) fn open_log(&self) -> io::Result<fs::File> {
        let log = self.log();
        if fs::metadata(&log).is_ok_and(|metadata| metadata.len() > LOG_BYTES_MAX) {
            fs::rename(&log, self.dir.join("log.1"))?;
        }
        fs::OpenOptions::new().create(true).append(true).open(log)
    }
}

/// The directory of a cluster on this machine.
#[derive(Debug)]
pub(super) struct Layout {
    /// Where it is, absolute.
    pub(super) dir: PathBuf,
    /// Its nodes.
    pub(super) nodes: Vec<NodeLayout>,
    cluster_id: String,
}

impl Layout {
    /// Opens what is there, or makes a new cluster.
    pub(super) fn open(args: &DevArgs) -> Result<Self, Failure> {
        let (first, count) = (args.http_port, args.nodes);
        if first.checked_add(count - 1).is_none() {
            let error = LayoutError::HttpPorts { first, nodes: count };
            return Err(Failure::new(Reason::Configuration, error));
        }
        let dir = fs::canonicalize(&args.data_dir)
            .with_context(|| format!("cannot use the data directory {}", args.data_dir.display()))
            .or_exit(Reason::DataDirectory)?;
        let memory = remember(&dir, count)?;
        make_token(&dir.join(TOKEN))?;
        let nodes = memory.nodes.iter().zip(first..=u16::MAX).map(|(node, http_port)| NodeLayout {
            id: node.id,
            peer: (Ipv4Addr::LOCALHOST, node.peer_port).into(),
            http: (Ipv4Addr::LOCALHOST, http_port).into(),
            admin: (Ipv4Addr::LOCALHOST, node.admin_port.unwrap_or_default()).into(),
            dir: dir.join(format!("node-{}", node.id)),
        });
        let layout = Self { nodes: nodes.collect(), cluster_id: memory.cluster_id, dir };
        layout.make_certificates()?;
        Ok(layout)
    }

    /// The file with the running processes.
    pub(super) fn cluster_file(&self) -> PathBuf {
        self.dir.join(CLUSTER)
    }

    /// The file with the operators' token.
    pub(super) fn token_file(&self) -> PathBuf {
        self.dir.join(TOKEN)
    }

    /// Writes each node's configuration anew: the HTTP ports may have changed.
    pub(super) fn write_configs(&self) -> Result<(), Failure> {
        for node in &self.nodes {
            let text = toml::to_string(&self.config_of(node)).context("cannot write TOML")?;
            let text = format!("# Written by `heliograph dev` at each start.\n\n{text}");
            let cannot = || format!("cannot write {}", node.config().display());
            files::private_dir(&node.dir)
                .and_then(|()| files::replace(&node.config(), text.as_bytes(), Access::Public))
                .with_context(cannot)
                .or_exit(Reason::DataDirectory)?;
        }
        Ok(())
    }

    fn config_of(&self, node: &NodeLayout) -> Config {
        let tls = self.dir.join("tls");
        let [name, _] = init_tls::node_files(node.id);
        let members = self.nodes.iter().map(|node| MemberSection {
            id: node.id,
            address: node.peer.to_string(),
            zone: String::new(),
        });
        // An even number of replicas survives no more failures than the odd one below it.
        let replicas = if self.nodes.len() < usize::from(REPLICAS) { 1 } else { REPLICAS };
        Config {
            node: NodeSection {
                id: node.id,
                data_dir: node.data(),
                join_token_file: None,
                worker_threads: Some(worker_threads(self.nodes.len())),
            },
            cluster: ClusterSection {
                id: self.cluster_id.clone(),
                members: members.collect(),
                shards: shards(self.nodes.len()),
                replicas,
                replace_after: REPLACE_AFTER,
            },
            peer: PeerSection {
                listen: node.peer,
                certificate_file: tls.join(format!("{name}.crt")),
                private_key_file: tls.join(format!("{name}.key")),
                ca_file: tls.join("cluster-ca.crt"),
            },
            client: ClientSection {
                tls: ClientTls::Off,
                registration: Registration::Open,
                acknowledgement: Acknowledgement::Pong,
                websocket_url: Some(format!("ws://{}/ws", node.http)),
                ..ClientSection::at(node.http)
            },
            admin: AdminSection { listen: node.admin, token_file: Some(self.token_file()) },
            storage: StorageSection::default(),
            log: LogSection::default(),
            shutdown: ShutdownSection { deadline: super::supervisor::NODE_SHUTDOWN },
        }
    }

    fn make_certificates(&self) -> Result<(), Failure> {
        let tls = self.dir.join("tls");
        if tls.join(init_tls::ROSTER).exists() {
            return Ok(());
        }
        // Ours, as the memory says, and incomplete: an earlier start was interrupted.
        match fs::remove_dir_all(&tls) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                let error = anyhow::Error::new(error)
                    .context(format!("cannot make {} anew", tls.display()));
                return Err(Failure::new(Reason::DataDirectory, error));
            }
            _ => {}
        }
        let nodes: Vec<NodeSpec> = self
            .nodes
            .iter()
            .map(|node| NodeSpec {
                id: node.id,
                hosts: vec!["localhost".to_owned(), "127.0.0.1".to_owned()],
            })
            .collect();
        let cluster_id = parse_cluster_id(&self.cluster_id).unwrap_or_default();
        init_tls::create(&tls, "dev", cluster_id, &nodes, clock::since_epoch())
            .or_exit(Reason::DataDirectory)
    }
}

/// How many shards `nodes` on this machine share: one to lead for each, and as many as replicas where there are
/// fewer nodes. More of them only make smaller entries (ADR 6).
fn shards(nodes: usize) -> u16 {
    u16::try_from(nodes).unwrap_or(u16::MAX).max(u16::from(REPLICAS))
}

/// How many threads each of `nodes` on this machine gets: together as many as there are processors.
/// With more of them they spend their time on waking each other.
fn worker_threads(nodes: usize) -> u16 {
    let processors = thread::available_parallelism().map_or(1, usize::from);
    u16::try_from(processors / nodes.max(1)).unwrap_or(u16::MAX).max(1)
}

/// Reads what is remembered in `dir`, or makes a new memory of `count` nodes.
fn remember(dir: &Path, count: u16) -> Result<Memory, Failure> {
    let path = dir.join(MEMORY);
    match fs::read(&path) {
        Ok(bytes) => {
            let mut memory = parse(&path, &bytes).or_exit(Reason::DataDirectory)?;
            if memory.nodes.len() != usize::from(count) {
                let found = memory.nodes.len();
                let error = LayoutError::Nodes { dir: dir.to_owned(), found, wanted: count };
                return Err(Failure::new(Reason::Configuration, error));
            }
            if memory.nodes.iter().any(|node| node.admin_port.is_none()) {
                add_admin_ports(&mut memory).or_exit(Reason::DataDirectory)?;
                write(&path, &memory)?;
            }
            Ok(memory)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let memory = fresh(dir, count).or_exit(Reason::DataDirectory)?;
            write(&path, &memory)?;
            Ok(memory)
        }
        Err(error) => Err(error)
            .with_context(|| format!("cannot read {}", path.display()))
            .or_exit(Reason::DataDirectory),
    }
}

fn write(path: &Path, memory: &Memory) -> Result<(), Failure> {
    let json = serde_json::to_vec_pretty(memory).context("cannot write JSON")?;
    files::replace(path, &json, Access::Public)
        .with_context(|| format!("cannot write {}", path.display()))
        .or_exit(Reason::DataDirectory)
}

/// Gives the nodes of an earlier release's memory their admin ports.
fn add_admin_ports(memory: &mut Memory) -> Result<(), LayoutError> {
    let count = u16::try_from(memory.nodes.len()).unwrap_or(u16::MAX);
    let peers: Vec<u16> = memory.nodes.iter().map(|node| node.peer_port).collect();
    // Twice as many: some may be peers' ports, which are free while no node runs.
    let picked = ports::pick(count.saturating_mul(2)).ok_or(LayoutError::NoPort)?;
    let ports = picked.into_iter().filter(|port| !peers.contains(port));
    for (node, port) in memory.nodes.iter_mut().zip(ports) {
        node.admin_port = Some(port);
    }
    Ok(())
}

fn parse(path: &Path, bytes: &[u8]) -> Result<Memory, LayoutError> {
    let damaged = |source| LayoutError::Damaged { path: path.to_owned(), source };
    let memory: Memory = serde_json::from_slice(bytes).map_err(|error| damaged(Some(error)))?;
    let ids_in_order = memory.nodes.iter().map(|node| node.id).eq((1..).take(memory.nodes.len()));
    let cluster_id = parse_cluster_id(&memory.cluster_id);
    if memory.format != FORMAT || !ids_in_order || cluster_id.is_none() {
        return Err(damaged(None));
    }
    Ok(memory)
}

fn fresh(dir: &Path, count: u16) -> Result<Memory, LayoutError> {
    let ours = (1..=count).map(|id| dir.join(format!("node-{id}"))).chain([dir.join("tls")]);
    if let Some(path) = ours.into_iter().find(|path| path.exists()) {
        return Err(LayoutError::Foreign(path));
    }
    let mut cluster_id = [0; 16];
    getrandom::fill(&mut cluster_id).expect("the operating system gives randomness");
    let ports = ports::pick(count * 2).ok_or(LayoutError::NoPort)?;
    let (peer_ports, admin_ports) = ports.split_at(usize::from(count));
    let nodes = (1..).zip(peer_ports).zip(admin_ports).map(|((id, peer_port), admin_port)| {
        NodeMemory { id, peer_port: *peer_port, admin_port: Some(*admin_port) }
    });
    Ok(Memory { format: FORMAT, cluster_id: hex::encode(cluster_id), nodes: nodes.collect() })
}

/// Makes the operators' token, unless it is there.
fn make_token(path: &Path) -> Result<(), Failure> {
    let mut secret = [0; 32];
    getrandom::fill(&mut secret).expect("the operating system gives randomness");
    let text = format!("{}\n", hex::encode(secret));
    match files::create(path, text.as_bytes(), Access::Private) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error)
            .with_context(|| format!("cannot write {}", path.display()))
            .or_exit(Reason::DataDirectory),
        _ => Ok(()),
    }
}

#[cfg(test)]
#[path = "layout_test.rs"]
mod tests;
