//! What it costs a node to come back after each kind of fault: how long, what it reads from its disk,
//! what it is sent. Prints the table of `docs/guarantees.md`, and fails where a node that was away for a
//! moment is seeded anew instead of being told what it missed, or one that lost something is not found out.
//!
//! A program rather than a test of the harness: for the partition it goes into a network namespace
//! of its own. Where the system refuses that, the partition is left out.

mod support;

use std::{fs, io::ErrorKind, os::unix::fs::FileExt as _, process::ExitCode, time::Duration};

use anyhow::{Context as _, Result, ensure};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use heliograph_chaos_tests::{
    checker::Expectation,
    cluster::{LocalCluster, Options},
    faults::Unsynced,
    history::Fault,
    namespace,
    trial::Trial,
    wire::{Device, Rest, register},
    workload::Config,
};
use hyper::StatusCode;
use serde_json::json;
use support::metric;
use tokio::time::Instant;

/// The node that goes and comes back.
const NODE: u16 = 3;
const DEADLINE: Duration = Duration::from_secs(60);
const EXPECTATION: Expectation = Expectation::of_three(DEADLINE, DEADLINE);
/// Next to nothing: what flows meanwhile is not to be taken for recovery.
const WORKLOAD: Config =
    Config { mailboxes: 1, senders: 1, pace: Duration::from_secs(1), ..Config::modest() };

/// Counts replicas that were found damaged, each to begin anew.
const DAMAGED_REPLICAS: &str = "heliograph_cluster_damaged_replicas_total";

const MIB: u64 = 1 << 20;
/// Of a message.
const CONTENT_BYTES: u64 = 16 << 10;
/// What is there before the first fault.
const STORED: u64 = 24 * MIB / CONTENT_BYTES;
/// What is sent while the node is away.
const MISSED: u64 = 4 * MIB / CONTENT_BYTES;
/// Over the shards.
const MAILBOXES: usize = 64;
const AT_ONCE: usize = 16;

/// As operators have it, but for segments of which a run fills several.
const SETTINGS: [(&str, &str); 4] = [
    ("HELIOGRAPH_STORAGE__LOG_SEGMENT_SIZE", "8MiB"),
    ("HELIOGRAPH_STORAGE__CHECKPOINT_AGE", "2s"),
    ("HELIOGRAPH_STORAGE__SNAPSHOT_AGE", "1h"),
    ("HELIOGRAPH_STORAGE__SNAPSHOT_LOG_SIZE", "256MiB"),
];

/// What a node has read and been sent since its process began.
#[derive(Clone, Copy, Debug, Default)]
struct Traffic {
    /// From files.
    read: u64,
    /// On the lanes that carry Raft's log.
    told: u64,
    /// On the bulk connection: snapshots.
    bulk: u64,
    /// Snapshots it has installed.
    installed: u64,
}

impl Traffic {
    async fn of(cluster: &LocalCluster) -> Result<Self> {
        const RECEIVED: &str = "heliograph_transport_received_bytes_total";
        const INSTALLED: &str = "heliograph_storage_snapshots_installed_total";
        let io = fs::read_to_string(format!("/proc/{}/io", cluster.node(NODE)?.pid))?;
        let read = io.lines().find_map(|line| line.strip_prefix("rchar: ")).context("rchar")?;
        let all = metric(cluster, NODE, RECEIVED, "").await? as u64;
        let bulk = metric(cluster, NODE, RECEIVED, "bulk").await? as u64;
        let installed = metric(cluster, NODE, INSTALLED, "").await? as u64;
        Ok(Self { read: read.parse()?, told: all - bulk, bulk, installed })
    }

    fn since(self, before: Self) -> Self {
        Self {
            read: self.read - before.read,
            told: self.told - before.told,
            bulk: self.bulk - before.bulk,
            installed: self.installed - before.installed,
        }
    }
}

/// Puts messages into mailboxes that nobody reads.
struct Filler {
    devices: Vec<Device>,
    run: u64,
}

