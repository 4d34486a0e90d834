//! Dispatch: from a request to its route, and what all answers have in common.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use heliograph_cluster::{Principal, Relay};
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, header,
    request::Parts,
};
use http_body_util::Full;
use hyper::body::Incoming;
use metrics_exporter_prometheus::PrometheusHandle;
use parking_lot::Mutex;
use serde::Serialize;
use tokio::time::Instant;

use super::{
    config::{ConfigError, MosaConfig, RegistrationMode},
    headers,
    rate::{Allowance, RateLimiter},
    route::Route,
    socket,
};
use crate::{
    Clock,
    entropy::Entropy,
    metrics,
    problem::{Code, Problem},
    server::{
        Limits, ServerConfig, body,
        departure::Departures,
        handler::{Answer, Handler, Reply, Scheme},
    },
    websocket::{WebSocketConfig, accept_handshake},
};

/// The MOSA front door of one node.
pub(crate) struct Gateway {
    pub(super) config: MosaConfig,
    pub(super) limits: Limits,
    pub(super) websocket: Arc<WebSocketConfig>,
    pub(super) scheme: Scheme,
    pub(super) relay: Arc<dyn Relay>,
    pub(super) metrics: PrometheusHandle,
    pub(super) departures: Arc<Departures>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) limiter: RateLimiter,
    entropy: Mutex<Entropy>,
}

/// What becomes known of a request on the way, for its answer.
#[derive(Default)]
pub(super) struct Known {
    pub(super) allowance: Option<Allowance>,
}

impl Gateway {
    pub(crate) fn new(
        config: &ServerConfig,
        scheme: Scheme,
        relay: Arc<dyn Relay>,
        metrics: PrometheusHandle,
        departures: Arc<Departures>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, ConfigError> {
        let mosa = &config.mosa;
        if mosa.registration == RegistrationMode::Invite {
            return Err(ConfigError::InviteNotOffered);
        }
        if mosa.rate.per_second == 0 || mosa.rate.burst == 0 {
            return Err(ConfigError::RateZero);
        }
        let is_url = |url: &str| url.starts_with("ws://") || url.starts_with("wss://");
        if mosa.websocket_url.as_deref().is_some_and(|url| !is_url(url)) {
            return Err(ConfigError::WebSocketUrl);
        }
        config.websocket.check()?;
        check_limits(&config.limits)?;
        Ok(Self {
            limiter: RateLimiter::new(mosa.rate),
            config: mosa.clone(),
            limits: config.limits.clone(),
            websocket: Arc::new(config.websocket.clone()),
            scheme,
            relay,
            metrics,
            departures,
            clock,
            entropy: Mutex::new(Entropy::from_system()),
        })
    }

    /// When the cluster must have answered a request that begins now.
    pub(super) fn deadline(&self) -> Instant {
        Instant::now() + self.config.request_timeout
    }

    async fn dispatch(self: Arc<Self>, request: Request<Incoming>) -> Reply {
        let began = Instant::now();
        let (parts, body) = request.into_parts();
        let path = parts.uri.path().to_owned();
        let route = Route::find(&path);
        let name = route.as_ref().map_or("none", Route::name);
        let is_api = path.starts_with("/api/");
        let mut known = Known::default();
        let mut reply = match self.route(route, parts, body, &mut known).await {
            Ok(reply) => reply,
            Err(problem) => Reply::Answer(problem.into_response()),
        };
        let (Reply::Answer(response) | Reply::Upgrade(response, _)) = &mut reply;
        let status = response.status().as_u16();
        let headers = response.headers_mut();
        if is_api {
            write_cors(headers);
        }
        if let Some(allowance) = known.allowance {
            allowance.write(headers);
        }
        metrics::request(name, status, began.elapsed().as_secs_f64());
        reply
    }

    async fn route(
        self: &Arc<Self>,
        route: Option<Route<'_>>,
        parts: Parts,
        body: Incoming,
        known: &mut Known,
    ) -> Result<Reply, Problem> {
        let route = route.ok_or(Code::NotFound)?;
        if !route.takes(&parts.method) {
            let allow = HeaderValue::from_static(route.allow());
            return Err(Problem::from(Code::MethodNotAllowed).header(header::ALLOW, allow));
        }
        if parts.method == Method::OPTIONS {
            return Ok(Reply::Answer(preflight(route.allow())));
        }
        let answer = match route {
            Route::WebSocket => return self.upgrade(&parts),
            Route::Live => text("ok\n"),
            Route::Ready => self.ready()?,
            Route::Metrics => text(self.metrics.render()),
            Route::Status => {
                headers::check_accept(&parts.headers)?;
                self.status(&parts.headers)
            }
            Route::Register => self.register(&parts, body).await?,
            Route::Revoke => self.revoke(&parts, body, known).await?,
            Route::Send => self.send(&parts, body, known).await?,
            Route::Receive(user) => self.receive(&parts, user.as_deref(), known).await?,
            Route::Acknowledge => self.acknowledge(&parts, body, known).await?,
        };
        Ok(Reply::Answer(answer))
    }

    fn upgrade(self: &Arc<Self>, parts: &Parts) -> Result<Reply, Problem> {
        let response = accept_handshake(parts)?;
        let gateway = Arc::clone(self);
        let entropy = self.entropy.lock().fork();
        let takeover = Box::new(move |stream, read: Bytes, departure| {
            socket::run(gateway, stream, read, departure, entropy)
        });
        Ok(Reply::Upgrade(response, takeover))
    }

    fn ready(&self) -> Result<Answer, Problem> {
        let reason = if self.departures.is_stopping() {
            Some("the node is shutting down")
        } else {
            self.relay.status().not_ready
        };
        match reason {
            None => Ok(text("ready\n")),
            Some(reason) => Err(Problem::from(Code::NotReady).detail(reason)),
        }
    }

    /// The header rules of every call but status: timestamp, and the body's type and length where
    /// there is one. Answers the timestamp's text.
    pub(super) fn check_headers<'a>(&self, parts: &'a Parts) -> Result<&'a str, Problem> {
        headers::check_accept(&parts.headers)?;
        body::check_declared(&parts.headers, self.limits.body_bytes_max)?;
        if parts.method == Method::POST && has_body(&parts.headers) {
            headers::check_content_type(&parts.headers)?;
        }
        headers::check_timestamp(&parts.headers, self.clock.now_ms(), self.config.timestamp_skew)
    }

    /// The header rules and the API key; takes one request from the device's allowance.
    pub(super) async fn authorize(
        &self,
        parts: &Parts,
        known: &mut Known,
    ) -> Result<Principal, Problem> {
        self.check_headers(parts)?;
        let key = headers::bearer(&parts.headers)?;
        let principal = self.relay.authenticate(&key, self.deadline()).await?;
        let allowance = self.limiter.take(&principal.device, Instant::now());
        known.allowance = Some(allowance);
        allowance.check()?;
        Ok(principal)
    }

    /// Reads the body of a call that needs one.
    pub(super) async fn read_body(
        &self,
        headers: &HeaderMap,
        body: Incoming,
    ) -> Result<Bytes, Problem> {
        if !body::is_announced(headers) {
            return Err(Code::LengthRequired.into());
        }
        body::read(body, self.limits.body_bytes_max, self.limits.body_timeout).await
    }
}

