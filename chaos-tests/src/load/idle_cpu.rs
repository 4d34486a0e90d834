//! A cluster that nobody uses: what processor time it takes.

use std::time::Duration;

use anyhow::Result;
use serde::Serialize;
use tokio::time::sleep;

use super::{reign::Leadership, report::NodeUse, target::Target};

/// How long a fresh cluster is left alone before it is measured: what its start has left to do.
const SETTLE: Duration = Duration::from_secs(10);

/// What an idle cluster takes.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct IdleCpuReport {
    /// Shards, where the cluster was made for this.
    pub shards: Option<u16>,
    /// How long was measured.
    pub seconds: f64,
    /// Processor time of a node, in per cent of a core, on average.
    pub percent_a_node: f64,
    /// The same of the node that took most.
    pub percent_most: f64,
    /// Who led meanwhile.
    pub leadership: Leadership,
    /// The nodes.
    pub nodes: Vec<NodeUse>,
}

/// Measures.
///
/// # Errors
/// When a node has ended or does not answer.
pub async fn run(target: &Target, shards: Option<u16>, time: Duration) -> Result<IdleCpuReport> {
    sleep(SETTLE).await;
    let before = target.reign().await?;
    let mark = target.mark()?;
    sleep(time).await;
    let (_, nodes) = target.since(&mark)?;
    let leadership = before.changes(&target.reign().await?);
    let percent = |node: &NodeUse| node.cores * 100.0;
    Ok(IdleCpuReport {
        shards,
        seconds: time.as_secs_f64(),
        percent_a_node: nodes.iter().map(percent).sum::<f64>() / nodes.len().max(1) as f64,
        percent_most: nodes.iter().map(percent).fold(0.0, f64::max),
        leadership,
        nodes,
    })
}
