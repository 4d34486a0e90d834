//! Medians of all visits, side by side, and how ours compare.

use std::fmt::Write as _;

use serde::Serialize;

use crate::results::Visit;

/// The system that the others are compared with.
const OURS: &str = "heliograph";
const MIB: f64 = (1 << 20) as f64;

/// What was measured of one system.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Figure {
    /// The median of the runs.
    pub median: f64,
    /// The lowest.
    pub lowest: f64,
    /// The highest.
    pub highest: f64,
    /// How many runs.
    pub runs: usize,
}

impl Figure {
    fn of(mut values: Vec<f64>) -> Option<Self> {
        values.retain(|value| value.is_finite());
        values.sort_by(f64::total_cmp);
        let half = values.len() / 2;
        let median = match values.len() % 2 {
            1 => values[half],
            _ => (values.get(half.checked_sub(1)?)? + values.get(half)?) / 2.0,
        };
        Some(Self {
            median,
            lowest: *values.first()?,
            highest: *values.last()?,
            runs: values.len(),
        })
    }
}

/// One measure of all systems.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    /// What.
    pub measure: String,
    /// Whether more is better.
    pub more_is_better: bool,
    /// In the order of the systems.
    pub figures: Vec<Option<Figure>>,
    /// Ours by theirs.
    pub ratios: Vec<Option<f64>>,
}

/// Everything.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// The systems, ours first.
    pub systems: Vec<String>,
    /// Their versions.
    pub versions: Vec<String>,
    /// What a write of 4 KiB with `fdatasync` took before each visit: median and 99th percentile.
    pub sync_ms: Vec<(f64, f64)>,
    /// Messages that came twice or out of order, of each system.
    pub out_of_order: Vec<u64>,
    /// Visits that ended before their time, and why.
    pub gave_up: Vec<String>,
    /// The measures.
    pub rows: Vec<Row>,
}

impl Report {
    /// Puts visits side by side.
    pub fn of(visits: &[Visit]) -> Self {
        let mut systems: Vec<String> = Vec::new();
        for visit in visits {
            if !systems.contains(&visit.system) {
                systems.push(visit.system.clone());
            }
        }
        systems.sort_by_key(|system| system != OURS);
        let version =
            |system: &String| of(visits, system).next().map(|visit| visit.version.clone());
        let wrong = |system: &String| {
            of(visits, system).flat_map(|visit| &visit.loads).map(|load| load.out_of_order).sum()
        };
        let mut rows = Vec::new();
        let mut row = |measure: String, more_is_better, values: &dyn Fn(&Visit) -> Vec<f64>| {
            let figure =
                |system: &String| Figure::of(of(visits, system).flat_map(values).collect());
            let figures: Vec<Option<Figure>> = systems.iter().map(figure).collect();
            if figures.iter().any(Option::is_some) {
                rows.push(Row { measure, more_is_better, ratios: ratios(&figures), figures });
            }
        };
        for name in load_names(visits) {
            loads(&name, &mut row);
        }
        memory(visits, &mut row);
        row("kill -9 until all accept, ms".to_owned(), false, &|visit| {
            visit.kills.iter().map(|kill| kill.all_accept_ms).collect()
        });
        Self {
            versions: systems.iter().filter_map(version).collect(),
            sync_ms: visits.iter().map(|visit| (visit.sync.p50_ms, visit.sync.p99_ms)).collect(),
            out_of_order: systems.iter().map(wrong).collect(),
            gave_up: visits
                .iter()
                .filter_map(|visit| Some(format!("{}: {}", visit.system, visit.gave_up.as_ref()?)))
                .collect(),
            systems,
            rows,
        }
    }

