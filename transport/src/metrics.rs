//! The metrics of this crate: names, descriptions, and handles resolved once.

use metrics::{Counter, Gauge, Histogram, Unit};

use crate::network::{CallError, Lane};

const CALL_DURATION: &str = "heliograph_transport_call_duration_seconds";
const CALLS: &str = "heliograph_transport_calls_total";
const NOTICES_DROPPED: &str = "heliograph_transport_notices_dropped_total";
const SERVED_CALLS: &str = "heliograph_transport_served_calls";
const LANE_QUEUE_FRAMES: &str = "heliograph_transport_lane_queue_frames";
const SENT_BYTES: &str = "heliograph_transport_sent_bytes_total";
const RECEIVED_BYTES: &str = "heliograph_transport_received_bytes_total";
const CONNECTED_PEERS: &str = "heliograph_transport_connected_peers";
const CONNECTS: &str = "heliograph_transport_connects_total";
const DIALS_FAILED: &str = "heliograph_transport_dials_failed_total";
const REFUSED_HANDSHAKES: &str = "heliograph_transport_refused_handshakes_total";
const VIOLATIONS: &str = "heliograph_transport_violations_total";
const TRIPWIRES_BROKEN: &str = "heliograph_transport_tripwires_broken_total";

/// Every metric this crate exports.
pub const METRIC_NAMES: &[&str] = &[
    CALL_DURATION,
    CALLS,
    NOTICES_DROPPED,
    SERVED_CALLS,
    LANE_QUEUE_FRAMES,
    SENT_BYTES,
    RECEIVED_BYTES,
    CONNECTED_PEERS,
    CONNECTS,
    DIALS_FAILED,
    REFUSED_HANDSHAKES,
    VIOLATIONS,
    TRIPWIRES_BROKEN,
];

/// Registers the descriptions with the installed recorder.
pub fn describe_metrics() {
    use metrics::{describe_counter, describe_gauge, describe_histogram};
    describe_histogram!(
        CALL_DURATION,
        Unit::Seconds,
        "From queueing a request to its answer, by lane; answered calls only"
    );
    describe_counter!(CALLS, Unit::Count, "Calls made, by outcome");
    describe_counter!(NOTICES_DROPPED, Unit::Count, "Notices not taken by a lane");
    describe_gauge!(SERVED_CALLS, Unit::Count, "Calls of peers being served");
    describe_gauge!(
        LANE_QUEUE_FRAMES,
        Unit::Count,
        "Frames queued, not yet handed to QUIC, by lane"
    );
    describe_counter!(SENT_BYTES, Unit::Bytes, "Bytes of frames handed to QUIC, by lane");
    describe_counter!(RECEIVED_BYTES, Unit::Bytes, "Bytes of frames taken from QUIC, by lane");
    describe_gauge!(CONNECTED_PEERS, Unit::Count, "Peers whose control connection stands");
    describe_counter!(CONNECTS, Unit::Count, "Connections made, by connection (control, bulk)");
    describe_counter!(DIALS_FAILED, Unit::Count, "Attempts to reach a peer that failed");
    describe_counter!(REFUSED_HANDSHAKES, Unit::Count, "Handshakes refused here, by reason");
    describe_counter!(VIOLATIONS, Unit::Count, "Connections closed for breaking the protocol");
    describe_counter!(
        TRIPWIRES_BROKEN,
        Unit::Count,
        "Peer processes seen to end by their tripwire"
    );
}

/// The lane kinds, as labels. Keys are not labels: their number is not bounded.
const LANES: [&str; 3] = ["urgent", "shared", "bulk"];

/// Handles of the process-wide recorder, resolved once per network: a look-up on the path of each
/// frame would cost as much as the frame.
pub(crate) struct Metrics {
    call_duration: [Histogram; 3],
    lane_queue_frames: [Gauge; 3],
    sent_bytes: [Counter; 3],
    received_bytes: [Counter; 3],
    ok: Counter,
    not_connected: Counter,
    overloaded: Counter,
    too_large: Counter,
    lost: Counter,
    deadline: Counter,
    refused: Counter,
    pub(crate) notices_dropped: Counter,
    pub(crate) served_calls: Gauge,
    pub(crate) connected_peers: Gauge,
    pub(crate) control_connects: Counter,
    pub(crate) bulk_connects: Counter,
    pub(crate) dials_failed: Counter,
    pub(crate) violations: Counter,
    pub(crate) tripwires_broken: Counter,
}