impl Handler for Gateway {
    fn handle(self: Arc<Self>, request: Request<Incoming>) -> BoxFuture<'static, Reply> {
        Box::pin(self.dispatch(request))
    }
}

/// Whether the request has a body that is not empty.
pub(super) fn has_body(headers: &HeaderMap) -> bool {
    body::is_announced(headers)
        && headers.get(header::CONTENT_LENGTH).is_none_or(|length| length != "0")
}

fn check_limits(limits: &Limits) -> Result<(), ConfigError> {
    let least = [
        ("limits.connections-max", limits.connections_max, 1),
        ("limits.head-bytes-max", limits.head_bytes_max, 4096),
        ("limits.header-fields-max", limits.header_fields_max, 16),
        ("limits.body-bytes-max", limits.body_bytes_max, 96 * 1024),
    ];
    match least.into_iter().find(|(_, value, min)| value < min) {
        Some((setting, _, min)) => Err(ConfigError::TooSmall { setting, min }),
        None => Ok(()),
    }
}

/// A JSON answer.
pub(crate) fn json(status: StatusCode, value: &impl Serialize) -> Answer {
    let body = serde_json::to_vec(value).expect("answers are plain JSON");
    raw_json(status, body)
}

/// An answer that is JSON already.
pub(super) fn raw_json(status: StatusCode, body: Vec<u8>) -> Answer {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

fn text(body: impl Into<Bytes>) -> Answer {
    let mut response = Response::new(Full::new(body.into()));
    let plain = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, plain);
    response
}

/// Browsers may speak to the gateway from any page: a key in a header is what authorises, and no
/// cookie does.
fn write_cors(headers: &mut HeaderMap) {
    const EXPOSED: &str = "Retry-After, RateLimit, RateLimit-Policy, WWW-Authenticate";
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(EXPOSED));
}

fn preflight(allow: &'static str) -> Answer {
    const HEADERS: &str = "Authorization, Content-Type, Accept, X-MOSA-Timestamp";
    let mut response = Response::new(Full::new(Bytes::new()));
    *response.status_mut() = StatusCode::NO_CONTENT;
    let fields: [(HeaderName, &'static str); 4] = [
        (header::ALLOW, allow),
        (header::ACCESS_CONTROL_ALLOW_METHODS, allow),
        (header::ACCESS_CONTROL_ALLOW_HEADERS, HEADERS),
        (header::ACCESS_CONTROL_MAX_AGE, "86400"),
    ];
    for (name, value) in fields {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}
