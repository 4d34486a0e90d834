//! Runs a cluster through faults and judges it: 0 valid, 1 invalid, 2 unknown.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context as _, Result};
use clap::{Args, Parser, Subcommand};
use heliograph_chaos_tests::{
    checker::{Outcome, check},
    cluster::{heliograph_binary, run_directory},
    history::History,
    namespace,
    report::{About, Judged, REPORT},
    run::{self, Order, Profile, Until, Watcher, profile::BUILT_IN},
};
use indicatif::{ProgressBar, ProgressStyle};
use tokio_util::sync::CancellationToken;

/// The status of a program that could not do what it was asked for.
const FAILED: u8 = 3;
/// What a build with faults compiled in reads to know which of them is on.
const MUTANT: &str = "HELIOGRAPH_MUTANT";
/// The faults that can be compiled in (feature `mutants` of the node).
const MUTANTS: [&str; 3] = ["ack-before-sync", "no-fence", "acknowledgements-not-replicated"];

/// Tortures a cluster and says whether it kept its promises.
///
/// Exit status: 0 valid, 1 invalid, 2 unknown (too little was seen to be sure; never a pass), 3 the run
/// itself failed.
#[derive(Debug, Parser)]
#[command(name = "chaos", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a profile and judge what happened
    Run(RunArgs),
    /// Judge a recorded history again
    Judge {
        /// The folder of a run, or its history.jsonl
        #[arg(value_name = "PATH")]
        path: PathBuf,
        /// The profile it was run with
        #[arg(long)]
        profile: String,
    },
    /// Run builds with a fault compiled in: each must be judged invalid
    Mutants {
        /// A build of the node with `--features mutants`
        #[arg(long, value_name = "FILE")]
        bin: PathBuf,
        /// Only this one
        #[arg(long, value_parser = MUTANTS)]
        only: Option<String>,
        #[command(flatten)]
        common: Common,
    },
    /// List the profiles, or print one to copy and change
    Profiles {
        /// Which to print
        name: Option<String>,
    },
}

#[derive(Debug, Args)]
struct RunArgs {
    #[command(flatten)]
    common: Common,
    /// The build under test; the one beside this program, built when needed, if not given
    #[arg(long, value_name = "FILE")]
    bin: Option<PathBuf>,
    /// The other build of a rolling upgrade
    #[arg(long, value_name = "FILE")]
    upgrade_to: Option<PathBuf>,
}

#[derive(Debug, Clone, Args)]
struct Common {
    /// A built-in profile, or a TOML file
    #[arg(long, default_value = "standard")]
    profile: String,
    /// Decides which node, when and how; by chance if not given, and always told
    #[arg(long)]
    seed: Option<u64>,
    /// For how long faults are inflicted; each step of the profile is done once in any case
    #[arg(long)]
    minutes: Option<f64>,
    /// How many nodes: 3 or 5
    #[arg(long)]
    nodes: Option<u16>,
    /// Where the folder of the run goes
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Go on without an own network namespace: partitions are skipped
    #[arg(long)]
    no_namespace: bool,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match execute(cli) {
        Ok(outcome) => ExitCode::from(outcome.exit_status()),
        Err(error) => {
            eprintln!("chaos: {error:#}");
            ExitCode::from(FAILED)
        }
    }
}

fn execute(cli: Cli) -> Result<Outcome> {
    match cli.command {
        Command::Profiles { name } => list(name.as_deref()),
        Command::Judge { path, profile } => judge(&path, &profile),
        Command::Run(args) => {
            enter(&args.common);
            let order = order(&args.common, args.bin, args.upgrade_to)?;
            runtime()?.block_on(run_one(&order, &args.common, ""))
        }
        Command::Mutants { bin, only, common } => {
            enter(&common);
            runtime()?.block_on(mutants(&bin, only.as_deref(), &common))
        }
    }
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    runtime.context("cannot start the runtime")
}

/// Goes on in an own namespace, or says what that costs.
fn enter(common: &Common) {
    if common.no_namespace {
        eprintln!("No own network namespace: partitions are skipped.");
        return;
    }
    if let Err(error) = namespace::enter() {
        eprintln!("No own network namespace, so partitions are skipped: {error:#}.");
    }
}

fn list(name: Option<&str>) -> Result<Outcome> {
    match name {
        Some(name) => {
            let known = BUILT_IN.iter().find(|(known, _)| *known == name);
            let (_, text) = known.with_context(|| format!("there is no profile {name}"))?;
            print!("{text}");
        }
        None => {
            for (name, _) in BUILT_IN {
                let profile = Profile::load(name)?;
                println!("{name:<10} {} min  {}", profile.minutes, profile.about);
            }
        }
    }
    Ok(Outcome::Valid)
}

fn judge(path: &Path, profile: &str) -> Result<Outcome> {
    let file = if path.is_dir() { path.join("history.jsonl") } else { path.to_owned() };
    let history = History::load(&file).with_context(|| format!("{}", file.display()))?;
    let verdict = check(&history, &Profile::load(profile)?.expectation());
    print!("{verdict}");
    println!("{}", verdict.outcome());
    Ok(verdict.outcome())
}