impl Metrics {
    /// Resolves the handles at the recorder installed now.
    pub(crate) fn new() -> Self {
        let outcome = |outcome: &'static str| metrics::counter!(CALLS, "outcome" => outcome);
        let connects = |kind: &'static str| metrics::counter!(CONNECTS, "connection" => kind);
        Self {
            call_duration: LANES.map(|lane| metrics::histogram!(CALL_DURATION, "lane" => lane)),
            lane_queue_frames: LANES.map(|lane| metrics::gauge!(LANE_QUEUE_FRAMES, "lane" => lane)),
            sent_bytes: LANES.map(|lane| metrics::counter!(SENT_BYTES, "lane" => lane)),
            received_bytes: LANES.map(|lane| metrics::counter!(RECEIVED_BYTES, "lane" => lane)),
            ok: outcome("ok"),
            not_connected: outcome("not_connected"),
            overloaded: outcome("overloaded"),
            too_large: outcome("too_large"),
            lost: outcome("lost"),
            deadline: outcome("deadline"),
            refused: outcome("refused"),
            notices_dropped: metrics::counter!(NOTICES_DROPPED),
            served_calls: metrics::gauge!(SERVED_CALLS),
            connected_peers: metrics::gauge!(CONNECTED_PEERS),
            control_connects: connects("control"),
            bulk_connects: connects("bulk"),
            dials_failed: metrics::counter!(DIALS_FAILED),
            violations: metrics::counter!(VIOLATIONS),
            tripwires_broken: metrics::counter!(TRIPWIRES_BROKEN),
        }
    }

    /// Counts a refused handshake; `reason` is one of a fixed set.
    pub(crate) fn refused_handshake(&self, reason: &'static str) {
        metrics::counter!(REFUSED_HANDSHAKES, "reason" => reason).increment(1);
    }

    /// Counts how a call ended, and how long an answered one took.
    pub(crate) fn call_ended<T>(&self, lane: Lane, seconds: f64, result: &Result<T, CallError>) {
        match result {
            Ok(_) => {
                self.ok.increment(1);
                self.call_duration[label(lane)].record(seconds);
            }
            Err(CallError::NotConnected(_)) => self.not_connected.increment(1),
            Err(CallError::Overloaded(_)) => self.overloaded.increment(1),
            Err(CallError::TooLarge { .. }) => self.too_large.increment(1),
            Err(CallError::Lost(_)) => self.lost.increment(1),
            Err(CallError::Deadline(_)) => self.deadline.increment(1),
            Err(CallError::Refused(_)) => self.refused.increment(1),
        }
    }

    /// Frames queued on `lane`.
    pub(crate) fn lane_queue_frames(&self, lane: Lane) -> &Gauge {
        &self.lane_queue_frames[label(lane)]
    }

    /// Bytes sent on `lane`.
    pub(crate) fn sent_bytes(&self, lane: Lane) -> &Counter {
        &self.sent_bytes[label(lane)]
    }

    /// Bytes received on `lane`.
    pub(crate) fn received_bytes(&self, lane: Lane) -> &Counter {
        &self.received_bytes[label(lane)]
    }
}

fn label(lane: Lane) -> usize {
    match lane {
        Lane::Urgent => 0,
        Lane::Shared(_) => 1,
        Lane::Bulk => 2,
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, sync::Mutex};

    use metrics::{Key, KeyName, Metadata, Recorder, SharedString};

    use super::*;

    /// Writes down what is described and what is registered.
    #[derive(Default)]
    struct Names {
        described: Mutex<BTreeSet<String>>,
        registered: Mutex<BTreeSet<String>>,
    }

    impl Names {
        fn describe(&self, name: KeyName) {
            self.described.lock().unwrap().insert(name.as_str().to_owned());
        }

        fn register(&self, key: &Key) {
            self.registered.lock().unwrap().insert(key.name().to_owned());
        }
    }

    impl Recorder for Names {
        fn describe_counter(&self, name: KeyName, _: Option<Unit>, _: SharedString) {
            self.describe(name);
        }

        fn describe_gauge(&self, name: KeyName, _: Option<Unit>, _: SharedString) {
            self.describe(name);
        }

        fn describe_histogram(&self, name: KeyName, _: Option<Unit>, _: SharedString) {
            self.describe(name);
        }

        fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
            self.register(key);
            Counter::noop()
        }

        fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
            self.register(key);
            Gauge::noop()
        }

        fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
            self.register(key);
            Histogram::noop()
        }
    }

    #[test]
    fn every_metric_is_listed_described_and_registered() {
        let names = Names::default();
        metrics::with_local_recorder(&names, || {
            describe_metrics();
            Metrics::new().refused_handshake("reason");
        });
        let listed: BTreeSet<String> = METRIC_NAMES.iter().map(|&name| name.to_owned()).collect();
        assert_eq!(*names.described.lock().unwrap(), listed);
        assert_eq!(*names.registered.lock().unwrap(), listed);
    }
}
