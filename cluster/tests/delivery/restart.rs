//! Nodes that come back on a slow disk.

use std::time::Duration;

use tokio::time::timeout;

use crate::{
    cluster::{Cluster, eventually},
    simulate,
};

/// Longer than a node waits before it looks again which replicas it should run.
const READ: Duration = Duration::from_millis(700);
/// Some of those looks.
const LOOKS: Duration = Duration::from_secs(10);

/// Two Rafts of one replica would answer for each other and write into one log.
#[test]
fn sim_a_replica_that_is_slow_to_open_is_started_once() {
    simulate(41, async |seed| {
        let mut cluster = Cluster::start(seed).await;
        cluster.stop(0).await;
        cluster.log_read = READ;
        cluster.boot(0).await;
        let failed = timeout(LOOKS, cluster.node(0).failed()).await;
        assert!(failed.is_err(), "the node failed: {failed:?}");
        eventually("the node is ready", || cluster.node(0).not_ready_reason().is_none()).await;
    });
}
