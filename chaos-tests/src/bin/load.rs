//! Puts load on a cluster and prints what it measured, as JSON.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context as _, Result};
use clap::{Args, Parser, Subcommand};
use heliograph_chaos_tests::{
    cluster::run_directory,
    load::{
        closed, cold, disk, idle, open,
        report::{DiskReport, IdleReport, LoadReport, Machine},
        target::Target,
    },
};
use serde::Serialize;

/// Measure a cluster: throughput, latency, memory.
#[derive(Debug, Parser)]
#[command(name = "load", max_term_width = 100)]
struct Cli {
    /// The data directory of a running `heliograph dev`; a fresh cluster is started when left out
    #[arg(long, global = true, value_name = "DIR")]
    cluster: Option<PathBuf>,
    /// Nodes of the fresh cluster
    #[arg(long, global = true, default_value_t = 3)]
    nodes: u16,
    /// Shards of the fresh cluster
    #[arg(long, global = true, default_value_t = 16)]
    shards: u16,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Keep a number of messages in flight: throughput
    Closed {
        /// How many
        #[arg(long, default_value_t = 128)]
        in_flight: u32,
        #[command(flatten)]
        traffic: Traffic,
    },
    /// Send at a rate, whatever the answers: latency
    Open {
        /// Messages a second
        #[arg(long, default_value_t = 500)]
        rate: u32,
        #[command(flatten)]
        traffic: Traffic,
    },
    /// Hold connections that do nothing: memory
    Idle {
        /// How many
        #[arg(long, default_value_t = 10_000)]
        connections: u32,
        /// For how long
        #[arg(long, default_value_t = 60)]
        seconds: u64,
    },
    /// Measure what one fdatasync takes
    Disk {
        /// How many
        #[arg(long, default_value_t = 2_000)]
        writes: u32,
    },
    /// Fill a fresh cluster and start one of its nodes again and again: cold starts
    Cold {
        /// Content that waits in mailboxes, in MiB
        #[arg(long, default_value_t = 1024)]
        mib: u64,
        /// Content of a message, before Base64
        #[arg(long, default_value_t = 1024)]
        content_bytes: usize,
        /// Mailboxes that messages go to, in turn
        #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..))]
        mailboxes: u32,
        /// Starts of each kind
        #[arg(long, default_value_t = 3)]
        starts: u32,
    },
    /// Everything that docs/benchmarks.md tells
    Suite {
        /// Runs of each load; the median is what counts
        #[arg(long, default_value_t = 3)]
        runs: u32,
        #[command(flatten)]
        traffic: Traffic,
        /// Idle connections
        #[arg(long, default_value_t = 10_000)]
        connections: u32,
    },
}

#[derive(Debug, Clone, Copy, Args)]
struct Traffic {
    /// Mailboxes that messages go to, in turn
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    mailboxes: u32,
    /// Content of a message, before Base64
    #[arg(long, default_value_t = 256)]
    content_bytes: usize,
    /// Seconds that are not measured
    #[arg(long, default_value_t = 3)]
    warm_up: u64,
    /// Seconds that are measured
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,
}

/// All of a sitting.
#[derive(Serialize)]
struct Suite {
    machine: Machine,
    disk: Vec<DiskReport>,
    idle: IdleReport,
    runs: Vec<LoadReport>,
    medians: Vec<Median>,
}

/// The medians of the runs of one load.
#[derive(Serialize)]
struct Median {
    mode: &'static str,
    load: u32,
    accepted_per_second: f64,
    accept_p50_ms: f64,
    accept_p99_ms: f64,
    deliver_p50_ms: f64,
    deliver_p99_ms: f64,
    cores_of_a_node: f64,
    cores_of_the_generator: f64,
}

fn main() -> Result<()> {
    let runtime = tokio::runtime::Runtime::new()?;
    let json = runtime.block_on(run(Cli::parse()))?;
    println!("{json}");
    Ok(())
}

