//! `heliograph init-tls`: makes what a cluster needs to trust itself, and tells what to do next.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use heliograph_transport::{NodeId, identity::node_dns_name};

use super::{
    authority::{Authority, Pair},
    roster::{Roster, RosterError, peer_address},
};
use crate::{
    cli::{InitTlsArgs, NodeSpec},
    clock,
    console::say,
    exit::{Failure, OrExit as _, Reason},
    files::{self, Access},
};

/// The cluster's id and members.
pub(crate) const ROSTER: &str = "cluster.toml";
/// The authority that signs nodes.
pub(crate) const CLUSTER_CA: &str = "cluster-ca";
/// The authority that signs client ports.
pub(crate) const CLIENT_CA: &str = "client-ca";

/// Why nothing was made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum InitTlsError {
    /// A file that would be written is there.
    #[error(
        "{0} exists already and is not overwritten: nodes may be using it. Choose another --dir, or sign one more node with --add-node"
    )]
    Exists(PathBuf),
    /// Two nodes share an id.
    #[error("node {0} is named twice")]
    Twice(u16),
    /// A file cannot be read or written.
    #[error("cannot use {path}")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The directory is not one of `init-tls`.
    #[error("{path} cannot be used")]
    Roster {
        /// The file.
        path: PathBuf,
        /// Why.
        source: RosterError,
    },
    /// A certificate cannot be made.
    #[error("cannot make a certificate")]
    Certificate(#[from] rcgen::Error),
}

/// Files of one node, without their directory.
pub(crate) fn node_files(id: u16) -> [String; 2] {
    [format!("node-{id}"), format!("node-{id}-https")]
}

/// Runs the command.
pub(crate) fn run(args: &InitTlsArgs) -> Result<(), Failure> {
    let now = clock::since_epoch();
    if args.add_node.is_empty() {
        let mut cluster_id = [0; 16];
        getrandom::fill(&mut cluster_id).expect("the operating system gives randomness");
        create(&args.dir, &args.cluster_name, cluster_id, &args.node, now)
            .or_exit(Reason::Configuration)?;
        print_created(&args.dir, &args.node);
    } else {
        add(&args.dir, &args.add_node, now).or_exit(Reason::Configuration)?;
        print_added(&args.dir, &args.add_node);
    }
    Ok(())
}

/// Makes both authorities and the certificates of `nodes` in `dir`. Nothing is overwritten.
pub(crate) fn create(
    dir: &Path,
    cluster_name: &str,
    cluster_id: [u8; 16],
    nodes: &[NodeSpec],
    now: Duration,
) -> Result<(), InitTlsError> {
    refuse_existing(dir, nodes, &[ROSTER, "cluster-ca.crt", "client-ca.crt"])?;
    files::private_dir(dir).map_err(io_at(dir))?;
    let (cluster_ca, cluster_pair) = Authority::create(&format!("{cluster_name} cluster CA"), now)?;
    let (client_ca, client_pair) = Authority::create(&format!("{cluster_name} client CA"), now)?;
    write_pair(dir, CLUSTER_CA, &cluster_pair)?;
    write_pair(dir, CLIENT_CA, &client_pair)?;
    sign(dir, nodes, cluster_id, [&cluster_ca, &client_ca], now)?;
    // Last: a directory with a roster is complete.
    let roster = Roster::new(cluster_id, nodes).to_toml(cluster_name);
    write(&dir.join(ROSTER), roster.as_bytes(), Access::Public)
}

/// Signs `nodes` with the authorities in `dir`.
pub(crate) fn add(dir: &Path, nodes: &[NodeSpec], now: Duration) -> Result<(), InitTlsError> {
    refuse_existing(dir, nodes, &[])?;
    let path = dir.join(ROSTER);
    let roster =
        Roster::parse(&read(&path)?).map_err(|source| InitTlsError::Roster { path, source })?;
    let cluster_ca = Authority::load(&read_pair(dir, CLUSTER_CA)?)?;
    let client_ca = Authority::load(&read_pair(dir, CLIENT_CA)?)?;
    sign(dir, nodes, roster.cluster_id, [&cluster_ca, &client_ca], now)
}

