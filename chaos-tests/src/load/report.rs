//! What a run under load tells, as JSON.

use std::{collections::BTreeMap, sync::atomic::Ordering, time::Duration};

use serde::Serialize;

use super::{
    counts::Counts,
    reign::Leadership,
    target::Window,
    times::Latency,
    traffic::{Over, Traffic},
};

/// What a process used.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct NodeUse {
    /// The node's id; 0 is the load generator itself.
    pub id: u16,
    /// Processor time per elapsed time.
    pub cores: f64,
    /// Resident memory now.
    pub resident_bytes: u64,
    /// Of that, heap and stacks.
    pub anonymous_bytes: u64,
    /// Bytes written to disks a second, in whole pages.
    pub written_bytes_per_second: f64,
}

/// How a run sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// The next message when one was accepted. A stall of the relay stalls the sender, so its
    /// latencies are those of a client that waits, and no others.
    Closed,
    /// At a rate, whatever the answers.
    Open,
}

/// One run under load.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LoadReport {
    /// How it was sent.
    pub mode: Mode,
    /// By which of the relay's two ways.
    pub over: Over,
    /// How many messages were kept in flight (closed) or sent a second (open).
    pub load: u32,
    /// By how many devices. Over WebSocket each has one connection; over REST one for each message
    /// that it has in flight.
    pub senders: u32,
    /// To how many mailboxes.
    pub mailboxes: u32,
    /// Content of a message, in bytes before Base64.
    pub content_bytes: usize,
    /// How long was measured, after the warm-up.
    pub seconds: f64,
    /// Messages accepted in that time.
    pub accepted: u64,
    /// The same, a second.
    pub accepted_per_second: f64,
    /// Messages delivered in that time, a second.
    pub delivered_per_second: f64,
    /// Answers other than *accepted* of the whole run, by their code. A closed loop sends another
    /// message instead, after a pause; an open one does not.
    pub refused: BTreeMap<String, u64>,
    /// Messages delivered more than once or with a number out of order: 0, or something is wrong.
    pub out_of_order: u64,
    /// How long after the last sending the last accepted message was delivered and acknowledged
    /// and every mailbox empty.
    pub drain_seconds: f64,
    /// From sending to *accepted* (open: from the time at which it was to be sent).
    pub accept: Latency,
    /// From sending to the recipient (open: from the time at which it was to be sent).
    pub deliver: Latency,
    /// Processor time per elapsed time of a node, on average.
    pub cores_a_node: f64,
    /// Processor time of all nodes for 100,000 accepted messages, in seconds.
    pub nodes_cpu_seconds_per_100k: f64,
    /// Bytes that all nodes wrote to disks, per accepted message.
    pub written_bytes_per_message: f64,
    /// Who led in the measured time.
    pub leadership: Leadership,
    /// The load generator.
    pub generator: NodeUse,
    /// The nodes.
    pub nodes: Vec<NodeUse>,
}

/// What a run was to be.
pub(super) struct Shape {
    pub(super) mode: Mode,
    pub(super) load: u32,
    pub(super) senders: u32,
    pub(super) traffic: Traffic,
}

impl LoadReport {
    /// Of a run that is over.
    pub(super) fn of(shape: &Shape, counts: &Counts, window: Window, drained: Duration) -> Self {
        let Traffic { over, mailboxes, content_bytes, time, .. } = shape.traffic;
        let seconds = time.as_secs_f64();
        let accepted = counts.accepted_measured.load(Ordering::Relaxed);
        let delivered = counts.delivered_measured.load(Ordering::Relaxed);
        let sum = |of: fn(&NodeUse) -> f64| window.nodes.iter().map(of).sum::<f64>();
        let per_message = |a_second: f64| a_second * seconds / accepted.max(1) as f64;
        Self {
            mode: shape.mode,
            over,
            load: shape.load,
            senders: shape.senders,
            mailboxes,
            content_bytes,
            seconds,
            accepted,
            accepted_per_second: accepted as f64 / seconds,
            delivered_per_second: delivered as f64 / seconds,
            refused: counts.refusals(),
            out_of_order: counts.out_of_order.load(Ordering::Relaxed),
            drain_seconds: drained.as_secs_f64(),
            accept: counts.accept.summary(),
            deliver: counts.deliver.summary(),
            cores_a_node: sum(|node| node.cores) / window.nodes.len().max(1) as f64,
            nodes_cpu_seconds_per_100k: per_message(sum(|node| node.cores)) * 100_000.0,
            written_bytes_per_message: per_message(sum(|node| node.written_bytes_per_second)),
            leadership: window.leadership,
            generator: window.generator,
            nodes: window.nodes,
        }
    }
}

/// The median, the upper one of an even number of values; not a number where there is none.
pub fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(id: u16, cores: f64) -> NodeUse {
        NodeUse {
            id,
            cores,
            resident_bytes: 8_192,
            anonymous_bytes: 4_096,
            written_bytes_per_second: cores * 200_000.0,
        }
    }

    /// The comparison, a crate outside the workspace, reads a report by its names.
    #[test]
    fn a_report_has_the_names_that_are_read_elsewhere() {
        let times =
            Latency { count: 9, p50_ms: 1.0, p90_ms: 1.5, p99_ms: 2.0, p999_ms: 2.5, max_ms: 3.0 };
        let generator =
            NodeUse { resident_bytes: 4_096, written_bytes_per_second: 0.0, ..node(0, 0.25) };
        let refused = [("mailbox_full", 3), ("unavailable", 1)];
        let report = LoadReport {
            mode: Mode::Closed,
            over: Over::Ws,
            load: 128,
            senders: 12,
            mailboxes: 100,
            content_bytes: 256,
            seconds: 2.0,
            accepted: 200,
            accepted_per_second: 100.0,
            delivered_per_second: 99.0,
            refused: refused.map(|(code, times)| (code.to_owned(), times)).into(),
            out_of_order: 0,
            drain_seconds: 0.5,
            accept: times,
            deliver: times,
            cores_a_node: 0.375,
            nodes_cpu_seconds_per_100k: 750.0,
            written_bytes_per_message: 1_500.0,
            leadership: Leadership { elections: 0, terms: Some(0) },
            generator,
            nodes: vec![node(1, 0.5), node(2, 0.25)],
        };
        let written = serde_json::to_string_pretty(&report).unwrap();
        let read = include_str!("../../comparison/fixtures/load_report.json");
        assert_eq!(written, read.trim_end(), "the comparison reads the old names");
    }

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(median([3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median([4.0, 1.0]), 4.0);
        assert!(median([]).is_nan());
    }
}
