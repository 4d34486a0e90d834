//! Inflicts faults, one call each, and writes down what came of them.
//!
//! A fault is *installed* once something showed its effect (a process is gone, a packet was dropped, a
//! call failed), *skipped* where this machine cannot do it, and *indeterminate* where nothing shows
//! that it happened.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use anyhow::{Context as _, Result, bail, ensure};
use rand::{SeedableRng as _, rngs::SmallRng};
use rustix::process::Signal;
use tokio::time::{Instant, sleep};

use super::{
    Build, Damage, Fault, Impairment,
    beat::{Beat, clock_beat, slow_beat},
    damage::{self, Stash},
    netfilter::{self, Cuts},
    power,
    storm::Storm,
};
use crate::{
    cluster::LocalCluster,
    descriptors,
    history::{Hit, Operation, Phase, Recorder},
    namespace,
    workload::Workload,
};

/// The process number of whoever inflicts faults.
const OPERATOR: u32 = 0;
/// How long the effect of a fault may take to show: longer than nodes are silent to each other.
const EVIDENCE: Duration = Duration::from_secs(10);
/// How long a cluster may take to be whole after the last fault.
const WHOLE: Duration = Duration::from_secs(120);
/// How long a clock takes at most to read where it should stand, twice over.
const CLOCK_READ: Duration = Duration::from_secs(2);
/// Between two looks for it.
const POLL: Duration = Duration::from_millis(50);

/// What came of a fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Inflicted {
    /// It happened; what showed it, if that is not plain.
    Installed(Option<String>),
    /// It cannot be done here.
    Skipped(String),
    /// Perhaps it happened.
    Indeterminate(String),
}

/// Whoever inflicts faults.
#[derive(Debug)]
pub struct Nemesis {
    recorder: Recorder,
    /// Of each node what is done to it again and again.
    beats: BTreeMap<u16, Beat>,
    stashes: BTreeMap<u16, Stash>,
    storm: Option<Storm>,
    is_partitioned: bool,
    /// The other build of an upgrade.
    second: Option<PathBuf>,
}

impl Nemesis {
    /// One that has done nothing yet; `second` is the other build of an upgrade.
    pub fn new(recorder: &Recorder, second: Option<PathBuf>) -> Self {
        Self {
            recorder: recorder.clone(),
            beats: BTreeMap::new(),
            stashes: BTreeMap::new(),
            storm: None,
            is_partitioned: false,
            second,
        }
    }

    /// Inflicts a fault and writes it down. A remedy is complete when the nodes are ready.
    pub async fn inflict(
        &mut self,
        cluster: &mut LocalCluster,
        workload: &mut Workload,
        fault: Fault,
    ) -> Inflicted {
        let hit = whom(cluster, &fault).await;
        let begun = Operation::Fault { fault: fault.clone(), hit: hit.clone(), why: None };
        self.recorder.record(OPERATOR, Phase::Invoke, begun);
        let inflicted = match self.act(cluster, workload, &fault).await {
            Ok(inflicted) => inflicted,
            Err(error) => Inflicted::Indeterminate(format!("{error:#}")),
        };
        let (phase, why) = match inflicted.clone() {
            Inflicted::Installed(why) => (Phase::Ok, why),
            Inflicted::Skipped(why) => (Phase::Fail, Some(why)),
            Inflicted::Indeterminate(why) => (Phase::Unknown, Some(why)),
        };
        self.recorder.record(OPERATOR, phase, Operation::Fault { fault, hit, why });
        inflicted
    }