    /// As a table in Markdown.
    pub fn markdown(&self) -> String {
        let mut text = String::new();
        let mut line = |cells: Vec<String>| {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "| {} |", cells.join(" | "));
        };
        let mut head = vec!["measure (median, lowest to highest)".to_owned()];
        for (number, (system, version)) in self.systems.iter().zip(&self.versions).enumerate() {
            head.push(format!("{system} {version}"));
            if number > 0 {
                head.push("ours / theirs".to_owned());
            }
        }
        line(head.clone());
        line(head.iter().map(|_| "---".to_owned()).collect());
        for row in &self.rows {
            let sign = if row.more_is_better { "↑" } else { "↓" };
            let mut cells = vec![format!("{sign} {}", row.measure)];
            for (number, (figure, ratio)) in row.figures.iter().zip(&row.ratios).enumerate() {
                cells.push(figure.as_ref().map_or_else(|| "–".to_owned(), show));
                if number > 0 {
                    cells.push(ratio.map_or_else(|| "–".to_owned(), |ratio| format!("{ratio:.2}")));
                }
            }
            line(cells);
        }
        let sync = Figure::of(self.sync_ms.iter().map(|(p50, _)| *p50).collect());
        let late = Figure::of(self.sync_ms.iter().map(|(_, p99)| *p99).collect());
        if let (Some(sync), Some(late)) = (sync, late) {
            let _ = writeln!(
                text,
                "\n↑: more is better, ↓: less is better. `fdatasync` of 4 KiB before each of {} \
                 visits: p50 {:.2} ms ({:.2} to {:.2}), p99 {:.2} ms. Out of order: {:?}.",
                sync.runs, sync.median, sync.lowest, sync.highest, late.median, self.out_of_order,
            );
        }
        for reason in &self.gave_up {
            let _ = writeln!(text, "\nA visit was given up. {reason}.");
        }
        text
    }
}

/// Figures with as many digits as they deserve.
fn show(figure: &Figure) -> String {
    let number = |value: f64| {
        let digits = match value.abs() {
            100.0.. => 0,
            10.0.. => 1,
            _ => 2,
        };
        format!("{value:.digits$}")
    };
    let median = number(figure.median);
    if figure.runs == 1 {
        return median;
    }
    format!("{median} ({} to {})", number(figure.lowest), number(figure.highest))
}

/// The visits to one system.
fn of<'a>(visits: &'a [Visit], system: &'a str) -> impl Iterator<Item = &'a Visit> {
    visits.iter().filter(move |visit| visit.system == system)
}

fn ratios(figures: &[Option<Figure>]) -> Vec<Option<f64>> {
    let ours = figures.first().copied().flatten();
    let ratio = |theirs: &Option<Figure>| Some(ours?.median / theirs.as_ref()?.median);
    figures.iter().map(ratio).collect()
}

/// The names of all loads, in the order of their first runs.
fn load_names(visits: &[Visit]) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for load in visits.iter().flat_map(|visit| &visit.loads) {
        if !names.contains(&load.name) {
            names.push(load.name.clone());
        }
    }
    names
}

type AddRow<'a> = dyn FnMut(String, bool, &dyn Fn(&Visit) -> Vec<f64>) + 'a;

/// The rows of one load.
fn loads(name: &str, row: &mut AddRow<'_>) {
    let mut of = |measure: &str, more_is_better, value: fn(&crate::results::LoadResult) -> f64| {
        row(format!("{name}: {measure}"), more_is_better, &|visit| {
            visit.loads.iter().filter(|load| load.name == name).map(value).collect()
        });
    };
    of("messages/s", true, crate::results::LoadResult::per_second);
    of("end to end p50, ms", false, |load| load.deliver.p50_ms);
    of("end to end p99, ms", false, |load| load.deliver.p99_ms);
    of("accepted p50, ms", false, |load| load.accept.p50_ms);
    of("accepted p99, ms", false, |load| load.accept.p99_ms);
    of("processor s of the nodes / 100,000", false, crate::results::LoadResult::nodes_seconds);
    let generator = crate::results::LoadResult::generator_seconds;
    of("processor s of the generator / 100,000", false, generator);
    of("cores that others used meanwhile", false, |load| load.others_cores.unwrap_or(f64::NAN));
}

