//! Calls to a node's admin port.

use std::time::Duration;

use bytes::Bytes;
use heliograph_cluster::{ApiKey, ClusterStatus, GroupCopy, NodeId};
use http::Method;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Client, ClientConfig, ClientError, Endpoint, rest::parse};

/// How long a group's leader may take to write a copy: the port gives up a little earlier.
const COPY_WAIT: Duration = Duration::from_secs(600);

/// A client of one node's admin port.
#[derive(Clone, Debug)]
pub struct AdminClient {
    client: Client,
}

/// What came of a change.
#[derive(Clone, PartialEq, Eq, Deserialize)]
pub struct Changed {
    /// `"done"`, or `"begun"` where status tells how far it is.
    pub outcome: String,
    /// The one-use token that the node must bring; shown once.
    pub token: Option<String>,
}

impl std::fmt::Debug for Changed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Changed").field("outcome", &self.outcome).finish_non_exhaustive()
    }
}

/// What is to become of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum NodeChange {
    /// It may join.
    Invite {
        /// Where its peers will reach it, "host:port".
        address: String,
        /// Where it will stand; may be empty.
        zone: String,
    },
    /// It lost its disk and may come with an empty one.
    Replace,
    /// It leads nothing and keeps its replicas.
    Drain,
    /// It takes its full part again.
    Undrain,
    /// Its replicas move away, then it is forgotten; asked again for the latter.
    Remove,
}

impl AdminClient {
    /// A client of the admin port at `url`, such as `http://127.0.0.1:7401`; `token` is what the
    /// node's `admin.token-file` holds.
    ///
    /// # Errors
    /// When the URL or the root certificates are not valid.
    pub fn new(url: &str, token: &str, config: &ClientConfig) -> Result<Self, ClientError> {
        let client = Client::new(url, config)?.with_key(ApiKey::from_text(token.trim()));
        Ok(Self { client })
    }

    /// The endpoint it speaks to.
    pub fn endpoint(&self) -> &Endpoint {
        self.client.endpoint()
    }

    /// Nodes, groups and moves.
    ///
    /// # Errors
    /// As all calls: see [`ClientError`].
    pub async fn status(&self) -> Result<ClusterStatus, ClientError> {
        let path = "/admin/v1/status";
        parse(&self.client.keyed(Method::GET, path, None, Duration::ZERO).await?)
    }

    /// Lets the leader of a group (0: the registry, `shard + 1`: a shard) write a copy of it.
    ///
    /// # Errors
    /// As all calls; it may be asked again after any of them.
    pub async fn copy(&self, group: u32) -> Result<GroupCopy, ClientError> {
        let path = format!("/admin/v1/backup/groups/{group}");
        parse(&self.client.keyed(Method::POST, &path, None, COPY_WAIT).await?)
    }

    /// Reads a piece of a copy, from `offset` on; empty at its end.
    ///
    /// # Errors
    /// As all calls; refused with `conflict` where the copy is not kept any more.
    pub async fn piece(&self, copy: &GroupCopy, offset: u64) -> Result<Bytes, ClientError> {
        let body = json!({ "copy": copy, "offset": offset });
        let path = "/admin/v1/backup/pieces";
        self.client.keyed(Method::POST, path, Some(&body), Duration::ZERO).await
    }

    /// Has the load evened out now; status tells how far it is.
    ///
    /// # Errors
    /// As all calls; it may be asked again after any of them.
    pub async fn rebalance(&self) -> Result<(), ClientError> {
        let path = "/admin/v1/rebalance";
        self.client.keyed(Method::POST, path, None, Duration::ZERO).await.map(drop)
    }

    /// Changes what becomes of a node.
    ///
    /// # Errors
    /// As all calls; after [`ClientError::Lost`] and [`ClientError::Deadline`] it is unknown
    /// whether it was done.
    pub async fn change(&self, node: NodeId, change: &NodeChange) -> Result<Changed, ClientError> {
        let (name, body): (_, Option<Value>) = match change {
            NodeChange::Invite { address, zone } => {
                ("invite", Some(json!({ "address": address, "zone": zone })))
            }
            NodeChange::Replace => ("replace", None),
            NodeChange::Drain => ("drain", None),
            NodeChange::Undrain => ("undrain", None),
            NodeChange::Remove => ("remove", None),
        };
        let path = format!("/admin/v1/nodes/{node}/{name}");
        parse(&self.client.keyed(Method::POST, &path, body.as_ref(), Duration::ZERO).await?)
    }
}