fn order(common: &Common, bin: Option<PathBuf>, second: Option<PathBuf>) -> Result<Order> {
    let mut profile = Profile::load(&common.profile)?;
    profile.minutes = common.minutes.unwrap_or(profile.minutes);
    profile.nodes = common.nodes.unwrap_or(profile.nodes);
    profile.check()?;
    let binary = bin.map_or_else(heliograph_binary, Ok)?;
    let seed = common.seed.unwrap_or_else(|| u64::from(rand::random::<u32>()));
    Ok(Order { profile, seed, binary, second, environment: Vec::new(), until: Until::Done })
}

async fn run_one(order: &Order, common: &Common, variant: &str) -> Result<Outcome> {
    let folder = folder(order, common, variant)?;
    eprintln!("{}", command(order, common));
    let stop = CancellationToken::new();
    let interrupted = stop.clone();
    let listener = tokio::spawn(async move {
        if tokio::signal::ctrl_c().await.is_ok() {
            eprintln!("ending the faults; what was seen is judged");
            interrupted.cancel();
        }
    });
    let mut display = Display::new(order.profile.minutes);
    let finished = run::run(order, &folder, &stop, &mut display).await;
    listener.abort();
    display.bar.finish_and_clear();
    let finished = finished?;
    let cut_short = match stop.is_cancelled() {
        true => Some("interrupted".to_owned()),
        false => finished.cut_short,
    };
    let about = About {
        profile: order.profile.name.clone(),
        about: order.profile.about.clone(),
        seed: order.seed,
        minutes: order.profile.minutes,
        nodes: order.profile.nodes,
        build: order.binary.display().to_string(),
        command: command(order, common),
        cut_short,
        refused: finished.report.map(|report| report.refused).unwrap_or_default(),
    };
    let judged = Judged::new(about, &finished.history, &finished.verdict);
    judged.write(&folder)?;
    print!("{}", finished.verdict);
    if let Some(why) = &judged.about.cut_short {
        println!("cut short: {why}");
    }
    for refused in &judged.about.refused {
        println!("refused: {refused}");
    }
    println!("{}: {}", judged.outcome, folder.join(REPORT).display());
    Ok(judged.outcome)
}

/// A folder of its own for each run.
fn folder(order: &Order, common: &Common, variant: &str) -> Result<PathBuf> {
    let base = match &common.out {
        Some(out) => out.clone(),
        None => run_directory()?.join("reports"),
    };
    let name = format!("{}-{}{variant}", order.profile.name, order.seed);
    let mut folder = base.join(&name);
    for again in 2.. {
        if !folder.exists() {
            break;
        }
        folder = base.join(format!("{name}-{again}"));
    }
    std::fs::create_dir_all(&folder).with_context(|| format!("{}", folder.display()))?;
    Ok(folder)
}

/// What does the same again.
fn command(order: &Order, common: &Common) -> String {
    let mut command = format!(
        "cargo run --release -p heliograph-chaos-tests --bin chaos -- run --profile {} --seed {} \
         --minutes {} --nodes {} --bin {}",
        common.profile,
        order.seed,
        order.profile.minutes,
        order.profile.nodes,
        order.binary.display()
    );
    if let Some(second) = &order.second {
        command += &format!(" --upgrade-to {}", second.display());
    }
    if common.no_namespace {
        command += " --no-namespace";
    }
    for (name, value) in &order.environment {
        command = format!("{name}={value} {command}");
    }
    command
}

async fn mutants(bin: &Path, only: Option<&str>, common: &Common) -> Result<Outcome> {
    let mut missed = Vec::new();
    for mutant in MUTANTS.into_iter().filter(|mutant| only.is_none_or(|only| only == *mutant)) {
        let mut order = order(common, Some(bin.to_owned()), None)?;
        order.until = Until::Broken;
        order.environment.push((MUTANT.to_owned(), mutant.to_owned()));
        let outcome = run_one(&order, common, &format!("-{mutant}")).await?;
        println!("{mutant}: judged {outcome}");
        if outcome != Outcome::Invalid {
            missed.push(mutant);
        }
    }
    if missed.is_empty() {
        println!("every fault that was compiled in was found");
        return Ok(Outcome::Valid);
    }
    println!("NOT FOUND: {}", missed.join(", "));
    Ok(Outcome::Invalid)
}

/// How far a run is, on a terminal; a line a step elsewhere.
struct Display {
    bar: ProgressBar,
    accepted: u64,
}

impl Display {
    fn new(minutes: f64) -> Self {
        let style = ProgressStyle::with_template("{elapsed_precise} {spinner} {msg}");
        let bar = ProgressBar::new_spinner().with_style(style.expect("a good template"));
        bar.enable_steady_tick(Duration::from_millis(200));
        eprintln!("faults for {minutes} min, and then until each was there once");
        Self { bar, accepted: 0 }
    }
}

impl Watcher for Display {
    fn step(&mut self, what: &str) {
        if self.bar.is_hidden() {
            eprintln!(
                "{:>7.1} s  {} accepted  {what}",
                self.bar.elapsed().as_secs_f64(),
                self.accepted
            );
        }
        self.bar.set_message(format!("{} accepted  {what}", self.accepted));
    }

    fn accepted(&mut self, count: u64) {
        self.accepted = count;
    }
}