impl Filler {
    async fn start(cluster: &LocalCluster) -> Result<Self> {
        let mut devices = Vec::new();
        let mut rest = Rest::new(cluster.addresses()[0], None);
        for number in 0..AT_ONCE {
            devices.push(register(&mut rest, &format!("filler-{number}"), DEADLINE).await?);
        }
        Ok(Self { devices, run: 0 })
    }

    /// Sends so many messages, by the nodes that stay.
    async fn fill(&mut self, cluster: &LocalCluster, messages: u64) -> Result<()> {
        self.run += 1;
        let content = "A".repeat(CONTENT_BYTES as usize);
        let addresses = cluster.addresses();
        let sending = self.devices.iter().enumerate().map(|(at, device)| {
            let (content, run) = (&content, self.run);
            let mut rest = device.rest(addresses[at % 2]);
            async move {
                for number in (at as u64..messages).step_by(AT_ONCE) {
                    let body = json!({
                        "recipient_id": format!("box-{}", number as usize % MAILBOXES),
                        "message_id": format!("m-{run}-{number}"), "content": content});
                    let until = Instant::now() + DEADLINE;
                    loop {
                        // Leaders may be changing: the id makes it safe to ask again.
                        let reply = rest.post("/api/v1/messages/send", &body, DEADLINE).await?;
                        if reply.status == StatusCode::ACCEPTED {
                            break;
                        }
                        ensure!(Instant::now() < until, "{reply:?}");
                    }
                }
                Ok(())
            }
        });
        stream::iter(sending).buffer_unordered(AT_ONCE).try_collect().await
    }
}

/// How a node goes, and how it comes back.
struct Case {
    what: &'static str,
    goes: fn() -> Vec<Fault>,
    comes: fn() -> Fault,
    /// Whether it is another process afterwards, which counts from zero.
    is_anew: bool,
    loses: Loses,
}

/// What is missing beside what was sent meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Loses {
    Nothing,
    /// What some replicas need.
    ALittle,
    All,
}

fn restart() -> Fault {
    Fault::Restart { nodes: vec![NODE] }
}

const CASES: [Case; 5] = [
    Case {
        what: "`kill -9`",
        goes: || vec![Fault::Kill { nodes: vec![NODE] }],
        comes: restart,
        is_anew: true,
        loses: Loses::Nothing,
    },
    Case {
        what: "clean restart",
        goes: || vec![Fault::Stop { node: NODE }],
        comes: restart,
        is_anew: true,
        loses: Loses::Nothing,
    },
    Case {
        what: "partition",
        goes: || {
            let cuts = vec![(1, NODE), (NODE, 1), (2, NODE), (NODE, 2)];
            vec![Fault::Partition { shape: "single".to_owned(), cuts, clients: Vec::new() }]
        },
        comes: || Fault::Heal,
        is_anew: false,
        loses: Loses::Nothing,
    },
    Case {
        what: "damaged log",
        goes: || vec![Fault::Stop { node: NODE }],
        comes: restart,
        is_anew: true,
        loses: Loses::ALittle,
    },
    Case {
        what: "lost disk, replaced",
        goes: || vec![Fault::LoseDisk { node: NODE }],
        comes: || Fault::Replace { node: NODE },
        is_anew: true,
        loses: Loses::All,
    },
];

/// Needs a library under the process, which itself reads what is about to be written over: in a
/// cluster of its own.
const POWER_LOSS: Case = Case {
    what: "power loss (the fault library reads, too)",
    goes: || vec![Fault::PowerCut { nodes: vec![NODE], unsynced: Unsynced::Lost, seed: 1 }],
    comes: restart,
    is_anew: true,
    loses: Loses::Nothing,
};

/// Overwrites a few bytes in the middle of the fullest segment of the stopped node's log, and takes
/// its outline away: behind one the damage would be found by the scrub, some time after the start.
fn damage_log(cluster: &LocalCluster) -> Result<()> {
    let mut fullest = None;
    for entry in fs::read_dir(cluster.node(NODE)?.data_dir.join("log"))? {
        let path = entry?.path();
        if path.extension().is_none_or(|extension| extension != "log") {
            continue;
        }
        let content = fs::read(&path)?;
        let used = content.iter().rposition(|byte| *byte != 0).unwrap_or(0);
        fullest = fullest.max(Some((used, path)));
    }
    let (used, path) = fullest.context("a log has segments")?;
    fs::File::options().write(true).open(&path)?.write_all_at(b"damage", used as u64 / 2)?;
    match fs::remove_file(path.with_extension("outline")) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    }
}

