//! Calls to a node's admin port.

use std::time::Duration;

use heliograph_cluster::{ApiKey, ClusterStatus};
use http::Method;

use super::{Client, ClientConfig, ClientError, Endpoint, rest::parse};

/// A client of one node's admin port.
#[derive(Clone, Debug)]
pub struct AdminClient {
    client: Client,
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
}