    /// Takes a look at the files of a node, so that a part of them can be put back later.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn take_down(&mut self, cluster: &LocalCluster, node: u16) -> Result<()> {
        self.stashes.insert(node, Stash::take(&cluster.node(node)?.data_dir)?);
        Ok(())
    }

    async fn act(
        &mut self,
        cluster: &mut LocalCluster,
        workload: &mut Workload,
        fault: &Fault,
    ) -> Result<Inflicted> {
        match fault {
            Fault::Kill { nodes } => cluster.kill(nodes).await?,
            Fault::Stop { node } => cluster.stop_node(*node).await?,
            Fault::Restart { nodes } => {
                cluster.restart(nodes)?;
                ready(cluster, nodes).await?;
            }
            Fault::Pause { nodes } => {
                for node in nodes {
                    cluster.signal(*node, Signal::STOP)?;
                }
            }
            Fault::Resume { nodes } => {
                for node in nodes {
                    self.end_beat(*node).await;
                    cluster.signal(*node, Signal::CONT)?;
                }
                ready(cluster, nodes).await?;
            }
            Fault::Slow { nodes, stopped_percent } => {
                for node in nodes {
                    let process = cluster.grip(*node)?;
                    self.beats.insert(*node, slow_beat(process, *stopped_percent));
                }
            }
            Fault::Partition { cuts, clients, .. } => {
                return self.partition(cluster, cuts, clients).await;
            }
            Fault::Heal => {
                if self.is_partitioned {
                    netfilter::remove()?;
                    self.is_partitioned = false;
                }
            }
            Fault::Links { links } => return impair(cluster, *links).await,
            Fault::Calm => cluster.links()?.set(Impairment::default(), 0),
            Fault::Clock { .. } | Fault::Strobe { .. } | Fault::ClocksRight { .. } => {
                return self.clocks(cluster, fault).await;
            }
            Fault::PowerCut { .. }
            | Fault::Disk { .. }
            | Fault::Repair { .. }
            | Fault::Damage { .. }
            | Fault::LoseDisk { .. } => return self.disks(cluster, fault).await,
            Fault::Settle => self.settle(cluster, workload).await?,
            Fault::Upgrade { node, build } => return self.upgrade(cluster, *node, *build).await,
            Fault::Overload { .. } | Fault::Storm { .. } | Fault::LoadEnds => {
                return self.load(cluster, workload, fault).await;
            }
            Fault::Join { .. } | Fault::Leave { .. } | Fault::Replace { .. } => {
                return members(cluster, fault).await;
            }
        }
        Ok(Inflicted::Installed(None))
    }

    async fn load(
        &mut self,
        cluster: &LocalCluster,
        workload: &mut Workload,
        fault: &Fault,
    ) -> Result<Inflicted> {
        match fault {
            Fault::Overload { senders } => workload.surge(*senders).await?,
            Fault::Storm { clients } => {
                if let Err(error) = descriptors::suffice(*clients) {
                    return Ok(Inflicted::Skipped(format!("{error:#}")));
                }
                let began = Instant::now();
                let storm = Storm::begin(&cluster.addresses(), *clients).await?;
                let (alive, took) = (storm.alive(), began.elapsed());
                self.storm = Some(storm);
                let why = format!("{alive} clients registered and connected in {took:.1?}");
                return Ok(Inflicted::Installed(Some(why)));
            }
            _ => {
                workload.ebb().await?;
                if let Some(storm) = self.storm.take() {
                    return calm(storm).await;
                }
            }
        }
        Ok(Inflicted::Installed(None))
    }

    async fn partition(
        &mut self,
        cluster: &LocalCluster,
        cuts: &[(u16, u16)],
        clients: &[u16],
    ) -> Result<Inflicted> {
        if !namespace::is_inside() {
            let why = "partitions need an own network namespace";
            return Ok(Inflicted::Skipped(why.to_owned()));
        }
        let port = |node: &u16| anyhow::Ok((*node, cluster.node(*node)?.http.port()));
        let clients = clients.iter().map(port).collect::<Result<_>>()?;
        if let Err(error) = netfilter::install(&Cuts { between: cuts.to_vec(), clients }) {
            return Ok(Inflicted::Skipped(format!("{error:#}")));
        }
        self.is_partitioned = true;
        evidence(netfilter::dropped, "packets were dropped").await
    }

    async fn clocks(&mut self, cluster: &mut LocalCluster, fault: &Fault) -> Result<Inflicted> {
        let nodes = fault.nodes();
        for node in &nodes {
            self.end_beat(*node).await;
            let clock = match cluster.clock(*node) {
                Ok(clock) => clock.clone(),
                Err(error) => return Ok(Inflicted::Skipped(format!("{error:#}"))),
            };
            match fault {
                Fault::Strobe { seconds, .. } => {
                    self.beats.insert(*node, clock_beat(clock, *seconds));
                }
                Fault::Clock { seconds, .. } => clock.set(*seconds)?,
                _ => clock.set(0)?,
            }
        }
        let ahead = match fault {
            Fault::Clock { seconds, .. } | Fault::Strobe { seconds, .. } if *seconds > 0 => {
                *seconds
            }
            // Servers keep the date of their answers until the clock is past it: of a clock that
            // goes back nothing shows. The library reads what it is told every second.
            _ => {
                sleep(CLOCK_READ).await;
                return Ok(Inflicted::Installed(Some("the clocks have read it".to_owned())));
            }
        };
        let until = Instant::now() + EVIDENCE;
        for node in nodes {
            // Every answer names its sender's time.
            while !cluster.is_off_by(node, ahead).await? {
                if Instant::now() > until {
                    bail!("node {node} does not say that its clock is off by {ahead} s");
                }
                sleep(POLL).await;
            }
        }
        Ok(Inflicted::Installed(Some(format!("the nodes say so in their answers ({ahead:+} s)"))))
    }

    async fn disks(&mut self, cluster: &mut LocalCluster, fault: &Fault) -> Result<Inflicted> {
        if let Fault::PowerCut { nodes, .. } | Fault::Disk { nodes, .. } = fault
            && let Some(Err(error)) =
                nodes.iter().map(|node| cluster.disk(*node)).find(Result::is_err)
        {
            return Ok(Inflicted::Skipped(format!("{error:#}")));
        }
        match fault {
            Fault::PowerCut { nodes, unsynced, seed } => {
                cluster.kill(nodes).await?;
                let mut reports = Vec::new();
                for node in nodes {
                    // Each node's own, so that the nodes lose different things.
                    let mut rng = SmallRng::seed_from_u64(seed ^ u64::from(*node));
                    let report = power::cut(cluster.disk(*node)?, *unsynced, &mut rng)
                        .with_context(|| format!("the power cut of node {node}"))?;
                    reports.push(format!(
                        "node {node}: {} of {} unsynced bytes kept",
                        report.kept_bytes, report.unsynced_bytes
                    ));
                }
                return Ok(Inflicted::Installed(Some(reports.join(", "))));
            }
            Fault::Disk { nodes, rules } => {
                for node in nodes {
                    cluster.disk(*node)?.fail(rules)?;
                }
                for node in nodes {
                    cluster.disk(*node)?.met(EVIDENCE).await?;
                }
            }
            Fault::Repair { nodes } => {
                for node in nodes {
                    cluster.disk(*node)?.fail("")?;
                }
                ready(cluster, nodes).await?;
            }
            Fault::Damage { node, how, seed } => {
                let data = cluster.node(*node)?.data_dir.clone();
                ensure!(!cluster.is_running(*node), "node {node} runs: its files are not touched");
                return self.damage(&data, *node, *how, *seed);
            }
            Fault::LoseDisk { node } => {
                if cluster.is_running(*node) {
                    cluster.kill(&[*node]).await?;
                }
                cluster.lose_disk(*node)?;
            }
            _ => unreachable!("these are the faults of disks"),
        }
        Ok(Inflicted::Installed(None))
    }

    fn damage(
        &mut self,
        data: &std::path::Path,
        node: u16,
        how: Damage,
        seed: u64,
    ) -> Result<Inflicted> {
        let stash = match self.stashes.remove(&node) {
            Some(stash) => stash,
            None => Stash::take(data)?,
        };
        let mut rng = SmallRng::seed_from_u64(seed);
        Ok(match damage::damage(data, how, &stash, &mut rng)? {
            Some(damaged) => Inflicted::Installed(Some(format!(
                "{} at byte {}",
                damaged.file.display(),
                damaged.offset
            ))),
            None => Inflicted::Skipped("there is nothing to damage in this manner".to_owned()),
        })
    }

    async fn upgrade(
        &mut self,
        cluster: &mut LocalCluster,
        node: u16,
        build: Build,
    ) -> Result<Inflicted> {
        let binary = match (build, &self.second) {
            (Build::First, _) => cluster.first_build()?,
            (Build::Second, Some(second)) => second.clone(),
            (Build::Second, None) => {
                let why = "there is no second build: name it with --upgrade-to";
                return Ok(Inflicted::Skipped(why.to_owned()));
            }
        };
        cluster.stop_node(node).await?;
        cluster.build(node, &binary);
        cluster.restart(&[node])?;
        ready(cluster, &[node]).await?;
        Ok(Inflicted::Installed(None))
    }

    /// Ends everything that goes on by itself, starts who does not run, and waits until the cluster
    /// is whole.
    async fn settle(&mut self, cluster: &mut LocalCluster, workload: &mut Workload) -> Result<()> {
        for (_, beat) in std::mem::take(&mut self.beats) {
            beat.end().await;
        }
        if std::mem::take(&mut self.is_partitioned) {
            netfilter::remove()?;
        }
        if let Some(storm) = self.storm.take() {
            storm.end().await;
        }
        workload.ebb().await?;
        for node in cluster.ids() {
            match cluster.is_running(node) {
                true => cluster.signal(node, Signal::CONT)?,
                false => cluster.revive(node)?,
            }
        }
        cluster.whole(WHOLE).await
    }

    async fn end_beat(&mut self, node: u16) {
        if let Some(beat) = self.beats.remove(&node) {
            beat.end().await;
        }
    }
}

