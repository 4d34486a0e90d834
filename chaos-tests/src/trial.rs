//! A cluster under a workload, faults while it runs, a verdict at the end.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use tokio::time::{Instant, sleep};

use crate::{
    checker::{Expectation, Verdict, check},
    cluster::{LocalCluster, Options},
    faults::{Inflicted, Nemesis},
    history::{Fault, Recorder},
    workload::{Config, Report, Workload},
};

/// The file a verdict is kept in when it is a bad one.
const VERDICT: &str = "verdict.json";
/// The file a history is kept in when its verdict is bad.
const HISTORY: &str = "history.jsonl";

/// A run.
#[derive(Debug)]
pub struct Trial {
    /// The cluster.
    pub cluster: LocalCluster,
    /// What happens is taken down here.
    pub recorder: Recorder,
    /// Who sends and reads.
    pub workload: Workload,
    /// Who inflicts faults.
    pub nemesis: Nemesis,
}

impl Trial {
    /// Starts a cluster and senders. Nobody reads yet.
    ///
    /// # Errors
    /// When the cluster does not start, or a device cannot be registered.
    pub async fn start(options: Options, config: Config) -> Result<Self> {
        let cluster = LocalCluster::start(options).await?;
        let recorder = Recorder::new(Instant::now());
        let workload = Workload::start(&cluster.addresses(), config, &recorder).await;
        match workload {
            Ok(workload) => {
                let nemesis = Nemesis::new(&recorder, None);
                Ok(Self { cluster, recorder, workload, nemesis })
            }
            Err(error) => {
                let mut cluster = cluster;
                cluster.keep_logs();
                Err(error)
            }
        }
    }

    /// Inflicts a fault.
    ///
    /// # Errors
    /// When it cannot be inflicted, or a node does not come back.
    pub async fn inflict(&mut self, fault: Fault) -> Result<()> {
        let inflicted = self.nemesis.inflict(&mut self.cluster, &mut self.workload, fault.clone());
        match inflicted.await {
            Inflicted::Installed(_) => Ok(()),
            Inflicted::Skipped(why) | Inflicted::Indeterminate(why) => {
                self.cluster.keep_logs();
                bail!("{fault}: {why}")
            }
        }
    }

    /// Lets traffic flow: for `time`, and then until some message more was accepted.
    ///
    /// # Errors
    /// When no message is accepted for as long again and a minute.
    pub async fn flow(&mut self, time: Duration) -> Result<()> {
        sleep(time).await;
        let flowing = self.workload.more_accepted(1, time + Duration::from_secs(60)).await;
        if flowing.is_err() {
            self.cluster.keep_logs();
            self.recorder.history().save(&self.cluster.evidence()?.join(HISTORY))?;
        }
        flowing
    }

    /// Stops sending and compares what the nodes hold, when all have caught up.
    ///
    /// # Errors
    /// When replicas differ, or a node does not stop or start.
    pub async fn compare_replicas(&mut self) -> Result<()> {
        self.workload.stop_sending().await?;
        let compared = self.cluster.compare_replicas().await;
        let compared = compared.inspect_err(|_| self.cluster.keep_logs())?;
        eprintln!("{compared} replicas agree with those of their groups");
        Ok(())
    }

    /// Ends the run and judges it. Prints the verdict; a bad one is kept with the history and the
    /// nodes' logs.
    ///
    /// # Errors
    /// When the run itself failed.
    pub async fn judge(self, expectation: &Expectation) -> Result<(Verdict, Report)> {
        let Self { mut cluster, recorder, workload, .. } = self;
        let report = workload.finish().await.inspect_err(|_| cluster.keep_logs())?;
        let history = recorder.history();
        let verdict = check(&history, expectation);
        eprintln!("{verdict}{report:?}");
        if !verdict.passed() || !report.refused.is_empty() || cluster.is_kept() {
            cluster.keep_logs();
            let evidence = cluster.evidence()?;
            history.save(&evidence.join(HISTORY))?;
            std::fs::write(evidence.join(VERDICT), serde_json::to_vec_pretty(&verdict)?)?;
        }
        cluster.stop().await.context("the cluster did not stop cleanly")?;
        Ok((verdict, report))
    }
}
