//! Puts load on a cluster and prints what it measured, as JSON.

mod args;
mod flags;

use std::{fs, time::Duration};

use anyhow::{Context as _, Result, ensure};
use clap::Parser as _;
use heliograph_chaos_tests::{
    descriptors,
    load::{
        beside, closed, cold, crowd::Crowd, disk, idle, idle_cpu, kill, open, stalls, stored,
        suite, sweep, target::Target,
    },
};
use serde::Serialize;

use self::args::{Cli, Command};

fn main() -> Result<()> {
    // The nodes inherit it.
    descriptors::take_all();
    // One thread: the cores are for the nodes, and a second one would cost wake-ups between both.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let json = runtime.block_on(run(Cli::parse()))?;
    println!("{json}");
    Ok(())
}

async fn run(cli: Cli) -> Result<String> {
    let fresh = cli.fresh();
    match cli.command {
        Command::Disk { writes } => pretty(&disk::here(writes).await?),
        Command::Stalls { seconds } => pretty(&stalls::here(Duration::from_secs(seconds)).await?),
        Command::Cold { cold } => pretty(&cold::run(&fresh, cold.plan()).await?),
        Command::Kill { kill } => pretty(&kill::run(&fresh, kill.plan()).await?),
        Command::Suite(suite) => {
            ensure!(cli.cluster.is_none(), "the suite has clusters of its own");
            pretty(&suite::run(&suite.plan(fresh)).await)
        }
        _ => on_target(cli).await,
    }
}

/// What can be measured on a cluster that runs already, too.
async fn on_target(cli: Cli) -> Result<String> {
    let target = match &cli.cluster {
        Some(directory) => Target::running(directory)?,
        None => Target::fresh(&cli.fresh()).await?,
    };
    match cli.command {
        Command::Closed { closed, idle_connections } => {
            let _crowd = match idle_connections {
                0 => None,
                many => Some(Crowd::beside(&target, many).await?),
            };
            pretty(&closed::run(&target, closed.plan()).await?)
        }
        Command::Open { rate, traffic } => {
            pretty(&open::run(&target, open::Plan { rate, traffic: traffic.plan() }).await?)
        }
        Command::Sweep { rates, plot, traffic } => {
            let plan = sweep::Plan { rates: rates.list(), traffic: traffic.plan() };
            let report = sweep::run(&target, plan).await?;
            if let Some(path) = plot {
                fs::write(&path, report.plot())
                    .with_context(|| format!("cannot write {}", path.display()))?;
            }
            pretty(&report)
        }
        Command::Idle { connections, at, seconds } => {
            let hold = Duration::from_secs(seconds);
            pretty(&idle::run(&target, idle::Plan { connections, at, hold }).await?)
        }
        Command::IdleCpu { seconds } => {
            let shards = cli.cluster.is_none().then_some(cli.fresh().shards);
            pretty(&idle_cpu::run(&target, shards, Duration::from_secs(seconds)).await?)
        }
        Command::Stored { messages, baseline, stored_in, settle, runs, closed } => {
            let plan = stored::Plan {
                baseline,
                messages,
                mailboxes: stored_in,
                settle: Duration::from_secs(settle),
                runs,
                load: closed.plan(),
            };
            pretty(&stored::run(&target, plan).await?)
        }
        Command::Beside { idle_connections, runs, closed } => {
            let plan = beside::Plan { connections: idle_connections, runs, load: closed.plan() };
            pretty(&beside::run(&target, plan).await?)
        }
        Command::Disk { .. }
        | Command::Stalls { .. }
        | Command::Cold { .. }
        | Command::Kill { .. }
        | Command::Suite(_) => {
            unreachable!("they bring their own cluster or need none: see above")
        }
    }
}

fn pretty(value: &impl Serialize) -> Result<String> {
    serde_json::to_string_pretty(value).context("a report is plain data")
}
