//! Three nodes are restarted one after the other under traffic: nothing is lost, nothing comes twice
//! to who resumes, order is kept, each process ends with 0 inside its deadline.

use std::time::Duration;

use anyhow::{Result, ensure};
use heliograph_chaos_tests::{
    checker::{Expectation, patience},
    cluster::Options,
    history::{Fault, Operation},
    trial::Trial,
    workload::Config,
};
use tokio::time::Instant;

use crate::support::assert_good;

/// How long traffic flows between two steps.
const PAUSE: Duration = Duration::from_secs(2);

/// A request waits less than 1 s on a machine of its own: that is measured and reported
/// (`docs/guarantees.md`). What fails the test is far more than other builds on the machine add.
const PATIENCE: Duration = Duration::from_secs(10);

#[tokio::test(flavor = "multi_thread")]
async fn a_rolling_restart_loses_nothing_and_repeats_nothing() -> Result<()> {
    // Nobody moves by itself: who changes nodes does so because its node went away.
    let config = Config { moves_every: u32::MAX, ..Config::modest() };
    let mut trial = Trial::start(Options::three("rolling"), config).await?;
    trial.workload.start_reading();
    trial.flow(PAUSE).await?;
    for node in [1, 2, 3] {
        let begun = Instant::now();
        // Fails unless it ends in time, with 0.
        trial.inflict(Fault::Stop { node }).await?;
        let stopped = begun.elapsed();
        trial.inflict(Fault::Restart { nodes: vec![node] }).await?;
        eprintln!("node {node}: stopped in {stopped:?}, back after {:?}", begun.elapsed());
        trial.flow(PAUSE).await?;
    }
    let recorder = trial.recorder.clone();
    let expectation = Expectation::of_three(PATIENCE, PATIENCE);
    let (verdict, report) = trial.judge(&expectation).await?;
    let history = recorder.history();
    let stops = history.events.iter().filter_map(|event| match event.operation {
        Operation::Fault { fault: Fault::Stop { .. }, .. } => Some(event.at),
        _ => None,
    });
    let from = stops.min().unwrap_or_default();
    let waits = patience::waits(&history, from);
    eprintln!("from the first stop on, {waits}");
    assert_good(&verdict, &report)?;
    ensure!(waits.count > 0 && waits.longest < PATIENCE, "{waits}");
    // Three recipients use the product's client, each at one node: each had to go on somewhere.
    ensure!(report.resumed.by_ticket > 0, "nobody resumed by ticket: {report:?}");
    Ok(())
}
