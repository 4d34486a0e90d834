//! `cluster.toml`: the cluster's id and first members, as `init-tls` writes them beside the
//! certificates. Its one section goes into every node's configuration as it is.

use serde::{Deserialize, Serialize};

use crate::{
    cli::NodeSpec,
    config::{Config, parse_cluster_id},
};

/// Where nodes listen for peers unless told otherwise; in the range that IANA leaves unassigned.
pub(crate) const PEER_PORT: u16 = 7_400;

/// The cluster's id and first members.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Roster {
    /// The cluster's id.
    pub(crate) cluster_id: [u8; 16],
    /// (node id, peer address).
    pub(crate) members: Vec<(u16, String)>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    cluster: Section,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Section {
    id: String,
    members: Vec<Member>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Member {
    id: u16,
    address: String,
}

/// Why a text is not a roster.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum RosterError {
    /// It is not the TOML that `init-tls` writes.
    #[error("not the file that `heliograph init-tls` wrote")]
    Shape(#[from] toml::de::Error),
    /// The cluster id is not one.
    #[error("`cluster.id` must be 32 hexadecimal digits")]
    ClusterId,
}

impl Roster {
    /// A roster of `nodes`, each at its first host and the usual port.
    pub(crate) fn new(cluster_id: [u8; 16], nodes: &[NodeSpec]) -> Self {
        let members = nodes.iter().map(|node| (node.id, peer_address(node))).collect();
        Self { cluster_id, members }
    }

    /// The file's text.
    pub(crate) fn to_toml(&self, cluster_name: &str) -> String {
        let members = self
            .members
            .iter()
            .map(|(id, address)| Member { id: *id, address: address.clone() })
            .collect();
        let file = File { cluster: Section { id: hex::encode(self.cluster_id), members } };
        let body = toml::to_string(&file).expect("strings and integers are always TOML");
        format!(
            "# The cluster {cluster_name}, made by `heliograph init-tls`.\n\
             # This belongs, as it is, into the configuration of every node.\n\n{body}"
        )
    }

    /// Reads the file's text.
    pub(crate) fn parse(text: &str) -> Result<Self, RosterError> {
        let file: File = toml::from_str(text)?;
        let cluster_id = parse_cluster_id(&file.cluster.id).ok_or(RosterError::ClusterId)?;
        let members = file.cluster.members.into_iter().map(|m| (m.id, m.address)).collect();
        Ok(Self { cluster_id, members })
    }
}

impl From<&Config> for Roster {
    fn from(config: &Config) -> Self {
        Self {
            cluster_id: parse_cluster_id(&config.cluster.id)
                .expect("the configuration was checked"),
            members: config.cluster.members.iter().map(|m| (m.id, m.address.clone())).collect(),
        }
    }
}

/// Where peers reach `node`: its first host, the usual port.
pub(crate) fn peer_address(node: &NodeSpec) -> String {
    let host = node.hosts.first().map_or("localhost", String::as_str);
    if host.contains(':') { format!("[{host}]:{PEER_PORT}") } else { format!("{host}:{PEER_PORT}") }
}
