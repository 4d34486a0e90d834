//! Histograms as text.

use std::fmt;

use crate::Histogram;

/// Characters of the longest bar.
const WIDTH: u64 = 40;

/// Named histograms, to be shown below each other.
#[derive(Debug, Clone, Default)]
pub struct AsciiChart {
    series: Vec<(String, Histogram)>,
}

impl AsciiChart {
    /// One without histograms.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a histogram.
    #[must_use]
    pub fn add(mut self, name: impl Into<String>, histogram: Histogram) -> Self {
        self.series.push((name.into(), histogram));
        self
    }

    /// A bar for each counter.
    pub fn detailed(&self) -> Bars<'_> {
        Bars(self)
    }
}

/// See [`AsciiChart::detailed`].
#[derive(Debug)]
pub struct Bars<'a>(&'a AsciiChart);

impl fmt::Display for Bars<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, histogram) in &self.0.series {
            writeln!(f, "{name}: {}", histogram.percentile_stats())?;
            let longest = histogram.bars().map(|(_, count)| count).max().unwrap_or(1);
            for (least, count) in histogram.bars() {
                let bar = (u128::from(count) * u128::from(WIDTH)).div_ceil(u128::from(longest));
                let bar = "#".repeat(usize::try_from(bar).unwrap_or(0));
                writeln!(f, "{least:>20} {bar} {count}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chart_shows_each_series() {
        let mut histogram = Histogram::new();
        histogram.record_n(1, 40);
        histogram.record(5);
        let chart = AsciiChart::new().add("a", histogram).add("b", Histogram::new());
        let text = chart.detailed().to_string();
        let lines: Vec<_> = text.lines().collect();
        assert!(lines[0].starts_with("a: 41 values, p1 1, "), "{}", lines[0]);
        assert!(lines[1].ends_with(&format!(" 1 {} 40", "#".repeat(40))), "{}", lines[1]);
        assert!(lines[2].ends_with(" 5 # 1"), "{}", lines[2]);
        assert!(lines[3].starts_with("b: 0 values"), "{}", lines[3]);
    }
}
