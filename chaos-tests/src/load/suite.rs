//! All that the product is held to, in one run: each part by itself, so that one that fails takes
//! no other with it.

use std::time::Duration;

use anyhow::Result;
use serde::Serialize;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{
    bars::{Bar, Part, judge},
    beside, closed, cold,
    crowd::At,
    disk, idle, idle_cpu, kill,
    machine::Machine,
    open,
    report::{LoadReport, median},
    stalls, stored,
    target::{Fresh, SETTLE, Target},
    traffic::Traffic,
};
use crate::cluster::ClientPort;

/// In flight where throughput is measured.
const IN_FLIGHT: u32 = 128;
/// Messages a second where latency is.
const RATE: u32 = 500;
/// Sending devices where more is in flight in one mailbox than a connection may have.
const MANY_SENDERS: u32 = 16;
/// Syncs in each measurement of the disk.
const SYNCS: u32 = 2_000;
/// Longer than the longest pause between two Pings (45 s).
const HOLD: Duration = Duration::from_secs(60);
/// For how long the machine is watched before the loads.
const WATCHED: Duration = Duration::from_secs(10);
/// Shards of the idle clusters.
const IDLE_SHARDS: [u16; 2] = [16, 64];
/// Mailboxes of one message each.
const LONELY: u32 = 100_000;
/// Mailboxes of the stored messages, and how many messages there are for comparison.
const STORED_IN: u32 = 10_000;
const BASELINE: u64 = 1_000;

/// What to measure, and for how long.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The clusters; parts that need others say so.
    pub fresh: Fresh,
    /// Which parts.
    pub parts: Vec<Part>,
    /// Runs of each load: the median counts.
    pub runs: u32,
    /// Of each load.
    pub traffic: Traffic,
    /// How long bytes and processor time a message are measured: longer than the 30 s after which
    /// what has changed goes from memory to the disk.
    pub long: Duration,
    /// Idle connections.
    pub connections: u32,
    /// How long an idle cluster is measured.
    pub idle: Duration,
    /// Kills.
    pub kill: kill::Plan,
    /// Cold starts.
    pub cold: cold::Plan,
    /// Stored messages.
    pub stored: u64,
}

/// What came of a part.
#[derive(Clone, Debug, Serialize)]
pub struct Told {
    /// Which.
    pub part: Part,
    /// How long it took.
    pub seconds: f64,
    /// Why it failed.
    pub error: Option<String>,
    /// All that was measured.
    pub reports: Value,
}

/// What came of all.
#[derive(Clone, Debug, Serialize)]
pub struct SuiteReport {
    /// The machine.
    pub machine: Machine,
    /// Shards of the clusters, where nothing else is said.
    pub shards: u16,
    /// The bars.
    pub bars: Vec<Bar>,
    /// What lies behind them.
    pub parts: Vec<Told>,
}

/// What a part saw, in the order of its bars, and its reports.
type Seen = (Vec<f64>, Value);

/// Runs the parts.
pub async fn run(plan: &Plan) -> SuiteReport {
    let machine = Machine::this();
    let (mut bars, mut parts) = (Vec::new(), Vec::new());
    for part in plan.parts.iter().copied() {
        eprintln!("{part:?}");
        let began = Instant::now();
        let seen = match part {
            Part::Load => load(plan).await,
            Part::Memory => memory(plan).await,
            Part::Connections => connections(plan).await,
            Part::Idle => idle(plan).await,
            Part::Kill => kill(plan).await,
            Part::Cold => cold(plan).await,
            Part::Flat => flat(plan).await,
        };
        let (figures, error, reports) = match seen {
            Ok((figures, reports)) => (Some(figures), None, reports),
            Err(error) => {
                eprintln!("{part:?} failed: {error:#}");
                (None, Some(format!("{error:#}")), Value::Null)
            }
        };
        bars.extend(judge(part, figures.as_deref()));
        let seconds = began.elapsed().as_secs_f64();
        parts.push(Told { part, seconds, error, reports });
    }
    SuiteReport { machine, shards: plan.fresh.shards, bars, parts }
}

impl Plan {
    fn closed(&self, in_flight: u32, senders: u32, mailboxes: u32) -> closed::Plan {
        closed::Plan { in_flight, senders, traffic: Traffic { mailboxes, ..self.traffic } }
    }

    fn usual(&self) -> closed::Plan {
        self.closed(IN_FLIGHT, closed::SENDERS, self.traffic.mailboxes)
    }
}

