//! The cluster under load: one that runs, or one of our own.

use std::{net::SocketAddr, path::Path, time::Duration};

use anyhow::{Context as _, Result};
use tokio::time::Instant;

use super::report::NodeUse;
use crate::cluster::{LocalCluster, NodeInfo, Options, Usage, read_manifest, usage_of};

/// Where the load goes.
#[derive(Debug)]
pub struct Target {
    nodes: Vec<NodeInfo>,
    /// Ours, so that it lives as long as the measurement.
    _own: Option<LocalCluster>,
}

/// What everybody used when a measurement began.
#[derive(Debug)]
pub struct Mark {
    at: Instant,
    own: Usage,
    nodes: Vec<Usage>,
}

impl Target {
    /// The cluster that `heliograph dev` runs on `directory`.
    ///
    /// # Errors
    /// When there is none.
    pub fn running(directory: &Path) -> Result<Self> {
        let path = directory.join("cluster.json");
        let nodes = read_manifest(&path)?.context("no heliograph dev runs on that directory")?;
        Ok(Self { nodes, _own: None })
    }

    /// A fresh cluster.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn own(nodes: u16, shards: u16) -> Result<Self> {
        let settings = vec![("HELIOGRAPH_CLUSTER__SHARDS".to_owned(), shards.to_string())];
        let options = Options { nodes, settings, ..Options::three("load") };
        let cluster = LocalCluster::start(options).await?;
        Ok(Self { nodes: cluster.nodes().to_vec(), _own: Some(cluster) })
    }

    /// Where the nodes serve clients.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.nodes.iter().map(|node| node.http).collect()
    }

    /// Remembers what everybody has used so far.
    ///
    /// # Errors
    /// When a node has ended.
    pub fn mark(&self) -> Result<Mark> {
        let nodes = self.nodes.iter().map(|node| usage_of(node.pid)).collect::<Result<_>>()?;
        Ok(Mark { at: Instant::now(), own: usage_of(std::process::id())?, nodes })
    }

    /// What everybody uses now, and has used of the processors since `mark`.
    ///
    /// # Errors
    /// When a node has ended.
    pub fn since(&self, mark: &Mark) -> Result<(NodeUse, Vec<NodeUse>)> {
        let elapsed = mark.at.elapsed().max(Duration::from_millis(1));
        let compare = |id, before: &Usage, now: Usage| NodeUse {
            id,
            cores: (now.cpu.saturating_sub(before.cpu)).as_secs_f64() / elapsed.as_secs_f64(),
            resident_bytes: now.resident_bytes,
            anonymous_bytes: now.anonymous_bytes,
        };
        let own = compare(0, &mark.own, usage_of(std::process::id())?);
        let mut nodes = Vec::new();
        for (node, before) in self.nodes.iter().zip(&mark.nodes) {
            nodes.push(compare(node.id, before, usage_of(node.pid)?));
        }
        Ok((own, nodes))
    }
}
