//! Times taken down by many tasks, and what they are like.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use hdrhistogram::Histogram;
use serde::Serialize;

/// The longest time a histogram tells apart, in microseconds: a minute. Longer ones count as it.
const LONGEST_MICROS: u64 = 60_000_000;
/// Decimal digits a histogram keeps.
const DIGITS: u8 = 3;

/// Times, taken down by many tasks.
#[derive(Debug)]
pub struct Times(Mutex<Histogram<u64>>);

impl Default for Times {
    fn default() -> Self {
        let histogram = Histogram::new_with_max(LONGEST_MICROS, DIGITS);
        Self(Mutex::new(histogram.expect("the bounds are constant and valid")))
    }
}

impl Times {
    /// Takes down one.
    pub fn record(&self, time: Duration) {
        let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        self.0.lock().unwrap_or_else(PoisonError::into_inner).saturating_record(micros);
    }

    /// What they are like.
    pub fn summary(&self) -> Latency {
        let times = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let millis = |quantile| times.value_at_quantile(quantile) as f64 / 1000.0;
        Latency {
            count: times.len(),
            p50_ms: millis(0.5),
            p90_ms: millis(0.9),
            p99_ms: millis(0.99),
            p999_ms: millis(0.999),
            max_ms: times.max() as f64 / 1000.0,
        }
    }
}

/// A distribution of times.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Latency {
    /// How many.
    pub count: u64,
    /// The median, in milliseconds.
    pub p50_ms: f64,
    /// 90 % are not longer.
    pub p90_ms: f64,
    /// 99 % are not longer.
    pub p99_ms: f64,
    /// 99.9 % are not longer.
    pub p999_ms: f64,
    /// The longest.
    pub max_ms: f64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_of_what_was_recorded() {
        let times = Times::default();
        for millis in 1..=100 {
            times.record(Duration::from_millis(millis));
        }
        let latency = times.summary();
        assert_eq!(latency.count, 100);
        assert!((latency.p50_ms - 50.0).abs() < 0.1, "{latency:?}");
        assert!((latency.p99_ms - 99.0).abs() < 0.1, "{latency:?}");
        times.record(Duration::from_secs(3600));
        assert!(times.summary().max_ms >= 59_000.0);
    }
}
