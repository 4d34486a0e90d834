//! How often, and for how long, the machine itself stands still: no latency can be better.
//!
//! A thread on each core looks at the clock and does nothing else. Where it does not get to look for
//! a while, the core was somebody else's: the host's, the kernel's, another program's.

use std::{thread, time::Duration};

use anyhow::{Context as _, Result};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use serde::Serialize;
use tokio::time::Instant;

use super::times::{Latency, Times};

/// A shorter time without a look at the clock is a timer or an interrupt, and not told.
const STALL: Duration = Duration::from_millis(1);

/// What the machine took for itself.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StallReport {
    /// For how long it was watched.
    pub seconds: f64,
    /// Each core that this process may use.
    pub cores: Vec<CoreStalls>,
}

/// What one core was taken away for.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct CoreStalls {
    /// Its number.
    pub core: usize,
    /// The share of the time, in percent, that was lost in stalls of a millisecond or more.
    pub lost_percent: f64,
    /// These stalls.
    pub stalls: Latency,
}

/// Watches all cores for `time`. Nothing else should run.
///
/// # Errors
/// When threads cannot be bound to cores.
pub async fn here(time: Duration) -> Result<StallReport> {
    tokio::task::spawn_blocking(move || watch_all(time)).await?
}

fn watch_all(time: Duration) -> Result<StallReport> {
    let allowed = sched_getaffinity(None).context("cannot tell which cores there are")?;
    let cores = (0..CpuSet::MAX_CPU).filter(|core| allowed.is_set(*core));
    let cores = thread::scope(|scope| {
        let watchers: Vec<_> =
            cores.map(|core| scope.spawn(move || watch_core(core, time))).collect();
        watchers
            .into_iter()
            .map(|watcher| watcher.join().expect("a watcher does not panic"))
            .collect::<Result<_>>()
    })?;
    Ok(StallReport { seconds: time.as_secs_f64(), cores })
}

fn watch_core(core: usize, time: Duration) -> Result<CoreStalls> {
    let mut only = CpuSet::new();
    only.set(core);
    sched_setaffinity(None, &only).with_context(|| format!("cannot run on core {core} alone"))?;
    let began = Instant::now();
    let looks = std::iter::from_fn(|| Some(Instant::now()));
    let (lost, stalls) = stalls(looks.take_while(|look| look.duration_since(began) < time));
    let lost_percent = 100.0 * lost.as_secs_f64() / time.as_secs_f64();
    Ok(CoreStalls { core, lost_percent, stalls: stalls.summary() })
}

/// The stalls between looks at the clock, and how long they are together.
fn stalls(looks: impl Iterator<Item = Instant>) -> (Duration, Times) {
    let (mut lost, stalls) = (Duration::ZERO, Times::default());
    let mut last = None;
    for look in looks {
        let since = last.map_or(Duration::ZERO, |last| look.duration_since(last));
        if since >= STALL {
            lost += since;
            stalls.record(since);
        }
        last = Some(look);
    }
    (lost, stalls)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_long_times_between_looks_are_stalls() {
        let began = Instant::now();
        let looks = [0, 10, 900, 2_400, 2_500, 12_500, 12_501];
        let looks = looks.map(|micros| began + Duration::from_micros(micros));
        let (lost, stalls) = stalls(looks.into_iter());
        assert_eq!(lost, Duration::from_micros(1_500 + 10_000));
        let stalls = stalls.summary();
        assert_eq!(stalls.count, 2);
        assert!((stalls.max_ms - 10.0).abs() < 0.1, "{stalls:?}");
    }

    #[tokio::test]
    async fn every_core_is_watched() {
        let allowed = sched_getaffinity(None).unwrap();
        let report = here(Duration::from_millis(20)).await.unwrap();
        assert_eq!(report.cores.len(), allowed.count() as usize);
        assert!(report.cores.iter().all(|core| allowed.is_set(core.core)));
    }
}
