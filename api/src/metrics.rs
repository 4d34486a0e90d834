//! The names of this crate's metrics, all in one place.

use std::sync::LazyLock;

use metrics::{
    Counter, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram,
};

/// Open client connections, WebSockets included.
pub const CONNECTIONS: &str = "heliograph_api_connections";
/// Connections refused because the node is full.
pub const CONNECTIONS_REFUSED: &str = "heliograph_api_connections_refused_total";
/// Failed `accept` calls (mostly: no file descriptors left).
pub const ACCEPT_ERRORS: &str = "heliograph_api_accept_errors_total";
/// TLS handshakes that failed or took too long.
pub const TLS_FAILURES: &str = "heliograph_api_tls_handshake_failures_total";
/// Connection tasks that panicked; each is a defect.
pub const PANICS: &str = "heliograph_api_panics_total";
/// Requests by `route` and `status`.
pub const REQUESTS: &str = "heliograph_api_requests_total";
/// Time to answer a request, by `route`.
pub const REQUEST_DURATION: &str = "heliograph_api_request_duration_seconds";
/// Requests and frames over a device's rate.
pub const RATE_LIMITED: &str = "heliograph_api_rate_limited_total";
/// Authenticated WebSocket connections.
pub const WEBSOCKETS: &str = "heliograph_api_websockets";
/// WebSocket frames from clients, by `kind`.
pub const FRAMES_RECEIVED: &str = "heliograph_api_frames_received_total";
/// WebSocket connections ended, by `code` (`none`: without a close frame of ours).
pub const CLOSES: &str = "heliograph_api_websocket_closes_total";
/// Messages written to WebSocket connections.
pub const DELIVERED: &str = "heliograph_api_messages_delivered_total";
/// Pushes handed back because a connection's queue was full.
pub const PUSHES_REFUSED: &str = "heliograph_api_pushes_refused_total";
/// Bytes queued to slow WebSocket readers and not yet taken by their sockets.
pub const QUEUED_BYTES: &str = "heliograph_api_websocket_queue_bytes";

/// Every exported name, to be held against the reference, dashboards and alert rules.
pub const NAMES: &[&str] = &[
    CONNECTIONS,
    CONNECTIONS_REFUSED,
    ACCEPT_ERRORS,
    TLS_FAILURES,
    PANICS,
    REQUESTS,
    REQUEST_DURATION,
    RATE_LIMITED,
    WEBSOCKETS,
    FRAMES_RECEIVED,
    CLOSES,
    DELIVERED,
    PUSHES_REFUSED,
    QUEUED_BYTES,
];

/// Tells the recorder what each metric means. Called once the recorder is installed.
pub fn describe() {
    describe_gauge!(CONNECTIONS, "Open client connections, WebSockets included");
    describe_counter!(CONNECTIONS_REFUSED, "Connections refused because the node is full");
    describe_counter!(ACCEPT_ERRORS, "Failed accept calls");
    describe_counter!(TLS_FAILURES, "TLS handshakes that failed or took too long");
    describe_counter!(PANICS, "Connection tasks that panicked; each is a defect");
    describe_counter!(REQUESTS, "Requests by route and status");
    describe_histogram!(REQUEST_DURATION, "Time to answer a request by route");
    describe_counter!(RATE_LIMITED, "Requests and frames over a device's rate");
    describe_gauge!(WEBSOCKETS, "Authenticated WebSocket connections");
    describe_counter!(FRAMES_RECEIVED, "WebSocket frames from clients by kind");
    describe_counter!(CLOSES, "WebSocket connections ended, by close code");
    describe_counter!(DELIVERED, "Messages written to WebSocket connections");
    describe_counter!(PUSHES_REFUSED, "Pushes handed back because a connection's queue was full");
    describe_gauge!(QUEUED_BYTES, "Bytes queued to WebSocket readers and not yet written");
}

/// A gauge that counts holders: up while it lives.
#[derive(Debug)]
pub(crate) struct Held(&'static str);

impl Held {
    pub(crate) fn new(name: &'static str) -> Self {
        gauge!(name).increment(1.0);
        Self(name)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        gauge!(self.0).decrement(1.0);
    }
}

// Resolved once, at the recorder installed by then: a look-up for each frame would be one of its
// larger costs.
static TEXT_FRAMES: LazyLock<Counter> =
    LazyLock::new(|| counter!(FRAMES_RECEIVED, "kind" => "text"));
static MESSAGES_DELIVERED: LazyLock<Counter> = LazyLock::new(|| counter!(DELIVERED));

/// A text frame came.
pub(crate) fn text_frame_received() {
    TEXT_FRAMES.increment(1);
}

/// A socket has taken so many messages.
pub(crate) fn delivered(messages: usize) {
    MESSAGES_DELIVERED.increment(messages as u64);
}

pub(crate) fn request(route: &'static str, status: u16, seconds: f64) {
    counter!(REQUESTS, "route" => route, "status" => status_label(status)).increment(1);
    histogram!(REQUEST_DURATION, "route" => route).record(seconds);
}

/// A label without an allocation a request, and with few values.
fn status_label(status: u16) -> &'static str {
    match status {
        101 => "101",
        200 => "200",
        202 => "202",
        204 => "204",
        400 => "400",
        401 => "401",
        403 => "403",
        404 => "404",
        405 => "405",
        406 => "406",
        408 => "408",
        409 => "409",
        411 => "411",
        413 => "413",
        415 => "415",
        426 => "426",
        429 => "429",
        431 => "431",
        500 => "500",
        503 => "503",
        _ => "other",
    }
}
