//! Which nodes to ask, with which token.

use std::{
    fs,
    future::Future,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context as _;
use bytes::Bytes;
use heliograph_api::client::{AdminClient, Changed, ClientConfig, ClientError, NodeChange};
use heliograph_cluster::{ClusterStatus, GroupCopy, NodeId};
use serde::Deserialize;

use super::args::AdminArgs;
use crate::exit::{Failure, OrExit as _, Reason};

/// How long to leave a node alone that was asked too often and does not say for how long.
const RATE_PAUSE: Duration = Duration::from_millis(200);

/// What `dev` writes for us.
const CLUSTER_FILE: &str = "cluster.json";

/// A command line that names no cluster.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
enum TargetError {
    /// `dev` does not run there.
    #[error("no `heliograph dev` runs on {0}: start it, or name the cluster with --url")]
    NoDev(PathBuf),
    /// `dev` of an earlier release runs there.
    #[error("the `heliograph dev` on {0} has no admin port: restart it with this release")]
    OldDev(PathBuf),
    /// clap makes sure that one is given.
    #[error("name the cluster: --url and --token-file, or the --data-dir of `heliograph dev`")]
    Nothing,
}

/// What is needed of `cluster.json`.
#[derive(Deserialize)]
struct DevCluster {
    admin_token_file: Option<PathBuf>,
    nodes: Vec<DevNode>,
}

#[derive(Deserialize)]
struct DevNode {
    admin_url: Option<String>,
}

/// One client a node that may answer.
pub(crate) struct Target {
    clients: Vec<AdminClient>,
}

impl Target {
    /// Reads what the command line names.
    pub(crate) fn find(args: &AdminArgs) -> Result<Self, Failure> {
        let (urls, token_file) = match (&args.data_dir, &args.token_file) {
            (Some(dir), _) => dev(dir)?,
            (None, Some(file)) => (args.url.clone(), file.clone()),
            (None, None) => return Err(Failure::new(Reason::Configuration, TargetError::Nothing)),
        };
        let read = |option: &str, path: &Path| {
            fs::read(path)
                .with_context(|| format!("{option}: cannot read {}", path.display()))
                .or_exit(Reason::Configuration)
        };
        let token = read("--token-file", &token_file)?;
        let token = String::from_utf8_lossy(&token).into_owned();
        let mut config = ClientConfig::default();
        if let Some(path) = &args.ca_file {
            config.roots_pem = read("--ca-file", path)?;
        }
        let client = |url: &String| {
            AdminClient::new(url, &token, &config)
                .with_context(|| format!("--url {url}"))
                .or_exit(Reason::Configuration)
        };
        Ok(Self { clients: urls.iter().map(client).collect::<Result<_, _>>()? })
    }

    /// Asks for the status.
    pub(crate) async fn status(&self) -> Result<ClusterStatus, Failure> {
        self.ask(is_unanswered, async |client| client.status().await).await
    }

    /// Changes what becomes of a node.
    pub(super) async fn change(
        &self,
        node: NodeId,
        change: &NodeChange,
    ) -> Result<Changed, Failure> {
        self.ask(is_undone, async |client| client.change(node, change).await).await
    }

    /// Has the load evened out.
    pub(super) async fn rebalance(&self) -> Result<(), Failure> {
        self.ask(is_unanswered, async |client| client.rebalance().await).await
    }

    /// Lets a group's leader write a copy of the group.
    pub(crate) async fn copy(&self, group: u32) -> Result<GroupCopy, Failure> {
        let copy = async |client: AdminClient| client.copy(group).await;
        self.patiently(copy).await.map_err(|error| self.remote(error))
    }

    /// Reads a piece of a copy; none where the copy is lost.
    pub(crate) async fn piece(
        &self,
        copy: &GroupCopy,
        offset: u64,
    ) -> Result<Option<Bytes>, Failure> {
        let piece = async |client: AdminClient| client.piece(copy, offset).await;
        match self.patiently(piece).await {
            Ok(piece) => Ok(Some(piece)),
            Err(ClientError::Refused(refusal)) if refusal.code == "conflict" => Ok(None),
            Err(error) if is_unanswered(&error) => Ok(None),
            Err(error) => Err(self.remote(error)),
        }
    }

    /// Asks for something that changes nothing; a node that was asked too often, again later.
    async fn patiently<T, F: Future<Output = Result<T, ClientError>>>(
        &self,
        ask: impl Fn(AdminClient) -> F,
    ) -> Result<T, ClientError> {
        loop {
            match self.try_ask(is_unanswered, &ask).await {
                Err(ClientError::Refused(refusal)) if refusal.code == "rate_limited" => {
                    tokio::time::sleep(refusal.retry_after.unwrap_or(RATE_PAUSE)).await;
                }
                asked => return asked,
            }
        }
    }

    /// Asks one node after the other, as long as `may_repeat` allows.
    async fn ask<T, F: Future<Output = Result<T, ClientError>>>(
        &self,
        may_repeat: impl Fn(&ClientError) -> bool,
        ask: impl Fn(AdminClient) -> F,
    ) -> Result<T, Failure> {
        self.try_ask(may_repeat, ask).await.map_err(|error| self.remote(error))
    }

    async fn try_ask<T, F: Future<Output = Result<T, ClientError>>>(
        &self,
        may_repeat: impl Fn(&ClientError) -> bool,
        ask: impl Fn(AdminClient) -> F,
    ) -> Result<T, ClientError> {
        let mut last = None;
        for client in &self.clients {
            match ask(client.clone()).await {
                Ok(answer) => return Ok(answer),
                Err(error) if may_repeat(&error) => last = Some(error),
                Err(error) => return Err(error),
            }
        }
        Err(last.unwrap_or(ClientError::Deadline))
    }

    fn remote(&self, error: ClientError) -> Failure {
        let urls: Vec<_> =
            self.clients.iter().map(|client| client.endpoint().to_string()).collect();
        let context = format!("at {}", urls.join(", "));
        Failure::new(Reason::Remote, anyhow::Error::new(error).context(context))
    }
}

/// Whether the answer is missing. Where nothing is changed, another node may be asked whatever went
/// wrong on the way.
fn is_unanswered(error: &ClientError) -> bool {
    matches!(error, ClientError::Lost | ClientError::Deadline) || is_undone(error)
}

/// Whether nothing was done, and another node may know more: this one does not answer, or knows no
/// cluster or no leader yet.
fn is_undone(error: &ClientError) -> bool {
    match error {
        ClientError::Connect(_) => true,
        ClientError::Refused(refusal) => refusal.code == "not_ready",
        _ => false,
    }
}

/// What a running `dev` wrote.
fn dev(dir: &Path) -> Result<(Vec<String>, PathBuf), Failure> {
    let path = dir.join(CLUSTER_FILE);
    let bytes = match fs::read(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let error = TargetError::NoDev(dir.to_owned());
            return Err(Failure::new(Reason::Configuration, error));
        }
        read => read,
    };
    let cluster: DevCluster = bytes
        .map_err(anyhow::Error::new)
        .and_then(|bytes| Ok(serde_json::from_slice(&bytes)?))
        .with_context(|| format!("cannot read {}", path.display()))
        .or_exit(Reason::Configuration)?;
    let urls: Vec<String> = cluster.nodes.into_iter().filter_map(|node| node.admin_url).collect();
    match cluster.admin_token_file {
        Some(token) if !urls.is_empty() => Ok((urls, token)),
        _ => Err(Failure::new(Reason::Configuration, TargetError::OldDev(dir.to_owned()))),
    }
}
