//! Whether many idle connections make a load slower: with and without them, in turns.

use anyhow::{Result, ensure};
use serde::Serialize;

use super::{
    closed,
    crowd::{At, Crowd},
    fleet::devices,
    report::{LoadReport, median},
    target::Target,
};

/// What to measure.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Idle connections, over all nodes.
    pub connections: u32,
    /// Pairs of loads.
    pub runs: u32,
    /// The load.
    pub load: closed::Plan,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct BesideReport {
    /// Idle connections.
    pub connections: u32,
    /// Messages accepted a second without them: the median.
    pub without: f64,
    /// With them.
    pub with: f64,
    /// The rate with them against that without.
    pub ratio: f64,
    /// The loads: without, with, and so on.
    pub loads: Vec<LoadReport>,
}

/// Measures.
///
/// # Errors
/// When a device cannot be registered or connected, a connection is lost, or a load fails.
pub async fn run(target: &Target, plan: Plan) -> Result<BesideReport> {
    let doors = target.doors();
    let idle = devices(doors, "beside", plan.connections).await?;
    let mut loads = Vec::new();
    for run in 1..=plan.runs {
        eprintln!("round {run} of {}", plan.runs);
        loads.push(closed::run(target, plan.load).await?);
        let crowd = Crowd::gather(doors, At::All, idle.clone()).await?;
        loads.push(closed::run(target, plan.load).await?);
        let alive = crowd.alive();
        ensure!(alive == plan.connections, "{alive} idle connections are left");
    }
    let rates = |first| loads.iter().skip(first).step_by(2).map(|load| load.accepted_per_second);
    let (without, with) = (median(rates(0)), median(rates(1)));
    Ok(BesideReport { connections: plan.connections, without, with, ratio: with / without, loads })
}
