//! The command line.

use std::{fmt, path::PathBuf, str::FromStr, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum};
use heliograph_cluster::model::Priority;

/// The most nodes `dev` starts: enough for five replicas and some to spare on one machine.
pub(crate) const DEV_NODES_MAX: u16 = 9;

/// Relays sealed messages between devices, on a cluster that loses none.
#[derive(Debug, Parser)]
#[command(name = "heliograph", version, about, max_term_width = 100)]
pub(crate) struct Cli {
    /// What to do; `dev` when left out.
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run one node of a cluster
    Serve(ServeArgs),
    /// Run a whole cluster on this machine, to try it (the default)
    Dev(DevArgs),
    /// Make the certificates of a cluster: its CA, its nodes, their client ports
    InitTls(InitTlsArgs),
    /// Send a message; ends once it is accepted
    Send(SendArgs),
    /// Print the messages of a device
    Receive(ReceiveArgs),
    /// Read a stopped node's data and say what is wrong where; changes nothing
    Verify(VerifyArgs),
    /// Copy a running cluster into a directory
    Backup(crate::backup::BackupArgs),
    /// Make a node of a new cluster out of a backup
    Restore(crate::backup::RestoreArgs),
    /// See and change a running cluster
    Cluster(crate::cluster::ClusterArgs),
    /// Print what a stopped node's replicas hold, one JSON object a line
    #[command(hide = true)]
    StateDigest(StateDigestArgs),
}

/// Which device, at which gateway.
#[derive(Debug, Args)]
pub(crate) struct GatewayArgs {
    /// A node's address; several, separated by commas, are tried one after the other
    #[arg(
        long,
        value_name = "URL",
        required = true,
        value_delimiter = ',',
        env = "HELIOGRAPH_URL"
    )]
    pub(crate) url: Vec<String>,
    /// The device that speaks; it is registered when it is new
    #[arg(long, value_name = "ID")]
    pub(crate) device: String,
    /// The device's key; made when it is not there
    #[arg(long, value_name = "FILE")]
    pub(crate) key_file: PathBuf,
    /// The authority that signed the node's certificate (PEM), e.g. client-ca.crt of init-tls
    #[arg(long, value_name = "FILE")]
    pub(crate) ca_file: Option<PathBuf>,
    /// Lines for people, or one JSON object a line
    #[arg(long, value_enum, default_value_t = Output::Text)]
    pub(crate) output: Output,
}

/// How the client prints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// Lines for people.
    Text,
    /// One JSON object a line; content as Base64.
    Json,
}

/// Arguments of `verify`.
#[derive(Debug, Args)]
#[command(after_help = "Ends with 0 where everything is sound and with 9 where something is \
    damaged. Nothing in DIR is changed; a node that runs on it is left alone, and refused.")]
pub(crate) struct VerifyArgs {
    /// The node's data directory
    #[arg(value_name = "DIR")]
    pub(crate) dir: PathBuf,
    /// A table for people, or one JSON object
    #[arg(long, value_enum, default_value_t = Output::Text)]
    pub(crate) output: Output,
    /// Where the storage keys lie, if the node has `storage.key-dir`
    #[arg(long, value_name = "DIR")]
    pub(crate) key_dir: Option<PathBuf>,
    /// Where to copy the state database, which cannot be read in place; the system's place for
    /// temporary files when left out
    #[arg(long, value_name = "DIR")]
    pub(crate) scratch: Option<PathBuf>,
}

/// Arguments of `state-digest`.
#[derive(Debug, Args)]
#[command(after_help = "Replicas of a group that applied the same commands have the same digest. \
    The node must have been stopped cleanly: what it wrote last is then in its state database.")]
pub(crate) struct StateDigestArgs {
    /// The node's data directory
    #[arg(value_name = "DIR")]
    pub(crate) data_dir: PathBuf,
}

/// Arguments of `send`.
#[derive(Debug, Args)]
#[command(after_help = "Without --text and --file the message is read from standard input. It is \
    sent as it is: sealing is the business of the applications at both ends.")]
