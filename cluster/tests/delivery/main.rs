//! Delivery over three simulated nodes: one single-threaded runtime with paused time, simulated
//! network and disks.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod allocations;
mod bulk;
mod cluster;
mod device;
mod drain;
mod restart;
mod rolling;
mod scenarios;
mod slow_log;
mod snapshots;
mod space;
mod trouble;

/// Runs `scenario` in a runtime of its own; everything random follows from `seed`.
fn simulate<F: Future<Output = ()>>(seed: u64, scenario: impl FnOnce(u64) -> F) {
    heliograph_cluster::simulation::seed_raft(seed);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(scenario(seed));
}
