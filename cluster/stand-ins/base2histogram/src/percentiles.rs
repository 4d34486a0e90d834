//! Percentiles as values.

use std::fmt;

/// Values that some share of all values do not exceed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PercentileStats {
    /// How many values there are.
    pub samples: u64,
    /// One in a thousand.
    pub p0_1: u64,
    /// One in a hundred.
    pub p1: u64,
    /// Five in a hundred.
    pub p5: u64,
    /// One in ten.
    pub p10: u64,
    /// Half of them.
    pub p50: u64,
    /// Nine in ten.
    pub p90: u64,
    /// All but one in a hundred.
    pub p99: u64,
    /// All but one in a thousand.
    pub p99_9: u64,
}

impl fmt::Display for PercentileStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { samples, p1, p10, p50, p90, p99, p99_9, .. } = self;
        write!(f, "{samples} values, p1 {p1}, p10 {p10}, p50 {p50}, ")?;
        write!(f, "p90 {p90}, p99 {p99}, p99.9 {p99_9}")
    }
}