async fn run(cli: Cli) -> Result<String> {
    if let Command::Disk { writes } = cli.command {
        return pretty(&disk(writes).await?);
    }
    if let Command::Cold { mib, content_bytes, mailboxes, starts } = cli.command {
        let plan = cold::Plan { stored_bytes: mib << 20, content_bytes, mailboxes, starts };
        return pretty(&cold::run(plan).await?);
    }
    let target = match &cli.cluster {
        Some(directory) => Target::running(directory)?,
        None => Target::own(cli.nodes, cli.shards).await?,
    };
    match cli.command {
        Command::Closed { in_flight, traffic } => {
            pretty(&closed::run(&target, closed_plan(in_flight, traffic)).await?)
        }
        Command::Open { rate, traffic } => {
            pretty(&open::run(&target, open_plan(rate, traffic)).await?)
        }
        Command::Idle { connections, seconds } => {
            let hold = Duration::from_secs(seconds);
            pretty(&idle::run(&target, idle::Plan { connections, hold }).await?)
        }
        Command::Disk { .. } | Command::Cold { .. } => {
            unreachable!("they need no cluster: see above")
        }
        Command::Suite { runs, traffic, connections } => {
            pretty(&suite(&target, runs, traffic, connections).await?)
        }
    }
}

/// In flight in the closed loops.
const IN_FLIGHT: [u32; 3] = [1, 16, 128];
/// Messages a second in the open loop.
const RATE: u32 = 500;
/// Syncs in each measurement of the disk.
const SYNCS: u32 = 2_000;
/// Longer than the longest pause between two Pings (45 s).
const HOLD: Duration = Duration::from_secs(60);

async fn suite(target: &Target, runs: u32, traffic: Traffic, connections: u32) -> Result<Suite> {
    let machine = Machine::this();
    let mut disks = vec![disk(SYNCS).await?];
    // First, so that the nodes are fresh.
    let idle = idle::run(target, idle::Plan { connections, hold: HOLD }).await?;
    let mut reports = Vec::new();
    // Round by round, so that a disturbance of the machine does not hit one load alone.
    for round in 1..=runs {
        for in_flight in IN_FLIGHT {
            eprintln!("round {round}: {in_flight} in flight");
            reports.push(closed::run(target, closed_plan(in_flight, traffic)).await?);
        }
        eprintln!("round {round}: {RATE} a second");
        reports.push(open::run(target, open_plan(RATE, traffic)).await?);
        disks.push(disk(SYNCS).await?);
    }
    let loads =
        IN_FLIGHT.map(|in_flight| ("closed", in_flight)).into_iter().chain([("open", RATE)]);
    let medians = loads.map(|(mode, load)| median(mode, load, &reports)).collect();
    Ok(Suite { machine, disk: disks, idle, runs: reports, medians })
}

fn median(mode: &'static str, load: u32, reports: &[LoadReport]) -> Median {
    let of = |value: fn(&LoadReport) -> f64| {
        let runs = reports.iter().filter(|run| run.mode == mode && run.load == load);
        let mut values: Vec<f64> = runs.map(value).collect();
        values.sort_by(f64::total_cmp);
        values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
    };
    let node = |run: &LoadReport| {
        run.nodes.iter().map(|node| node.cores).sum::<f64>() / run.nodes.len() as f64
    };
    Median {
        mode,
        load,
        accepted_per_second: of(|run| run.accepted_per_second),
        accept_p50_ms: of(|run| run.accept.p50_ms),
        accept_p99_ms: of(|run| run.accept.p99_ms),
        deliver_p50_ms: of(|run| run.deliver.p50_ms),
        deliver_p99_ms: of(|run| run.deliver.p99_ms),
        cores_of_a_node: of(node),
        cores_of_the_generator: of(|run| run.generator.cores),
    }
}

async fn disk(writes: u32) -> Result<DiskReport> {
    let directory = run_directory()?;
    tokio::task::spawn_blocking(move || disk::measure(&directory, writes)).await?
}

fn closed_plan(in_flight: u32, traffic: Traffic) -> closed::Plan {
    closed::Plan {
        in_flight,
        mailboxes: traffic.mailboxes,
        content_bytes: traffic.content_bytes,
        warm_up: Duration::from_secs(traffic.warm_up),
        time: Duration::from_secs(traffic.seconds),
    }
}

fn open_plan(rate: u32, traffic: Traffic) -> open::Plan {
    open::Plan {
        rate,
        mailboxes: traffic.mailboxes,
        content_bytes: traffic.content_bytes,
        warm_up: Duration::from_secs(traffic.warm_up),
        time: Duration::from_secs(traffic.seconds),
    }
}

fn pretty(value: &impl Serialize) -> Result<String> {
    serde_json::to_string_pretty(value).context("a report is plain data")
}
