//! The picture of a sweep: latency against rate. SVG, pure.

use crate::svg::{self, Anchor};

/// The picture's size.
const WIDTH: f64 = 900.0;
const HEIGHT: f64 = 520.0;
/// Around the plot, for titles and scales.
const LEFT: f64 = 80.0;
const RIGHT: f64 = 110.0;
const TOP: f64 = 50.0;
const BOTTOM: f64 = 60.0;
/// The height of a name beside a curve.
const ROW: f64 = 13.0;
/// Marks on the axis of rates, about.
const MARKS: f64 = 8.0;
/// The names and colours of the curves, the fastest first.
const CURVES: [(&str, &str, Value); 3] = [
    ("p50", "#2c7a2c", |point| point.p50_ms),
    ("p99", "#1f4e9c", |point| point.p99_ms),
    ("longest", "#d62728", |point| point.max_ms),
];

type Value = fn(&Point) -> f64;

/// What was measured at one rate.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Point {
    pub(super) rate: f64,
    pub(super) p50_ms: f64,
    pub(super) p99_ms: f64,
    pub(super) max_ms: f64,
}

/// From latencies to heights: whole powers of ten below and above all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Decades {
    lowest: i32,
    highest: i32,
}

impl Decades {
    fn around(values: impl Iterator<Item = f64>) -> Self {
        let (mut least, mut most) = (f64::INFINITY, 0.0f64);
        for value in values.filter(|value| *value > 0.0) {
            (least, most) = (least.min(value), most.max(value));
        }
        if most == 0.0 {
            return Self { lowest: 0, highest: 1 };
        }
        let lowest = least.log10().floor() as i32;
        Self { lowest, highest: (most.log10().ceil() as i32).max(lowest + 1) }
    }

    /// 0 at the bottom, 1 at the top; what is outside is put on the edge.
    fn height(self, value: f64) -> f64 {
        let all = f64::from(self.highest - self.lowest);
        let height = (value.max(f64::MIN_POSITIVE).log10() - f64::from(self.lowest)) / all;
        height.clamp(0.0, 1.0)
    }
}

/// Round numbers from 0 to at least `most`: the step and how many.
fn marks(most: f64) -> (f64, u32) {
    let rough = (most / MARKS).max(1.0);
    let power = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].map(|times| times * power);
    let step = step.into_iter().find(|step| *step >= rough).unwrap_or(10.0 * power);
    (step, (most / step).ceil().max(1.0) as u32)
}

/// Draws.
pub(super) fn draw(title: &str, points: &[Point]) -> String {
    let latencies = points.iter().flat_map(|point| CURVES.map(|(_, _, value)| value(point)));
    let decades = Decades::around(latencies);
    let (step, count) = marks(points.iter().map(|point| point.rate).fold(0.0, f64::max));
    let (width, height) = (WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM);
    let x = |rate: f64| LEFT + rate / (step * f64::from(count)) * width;
    let y = |latency: f64| TOP + (1.0 - decades.height(latency)) * height;
    let bottom = TOP + height;
    let mut svg = svg::begin(WIDTH, HEIGHT);
    svg::text(&mut svg, (LEFT, TOP - 26.0), Anchor::Start, "black", title);
    svg::text(&mut svg, (LEFT - 60.0, TOP - 10.0), Anchor::Start, "#333", "milliseconds");
    let below = (LEFT + width / 2.0, HEIGHT - 16.0);
    svg::text(&mut svg, below, Anchor::Middle, "#333", "messages a second");
    for power in decades.lowest..=decades.highest {
        let latency = 10f64.powi(power);
        let at = y(latency);
        svg::line(&mut svg, (LEFT, at), (LEFT + width, at), "#bbb");
        svg::text(&mut svg, (LEFT - 8.0, at + 4.0), Anchor::End, "#333", &latency.to_string());
        if power < decades.highest {
            for part in 2..10 {
                let at = y(latency * f64::from(part));
                svg::line(&mut svg, (LEFT, at), (LEFT + width, at), "#eee");
            }
        }
    }
    for mark in 0..=count {
        let rate = step * f64::from(mark);
        svg::line(&mut svg, (x(rate), TOP), (x(rate), bottom), "#ddd");
        let place = (x(rate), bottom + 18.0);
        svg::text(&mut svg, place, Anchor::Middle, "#333", &rate.to_string());
    }
    let mut lowest = f64::INFINITY;
    for (name, colour, value) in CURVES {
        let curve: Vec<_> = points.iter().map(|point| (point.rate, value(point))).collect();
        svg::curve(&mut svg, &curve, colour, |(rate, latency)| (x(rate), y(latency)));
        for (rate, latency) in &curve {
            let title = format!("{name} {latency} ms at {rate}/s");
            svg::dot(&mut svg, (x(*rate), y(*latency)), colour, &title);
        }
        if let Some((rate, latency)) = curve.last() {
            // Above the name of the faster curve, however close they are.
            lowest = (y(*latency) + 4.0).min(lowest - ROW);
            let beside = (x(*rate) + 10.0, lowest);
            svg::text(&mut svg, beside, Anchor::Start, colour, &format!("{name} {latency:.1}"));
        }
    }
    svg::end(svg)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decades_hold_all_latencies() {
        let decades = Decades::around([0.9, 15.0, 230.0].into_iter());
        assert_eq!(decades, Decades { lowest: -1, highest: 3 });
        assert_eq!((decades.height(0.1), decades.height(1_000.0)), (0.0, 1.0));
        assert!((decades.height(10.0) - 0.5).abs() < 1e-9);
        assert_eq!(Decades::around([10.0].into_iter()), Decades { lowest: 1, highest: 2 });
        assert_eq!(Decades::around(std::iter::empty()), Decades { lowest: 0, highest: 1 });
    }

    #[test]
    fn marks_are_round_and_reach_the_highest_rate() {
        assert_eq!(marks(8_000.0), (1_000.0, 8));
        assert_eq!(marks(12_100.0), (2_000.0, 7));
        assert_eq!(marks(0.0), (1.0, 1));
    }

    #[test]
    fn a_picture_names_its_axes_and_curves() {
        let point = |rate, p50_ms| Point { rate, p50_ms, p99_ms: 4.0, max_ms: 70.0 };
        let svg = draw("a < b", &[point(500.0, 1.0), point(1_000.0, 2.0)]);
        for part in ["a &lt; b", "messages a second", "milliseconds", "p99 4.0", "longest 70.0"] {
            assert!(svg.contains(part), "{part}");
        }
        assert_eq!(svg.matches("<polyline").count(), 3);
        assert!(draw("", &[]).ends_with("</svg>\n"));
    }
}
