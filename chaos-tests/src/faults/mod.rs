//! What is done to a cluster, written into the history.
//!
//! * [`preload`] builds the library that makes disks fail, and sets it for one node.
//! * [`power`] cuts the power.

pub mod power;
pub mod preload;

use anyhow::{Context as _, Result};
use rand::{SeedableRng as _, rngs::SmallRng};

pub use self::{
    power::{CutReport, Unsynced},
    preload::FaultyDisk,
};
use crate::{
    cluster::LocalCluster,
    history::{Fault, Operation, Phase, Recorder},
};

/// The process number of whoever inflicts faults.
const OPERATOR: u32 = 0;

/// Inflicts a fault; a restart is complete when the nodes are ready.
///
/// # Errors
/// When it cannot be inflicted, or a node does not come back.
pub async fn inflict(cluster: &mut LocalCluster, fault: Fault, recorder: &Recorder) -> Result<()> {
    recorder.record(OPERATOR, Phase::Invoke, Operation::Fault { fault: fault.clone() });
    match &fault {
        Fault::Kill { nodes } => cluster.kill(nodes).await?,
        Fault::PowerCut { nodes, unsynced, seed } => {
            cluster.kill(nodes).await?;
            for node in nodes {
                // Each node's own, so that the nodes lose different things.
                let mut rng = SmallRng::seed_from_u64(seed ^ u64::from(*node));
                let report = power::cut(cluster.disk(*node)?, *unsynced, &mut rng)
                    .with_context(|| format!("the power cut of node {node}"))?;
                eprintln!("node {node}: {report:?}");
            }
        }
        Fault::Stop { node } => cluster.stop_node(*node).await?,
        Fault::Restart { nodes } => {
            cluster.restart(nodes)?;
            for node in nodes {
                cluster.ready(*node).await?;
            }
        }
        Fault::Disk { nodes, rules } => {
            for node in nodes {
                cluster.disk(*node)?.fail(rules)?;
            }
        }
        Fault::Repair { nodes } => {
            for node in nodes {
                cluster.disk(*node)?.fail("")?;
            }
            for node in nodes {
                cluster.ready(*node).await?;
            }
        }
    }
    recorder.record(OPERATOR, Phase::Ok, Operation::Fault { fault });
    Ok(())
}
