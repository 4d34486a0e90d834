//! Power cuts: what was accepted is there afterwards, on every replica.
//!
//! `HELIOGRAPH_CHAOS_SEED` repeats a run's decisions, `HELIOGRAPH_CHAOS_ROUNDS` makes it longer.

use std::time::Duration;

use anyhow::Result;
use heliograph_chaos_tests::{
    checker::Expectation, cluster::Options, faults::Unsynced, history::Fault, trial::Trial,
    workload::Config,
};
use rand::Rng as _;

use crate::support::{Run, assert_good};

/// Nothing is promised while there is no majority; what is asked is that it goes on afterwards.
const EXPECTATION: Expectation =
    Expectation::of_three(Duration::from_secs(60), Duration::from_secs(15));

/// What makes syncs take the time a disk takes.
const SLOW_SYNC: &str = "sync * delay=12";

/// One power cut of one node, then one of all nodes at once, in each round: what each leaves of what
/// was not synced is decided by chance.
#[tokio::test(flavor = "multi_thread")]
async fn power_cuts_lose_nothing_accepted_on_any_replica() -> Result<()> {
    let mut run = Run::begin(1);
    let mut trial =
        Trial::start(Options::three_faulty("power", run.seed), Config::modest()).await?;
    // Syncs as slow as a real disk's: a cut finds writes that wait for one.
    for node in [1, 2, 3] {
        trial.cluster.disk(node)?.fail(SLOW_SYNC)?;
    }
    for _ in 0..run.rounds {
        for nodes in [vec![run.rng.random_range(1..=3)], vec![1, 2, 3]] {
            // Any moment: also between two checkpoints, in a snapshot, at the roll of a segment.
            trial.flow(Duration::from_millis(run.rng.random_range(500..4000))).await?;
            let unsynced = Unsynced::ALL[run.rng.random_range(0..Unsynced::ALL.len())];
            let seed = run.rng.random();
            let cut = Fault::PowerCut { nodes: nodes.clone(), unsynced, seed };
            eprintln!("{cut:?}");
            trial.inflict(cut).await?;
            trial.inflict(Fault::Restart { nodes }).await?;
        }
    }
    trial.flow(Duration::from_secs(1)).await?;
    // Nobody has read yet: all that was accepted is to be found on every replica.
    trial.compare_replicas().await?;
    let (verdict, report) = trial.judge(&EXPECTATION).await?;
    assert_good(&verdict, &report)
}
