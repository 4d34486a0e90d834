//! What runs with faults share.

use anyhow::{Result, ensure};
use heliograph_chaos_tests::{checker::Verdict, workload::Report};
use rand::{SeedableRng as _, rngs::SmallRng};

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
