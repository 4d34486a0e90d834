//! Messages that wait: what memory they take, and whether others are slower for them.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde::Serialize;
use tokio::time::{Instant, sleep};

use super::{
    closed,
    disk::{self, DiskReport},
    fill::Fill,
    report::{LoadReport, NodeUse, median},
    target::Target,
};

/// Syncs in each measurement of the disk.
const SYNCS: u32 = 1_000;

/// What to measure.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Messages that wait at first, for comparison.
    pub baseline: u64,
    /// Messages that wait in the end.
    pub messages: u64,
    /// Mailboxes they wait in.
    pub mailboxes: u32,
    /// How long nothing happens before memory is read: longer than the 30 s after which what has
    /// changed goes from memory to the disk.
    pub settle: Duration,
    /// Loads with each of both; none leaves rates out.
    pub runs: u32,
    /// The load, to other mailboxes.
    pub load: closed::Plan,
}

/// So many messages wait.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Stage {
    /// How many.
    pub messages: u64,
    /// How long it took to send what was added.
    pub fill_seconds: f64,
    /// The nodes right after that.
    pub filled: Vec<NodeUse>,
    /// The nodes when they had settled.
    pub settled: Vec<NodeUse>,
    /// Resident memory of a node then, in MiB: the one that has most.
    pub resident_mib_most: f64,
    /// The disk, before the loads.
    pub disk: DiskReport,
    /// Messages accepted a second: the median of the loads.
    pub accepted_per_second: Option<f64>,
    /// The loads.
    pub loads: Vec<LoadReport>,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StoredReport {
    /// Mailboxes that messages waited in.
    pub mailboxes: u32,
    /// Content of each message.
    pub content_bytes: usize,
    /// The rate with all messages waiting against that with the baseline.
    pub ratio: Option<f64>,
    /// With the baseline, and with all.
    pub stages: [Stage; 2],
}

/// Fills, waits, measures; and again.
///
/// # Errors
/// When something is not accepted, or a load fails.
pub async fn run(target: &Target, plan: Plan) -> Result<StoredReport> {
    ensure!(plan.baseline <= plan.messages, "the baseline is more than all messages");
    let before = stage(target, plan, 0, plan.baseline).await?;
    let after = stage(target, plan, plan.baseline, plan.messages).await?;
    Ok(StoredReport {
        mailboxes: plan.mailboxes,
        content_bytes: plan.load.traffic.content_bytes,
        ratio: ratio(after.accepted_per_second, before.accepted_per_second),
        stages: [before, after],
    })
}

fn ratio(rate: Option<f64>, baseline: Option<f64>) -> Option<f64> {
    Some(rate? / baseline?)
}

async fn stage(target: &Target, plan: Plan, from: u64, messages: u64) -> Result<Stage> {
    eprintln!("{messages} messages are to wait in up to {} mailboxes", plan.mailboxes);
    let began = Instant::now();
    let content_bytes = plan.load.traffic.content_bytes;
    let fill = Fill { messages, mailboxes: plan.mailboxes, content_bytes };
    if from < messages {
        fill.pour(target.doors(), from).await?;
    }
    let fill_seconds = began.elapsed().as_secs_f64();
    let filled = target.now()?;
    sleep(plan.settle).await;
    let settled = target.now()?;
    let disk = disk::here(SYNCS).await?;
    let mut loads = Vec::new();
    for run in 1..=plan.runs {
        eprintln!("{messages} wait: load {run} of {}", plan.runs);
        loads.push(closed::run(target, plan.load).await?);
    }
    let most = settled.iter().map(|node| node.resident_bytes).max().unwrap_or(0);
    let rates = loads.iter().map(|load| load.accepted_per_second);
    Ok(Stage {
        messages,
        fill_seconds,
        filled,
        settled,
        resident_mib_most: most as f64 / f64::from(1 << 20),
        disk,
        accepted_per_second: (!loads.is_empty()).then(|| median(rates)),
        loads,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_loads_there_is_no_ratio() {
        assert_eq!(ratio(Some(4.0), Some(8.0)), Some(0.5));
        assert_eq!(ratio(None, Some(8.0)), None);
    }
}