pub(crate) struct SendArgs {
    /// Which device, at which gateway.
    #[command(flatten)]
    pub(crate) gateway: GatewayArgs,
    /// The recipient
    #[arg(long, value_name = "ID")]
    pub(crate) to: String,
    /// The message
    #[arg(long, value_name = "TEXT", conflicts_with = "file")]
    pub(crate) text: Option<String>,
    /// A file with the message
    #[arg(long, value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
    /// Its priority
    #[arg(long, value_enum, default_value_t = Urgency::Normal)]
    pub(crate) priority: Urgency,
    /// Its id, which makes it safe to send again; a fresh one when left out
    #[arg(long, value_name = "ID")]
    pub(crate) message_id: Option<String>,
    /// How long it may wait, e.g. 2h; the cluster's default when left out
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub(crate) ttl: Option<Duration>,
    /// How long to try
    #[arg(long, value_name = "TIME", default_value = "30s",
        value_parser = humantime::parse_duration)]
    pub(crate) timeout: Duration,
}

/// Arguments of `receive`.
#[derive(Debug, Args)]
pub(crate) struct ReceiveArgs {
    /// Which device, at which gateway.
    #[command(flatten)]
    pub(crate) gateway: GatewayArgs,
    /// Go on with what comes, over WebSocket, until Ctrl-C
    #[arg(long)]
    pub(crate) follow: bool,
    /// Acknowledge what was printed: the cluster forgets it
    #[arg(long)]
    pub(crate) ack: bool,
    /// How long to wait for a first message (at most 60s)
    #[arg(long, value_name = "TIME", default_value = "0s", conflicts_with = "follow",
        value_parser = humantime::parse_duration)]
    pub(crate) wait: Duration,
}

/// A message's priority on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Urgency {
    /// Delivered last.
    Low,
    /// The usual.
    Normal,
    /// Before normal.
    High,
    /// Before everything.
    Urgent,
}

impl From<Urgency> for Priority {
    fn from(urgency: Urgency) -> Self {
        match urgency {
            Urgency::Low => Self::Low,
            Urgency::Normal => Self::Normal,
            Urgency::High => Self::High,
            Urgency::Urgent => Self::Urgent,
        }
    }
}

/// Arguments of `serve`.
#[derive(Debug, Args)]
#[command(after_help = "Every key of the file can be overridden from the environment: \
    HELIOGRAPH_CLIENT__LISTEN=… sets client.listen, HELIOGRAPH_NODE__DATA_DIR=… sets \
    node.data-dir. The keys are listed in docs/operations.md.")]
pub(crate) struct ServeArgs {
    /// The configuration file (TOML)
    #[arg(long, value_name = "FILE")]
    pub(crate) config: PathBuf,
    /// Check the configuration and the files it names, then end
    #[arg(long)]
    pub(crate) check: bool,
    /// Shut down when standard input ends: how `dev` makes sure that no node outlives it
    #[arg(long, hide = true)]
    pub(crate) until_stdin_ends: bool,
}

/// Arguments of `dev`.
#[derive(Debug, Args)]
pub(crate) struct DevArgs {
    /// How many nodes
    #[arg(long, value_name = "N", default_value_t = 3,
        value_parser = clap::value_parser!(u16).range(1..=i64::from(DEV_NODES_MAX)))]
    pub(crate) nodes: u16,
    /// Where the nodes keep their data; run again on the same directory to go on
    #[arg(long, value_name = "DIR", default_value = "heliograph-data")]
    pub(crate) data_dir: PathBuf,
    /// The first node's HTTP port on loopback; the others take the ports after it
    #[arg(long, value_name = "P", default_value_t = 8080,
        value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) http_port: u16,
}

impl Default for DevArgs {
    fn default() -> Self {
        Self { nodes: 3, data_dir: PathBuf::from("heliograph-data"), http_port: 8080 }
    }
}

