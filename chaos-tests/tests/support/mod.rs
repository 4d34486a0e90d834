//! What runs with faults share.
#![allow(dead_code, reason = "not every run needs all of it")]

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use heliograph_chaos_tests::{
    checker::Verdict, cluster::LocalCluster, wire::Rest, workload::Report,
};
use rand::{SeedableRng as _, rngs::SmallRng};
use tokio::time::{Instant, sleep};

/// Repeats a run's decisions.
const SEED_VARIABLE: &str = "HELIOGRAPH_CHAOS_SEED";
/// How long a run is.
const ROUNDS_VARIABLE: &str = "HELIOGRAPH_CHAOS_ROUNDS";

/// What decides a run.
pub(crate) struct Run {
    pub(crate) seed: u64,
    pub(crate) rounds: u32,
    pub(crate) rng: SmallRng,
}

impl Run {
    /// From the environment, else by chance and with so many rounds. Prints what it takes to run it
    /// again.
    pub(crate) fn begin(rounds: u32) -> Self {
        let number = |name| std::env::var(name).ok().and_then(|text: String| text.parse().ok());
        let seed = number(SEED_VARIABLE).unwrap_or_else(rand::random);
        let rounds = number(ROUNDS_VARIABLE).map_or(rounds, |rounds: u64| rounds as u32);
        eprintln!("{SEED_VARIABLE}={seed} {ROUNDS_VARIABLE}={rounds}");
        Self { seed, rounds, rng: SmallRng::seed_from_u64(seed) }
    }
}

/// Nothing was lost, and nobody was answered what he should not be.
pub(crate) fn assert_good(verdict: &Verdict, report: &Report) -> Result<()> {
    ensure!(verdict.passed(), "{verdict}");
    ensure!(report.refused.is_empty(), "{:?}", report.refused);
    ensure!(report.missing == 0, "{report:?}");
    Ok(())
}

/// How long one question to a node may take.
const QUESTION: Duration = Duration::from_secs(10);
/// Between two looks at something that tells nobody of itself.
const POLL: Duration = Duration::from_millis(50);
/// Far longer than anything takes that is waited for.
const DEADLINE: Duration = Duration::from_secs(90);

/// A metric of a node: the sum over its samples whose labels contain `label`; 0 where there is none.
pub(crate) async fn metric(
    cluster: &LocalCluster,
    node: u16,
    name: &str,
    label: &str,
) -> Result<f64> {
    let reply = Rest::new(cluster.node(node)?.http, None).get("/metrics", QUESTION).await?;
    let text = reply.body.as_str().context("metrics are text")?;
    let mut sum = 0.0;
    for line in text.lines() {
        let Some(rest) = line.strip_prefix(name) else { continue };
        let Some((labels, value)) = rest.split_once(' ') else { continue };
        let is_it = labels.is_empty() || labels.starts_with('{');
        if is_it && labels.contains(label) {
            sum += value.parse::<f64>().context("a metric is a number")?;
        }
    }
    Ok(sum)
}

/// Waits until a metric of a node is at least `least`. While a process begins anew it answers
/// nothing.
pub(crate) async fn at_least(
    cluster: &LocalCluster,
    node: u16,
    name: &str,
    least: f64,
) -> Result<()> {
    let until = Instant::now() + DEADLINE;
    loop {
        let value = metric(cluster, node, name, "").await;
        if value.as_ref().is_ok_and(|value| *value >= least) {
            return Ok(());
        }
        ensure!(Instant::now() < until, "{name} of node {node} stays at {value:?}");
        sleep(POLL).await;
    }
}