/// The rows of memory, averages over the nodes.
fn memory(visits: &[Visit], row: &mut AddRow<'_>) {
    fn a_node(bytes: &[u64]) -> f64 {
        bytes.iter().sum::<u64>() as f64 / bytes.len() as f64 / MIB
    }
    row("resident MiB a node, fresh".to_owned(), false, &|visit| vec![a_node(&visit.fresh_bytes)]);
    row("resident MiB a node, after the loads".to_owned(), false, &|visit| {
        visit.loaded_bytes.iter().map(|bytes| a_node(bytes)).collect()
    });
    let filled = visits.iter().filter_map(|visit| visit.filled.as_ref());
    let mut counts: Vec<u32> = filled.map(|filled| filled.mailboxes).collect();
    counts.sort_unstable();
    counts.dedup();
    for count in counts {
        let measure = format!("resident MiB a node, {count} mailboxes of one message");
        row(measure, false, &|visit| {
            let filled = visit.filled.iter().filter(|filled| filled.mailboxes == count);
            filled.map(|filled| a_node(&filled.bytes)).collect()
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        counts::Latency,
        measure::Machine,
        results::{KillResult, LoadResult},
    };

    fn visit(system: &str, per_second: f64, kill_ms: f64) -> Visit {
        let load = LoadResult {
            name: "100 x 128".to_owned(),
            accepted_per_second: per_second,
            delivered_per_second: per_second + 1.0,
            refused: 0,
            out_of_order: 0,
            accept: Latency::default(),
            deliver: Latency { p50_ms: 1.0, p99_ms: 2.0, max_ms: 3.0 },
            generator_cores: 0.1,
            nodes_cores: 1.0,
            others_cores: Some(0.5),
        };
        Visit {
            system: system.to_owned(),
            version: "1.0".to_owned(),
            machine: Machine::this(),
            sync: Latency { p50_ms: 0.2, p99_ms: 0.4, max_ms: 1.0 },
            fresh_bytes: vec![10 << 20, 20 << 20, 30 << 20],
            loaded_bytes: None,
            filled: None,
            loads: vec![load],
            kills: vec![KillResult { led: 2, of: 6, all_accept_ms: kill_ms }],
            gave_up: None,
        }
    }

    fn row<'a>(report: &'a Report, measure: &str) -> &'a Row {
        report.rows.iter().find(|row| row.measure == measure).unwrap()
    }

    #[test]
    fn medians_are_compared_with_ours() {
        let visits = [
            visit("rabbitmq", 2_000.0, 400.0),
            visit("heliograph", 6_000.0, 300.0),
            visit("heliograph", 5_000.0, 100.0),
            visit("heliograph", 9_000.0, 250.0),
            visit("rabbitmq", 4_000.0, 200.0),
        ];
        let report = Report::of(&visits);
        assert_eq!(report.systems, ["heliograph", "rabbitmq"]);
        let rate = row(&report, "100 x 128: messages/s");
        assert_eq!(rate.figures[0].unwrap().median, 6_000.0);
        assert_eq!(rate.figures[1].unwrap().median, 3_000.0);
        assert_eq!(rate.ratios, [Some(1.0), Some(2.0)]);
        let kill = row(&report, "kill -9 until all accept, ms");
        assert_eq!(
            (kill.figures[0].unwrap().median, kill.figures[0].unwrap().highest),
            (250.0, 300.0)
        );
        let nodes = row(&report, "100 x 128: processor s of the nodes / 100,000");
        assert!((nodes.figures[0].unwrap().median - 100_000.0 / 6_000.0).abs() < 1e-9);
        let fresh = row(&report, "resident MiB a node, fresh");
        assert_eq!(fresh.figures[0].unwrap().median, 20.0);
        let table = report.markdown();
        assert!(table.contains("| 6000 (5000 to 9000) | 3000 (2000 to 4000) | 2.00 |"), "{table}");
    }

    #[test]
    fn a_visit_that_was_given_up_counts_and_is_told() {
        let mut theirs = visit("rabbitmq", 2_000.0, 400.0);
        theirs.gave_up = Some("kill 2 of 4: it has ended".to_owned());
        let report = Report::of(&[visit("heliograph", 6_000.0, 300.0), theirs]);
        assert_eq!(row(&report, "100 x 128: messages/s").ratios[1], Some(3.0));
        let told = "A visit was given up. rabbitmq: kill 2 of 4: it has ended.";
        assert!(report.markdown().contains(told), "{}", report.markdown());
    }

    #[test]
    fn what_was_not_measured_is_left_open() {
        let mut theirs = visit("nats", 1_000.0, 1.0);
        theirs.loads.clear();
        let report = Report::of(&[visit("heliograph", 5_000.0, 1.0), theirs]);
        let rate = row(&report, "100 x 128: messages/s");
        assert_eq!((rate.figures[1], rate.ratios[1]), (None, None));
        assert!(report.markdown().contains("| 5000 | – | – |"));
        assert!(report.rows.iter().all(|row| !row.measure.contains("after the loads")));
        assert!(Report::of(&[]).rows.is_empty());
    }
}
