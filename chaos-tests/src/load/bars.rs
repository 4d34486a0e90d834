//! The bars that the product is held to, on a machine of two cores with three nodes and the load
//! generator together, each accepted message on disk on a majority.

use serde::Serialize;

/// A part of the suite; each has a cluster, or several, of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Part {
    /// Throughput, latency, processor time, bytes written
    Load,
    /// Memory: fresh, and with 100,000 mailboxes of one message
    Memory,
    /// Memory of idle connections, plain and TLS
    Connections,
    /// Processor time of an idle cluster with 16 and 64 shards
    Idle,
    /// `kill -9` of leaders' nodes
    Kill,
    /// Cold starts with much data
    Cold,
    /// Messages a second with 1,000,000 stored messages, and with 10,000 idle connections
    Flat,
}

impl Part {
    /// All of them, in the order in which they run.
    pub const ALL: [Self; 7] = [
        Self::Load,
        Self::Memory,
        Self::Connections,
        Self::Idle,
        Self::Kill,
        Self::Cold,
        Self::Flat,
    ];
}

/// What a figure is held to.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Limit {
    /// It is to be so much or more.
    AtLeast(f64),
    /// It is to be so much or less.
    AtMost(f64),
}

impl Limit {
    /// Whether a figure is good enough; what is not a number never is.
    fn is_met(self, seen: f64) -> bool {
        match self {
            Self::AtLeast(limit) => seen >= limit,
            Self::AtMost(limit) => seen <= limit,
        }
    }
}

use Limit::{AtLeast, AtMost};

/// A line of the table.
type Line = (Part, &'static str, &'static str, Limit);

/// The table; within a part in the order in which the suite tells what it saw.
const TABLE: [Line; 23] = [
    (Part::Load, "100 mailboxes, 256 B, 128 in flight", "messages/s", AtLeast(15_000.0)),
    (Part::Load, "10,000 mailboxes, 256 B, 128 in flight", "messages/s", AtLeast(12_000.0)),
    (Part::Load, "1 mailbox, 1 in flight", "messages/s", AtLeast(1_200.0)),
    (Part::Load, "1 mailbox, 16 in flight", "messages/s", AtLeast(9_000.0)),
    (Part::Load, "1 mailbox, 1,024 in flight over 16 connections", "messages/s", AtLeast(25_000.0)),
    (Part::Load, "500 messages/s, 100 mailboxes, end to end p50", "ms", AtMost(1.2)),
    (Part::Load, "500 messages/s, 100 mailboxes, end to end p99", "ms", AtMost(5.0)),
    (Part::Load, "processor time of all nodes for 100,000 messages", "s", AtMost(9.0)),
    (Part::Load, "bytes written to disk per message, all nodes", "bytes", AtMost(2_000.0)),
    (Part::Memory, "resident memory of a fresh node", "MiB", AtMost(40.0)),
    (Part::Memory, "resident memory, 100,000 mailboxes of one message", "MiB", AtMost(120.0)),
    (Part::Connections, "idle WebSocket connection, plain", "bytes", AtMost(4_000.0)),
    (Part::Connections, "idle WebSocket connection, TLS", "bytes", AtMost(12_000.0)),
    (Part::Idle, "idle cluster, 16 shards", "% of a core a node", AtMost(1.5)),
    (Part::Idle, "idle cluster, 64 shards", "% of a core a node", AtMost(4.0)),
    (Part::Kill, "kill -9 of a leader's node until accepting again, p50", "ms", AtMost(350.0)),
    (Part::Kill, "kill -9 of a leader's node until accepting again, max", "ms", AtMost(800.0)),
    (Part::Kill, "elections without a kill", "elections", AtMost(0.0)),
    (Part::Cold, "cold start after SIGTERM, nothing in the page cache", "s", AtMost(3.0)),
    (Part::Cold, "cold start after kill -9, nothing in the page cache", "s", AtMost(3.0)),
    (Part::Flat, "rate at 1,000,000 stored messages against 1,000", "ratio", AtLeast(0.8)),
    (Part::Flat, "rate at 10,000 idle connections against none", "ratio", AtLeast(0.95)),
    (Part::Flat, "elections under load without a kill", "elections", AtMost(0.0)),
];

/// A bar, and how far it was reached.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Bar {
    /// Which part of the suite measures it.
    pub part: Part,
    /// What is measured.
    pub measure: &'static str,
    /// In what.
    pub unit: &'static str,
    /// What it is held to.
    pub bar: Limit,
    /// What was seen; nothing where the part failed.
    pub seen: Option<f64>,
    /// Whether that is good enough.
    pub met: bool,
}

/// The bars of a part with what was seen, in the table's order; `None` where it failed.
///
/// # Panics
/// When there is not a figure for each: suite and table belong together.
pub(super) fn judge(part: Part, seen: Option<&[f64]>) -> Vec<Bar> {
    let lines: Vec<&Line> = TABLE.iter().filter(|line| line.0 == part).collect();
    assert!(seen.is_none_or(|seen| seen.len() == lines.len()), "one figure for each bar");
    let bar = |(i, (part, measure, unit, bar)): (usize, &Line)| {
        let seen = seen.map(|seen| seen[i]);
        let met = seen.is_some_and(|seen| bar.is_met(seen));
        Bar { part: *part, measure, unit, bar: *bar, seen, met }
    };
    lines.into_iter().enumerate().map(bar).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_are_met_on_the_right_side_and_never_by_nothing() {
        let bars = judge(Part::Flat, Some(&[0.8, 0.9, 0.0]));
        assert_eq!(bars.iter().map(|bar| bar.met).collect::<Vec<_>>(), [true, false, true]);
        assert!(judge(Part::Flat, None).iter().all(|bar| !bar.met && bar.seen.is_none()));
        assert!(!judge(Part::Idle, Some(&[f64::NAN, 4.1]))[0].met);
    }

    #[test]
    fn every_part_has_bars() {
        assert!(Part::ALL.iter().all(|part| TABLE.iter().any(|line| line.0 == *part)));
    }
}
