//! One cluster from its start to its end: loads, kills, memory.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use tokio::time::{Duration, Instant};

use crate::{
    heliograph::Heliograph,
    kills,
    measure::{Machine, machine_busy, syncs, usage_of_tree},
    message::MESSAGE_BYTES,
    peer::{Cluster, Consume, NODES, Publisher},
    results::{Filled, KillResult, LoadResult, Visit},
    wait::until,
    work::{self, Load, Plan},
};

/// Mailboxes of the loads of many.
const MAILBOXES: u32 = 100;
/// Messages in flight to fill mailboxes.
const FILL_AT_ONCE: usize = 32;
/// Syncs in the measurement of the disk.
const SYNCS: u32 = 1_000;

/// What to do with a cluster.
#[derive(Clone, Copy, Debug)]
pub struct Agenda {
    /// Whether to run the loads.
    pub loads: bool,
    /// How many nodes to kill, one after another.
    pub kills: u32,
    /// How many mailboxes to fill with a message each.
    pub fill: u32,
    /// Of each load: not measured.
    pub warm_up: Duration,
    /// Of each load: measured.
    pub time: Duration,
}

impl Agenda {
    /// The loads. Those of one mailbox come first: idle mailboxes are to cost them nothing.
    fn plans(&self) -> Vec<Plan> {
        if !self.loads {
            return Vec::new();
        }
        let loads = [
            (1, Load::Closed(1)),
            (1, Load::Closed(16)),
            (1, Load::Closed(1_024)),
            (MAILBOXES, Load::Closed(128)),
            (MAILBOXES, Load::Open(500)),
        ];
        let plan =
            |(mailboxes, load)| Plan { load, mailboxes, warm_up: self.warm_up, time: self.time };
        loads.into_iter().map(plan).collect()
    }
}

/// A cluster that can be put to work: by this program, or by the project's own generator.
pub trait Workable: Cluster {
    /// Runs a load.
    async fn work(&mut self, plan: Plan) -> Result<LoadResult>;
}

/// Those whose mailboxes are read by this program.
pub struct Peer<C>(pub C);

/// Works through the agenda on a cluster that has just been started.
///
/// # Errors
/// When any of it fails, except for a cluster that does not survive the kills: what the visit gave until
/// then is kept.
pub async fn visit<C: Workable>(
    system: &str,
    mut cluster: C,
    agenda: Agenda,
    disk: &Path,
) -> Result<Visit> {
    let version = cluster.version().await?;
    let directory = disk.to_owned();
    let sync = tokio::task::spawn_blocking(move || syncs(&directory, SYNCS)).await??;
    let fresh_bytes = resident(&cluster)?;
    let mut loads = Vec::new();
    for plan in agenda.plans() {
        let name = plan.name();
        let before = Others::now()?;
        let mut load = cluster.work(plan).await.with_context(|| format!("{system}, {name}"))?;
        let others = before.cores()?;
        load.others_cores = Some(others);
        eprintln!(
            "{system}, {name}: {:.0}/s, end to end p50 {:.2} ms, p99 {:.2} ms; others {:.2} cores",
            load.per_second(),
            load.deliver.p50_ms,
            load.deliver.p99_ms,
            others,
        );
        loads.push(load);
    }
    let loaded_bytes = if loads.is_empty() { None } else { Some(resident(&cluster)?) };
    let mut killed: Vec<KillResult> = Vec::new();
    let mut gave_up = None;
    if agenda.kills > 0 {
        cluster.prepare(MAILBOXES).await?;
        // What was measured before a cluster broke counts.
        if let Err(error) = kills::run(&mut cluster, agenda.kills, &mut killed).await {
            let reason = format!("kill {} of {}: {error:#}", killed.len() + 1, agenda.kills);
            eprintln!("{system}, given up: {reason}");
            gave_up = Some(reason);
        }
        eprintln!("{system}, kill -9: {killed:?}");
    }
    let mut filled = None;
    if agenda.fill > 0 && gave_up.is_none() {
        cluster.prepare(agenda.fill).await?;
        fill(&cluster, agenda.fill).await.context("while filling mailboxes")?;
        filled = Some(Filled { mailboxes: agenda.fill, bytes: resident(&cluster)? });
        eprintln!("{system}: {filled:?}");
    }
    let system = system.to_owned();
    let machine = Machine::this();
    Ok(Visit {
        system,
        version,
        machine,
        sync,
        fresh_bytes,
        loaded_bytes,
        filled,
        loads,
        kills: killed,
        gave_up,
    })
}

/// What processes that have nothing to do with us used.
struct Others {
    at: Instant,
    used: Duration,
}

impl Others {
    fn now() -> Result<Self> {
        // The servers and the generator are our descendants.
        let ours = usage_of_tree(std::process::id())?.cpu;
        Ok(Self { at: Instant::now(), used: machine_busy()?.saturating_sub(ours) })
    }

    /// Cores since.
    fn cores(&self) -> Result<f64> {
        let now = Self::now()?;
        let elapsed = (now.at - self.at).as_secs_f64();
        Ok(now.used.saturating_sub(self.used).as_secs_f64() / elapsed)
    }
}

fn resident<C: Cluster>(cluster: &C) -> Result<Vec<u64>> {
    let pids = cluster.pids();
    ensure!(pids.len() == NODES, "not all nodes run");
    pids.into_iter().map(|pid| Ok(usage_of_tree(pid)?.resident_bytes)).collect()
}

/// Sends one message to each of the mailboxes 0 to `mailboxes`; nobody reads them.
async fn fill<C: Cluster>(cluster: &C, mailboxes: u32) -> Result<()> {
    let publisher = &cluster.publisher(0).await?;
    let send = async |mailbox| {
        let message = Bytes::from_static(&[0; MESSAGE_BYTES]);
        until("a mailbox accepts", async || publisher.send(mailbox, message.clone()).await?.await)
            .await
    };
    stream::iter(0..mailboxes).map(send).buffer_unordered(FILL_AT_ONCE).try_collect().await
}

impl Workable for Heliograph {
    async fn work(&mut self, plan: Plan) -> Result<LoadResult> {
        // The generator registers mailboxes of its own.
        self.load(plan).await
    }
}

impl<C: Consume> Workable for Peer<C> {
    async fn work(&mut self, plan: Plan) -> Result<LoadResult> {
        self.0.prepare(plan.mailboxes).await?;
        work::run(&self.0, plan).await
    }
}

impl<C: Consume> Cluster for Peer<C> {
    type Publisher = C::Publisher;

    async fn version(&self) -> Result<String> {
        self.0.version().await
    }

    fn pids(&self) -> Vec<u32> {
        self.0.pids()
    }

    async fn prepare(&mut self, mailboxes: u32) -> Result<()> {
        self.0.prepare(mailboxes).await
    }

    async fn publisher(&self, node: usize) -> Result<C::Publisher> {
        self.0.publisher(node).await
    }

    async fn leaders(&self, through: usize) -> Result<[u32; NODES]> {
        self.0.leaders(through).await
    }

    fn kill(&mut self, node: usize) -> Result<()> {
        self.0.kill(node)
    }

    async fn restart(&mut self, node: usize) -> Result<()> {
        self.0.restart(node).await
    }
}