async fn recover(trial: &mut Trial, filler: &mut Filler, case: &Case) -> Result<()> {
    for fault in (case.goes)() {
        trial.inflict(fault).await?;
    }
    if case.what == "damaged log" {
        damage_log(&trial.cluster)?;
    }
    filler.fill(&trial.cluster, MISSED).await?;
    let before = match case.is_anew {
        true => Traffic::default(),
        false => Traffic::of(&trial.cluster).await?,
    };
    let began = Instant::now();
    trial.inflict((case.comes)()).await?;
    let ready = began.elapsed();
    let caught_up = ready + trial.cluster.caught_up().await?;
    let cost = Traffic::of(&trial.cluster).await?.since(before);
    let mib = |bytes: u64| bytes as f64 / MIB as f64;
    println!(
        "| {} | {:.1} s | {:.1} s | {:.1} MiB | {:.1} MiB | {:.1} MiB in {} |",
        case.what,
        ready.as_secs_f64(),
        caught_up.as_secs_f64(),
        mib(cost.read),
        mib(cost.told),
        mib(cost.bulk),
        cost.installed
    );
    match case.loses {
        Loses::Nothing => ensure!(cost.installed == 0, "it had all but the last: {cost:?}"),
        Loses::ALittle => {
            let damaged = metric(&trial.cluster, NODE, DAMAGED_REPLICAS, "").await?;
            ensure!(damaged > 0.0, "the damage cost nothing");
        }
        Loses::All => {
            // Content comes as base64 and is kept as bytes.
            let stored = STORED * CONTENT_BYTES * 3 / 4;
            ensure!(cost.told + cost.bulk > stored, "where does it have it from? {cost:?}");
        }
    }
    Ok(())
}

/// A cluster with messages, which is dealt with so, case by case.
async fn run(mut options: Options, cases: &[Case]) -> Result<()> {
    options.settings = SETTINGS.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
    let mut trial = Trial::start(options, WORKLOAD).await?;
    trial.flow(Duration::ZERO).await?;
    trial.workload.stop_sending().await?;
    let filled = async {
        let mut filler = Filler::start(&trial.cluster).await?;
        filler.fill(&trial.cluster, STORED).await?;
        Ok::<_, anyhow::Error>(filler)
    };
    let mut filler = filled.await.inspect_err(|_| trial.cluster.keep_logs())?;
    for case in cases {
        if case.what == "partition" && !namespace::is_inside() {
            eprintln!("no partition: it needs an own network namespace");
            continue;
        }
        let recovered = recover(&mut trial, &mut filler, case).await.context(case.what);
        recovered.inspect_err(|_| trial.cluster.keep_logs())?;
    }
    trial.compare_replicas().await?;
    // Of one message no verdict can be made but that it was not lost.
    let (_, report) = trial.judge(&EXPECTATION).await?;
    ensure!(report.missing == 0 && report.refused.is_empty(), "{report:?}");
    Ok(())
}

async fn run_all() -> Result<()> {
    println!("| fault | ready after | caught up after | read from files | told | snapshots |");
    println!("|---|---|---|---|---|---|");
    run(Options::three("recovery"), &CASES).await?;
    run(Options::three_faulty("recovery-power", 1), &[POWER_LOSS]).await
}

fn main() -> ExitCode {
    // The words of the harness: a list, and names of other tests.
    let mut words = std::env::args().skip(1);
    if words.any(|word| word == "--list" || !word.starts_with('-') && !"recovery".contains(&*word))
    {
        return ExitCode::SUCCESS;
    }
    if let Err(why) = namespace::enter() {
        eprintln!("no own network namespace: {why:#}");
    }
    let runtime = tokio::runtime::Runtime::new().expect("a runtime can be made");
    match runtime.block_on(run_all()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}
