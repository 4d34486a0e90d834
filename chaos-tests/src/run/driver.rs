//! Puts cluster, traffic, faults and checks together.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::{
    observe::{self, Observer},
    plan::{self, Field, Plan},
    profile::{Profile, Spec, Step},
};
use crate::{
    checker::{self, Verdict, check, resources::Bounds},
    cluster::{ClientPort, Clocks, Disks, LocalCluster, Options},
    descriptors,
    faults::{Fault, Inflicted, Nemesis, clock, preload},
    history::{History, Recorder},
    workload::{Report, Workload},
};

/// How much longer than asked a run may take to do each of its steps once.
const STRETCH: u32 = 4;
/// How long nothing may arrive in the end before what is missing counts as lost.
const DRAIN_PATIENCE: Duration = Duration::from_secs(45);
/// How long traffic may take to flow again after a step.
const RECOVERY: Duration = Duration::from_secs(120);
/// Between two looks.
const POLL: Duration = Duration::from_millis(250);
/// How long traffic flows before resources are read for the first time.
const WARM_UP: Duration = Duration::from_secs(3);

/// What is to be run.
#[derive(Clone, Debug)]
pub struct Order {
    /// The profile, with what was changed on the command line.
    pub profile: Profile,
    /// Decides order, nodes, and what chance decides.
    pub seed: u64,
    /// The build under test.
    pub binary: PathBuf,
    /// The other build of an upgrade.
    pub second: Option<PathBuf>,
    /// More variables for the nodes.
    pub environment: Vec<(String, String)>,
    /// When it is over.
    pub until: Until,
}

/// When a run is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// When its time is up and each step was done.
    Done,
    /// As soon as a promise is seen to be broken: what more there would be to see is not wanted.
    Broken,
}

/// What a run came to.
#[derive(Debug)]
pub struct Finished {
    /// Everything that happened.
    pub history: History,
    /// What the checks say of it.
    pub verdict: Verdict,
    /// What the traffic came to.
    pub report: Option<Report>,
    /// Why the run ended before its time, if it did.
    pub cut_short: Option<String>,
}

/// Told how far a run is.
pub trait Watcher {
    /// Something begins.
    fn step(&mut self, what: &str);
    /// So many messages were accepted.
    fn accepted(&mut self, count: u64);
}

/// Runs a profile. What breaks in between ends the run, and what was seen is judged. The nodes' logs
/// go to `folder`.
///
/// # Errors
/// When no cluster can be started, or evidence cannot be kept.
pub async fn run(
    order: &Order,
    folder: &Path,
    stop: &CancellationToken,
    watcher: &mut impl Watcher,
) -> Result<Finished> {
    let profile = &order.profile;
    watcher.step("starting the cluster");
    descriptors::take_all();
    let cluster = LocalCluster::start(options(order)).await?;
    for node in cluster.ids() {
        if let Ok(disk) = cluster.disk(node) {
            disk.fail(&profile.disk_rules)?;
        }
    }
    let started = Instant::now();
    let recorder = Recorder::new(started);
    // Clients go to whoever joins, too; before and after they find nobody there.
    let newcomer = profile.has_newcomers().then(|| cluster.newcomer());
    let everybody: Vec<_> = cluster.nodes().iter().cloned().chain(newcomer).collect();
    let addresses: Vec<_> = everybody.iter().map(|node| node.http).collect();
    let mut workload = Workload::start(&addresses, profile.config(), &recorder).await?;
    workload.start_reading();
    let admins: Vec<_> = everybody.iter().filter_map(|node| node.admin).collect();
    let observer = Observer::begin(&admins, &recorder, started);
    let mut drive = Drive {
        order,
        nemesis: Nemesis::new(&recorder, order.second.clone()),
        cluster,
        bounds: None,
        workload,
        recorder,
        watcher,
    };
    let mut cut_short = drive.inflict_all(stop).await.err();
    observer.end().await;
    // A cluster that was seen to break a promise may never be whole again.
    let mut whole = !drive.has_seen_enough();
    if whole {
        let settled = drive.settle().await;
        whole = settled.is_ok();
        cut_short = cut_short.or(settled.err());
    }
    let Drive { cluster, bounds, workload, recorder, watcher, .. } = drive;
    watcher.step("waiting for the last messages");
    let finished = workload.finish_within(DRAIN_PATIENCE).await;
    let (report, error) = match finished {
        Ok(report) => (Some(report), None),
        Err(error) => (None, Some(error)),
    };
    cut_short = cut_short.or(error);
    let compared = after((cluster, bounds), order, folder, &recorder, whole, watcher).await;
    cut_short = cut_short.or(compared.err());
    let history = recorder.take_history();
    let verdict = check(&history, &profile.expectation());
    let cut_short = cut_short.map(|error| format!("{error:#}"));
    Ok(Finished { history, verdict, report, cut_short })
}

fn options(order: &Order) -> Options {
    let profile = &order.profile;
    let mut settings: Vec<(String, String)> = profile.settings.clone().into_iter().collect();
    settings.extend(order.environment.iter().cloned());
    Options {
        name: "chaos",
        nodes: profile.nodes,
        disks: match profile.faulty_disks && preload::library().is_ok() {
            true => Disks::Faulty { seed: order.seed },
            false => Disks::Plain,
        },
        wiring: profile.wiring(),
        clocks: match profile.faulty_clocks && clock::library().is_some() {
            true => Clocks::Faulty,
            false => Clocks::Plain,
        },
        binary: Some(order.binary.clone()),
        settings,
        client: ClientPort::Plain,
    }
}

