//! The picture of a run: operations a second, how long they waited, faults as bands. SVG, pure.

use std::fmt::Write as _;

use super::series::{Band, Series};
use crate::svg::{self, curve, escape};

/// The picture's size.
const WIDTH: f64 = 1200.0;
/// Of each of the two curves.
const PLOT_HEIGHT: f64 = 220.0;
/// Left of the curves, for their scales.
const LEFT: f64 = 70.0;
/// Above the first, between both, below the last.
const GAP: f64 = 36.0;
/// The height of a row of the list of faults.
const ROW: f64 = 14.0;
/// The most points of a curve: seconds are put together beyond that.
const POINTS_MAX: usize = 1200;
/// The most faults in the list.
const LISTED_MAX: usize = 60;
/// Colours of bands, in turn.
const COLOURS: [&str; 6] = ["#d62728", "#ff7f0e", "#9467bd", "#8c564b", "#e377c2", "#17a2b8"];

/// Draws.
pub(super) fn draw(series: &Series, bands: &[Band]) -> String {
    let seconds = series.seconds.len().max(1) as f64;
    let listed = bands.len().min(LISTED_MAX);
    let top = [GAP, 2.0 * GAP + PLOT_HEIGHT];
    let list_from = 3.0 * GAP + 2.0 * PLOT_HEIGHT;
    let height = list_from + ROW * (listed as f64 + 2.0);
    let x = |second: f64| LEFT + second / seconds * (WIDTH - LEFT - 20.0);
    let mut svg = svg::begin(WIDTH, height);
    // Writing to a string cannot fail.
    for (i, band) in bands.iter().enumerate() {
        let colour = COLOURS[i % COLOURS.len()];
        let (from, to) = (x(band.from.as_secs_f64()), x(band.to.as_secs_f64()));
        let _ = writeln!(
            svg,
            "<rect x=\"{from:.1}\" y=\"{}\" width=\"{:.1}\" height=\"{}\" fill=\"{colour}\" \
             fill-opacity=\"{}\"><title>{}</title></rect>",
            top[0],
            (to - from).max(1.5),
            2.0 * PLOT_HEIGHT + GAP,
            if band.outcome == "installed" { "0.22" } else { "0.07" },
            escape(&band.label),
        );
    }
    let step = series.seconds.len().div_ceil(POINTS_MAX).max(1);
    let chunks =
        || series.seconds.chunks(step).enumerate().map(move |(i, c)| ((i * step) as f64, c));
    let mean = |sum: u32, of: usize| f64::from(sum) / of as f64;
    let accepted: Vec<_> =
        chunks().map(|(at, c)| (at, mean(c.iter().map(|s| s.accepted).sum(), c.len()))).collect();
    let delivered: Vec<_> =
        chunks().map(|(at, c)| (at, mean(c.iter().map(|s| s.delivered).sum(), c.len()))).collect();
    let most = |points: &[(f64, f64)]| points.iter().map(|(_, y)| *y).fold(1.0, f64::max);
    let scale = most(&accepted).max(most(&delivered));
    axis(&mut svg, top[0], "messages a second", &format!("{scale:.0}"), "0");
    curve(&mut svg, &delivered, "#7fb3d5", |(at, y)| {
        (x(at), top[0] + PLOT_HEIGHT * (1.0 - y / scale))
    });
    curve(&mut svg, &accepted, "#1f4e9c", |(at, y)| {
        (x(at), top[0] + PLOT_HEIGHT * (1.0 - y / scale))
    });
    // Waits from a millisecond to a minute: on a scale of powers.
    let log = |ms: u32| (f64::from(ms.max(1)).log10() / 60_000f64.log10()).min(1.0);
    let worst = |f: fn(&super::series::Second) -> u32| -> Vec<(f64, f64)> {
        chunks().map(|(at, c)| (at, log(c.iter().map(f).max().unwrap_or(0)))).collect()
    };
    axis(&mut svg, top[1], "until accepted: p50, longest (logarithmic)", "60 s", "1 ms");
    curve(&mut svg, &worst(|s| s.max_ms), "#e0a030", |(at, y)| {
        (x(at), top[1] + PLOT_HEIGHT * (1.0 - y))
    });
    curve(&mut svg, &worst(|s| s.p50_ms), "#2c7a2c", |(at, y)| {
        (x(at), top[1] + PLOT_HEIGHT * (1.0 - y))
    });
    for part in 0..=10 {
        let second = seconds * f64::from(part) / 10.0;
        let y = list_from - GAP + 14.0;
        let _ = writeln!(
            svg,
            "<text x=\"{:.1}\" y=\"{y}\" fill=\"#555\">{second:.0} s</text>",
            x(second) - 8.0
        );
    }
    list(&mut svg, bands, list_from);
    svg::end(svg)
}

/// The faults in words.
fn list(svg: &mut String, bands: &[Band], list_from: f64) {
    for (i, band) in bands.iter().take(LISTED_MAX).enumerate() {
        let y = list_from + ROW * (i as f64 + 1.0);
        let colour = COLOURS[i % COLOURS.len()];
        let _ = writeln!(
            svg,
            "<text x=\"{LEFT}\" y=\"{y}\"><tspan fill=\"{colour}\">■</tspan> {:.1} s: {} – {}</text>",
            band.from.as_secs_f64(),
            escape(&band.label),
            band.outcome,
        );
    }
}

fn axis(svg: &mut String, top: f64, title: &str, highest: &str, lowest: &str) {
    let bottom = top + PLOT_HEIGHT;
    let _ = writeln!(
        svg,
        "<text x=\"{LEFT}\" y=\"{}\" font-size=\"13\">{title}</text>\n\
         <line x1=\"{LEFT}\" y1=\"{bottom}\" x2=\"{}\" y2=\"{bottom}\" stroke=\"#888\"/>\n\
         <text x=\"{}\" y=\"{}\" text-anchor=\"end\" fill=\"#555\">{highest}</text>\n\
         <text x=\"{}\" y=\"{bottom}\" text-anchor=\"end\" fill=\"#555\">{lowest}</text>",
        top - 8.0,
        WIDTH - 20.0,
        LEFT - 6.0,
        top + 10.0,
        LEFT - 6.0,
    );
}
