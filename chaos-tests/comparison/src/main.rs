//! The same work for RabbitMQ, NATS JetStream and Heliograph on this machine. `run` in this
//! directory does all of it; what is compared and how fair it is tells docs/comparison.md.

use std::{net::TcpListener, path::PathBuf, time::Duration};

use anyhow::{Context as _, Result, bail};
use clap::{Args, Parser, Subcommand, ValueEnum};

mod counts;
mod heliograph;
mod kills;
mod measure;
mod message;
mod nats;
mod peer;
mod process;
mod rabbitmq;
mod report;
mod results;
mod visit;
mod wait;
mod work;

use crate::{
    heliograph::{Heliograph, Programs},
    nats::{Nats, Sync},
    peer::Setting,
    rabbitmq::RabbitMq,
    report::Report,
    results::Visit,
    visit::{Agenda, Peer, visit},
};

/// Where blocks of ports begin: below Linux' range for outgoing connections, so that no client
/// socket sits on a node's port when the node comes back.
const FIRST_PORT: u16 = 22_000;
/// How many ports a cluster has.
const PORTS: u16 = 32;
/// How many blocks are tried.
const BLOCKS: u16 = 100;

/// Compare message systems on the same work.
#[derive(Debug, Parser)]
#[command(name = "comparison", max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start a cluster, put it to work, stop it; adds a line of JSON to the results
    Visit(VisitArgs),
    /// Print the medians of results, side by side
    Report {
        /// As JSON
        #[arg(long)]
        json: bool,
        /// Results of visits
        #[arg(required = true)]
        results: Vec<PathBuf>,
    },
}

#[derive(Debug, Args)]
struct VisitArgs {
    /// Which system
    #[arg(long, value_enum)]
    system: System,
    /// Where its data goes, below a directory that is removed afterwards
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// Where the result is added
    #[arg(long, value_name = "FILE")]
    results: PathBuf,
    /// `heliograph`, as built
    #[arg(long, value_name = "FILE", default_value = "target/release/heliograph")]
    heliograph: PathBuf,
    /// The project's load generator, as built
    #[arg(long, value_name = "FILE", default_value = "target/release/load")]
    load: PathBuf,
    /// Shards of Heliograph; by default as many as `heliograph dev` makes
    #[arg(long, default_value_t = 3)]
    shards: u32,
    /// Streams that NATS spreads the mailboxes over
    #[arg(long, default_value_t = 16)]
    streams: u32,
    /// Leave the loads out
    #[arg(long)]
    no_loads: bool,
    /// Nodes to kill, one after another
    #[arg(long, default_value_t = 0)]
    kills: u32,
    /// Mailboxes to fill with a message each
    #[arg(long, default_value_t = 0)]
    fill: u32,
    /// Seconds of each load that are not measured
    #[arg(long, default_value_t = 2)]
    warm_up: u64,
    /// Seconds of each load that are measured
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,
}

/// A system and how it is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum System {
    /// Ours
    Heliograph,
    /// Quorum queues
    Rabbitmq,
    /// JetStream as it comes: it does not sync messages
    Nats,
    /// JetStream on a directory whose files the kernel syncs with each write
    NatsSync,
}

fn main() -> Result<()> {
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(async {
        match Cli::parse().command {
            Command::Report { json, results } => print(json, &results),
            Command::Visit(args) => tokio::select! {
                result = run(&args) => result,
                // Everything that was started ends with what holds it.
                signal = interrupted() => signal.and_then(|()| bail!("interrupted")),
            },
        }
    })
}

async fn interrupted() -> Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut interrupt, mut terminate) =
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    tokio::select! {
        _ = interrupt.recv() => Ok(()),
        _ = terminate.recv() => Ok(()),
    }
}

fn print(json: bool, results: &[PathBuf]) -> Result<()> {
    let mut visits = Vec::new();
    for path in results {
        visits.extend(results::read(path)?);
    }
    let report = Report::of(&visits);
    if json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print!("{}", report.markdown());
    }
    Ok(())
}

async fn run(args: &VisitArgs) -> Result<()> {
    let data = &args.data;
    std::fs::create_dir_all(data).with_context(|| format!("cannot make {}", data.display()))?;
    let data = data.canonicalize()?;
    let directory = tempfile::Builder::new().prefix("visit-").tempdir_in(&data)?;
    let setting = Setting { directory: directory.path(), first_port: free_ports()? };
    let agenda = Agenda {
        loads: !args.no_loads,
        kills: args.kills,
        fill: args.fill,
        warm_up: Duration::from_secs(args.warm_up),
        time: Duration::from_secs(args.seconds),
    };
    let result = visit_system(args, setting, agenda).await;
    let visited = result
        .inspect_err(|_| eprintln!("what its nodes said:\n{}", last_words(directory.path())))?;
    results::append(&args.results, &visited)
}

async fn visit_system(args: &VisitArgs, setting: Setting<'_>, agenda: Agenda) -> Result<Visit> {
    let disk = setting.directory;
    match args.system {
        System::Heliograph => {
            let programs = Programs { node: args.heliograph.clone(), load: args.load.clone() };
            let cluster = Heliograph::start(setting, programs, args.shards).await?;
            visit("heliograph", cluster, agenda, disk).await
        }
        System::Rabbitmq => {
            let cluster = RabbitMq::start(setting).await?;
            visit("rabbitmq", Peer(cluster), agenda, disk).await
        }
        System::Nats => {
            let cluster = Nats::start(setting, args.streams, Sync::Lazy).await?;
            visit("nats", Peer(cluster), agenda, disk).await
        }
        System::NatsSync => {
            let cluster = Nats::start(setting, args.streams, Sync::EachWrite).await?;
            visit("nats-sync", Peer(cluster), agenda, disk).await
        }
    }
}

/// The first of a block of ports on loopback that nobody has.
fn free_ports() -> Result<u16> {
    let free = |port| TcpListener::bind(("127.0.0.1", port)).is_ok();
    let blocks = (0..BLOCKS).map(|block| FIRST_PORT + block * PORTS);
    let mut blocks = blocks.filter(|first| (*first..first + PORTS).all(free));
    blocks.next().context("no block of free ports")
}

/// How much of each log is shown after a failure.
const LAST_BYTES: usize = 2_000;

/// The ends of the logs, which are removed with the data.
fn last_words(directory: &std::path::Path) -> String {
    let files = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let logs = files
        .map(|file| file.path())
        .filter(|path| path.extension().is_some_and(|ending| ending == "log" || ending == "out"));
    let mut words = String::new();
    for log in logs {
        let text = std::fs::read(&log).unwrap_or_default();
        let end = &text[text.len().saturating_sub(LAST_BYTES)..];
        words.push_str(&format!("--- {}\n{}\n", log.display(), String::from_utf8_lossy(end)));
    }
    words
}