/// Compares replicas and reads logs, when the traffic has ended.
async fn after(
    (mut cluster, bounds): (LocalCluster, Option<Bounds>),
    order: &Order,
    folder: &Path,
    recorder: &Recorder,
    is_whole: bool,
    watcher: &mut impl Watcher,
) -> Result<()> {
    let mut compared = Ok(());
    if is_whole {
        watcher.step("waiting for memory to be given back");
        observe::resources_after(&mut cluster, recorder, bounds).await;
        watcher.step("comparing the replicas");
        compared = observe::replicas(&mut cluster, recorder).await;
    }
    let stopped = cluster.stop().await;
    for node in cluster.everybody() {
        observe::log(node.id, &node.log, &order.profile.expected_errors, recorder)?;
        let kept = folder.join(format!("node-{}.log", node.id));
        std::fs::copy(&node.log, kept).context("a log cannot be kept")?;
    }
    compared.and(stopped)
}

/// A run that goes on.
struct Drive<'a, W> {
    order: &'a Order,
    nemesis: Nemesis,
    cluster: LocalCluster,
    /// What nodes may use in the end, once there was a look at them.
    bounds: Option<Bounds>,
    workload: Workload,
    recorder: Recorder,
    watcher: &'a mut W,
}

impl<W: Watcher> Drive<'_, W> {
    /// Whether a broken promise is all that is wanted, and one was seen.
    fn has_seen_enough(&self) -> bool {
        self.order.until == Until::Broken && checker::is_broken_so_far(&self.recorder.history())
    }

    /// Inflicts step after step until the time is up and each was there once.
    async fn inflict_all(&mut self, stop: &CancellationToken) -> Result<()> {
        let profile = &self.order.profile;
        self.watcher.step("warming up");
        self.flow(WARM_UP).await?;
        let memory_more = profile.expectation().memory_more;
        self.bounds = observe::resources_before(&mut self.cluster, &self.recorder, memory_more);
        let time = Duration::from_secs_f64(profile.minutes * 60.0);
        let began = Instant::now();
        let mut plan = Plan::new(profile.step.len(), self.order.seed);
        loop {
            let elapsed = began.elapsed();
            let is_over = elapsed > time && plan.has_done_all() || elapsed > time * STRETCH;
            if is_over || stop.is_cancelled() || self.has_seen_enough() {
                return Ok(());
            }
            if self.recorder.is_nearly_full() {
                self.watcher.step("the history is as long as it may be: the run ends early");
                return Ok(());
            }
            let (index, mut rng) = plan.next_step();
            self.step(&profile.step[index], &mut rng).await?;
            self.flow(profile.quiet).await?;
        }
    }

    async fn step(&mut self, step: &Step, rng: &mut rand::rngs::SmallRng) -> Result<()> {
        let leader = self.cluster.standing().await.ok().and_then(|now| now.meta_leader());
        let nodes = self.order.profile.nodes;
        let mut field = Field { nodes, leader, taken: Vec::new(), newcomer: None };
        let hold = step.hold.unwrap_or(self.order.profile.hold);
        let mut remedies: Vec<Fault> = Vec::new();
        for spec in &step.faults {
            let faults = plan::faults(spec, &mut field, rng);
            let count = faults.len();
            for (i, fault) in faults.into_iter().enumerate() {
                if i > 0 {
                    self.hold(hold / count as u32).await;
                }
                if let (Spec::Damage { .. }, Fault::Damage { node, .. }) = (spec, &fault) {
                    self.prepare_damage(*node, hold).await?;
                }
                let remedy = plan::remedy(&fault);
                let inflicted = self.inflict(fault).await;
                let is_there = !matches!(inflicted, Inflicted::Skipped(_));
                // A shape that follows another takes its place, and one remedy is enough.
                let remedy = remedy.filter(|remedy| is_there && !remedies.contains(remedy));
                remedies.extend(remedy);
            }
        }
        if !plan::is_rolling(step) {
            self.hold(hold).await;
        }
        for remedy in plan::in_order(remedies) {
            self.inflict(remedy).await;
        }
        Ok(())
    }

    /// A node is looked at, goes on, and is killed: then it can be damaged with what it was.
    async fn prepare_damage(&mut self, node: u16, hold: Duration) -> Result<()> {
        self.nemesis.take_down(&self.cluster, node)?;
        self.hold(hold).await;
        self.inflict(Fault::Kill { nodes: vec![node] }).await;
        Ok(())
    }

    async fn inflict(&mut self, fault: Fault) -> Inflicted {
        self.watcher.step(&fault.to_string());
        self.nemesis.inflict(&mut self.cluster, &mut self.workload, fault).await
    }

    /// Lets a fault last, whatever the traffic does.
    async fn hold(&mut self, time: Duration) {
        let until = Instant::now() + time;
        while Instant::now() < until {
            self.watcher.accepted(self.workload.accepted());
            sleep(POLL.min(until - Instant::now())).await;
        }
    }

    /// Lets traffic flow, and waits until it does.
    async fn flow(&mut self, time: Duration) -> Result<()> {
        self.watcher.step("traffic flows");
        self.hold(time).await;
        self.workload.more_accepted(1, RECOVERY).await
    }

    /// Ends all faults, waits until the cluster is whole, and sends nothing more.
    async fn settle(&mut self) -> Result<()> {
        let settled = self.inflict(Fault::Settle).await;
        self.watcher.step("seeing the last messages through");
        self.workload.stop_sending().await?;
        match settled {
            Inflicted::Installed(_) => Ok(()),
            Inflicted::Skipped(why) | Inflicted::Indeterminate(why) => Err(anyhow!(why)),
        }
    }
}