async fn load(plan: &Plan) -> Result<Seen> {
    let loads = [
        plan.usual(),
        plan.closed(IN_FLIGHT, closed::SENDERS, 10_000),
        plan.closed(1, closed::SENDERS, 1),
        plan.closed(16, closed::SENDERS, 1),
        plan.closed(1_024, MANY_SENDERS, 1),
    ];
    let mut disks = vec![disk::here(SYNCS).await?];
    let stalls = stalls::here(WATCHED).await?;
    let (mut closed_runs, mut open_runs) = (vec![Vec::new(); loads.len()], Vec::new());
    // Round by round, so that a disturbance of the machine does not hit one load alone; and each on
    // a cluster of its own, which does not write down what the load before it left.
    for round in 1..=plan.runs {
        for (load, runs) in loads.iter().zip(&mut closed_runs) {
            let (in_flight, mailboxes) = (load.in_flight, load.traffic.mailboxes);
            eprintln!("round {round}: {in_flight} in flight, {mailboxes} mailboxes");
            runs.push(closed::run(&Target::fresh(&plan.fresh).await?, *load).await?);
        }
        eprintln!("round {round}: {RATE} a second");
        let open = open::Plan { rate: RATE, traffic: plan.traffic };
        open_runs.push(open::run(&Target::fresh(&plan.fresh).await?, open).await?);
        disks.push(disk::here(SYNCS).await?);
    }
    let mut long = plan.usual();
    long.traffic.time = plan.long;
    let long = closed::run(&Target::fresh(&plan.fresh).await?, long).await?;
    let of = |runs: &[LoadReport], value: fn(&LoadReport) -> f64| median(runs.iter().map(value));
    let mut seen: Vec<f64> =
        closed_runs.iter().map(|runs| of(runs, |run| run.accepted_per_second)).collect();
    seen.extend([
        of(&open_runs, |run| run.deliver.p50_ms),
        of(&open_runs, |run| run.deliver.p99_ms),
        long.nodes_cpu_seconds_per_100k,
        long.written_bytes_per_message,
    ]);
    let reports = json!({
        "disk": disks, "stalls": stalls, "closed": closed_runs, "open": open_runs, "long": long,
    });
    Ok((seen, reports))
}

async fn memory(plan: &Plan) -> Result<Seen> {
    let target = Target::fresh(&plan.fresh).await?;
    let stored = stored::Plan {
        baseline: 0,
        messages: u64::from(LONELY),
        mailboxes: LONELY,
        settle: SETTLE,
        runs: 0,
        load: plan.usual(),
    };
    let report = stored::run(&target, stored).await?;
    let seen = report.stages.iter().map(|stage| stage.resident_mib_most).collect();
    Ok((seen, json!(report)))
}

async fn connections(plan: &Plan) -> Result<Seen> {
    let (mut seen, mut reports) = (Vec::new(), Vec::new());
    for client in [ClientPort::Plain, ClientPort::Tls] {
        let target = Target::fresh(&Fresh { client, ..plan.fresh }).await?;
        let idle = idle::Plan { connections: plan.connections, at: At::First, hold: HOLD };
        let report = idle::run(&target, idle).await?;
        seen.push(report.bytes_at_holder);
        reports.push(report);
    }
    Ok((seen, json!(reports)))
}

async fn idle(plan: &Plan) -> Result<Seen> {
    let (mut seen, mut reports) = (Vec::new(), Vec::new());
    for shards in IDLE_SHARDS {
        let target = Target::fresh(&Fresh { shards, ..plan.fresh }).await?;
        let report = idle_cpu::run(&target, Some(shards), plan.idle).await?;
        seen.push(report.percent_a_node);
        reports.push(report);
    }
    Ok((seen, json!(reports)))
}

async fn kill(plan: &Plan) -> Result<Seen> {
    let report = kill::run(&plan.fresh, plan.kill).await?;
    let elections = report.calm.elections as f64;
    Ok((vec![report.again_p50_ms, report.again_max_ms, elections], json!(report)))
}

async fn cold(plan: &Plan) -> Result<Seen> {
    let report = cold::run(&plan.fresh, plan.cold).await?;
    let of = |wanted| {
        let starts = report.starts.iter().filter(|(after, _)| *after == wanted);
        median(starts.flat_map(|(_, seconds)| seconds.iter().copied()))
    };
    let seen = vec![of(cold::After::StopUncached), of(cold::After::KillUncached)];
    Ok((seen, json!(report)))
}

async fn flat(plan: &Plan) -> Result<Seen> {
    let (runs, load) = (plan.runs, plan.usual());
    let target = Target::fresh(&plan.fresh).await?;
    let connections = plan.connections;
    let beside = beside::run(&target, beside::Plan { connections, runs, load }).await?;
    drop(target);
    let target = Target::fresh(&plan.fresh).await?;
    let stored = stored::Plan {
        baseline: BASELINE.min(plan.stored),
        messages: plan.stored,
        mailboxes: STORED_IN,
        settle: SETTLE,
        runs,
        load,
    };
    let stored = stored::run(&target, stored).await?;
    let loads = stored.stages.iter().flat_map(|stage| &stage.loads).chain(&beside.loads);
    let elections: u64 = loads.map(|load| load.leadership.elections).sum();
    let seen = vec![stored.ratio.unwrap_or(f64::NAN), beside.ratio, elections as f64];
    Ok((seen, json!({"beside": beside, "stored": stored})))
}
