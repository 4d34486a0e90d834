//! With traffic flowing, nodes are killed: nothing accepted is lost, order is kept, traffic goes
//! on.

use std::time::Duration;

use anyhow::{Result, ensure};
use heliograph_chaos_tests::{
    checker::Expectation, cluster::Options, history::Fault, trial::Trial, workload::Config,
};

use crate::support::assert_good;

/// How long after a fault traffic is watched.
const WINDOW: Duration = Duration::from_secs(5);

/// Traffic must go on within 2 s. That is what is reported; what fails the test is far more than
/// a machine shared with other builds adds to it, because what is tested here is that it goes on.
const PAUSE_MAX: Duration = Duration::from_secs(10);

const EXPECTATION: Expectation = Expectation::of_three(WINDOW, PAUSE_MAX);

fn kill(nodes: &[u16]) -> Fault {
    Fault::Kill { nodes: nodes.to_vec() }
}

fn restart(nodes: &[u16]) -> Fault {
    Fault::Restart { nodes: nodes.to_vec() }
}

#[tokio::test(flavor = "multi_thread")]
async fn killing_any_one_node_loses_nothing_and_traffic_goes_on() -> Result<()> {
    let mut trial = Trial::start(Options::three("kill-one"), Config::modest()).await?;
    trial.workload.start_reading();
    trial.flow(Duration::from_secs(2)).await?;
    // Each node leads some shards: each kill takes leaders away. After the first round every node
    // has been away and come back, and the cluster lives on what the returned ones caught up with.
    for node in [1, 2, 3] {
        trial.inflict(kill(&[node])).await?;
        trial.flow(WINDOW).await?;
        trial.inflict(restart(&[node])).await?;
        trial.flow(Duration::from_secs(2)).await?;
    }
    let (verdict, report) = trial.judge(&EXPECTATION).await?;
    assert_good(&verdict, &report)?;
    // One pause for each fault, each fault one that the cluster must bear.
    ensure!(verdict.pauses.len() == 6, "{verdict}");
    ensure!(verdict.pauses.iter().all(|pause| pause.promised), "{verdict}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_accepted_while_a_node_was_away_survives_the_others() -> Result<()> {
    // Nobody reads: everything accepted stays where it is until the end.
    let mut trial = Trial::start(Options::three("catch-up"), Config::modest()).await?;
    trial.inflict(kill(&[1])).await?;
    trial.flow(WINDOW).await?;
    trial.inflict(restart(&[1])).await?;
    // Now node 1 and one other must do, whichever that is.
    for node in [2, 3] {
        trial.inflict(kill(&[node])).await?;
        trial.flow(Duration::from_secs(3)).await?;
        trial.inflict(restart(&[node])).await?;
    }
    trial.workload.start_reading();
    let (verdict, report) = trial.judge(&EXPECTATION).await?;
    assert_good(&verdict, &report)
}

#[tokio::test(flavor = "multi_thread")]
async fn killing_all_nodes_at_once_loses_nothing() -> Result<()> {
    let mut trial = Trial::start(Options::three("kill-all"), Config::modest()).await?;
    // Nothing is promised while there is no majority; what is asked is that it goes on afterwards.
    let expectation = Expectation { window: Duration::from_secs(60), ..EXPECTATION };
    // A backlog that nobody has read, and then live traffic.
    trial.flow(Duration::from_secs(3)).await?;
    for round in 0..2 {
        trial.inflict(kill(&[1, 2, 3])).await?;
        trial.inflict(restart(&[1, 2, 3])).await?;
        if round == 0 {
            trial.workload.start_reading();
        }
        trial.flow(Duration::from_secs(3)).await?;
    }
    let (verdict, report) = trial.judge(&expectation).await?;
    assert_good(&verdict, &report)
}