/// Arguments of `init-tls`.
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("nodes").required(true).args(["node", "add_node"]))]
pub(crate) struct InitTlsArgs {
    /// Where to put (or, with --add-node, find) the files
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: PathBuf,
    /// A name for people, written into the certificates
    #[arg(long, value_name = "NAME", default_value = "heliograph", conflicts_with = "add_node")]
    pub(crate) cluster_name: String,
    /// A first member: its id and the host names clients and peers reach it by, the peers' first
    #[arg(long, value_name = "ID=HOST[,HOST…]")]
    pub(crate) node: Vec<NodeSpec>,
    /// Sign one more node with the CA that is in DIR
    #[arg(long, value_name = "ID=HOST[,HOST…]", conflicts_with = "node")]
    pub(crate) add_node: Vec<NodeSpec>,
}

/// A node on the command line: `1=host[,host…]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NodeSpec {
    /// The node's id.
    pub(crate) id: u16,
    /// Its host names or addresses, at least one.
    pub(crate) hosts: Vec<String>,
}

/// Why a text is not a [`NodeSpec`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NodeSpecError {
    /// There is no `=`.
    #[error("write it as ID=HOST, for example 1=relay-1.example.org")]
    Shape,
    /// The id is not a number from 1 to 65535.
    #[error("the node id before '=' must be a number from 1 to 65535")]
    Id,
    /// A host name is empty or has white space, a slash or a port.
    #[error("each host must be a plain name or IP address, without port or scheme")]
    Host,
}

impl FromStr for NodeSpec {
    type Err = NodeSpecError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (id, hosts) = text.split_once('=').ok_or(NodeSpecError::Shape)?;
        let id = id.trim().parse().ok().filter(|id| *id > 0).ok_or(NodeSpecError::Id)?;
        let hosts: Vec<String> = hosts.split(',').map(|host| host.trim().to_owned()).collect();
        if !hosts.iter().all(|host| is_host(host)) {
            return Err(NodeSpecError::Host);
        }
        Ok(Self { id, hosts })
    }
}

/// Whether `text` is a DNS name or an IP address.
pub(crate) fn is_host(text: &str) -> bool {
    let name = !text.is_empty()
        && text.len() <= 253
        && text.split('.').all(|label| {
            (1..=63).contains(&label.len())
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
                && !label.starts_with('-')
                && !label.ends_with('-')
        });
    name || text.parse::<std::net::IpAddr>().is_ok()
}

impl fmt::Display for NodeSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.id, self.hosts.join(","))
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn no_command_means_what_dev_means_without_arguments() {
        let Some(Command::Dev(dev)) = Cli::parse_from(["heliograph", "dev"]).command else {
            panic!("dev");
        };
        let default = DevArgs::default();
        assert_eq!(
            (dev.nodes, dev.data_dir, dev.http_port),
            (default.nodes, default.data_dir, default.http_port)
        );
        assert!(Cli::parse_from(["heliograph"]).command.is_none());
    }

    #[test]
    fn node_specs_are_checked() {
        assert_eq!(
            "2=a.example,10.0.0.2".parse(),
            Ok(NodeSpec { id: 2, hosts: vec!["a.example".into(), "10.0.0.2".into()] })
        );
        assert_eq!("1=::1".parse::<NodeSpec>().map(|spec| spec.hosts), Ok(vec!["::1".into()]));
        assert_eq!("host".parse::<NodeSpec>(), Err(NodeSpecError::Shape));
        for id in ["=a", "0=a", "x=a", "65536=a", "-1=a"] {
            assert_eq!(id.parse::<NodeSpec>(), Err(NodeSpecError::Id), "{id}");
        }
        for host in ["1=", "1=a,", "1=a b", "1=https://a", "1=a:7400", "1=-a", "1=a_b"] {
            assert_eq!(host.parse::<NodeSpec>(), Err(NodeSpecError::Host), "{host}");
        }
    }
}
