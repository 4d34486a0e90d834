//! What is done to a cluster, written into the history.

use anyhow::Result;

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
        Fault::Restart { nodes } => {
            cluster.restart(nodes)?;
            for node in nodes {
                cluster.ready(*node).await?;
            }
        }
    }
    recorder.record(OPERATOR, Phase::Ok, Operation::Fault { fault });
    Ok(())
}
