//! What each node's replicas hold: compared after everybody has caught up.

use std::{collections::BTreeMap, process::Command, time::Duration};

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;
use tokio::time::{Instant, sleep};

use super::{LocalCluster, metric_sum};
use crate::wire::Rest;

/// How long replicas may take to catch up once nothing is sent any more.
const CATCH_UP: Duration = Duration::from_secs(60);
/// Between two looks; the gauge that is looked at is renewed every half second.
const POLL: Duration = Duration::from_millis(200);
/// How long one question may take.
const QUESTION: Duration = Duration::from_secs(5);
/// How often in turn all nodes must say the same: half a second is the gauge's own pace.
const AGREEMENTS: u32 = 6;
/// How many nodes hold a group.
const REPLICAS: usize = 3;
/// The sum of what a node's replicas have applied.
const APPLIED: &str = "heliograph_cluster_applied_entries";

/// One replica, as `heliograph state-digest` tells it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Replica {
    /// Its group.
    pub group: u32,
    /// The last entry in it.
    pub applied_index: u64,
    /// What it says of devices and mailboxes.
    pub digest: String,
}

impl LocalCluster {
    /// How long it took, from now, until all nodes had applied everything. Nothing may be sent
    /// meanwhile.
    ///
    /// # Errors
    /// When they do not catch up in time.
    pub async fn caught_up(&self) -> Result<Duration> {
        let began = Instant::now();
        let mut agreed = 0;
        let mut since = began;
        let mut before = Vec::new();
        while agreed < AGREEMENTS {
            let mut applied = Vec::new();
            for node in self.nodes() {
                applied.push(applied_entries(&mut self.door(node).rest(None)).await.ok());
            }
            // Where every node holds every group all say the same; where not, each says what it has
            // said before, and whoever lags for good is found when replicas are compared.
            let is_everywhere = self.nodes().len() <= REPLICAS;
            let same = applied.iter().all(Option::is_some)
                && applied == before
                && (!is_everywhere || applied.iter().all(|node| *node == applied[0]));
            before = applied;
            if !same {
                agreed = 0;
                since = Instant::now();
            } else {
                agreed += 1;
            }
            let waited = began.elapsed();
            ensure!(waited < CATCH_UP, "the nodes have not caught up: {before:?} entries applied");
            sleep(POLL).await;
        }
        Ok(since.duration_since(began))
    }

    /// Stops all nodes cleanly, compares what is on their disks, and starts them again. Answers how
    /// many replicas were compared.
    ///
    /// # Errors
    /// When a replica differs from another one of its group, or a node does not stop or start.
    pub async fn compare_replicas(&mut self) -> Result<usize> {
        let ids = self.ids();
        let mut groups: BTreeMap<u32, Vec<(u16, Replica)>> = BTreeMap::new();
        for (id, replica) in self.read_replicas().await? {
            groups.entry(replica.group).or_default().push((id, replica));
        }
        let mut compared = 0;
        for (group, replicas) in &groups {
            let (_, first) = &replicas[0];
            let same = replicas.iter().all(|(_, replica)| replica.digest == first.digest);
            ensure!(same, "the replicas of group {group} differ: {replicas:?}");
            ensure!(replicas.len() == ids.len(), "group {group} is not everywhere: {replicas:?}");
            compared += replicas.len();
        }
        ensure!(compared > 0, "there are no replicas");
        self.restart(&ids)?;
        for id in ids {
            self.ready(id).await?;
        }
        Ok(compared)
    }

    /// Waits until all nodes have caught up, stops them cleanly, and reads from their disks what
    /// each replica holds.
    ///
    /// # Errors
    /// When they do not catch up, or a node does not stop.
    pub async fn read_replicas(&mut self) -> Result<Vec<(u16, Replica)>> {
        self.caught_up().await?;
        let ids = self.ids();
        self.terminate(&ids).await?;
        let mut replicas = Vec::new();
        for id in ids {
            replicas.extend(self.digests(id)?.into_iter().map(|replica| (id, replica)));
        }
        Ok(replicas)
    }

    fn digests(&self, id: u16) -> Result<Vec<Replica>> {
        let mut command = Command::new(self.first_build()?);
        let output = command.arg("state-digest").arg(&self.node(id)?.data_dir).output()?;
        let errors = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "state-digest of node {id}: {errors}");
        let text = String::from_utf8(output.stdout)?;
        text.lines().map(|line| serde_json::from_str(line).context("a replica")).collect()
    }
}

async fn applied_entries(rest: &mut Rest) -> Result<u64> {
    let reply = rest.get("/metrics", QUESTION).await?;
    let text = reply.body.as_str().context("metrics are text")?;
    Ok(metric_sum(text, APPLIED).context("the metric is missing")? as u64)
}
