//! What lies in the directory of a cluster: certificates, the operators' token, a configuration a node.
//!
//! Node i has the address 127.20.0.i, so that what goes between two nodes can be told from all else;
//! ports are the same on all of them. Where links are impaired its peers know it as 127.20.9.i
//! ([`crate::faults::Links`]).

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};

use super::{ClientPort, NodeInfo, Options, ports::PortBlock};
use crate::wire::Security;

/// Whether nodes know each other by the addresses of the proxies between them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wiring {
    /// They talk straight to each other.
    Direct,
    /// Everything between them goes through proxies.
    Proxied,
}

/// The most nodes that a cluster is formed of: the largest one that is tested.
const FOUNDERS_MAX: u16 = 5;
/// The most nodes at a time: one joins before another leaves.
pub(super) const NODES_MAX: u16 = FOUNDERS_MAX + 1;
/// What clients, peers and operators are served at, counted from the block's first port.
const HTTP: u16 = 0;
const PEER: u16 = 1;
const ADMIN: u16 = 2;
/// How many ports a cluster takes.
pub(super) const PORTS: u16 = 3;
/// The token of the operators of clusters that live for minutes on loopback.
const TOKEN: &str = "chaos-chaos-chaos-chaos-chaos-chaos";

/// Where a node itself listens.
pub fn address_of(id: u16) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(127, 20, 0, id as u8))
}

/// Where the proxy in front of a node listens.
pub fn proxy_of(id: u16) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(127, 20, 9, id as u8))
}

/// The directory of a cluster.
#[derive(Debug)]
pub(super) struct Layout {
    dir: PathBuf,
    first_port: u16,
    wiring: Wiring,
    client: ClientPort,
    members: Vec<u16>,
    cluster_id: String,
}

impl Layout {
    /// Makes certificates and configurations for nodes 1 to `nodes`.
    pub(super) fn create(
        dir: &Path,
        binary: &Path,
        ports: &PortBlock,
        options: &Options,
    ) -> Result<Self> {
        let Options { nodes, wiring, client, .. } = *options;
        ensure!((1..=FOUNDERS_MAX).contains(&nodes), "a cluster has 1 to {FOUNDERS_MAX} nodes");
        let members: Vec<u16> = (1..=nodes).collect();
        fs::create_dir_all(dir)?;
        let mut command = Command::new(binary);
        command.arg("init-tls").arg("--dir").arg(dir.join("tls"));
        for id in &members {
            command.arg("--node").arg(spec(*id));
        }
        run(&mut command)?;
        let token = dir.join("admin-token");
        fs::write(&token, TOKEN)?;
        let private = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        fs::set_permissions(&token, private)?;
        let roster: toml::Table = fs::read_to_string(dir.join("tls/cluster.toml"))?.parse()?;
        let mut layout = Self {
            dir: dir.to_owned(),
            first_port: ports.first,
            wiring,
            client,
            members,
            cluster_id: String::new(),
        };
        layout.cluster_id = find_id(&roster).context("the roster has no cluster id")?;
        for id in layout.members.clone() {
            layout.configure(id)?;
        }
        Ok(layout)
    }

    /// Signs and configures one node more, where that was not done before.
    pub(super) fn enlist(&self, binary: &Path, id: u16) -> Result<()> {
        ensure!((1..=NODES_MAX).contains(&id), "nodes are numbered up to {NODES_MAX}");
        let tls = self.dir.join("tls");
        if !tls.join(format!("node-{id}.crt")).exists() {
            let mut command = Command::new(binary);
            command.args(["init-tls", "--dir"]).arg(&tls).arg("--add-node").arg(spec(id));
            run(&mut command)?;
        }
        self.configure(id)
    }

    /// What is known of a node before it runs.
    pub(super) fn node(&self, id: u16) -> NodeInfo {
        let dir = self.node_dir(id);
        NodeInfo {
            id,
            pid: 0,
            http: self.at(id, HTTP),
            admin: Some(self.at(id, ADMIN)),
            data_dir: dir.join("data"),
            config: dir.join("heliograph.toml"),
            log: dir.join("log"),
        }
    }

