//! Latency against rate: open loops at rising rates, until one cannot be kept.

use anyhow::{Result, ensure};
use serde::Serialize;

use super::{
    open,
    plot::{self, Point},
    report::LoadReport,
    target::Target,
    traffic::{Over, Traffic},
};

/// Of the messages of a rate that is kept so many are accepted in the measured time: what is under
/// way at its end is not counted.
const KEPT: f64 = 0.98;

/// What to measure.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Messages a second, rising.
    pub rates: Vec<u32>,
    /// What is sent.
    pub traffic: Traffic,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SweepReport {
    /// The highest rate that was kept.
    pub kept: Option<u32>,
    /// Why no higher one was tried, where there was one.
    pub stopped: Option<String>,
    /// The runs; the last one may be one whose rate was not kept.
    pub runs: Vec<LoadReport>,
}

/// Rates from one to another, in steps of equal ratio, both among them.
pub fn rates(from: u32, to: u32, steps: u32) -> Vec<u32> {
    let last = steps.saturating_sub(1).max(1);
    let ratio = f64::from(to.max(1)) / f64::from(from.max(1));
    let rate = |step: u32| {
        let exact = f64::from(from.max(1)) * ratio.powf(f64::from(step) / f64::from(last));
        exact.round() as u32
    };
    let mut rates: Vec<u32> = (0..=last).map(rate).collect();
    rates.dedup();
    rates
}

/// Runs each rate in turn.
///
/// # Errors
/// When the first one fails, or the rates do not rise.
pub async fn run(target: &Target, plan: Plan) -> Result<SweepReport> {
    ensure!(plan.rates.is_sorted(), "the rates do not rise");
    let mut report = SweepReport { kept: None, stopped: None, runs: Vec::new() };
    for rate in plan.rates {
        eprintln!("{rate} a second");
        let run = match open::run(target, open::Plan { rate, traffic: plan.traffic }).await {
            Ok(run) => run,
            Err(error) if report.runs.is_empty() => return Err(error),
            // What was sent is still under way: nothing can be measured after it.
            Err(error) => {
                report.stopped = Some(format!("{rate} a second: {error:#}"));
                break;
            }
        };
        let is_kept = run.accepted_per_second >= KEPT * f64::from(rate);
        report.runs.push(run);
        if !is_kept {
            report.stopped = Some(format!("{rate} a second are not kept"));
            break;
        }
        report.kept = Some(rate);
    }
    Ok(report)
}

impl SweepReport {
    /// The picture: end-to-end latency against rate.
    pub fn plot(&self) -> String {
        let points = self.runs.iter().map(|run| Point {
            rate: f64::from(run.load),
            p50_ms: run.deliver.p50_ms,
            p99_ms: run.deliver.p99_ms,
            max_ms: run.deliver.max_ms,
        });
        let Some(run) = self.runs.first() else { return plot::draw("nothing was measured", &[]) };
        let title = format!(
            "End-to-end latency against rate: {}, {} mailboxes, {} bytes, {} nodes, {:.0} s each",
            match run.over {
                Over::Ws => "WebSocket",
                Over::Rest => "REST",
            },
            run.mailboxes,
            run.content_bytes,
            run.nodes.len(),
            run.seconds,
        );
        plot::draw(&title, &points.collect::<Vec<_>>())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_rise_by_equal_ratios_to_both_ends() {
        assert_eq!(rates(500, 8_000, 5), [500, 1_000, 2_000, 4_000, 8_000]);
        assert_eq!(rates(500, 500, 4), [500]);
        assert_eq!(rates(100, 900, 1), [100, 900]);
    }
}