/// Whom a fault hits, and what they are now; nothing where nobody can be asked.
async fn whom(cluster: &mut LocalCluster, fault: &Fault) -> Vec<Hit> {
    let nodes = fault.nodes();
    if fault.is_remedy() || nodes.is_empty() {
        return Vec::new();
    }
    let Ok(standing) = cluster.standing().await else { return Vec::new() };
    standing.nodes.into_iter().filter(|hit| nodes.contains(&hit.node)).collect()
}

/// Ends a storm once all its clients have found a node again.
async fn calm(storm: Storm) -> Result<Inflicted> {
    storm.all_in().await?;
    let (alive, returns) = (storm.alive(), storm.returns());
    storm.end().await;
    let why = format!("{alive} clients are connected, {returns} times one had come anew");
    Ok(Inflicted::Installed(Some(why)))
}

/// Changes who is a member, and brings back who lost its disk.
async fn members(cluster: &mut LocalCluster, fault: &Fault) -> Result<Inflicted> {
    let why = match fault {
        Fault::Join { node } => {
            let standing = cluster.join(*node).await?;
            let held = standing.held_by(*node).unwrap_or_default();
            Some(format!("{held} replicas are there, {} groups move", standing.moving))
        }
        Fault::Leave { node } => {
            Some(format!("{} replicas moved away", cluster.leave(*node).await?))
        }
        Fault::Replace { node } => {
            cluster.replace(*node).await?;
            cluster.restart(&[*node])?;
            ready(cluster, &[*node]).await?;
            None
        }
        _ => unreachable!("these are the changes of membership"),
    };
    Ok(Inflicted::Installed(why))
}

async fn ready(cluster: &mut LocalCluster, nodes: &[u16]) -> Result<()> {
    for node in nodes {
        cluster.ready(*node).await?;
    }
    Ok(())
}

async fn impair(cluster: &LocalCluster, links: Impairment) -> Result<Inflicted> {
    let proxies = match cluster.links() {
        Ok(proxies) => proxies,
        Err(error) => return Ok(Inflicted::Skipped(format!("{error:#}"))),
    };
    let before = proxies.counts().impaired;
    proxies.set(links, before);
    evidence(|| Ok(proxies.counts().impaired - before), "datagrams were impaired").await
}

/// Waits until a count is not zero any more.
async fn evidence(mut count: impl FnMut() -> Result<u64>, what: &str) -> Result<Inflicted> {
    let until = Instant::now() + EVIDENCE;
    loop {
        let counted = count()?;
        if counted > 0 {
            return Ok(Inflicted::Installed(Some(format!("{counted} {what}"))));
        }
        if Instant::now() > until {
            return Ok(Inflicted::Indeterminate(format!("no {what} within {EVIDENCE:?}")));
        }
        sleep(POLL).await;
    }
}
