//! Logging and the metrics recorder: installed once, before anything else runs.

use std::{io::IsTerminal as _, time::Duration};

use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

use crate::config::{LogFormat, LogSection};

/// How often the recorder folds what was measured into its buckets: often enough that nothing
/// piles up between two scrapes that never come.
const UPKEEP: Duration = Duration::from_secs(5);
/// The buckets of every duration, in seconds: a sync on fast flash (0.1 ms) to the longest deadline.
const SECONDS: [f64; 16] = [
    0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
    5.0, 10.0,
];
/// The buckets of every size, in bytes: a small frame to the largest batch.
const BYTES: [f64; 10] = [
    64.0,
    256.0,
    1_024.0,
    4_096.0,
    16_384.0,
    65_536.0,
    262_144.0,
    1_048_576.0,
    4_194_304.0,
    16_777_216.0,
];
/// The buckets of everything else that is counted: how many in a batch.
const COUNTS: [f64; 11] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1_024.0];

/// Reads a log filter.
pub(crate) fn filter(level: &str) -> Option<EnvFilter> {
    if level.trim().is_empty() {
        return None;
    }
    EnvFilter::try_new(level).ok()
}

/// Starts logging to standard error.
pub(crate) fn start_logging(config: &LogSection) {
    let filter = filter(&config.level).expect("the configuration was checked");
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match config.format {
        LogFormat::Json => builder.json().init(),
        LogFormat::Text => builder.with_ansi(std::io::stderr().is_terminal()).init(),
    }
}

/// Installs the process's metrics recorder.
///
/// # Errors
/// When one is installed already.
pub(crate) fn start_metrics() -> Result<PrometheusHandle, BuildError> {
    PrometheusBuilder::new()
        .set_buckets(&COUNTS)?
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS)?
        .set_buckets_for_metric(Matcher::Suffix("_bytes".to_owned()), &BYTES)?
        .install_recorder()
}

/// Keeps the recorder tidy until `stopping`.
pub(crate) async fn upkeep(recorder: PrometheusHandle, stopping: CancellationToken) {
    let mut ticks = tokio::time::interval(UPKEEP);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased; // a stopping process needs none
            () = stopping.cancelled() => return,
            _ = ticks.tick() => recorder.run_upkeep(),
        }
    }
}
