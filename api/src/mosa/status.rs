//! `GET /api/v1/gateway/status`.

use heliograph_cluster::model::{CONTENT_BYTES_MAX, DEVICE_ID_BYTES_MAX, MESSAGE_ID_BYTES_MAX};
use http::{HeaderMap, StatusCode, header};
use serde_json::json;

use super::{
    gateway::{Gateway, json as answer_json},
    messages::{RECEIVE_LIMIT_MAX, RECEIVE_WAIT_MAX},
    wire::ACK_ITEMS_MAX,
};
use crate::{
    server::handler::{Answer, Scheme},
    websocket::SUBPROTOCOL,
};

/// The version of the published contract.
const VERSION: &str = "1.0";

impl Gateway {
    pub(super) fn status(&self, headers: &HeaderMap) -> Answer {
        let status = self.relay.status();
        let condition = if self.departures.is_leaving() {
            heliograph_cluster::Condition::Draining
        } else {
            status.condition
        };
        let now_ms = self.clock.now_ms();
        let body = json!({
            "status": condition,
            "version": VERSION,
            "capabilities": {
                "websocket_enabled": true,
                "websocket_url": self.websocket_url(headers),
                "websocket_subprotocols": [SUBPROTOCOL],
                "registration": self.config.registration,
                "durability": "majority",
                "server_time": now_ms / 1000,
                "timestamp_skew_seconds": self.config.timestamp_skew.as_secs(),
                "shards_without_leader": status.shards_without_leader,
                "dedup_window_seconds": status.dedup_window.as_secs(),
                "ttl_default_seconds": status.ttl_default.as_secs(),
                "ttl_max_seconds": status.ttl_max.as_secs(),
                "limits": {
                    "body_bytes_max": self.limits.body_bytes_max,
                    "content_bytes_max": CONTENT_BYTES_MAX,
                    "frame_bytes_max": self.websocket.message_bytes_max,
                    "device_id_bytes_max": DEVICE_ID_BYTES_MAX,
                    "message_id_bytes_max": MESSAGE_ID_BYTES_MAX,
                    "receive_limit_max": RECEIVE_LIMIT_MAX,
                    "receive_wait_seconds_max": RECEIVE_WAIT_MAX.as_secs(),
                    "acknowledge_items_max": ACK_ITEMS_MAX,
                    "in_flight_max": self.websocket.in_flight_max,
                    "requests_per_second": self.config.rate.per_second,
                    "requests_burst": self.config.rate.burst,
                },
            },
        });
        answer_json(StatusCode::OK, &body)
    }

    /// As configured, else where the client found this node.
    fn websocket_url(&self, headers: &HeaderMap) -> String {
        if let Some(url) = &self.config.websocket_url {
            return url.clone();
        }
        let scheme = match self.scheme {
            Scheme::Tls => "wss",
            Scheme::Plain => "ws",
        };
        let host = headers
            .get(header::HOST)
            .and_then(|host| host.to_str().ok())
            .filter(|host| host.parse::<http::uri::Authority>().is_ok() && !host.contains('@'))
            .unwrap_or("localhost");
        format!("{scheme}://{host}/ws")
    }
}