fn sign(
    dir: &Path,
    nodes: &[NodeSpec],
    cluster_id: [u8; 16],
    [cluster_ca, client_ca]: [&Authority; 2],
    now: Duration,
) -> Result<(), InitTlsError> {
    for node in nodes {
        let [peer, https] = node_files(node.id);
        let name = node_dns_name(NodeId(node.id), cluster_id);
        write_pair(dir, &peer, &cluster_ca.sign_node(name, now)?)?;
        let server = client_ca.sign_server(&peer, node.hosts.clone(), now)?;
        write_pair(dir, &https, &server)?;
    }
    Ok(())
}

/// Looks before anything is written: half a set of certificates helps nobody.
fn refuse_existing(dir: &Path, nodes: &[NodeSpec], others: &[&str]) -> Result<(), InitTlsError> {
    let mut seen = BTreeSet::new();
    if let Some(node) = nodes.iter().find(|node| !seen.insert(node.id)) {
        return Err(InitTlsError::Twice(node.id));
    }
    let of_nodes = nodes.iter().flat_map(|node| node_files(node.id)).map(|n| format!("{n}.crt"));
    let names = others.iter().map(|name| (*name).to_owned()).chain(of_nodes);
    match names.map(|name| dir.join(name)).find(|path| path.exists()) {
        Some(path) => Err(InitTlsError::Exists(path)),
        None => Ok(()),
    }
}

fn io_at(path: &Path) -> impl FnOnce(io::Error) -> InitTlsError {
    let path = path.to_owned();
    move |source| match source.kind() {
        io::ErrorKind::AlreadyExists => InitTlsError::Exists(path),
        _ => InitTlsError::Io { path, source },
    }
}

fn write(path: &Path, content: &[u8], access: Access) -> Result<(), InitTlsError> {
    files::create(path, content, access).map_err(io_at(path))
}

fn write_pair(dir: &Path, name: &str, pair: &Pair) -> Result<(), InitTlsError> {
    write(&dir.join(format!("{name}.key")), pair.key.as_bytes(), Access::Private)?;
    write(&dir.join(format!("{name}.crt")), pair.certificate.as_bytes(), Access::Public)
}

fn read(path: &Path) -> Result<String, InitTlsError> {
    fs::read_to_string(path).map_err(io_at(path))
}

fn read_pair(dir: &Path, name: &str) -> Result<Pair, InitTlsError> {
    Ok(Pair {
        certificate: read(&dir.join(format!("{name}.crt")))?,
        key: read(&dir.join(format!("{name}.key")))?,
    })
}

fn print_created(dir: &Path, nodes: &[NodeSpec]) {
    let at = dir.display();
    say!("Made in {at}:");
    say!("  cluster.toml             the cluster's id and members, for every configuration");
    say!("  cluster-ca.crt, .key     signs nodes; keep the key off the nodes");
    say!("  client-ca.crt, .key      signs client ports; clients trust the .crt");
    print_nodes(nodes);
    say!();
    say!("Next, for each node (here node {}):", nodes.first().map_or(1, |node| node.id));
    let id = nodes.first().map_or(1, |node| node.id);
    say!("  1. copy cluster-ca.crt, node-{id}.* and node-{id}-https.* to it, no other key");
    say!("  2. write heliograph.toml: the section of cluster.toml, and");
    say!(
        "\n     [node]\n     id = {id}\n     data-dir = \"/var/lib/heliograph\"\n\n     [peer]\n     \
         certificate-file = \"node-{id}.crt\"\n     private-key-file = \"node-{id}.key\"\n     \
         ca-file = \"cluster-ca.crt\"\n\n     [client]\n     \
         certificate-file = \"node-{id}-https.crt\"\n     \
         private-key-file = \"node-{id}-https.key\"\n"
    );
    say!("  3. heliograph serve --config heliograph.toml");
    say!("\nCertificates of nodes and client ports are good for 397 days, the CAs for 10 years.");
}

fn print_added(dir: &Path, nodes: &[NodeSpec]) {
    say!("Signed in {}:", dir.display());
    print_nodes(nodes);
    say!("\nThen let the cluster know; other nodes' configurations stay as they are:");
    for node in nodes {
        say!("  heliograph cluster join {} --address {} …", node.id, peer_address(node));
    }
}

fn print_nodes(nodes: &[NodeSpec]) {
    for node in nodes {
        let [peer, https] = node_files(node.id);
        say!("  {:<24} proves node {} to its peers", format!("{peer}.crt, .key"), node.id);
        let hosts = node.hosts.join(", ");
        say!("  {:<24} its client port, for {hosts}", format!("{https}.crt, .key"));
    }
}
