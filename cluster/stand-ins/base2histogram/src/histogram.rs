//! Counts of values by magnitude.

use std::marker::PhantomData;

use crate::PercentileStats;

/// A magnitude (the position of a value's highest bit) has so many counters: a percentile is at most
/// a quarter too low.
const PARTS: usize = 4;
const PART_BITS: u32 = PARTS.trailing_zeros();

/// Counts of values by magnitude, as many counters as the greatest value so far needs: at most 252.
/// `T` is of the interface alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Histogram<T = ()> {
    counts: Vec<u64>,
    samples: u64,
    of: PhantomData<T>,
}

impl<T> Default for Histogram<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Histogram<T> {
    /// One without values.
    pub fn new() -> Self {
        Self { counts: Vec::new(), samples: 0, of: PhantomData }
    }

    /// Counts `value`.
    pub fn record(&mut self, value: u64) {
        self.record_n(value, 1);
    }

    /// Counts `value` so many times.
    pub fn record_n(&mut self, value: u64, times: u64) {
        let at = index(value);
        if at >= self.counts.len() {
            self.counts.resize(at + 1, 0);
        }
        self.counts[at] = self.counts[at].saturating_add(times);
        self.samples = self.samples.saturating_add(times);
    }

    /// How many values were counted.
    pub fn total(&self) -> u64 {
        self.samples
    }

    /// The value that `permille` of a thousand values do not exceed, rounded down to its counter's
    /// least; 0 without values.
    pub fn permille(&self, permille: u64) -> u64 {
        let wanted = (u128::from(self.samples) * u128::from(permille)).div_ceil(1000).max(1);
        let mut seen = 0_u128;
        for (at, count) in self.counts.iter().enumerate() {
            seen += u128::from(*count);
            if seen >= wanted {
                return least(at);
            }
        }
        0
    }

    /// The usual percentiles.
    pub fn percentile_stats(&self) -> PercentileStats {
        PercentileStats {
            samples: self.samples,
            p0_1: self.permille(1),
            p1: self.permille(10),
            p5: self.permille(50),
            p10: self.permille(100),
            p50: self.permille(500),
            p90: self.permille(900),
            p99: self.permille(990),
            p99_9: self.permille(999),
        }
    }

    /// The least value of each counter that is not 0, and the count.
    pub(crate) fn bars(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        let counts = self.counts.iter().enumerate().filter(|(_, count)| **count > 0);
        counts.map(|(at, count)| (least(at), *count))
    }
}

/// The counter of a value: values below [`PARTS`] have their own, then each magnitude has
/// [`PARTS`], told apart by the bits after the highest.
fn index(value: u64) -> usize {
    let Some(shift) = value.checked_ilog2().and_then(|high| high.checked_sub(PART_BITS)) else {
        return usize::try_from(value).unwrap_or(0);
    };
    let part = usize::try_from(value >> shift).unwrap_or(0) % PARTS;
    (shift as usize + 1) * PARTS + part
}

/// The least value of a counter: the inverse of [`index`].
fn least(at: usize) -> u64 {
    match at / PARTS {
        0 => at as u64,
        group => ((PARTS + at % PARTS) as u64) << (group - 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_follow_each_other_without_gaps() {
        let mut last = 0;
        for at in 0..252 {
            let value = least(at);
            assert_eq!(index(value), at, "{value}");
            assert!(at == 0 || value > last && index(value - 1) == at - 1, "{value}");
            assert!(value < 8 || (value - last) * 4 <= value, "at most a quarter too low");
            last = value;
        }
        assert_eq!(index(u64::MAX), 251);
    }

    #[test]
    fn percentiles_are_those_of_the_values() {
        let mut histogram: Histogram = Histogram::new();
        assert_eq!(histogram.percentile_stats().p50, 0);
        for value in 1..=1000 {
            histogram.record(value);
        }
        let stats = histogram.percentile_stats();
        assert_eq!((stats.samples, stats.p0_1, stats.p1, stats.p5), (1000, 1, 10, 48));
        assert_eq!((stats.p10, stats.p50, stats.p90), (96, 448, 896));
        assert_eq!((stats.p99, stats.p99_9), (896, 896));
        histogram.record_n(u64::MAX, 9_000);
        assert_eq!((histogram.total(), histogram.percentile_stats().p50), (10_000, 7 << 61));
    }

    #[test]
    fn a_histogram_of_small_values_is_small() {
        let mut histogram: Histogram = Histogram::new();
        assert_eq!(histogram.counts.capacity(), 0);
        (0..128).for_each(|value| histogram.record(value));
        assert!(histogram.counts.len() <= 24);
    }
}