    /// What clients must speak, and whom they trust.
    pub(super) fn security(&self) -> Result<Security> {
        match self.client {
            ClientPort::Plain => Ok(Security::Plain),
            ClientPort::Tls => Security::trusting(&fs::read(self.dir.join("tls/client-ca.crt"))?),
        }
    }

    /// The id of a node that joins.
    pub(super) fn newcomer(&self) -> u16 {
        self.members.len() as u16 + 1
    }

    /// The ids of the first members.
    pub(super) fn members(&self) -> &[u16] {
        &self.members
    }

    /// Where a node's peers reach it.
    pub(super) fn peer_address(&self, id: u16) -> SocketAddr {
        let ip = match self.wiring {
            Wiring::Direct => address_of(id),
            Wiring::Proxied => proxy_of(id),
        };
        SocketAddr::new(ip, self.first_port + PEER)
    }

    /// What the operators' requests carry.
    pub(super) fn token() -> &'static str {
        TOKEN
    }

    fn at(&self, id: u16, port: u16) -> SocketAddr {
        SocketAddr::new(address_of(id), self.first_port + port)
    }

    fn node_dir(&self, id: u16) -> PathBuf {
        self.dir.join(format!("node-{id}"))
    }

    fn configure(&self, id: u16) -> Result<()> {
        let dir = self.node_dir(id);
        fs::create_dir_all(&dir)?;
        let tls = self.dir.join("tls");
        let members: Vec<String> = self
            .members
            .iter()
            .map(|id| format!("{{ id = {id}, address = \"{}\" }}", self.peer_address(*id)))
            .collect();
        let replicas = self.members.len().min(3);
        let http = self.at(id, HTTP);
        let client = match self.client {
            ClientPort::Plain => {
                format!("tls = \"off\"\nwebsocket-url = \"ws://{http}/ws\"\n")
            }
            ClientPort::Tls => format!(
                "websocket-url = \"wss://{http}/ws\"\ncertificate-file = {:?}\n\
                 private-key-file = {:?}\n",
                tls.join(format!("node-{id}-https.crt")),
                tls.join(format!("node-{id}-https.key")),
            ),
        };
        let text = format!(
            "[node]\nid = {id}\ndata-dir = {data:?}\n\n\
             [cluster]\nid = \"{cluster}\"\nmembers = [{members}]\nshards = 16\n\
             replicas = {replicas}\nreplace-after = \"60s\"\n\n\
             [peer]\nlisten = \"{peer}\"\ncertificate-file = {certificate:?}\n\
             private-key-file = {key:?}\nca-file = {ca:?}\n\n\
             [client]\nlisten = \"{http}\"\nregistration = \"open\"\n{client}\n\
             [admin]\nlisten = \"{admin}\"\ntoken-file = {token:?}\n\n\
             [shutdown]\ndeadline = \"10s\"\n",
            data = dir.join("data"),
            cluster = self.cluster_id,
            members = members.join(", "),
            replicas = if replicas == 2 { 1 } else { replicas },
            peer = self.at(id, PEER),
            certificate = tls.join(format!("node-{id}.crt")),
            key = tls.join(format!("node-{id}.key")),
            ca = tls.join("cluster-ca.crt"),
            admin = self.at(id, ADMIN),
            token = self.dir.join("admin-token"),
        );
        Ok(fs::write(dir.join("heliograph.toml"), text)?)
    }
}

/// A node as `init-tls` takes it.
fn spec(id: u16) -> String {
    format!("{id}={},{}", address_of(id), proxy_of(id))
}

/// The cluster's id: 32 hexadecimal digits, wherever the roster has it.
fn find_id(table: &toml::Table) -> Option<String> {
    table.values().find_map(|value| match value {
        toml::Value::String(text) if text.len() == 32 => Some(text.clone()),
        toml::Value::Table(table) => find_id(table),
        _ => None,
    })
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.output().context("the binary cannot be run")?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?}: {errors}");
    Ok(())
}
