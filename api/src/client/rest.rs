//! REST calls to one gateway.

use std::{fmt, sync::Arc, time::Duration};

use bytes::Bytes;
use heliograph_cluster::{AckItem, ApiKey, RevokeScope, model::DeviceId};
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::{
    client::legacy::Client as HttpClient,
    rt::{TokioExecutor, TokioTimer},
};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};
use tokio::time::timeout;

use super::{
    ClientError, DeviceKey, Endpoint, Events, Fetch, GatewayStatus, Letter, Receipt, Received,
    Refusal, Sender,
    connector::{Connector, tls},
    socket,
    types::ack_fields,
};
use crate::{Clock, SystemClock, base64, mosa::registration_text, websocket::Acknowledgement};

/// The largest answer taken: a receive of 4 MiB of content is 6 MiB of JSON.
const ANSWER_BYTES_MAX: usize = 16 * 1024 * 1024;
/// How long an idle connection is kept: less than the gateway keeps it.
const POOL_IDLE: Duration = Duration::from_secs(10);

/// How a client speaks to a gateway.
#[derive(Debug, Clone)]
pub struct ClientConfig {
    /// How long a call may take, beyond what a long poll waits.
    pub timeout: Duration,
    /// Certificate authorities, PEM; the gateway's certificate must be signed by one of them.
    pub roots_pem: Vec<u8>,
    /// What time it is.
    pub clock: Arc<dyn Clock>,
}

impl Default for ClientConfig {
    fn default() -> Self {
        // The gateway gives up after 10 s by default and says so.
        let timeout = Duration::from_secs(15);
        Self { timeout, roots_pem: Vec::new(), clock: Arc::new(SystemClock) }
    }
}

/// A client of one gateway; cheap to clone, connections are shared and kept.
#[derive(Clone)]
pub struct Client {
    pub(super) endpoint: Endpoint,
    pub(super) connector: Connector,
    pub(super) timeout: Duration,
    pub(super) key: Option<ApiKey>,
    http: HttpClient<Connector, Full<Bytes>>,
    clock: Arc<dyn Clock>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("endpoint", &self.endpoint).finish_non_exhaustive()
    }
}

#[derive(Deserialize)]
struct Registered {
    api_key: String,
}

#[derive(Deserialize)]
struct Acknowledged {
    acknowledged: u32,
}

impl Client {
    /// A client of the gateway at `url`, such as `https://gateway.example`.
    ///
    /// # Errors
    /// When the URL or the root certificates are not valid.
    pub fn new(url: &str, config: &ClientConfig) -> Result<Self, ClientError> {
        let endpoint = Endpoint::parse(url)?;
        let connector = Connector { tls: tls(&config.roots_pem)? };
        let http = HttpClient::builder(TokioExecutor::new())
            .pool_idle_timeout(POOL_IDLE)
            .pool_timer(TokioTimer::new())
            .build(connector.clone());
        let clock = Arc::clone(&config.clock);
        Ok(Self { endpoint, connector, timeout: config.timeout, key: None, http, clock })
    }

    /// The same client with an API key.
    #[must_use]
    pub fn with_key(&self, key: ApiKey) -> Self {
        Self { key: Some(key), ..self.clone() }
    }

    /// The gateway it speaks to.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// What the gateway says of itself.
    ///
    /// # Errors
    /// As all calls: see [`ClientError`].
    pub async fn status(&self) -> Result<GatewayStatus, ClientError> {
        let answer = self.call(Method::GET, "/api/v1/gateway/status", None, Duration::ZERO).await?;
        parse(&answer)
    }

    /// Registers a device, signed; a device that is known gets a fresh key.
    ///
    /// # Errors
    /// As all calls; `device_taken` when the id belongs to another key.
    pub async fn register(
        &self,
        device: &DeviceId,
        key: &DeviceKey,
    ) -> Result<ApiKey, ClientError> {
        let timestamp = self.timestamp();
        let text = registration_text(device, &timestamp);
        let body = json!({
            "device_id": device.as_str(),
            "public_key": base64::encode(&key.public()),
            "signature": base64::encode(&key.sign(text.as_bytes())),
        });
        let request =
            self.request(Method::POST, "/api/v1/auth/register", Some(&body), &timestamp)?;
        let answer = self.run(request, self.timeout).await?;
        parse::<Registered>(&answer).map(|registered| ApiKey::from_text(&registered.api_key))
    }

    /// Revokes this key, or all of the device's.
    ///
    /// # Errors
    /// As all calls.
    pub async fn revoke(&self, scope: RevokeScope) -> Result<(), ClientError> {
        let scope = match scope {
            RevokeScope::ThisKey => "key",
            RevokeScope::EveryKey => "all",
        };
        let body = json!({ "scope": scope });
        self.keyed(Method::POST, "/api/v1/auth/revoke", Some(&body), Duration::ZERO).await?;
        Ok(())
    }

    /// Sends a letter; answers once it is accepted. Safe to repeat.
    ///
    /// # Errors
    /// As all calls; after [`ClientError::Lost`] and [`ClientError::Deadline`] it is unknown
    /// whether the letter was accepted.
    pub async fn send(&self, letter: &Letter) -> Result<Receipt, ClientError> {
        let body = letter.to_json();
        let path = "/api/v1/messages/send";
        parse(&self.keyed(Method::POST, path, Some(&body), Duration::ZERO).await?)
    }

    /// Reads pending messages; removes nothing.
    ///
    /// # Errors
    /// As all calls.
    pub async fn receive(
        &self,
        device: &DeviceId,
        fetch: Fetch,
    ) -> Result<Vec<Received>, ClientError> {
        let device = utf8_percent_encode(device.as_str(), NON_ALPHANUMERIC);
        let path = format!("/api/v1/messages/receive/{device}?{}", fetch.query());
        parse(&self.keyed(Method::GET, &path, None, fetch.wait).await?)
    }

    /// Acknowledges messages; answers how many were still pending.
    ///
    /// # Errors
    /// As all calls.
    pub async fn acknowledge(&self, items: &[AckItem]) -> Result<u32, ClientError> {
        let body = ack_fields(items);
        let path = "/api/v1/messages/acknowledge";
        let answer = self.keyed(Method::POST, path, Some(&body), Duration::ZERO).await?;
        parse::<Acknowledged>(&answer).map(|answer| answer.acknowledged)
    }

    /// Opens a WebSocket: a handle to send with, and the stream of what comes. With
    /// [`Acknowledgement::Pong`] a message is acknowledged once it was read from the socket; with
    /// [`Acknowledgement::Explicit`] only [`Sender::acknowledge`] does.
    ///
    /// # Errors
    /// As all calls; [`ClientError::Closed`] when the gateway refuses the connection.
    pub async fn connect(
        &self,
        acknowledgement: Acknowledgement,
    ) -> Result<(Sender, Events), ClientError> {
        if self.key.is_none() {
            return Err(ClientError::NoKey);
        }
        timeout(self.timeout, socket::connect(self, acknowledgement))
            .await
            .unwrap_or(Err(ClientError::Deadline))
    }

    fn timestamp(&self) -> String {
        (self.clock.now_ms() / 1000).to_string()
    }

    pub(super) async fn keyed(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
        wait: Duration,
    ) -> Result<Bytes, ClientError> {
        if self.key.is_none() {
            return Err(ClientError::NoKey);
        }
        self.call(method, path, body, wait).await
    }

    async fn call(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
        wait: Duration,
    ) -> Result<Bytes, ClientError> {
        let request = self.request(method, path, body, &self.timestamp())?;
        self.run(request, self.timeout + wait).await
    }

    fn request(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
        timestamp: &str,
    ) -> Result<Request<Full<Bytes>>, ClientError> {
        let mut request = Request::builder()
            .method(method)
            .uri(self.endpoint.at(path))
            .header(header::ACCEPT, "application/json")
            .header("x-mosa-timestamp", timestamp);
        if let Some(key) = &self.key {
            request = request.header(header::AUTHORIZATION, format!("Bearer {}", key.expose()));
        }
        if body.is_some() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        let body = body.map(|body| Bytes::from(body.to_string())).unwrap_or_default();
        // A key that is no header value is none that a gateway gave.
        request.body(Full::new(body)).map_err(|_| ClientError::NoKey)
    }

    async fn run(
        &self,
        request: Request<Full<Bytes>>,
        time_max: Duration,
    ) -> Result<Bytes, ClientError> {
        timeout(time_max, self.exchange(request)).await.unwrap_or(Err(ClientError::Deadline))
    }

    async fn exchange(&self, request: Request<Full<Bytes>>) -> Result<Bytes, ClientError> {
        let response = self.http.request(request).await.map_err(|error| {
            if error.is_connect() { ClientError::Connect(error.into()) } else { ClientError::Lost }
        })?;
        let (head, body) = response.into_parts();
        let body = Limited::new(body, ANSWER_BYTES_MAX)
            .collect()
            .await
            .map_err(|_| ClientError::Lost)?
            .to_bytes();
        if head.status.is_success() {
            return Ok(body);
        }
        Err(ClientError::Refused(refusal(head.status, &head.headers, &body)))
    }
}

/// Reads what a gateway said no with.
pub(super) fn refusal(status: StatusCode, headers: &http::HeaderMap, body: &[u8]) -> Refusal {
    let retry_after = headers
        .get(header::RETRY_AFTER)
        .and_then(|value| value.to_str().ok())
        .and_then(|text| text.parse().ok());
    Refusal::parse(status.as_u16(), body, retry_after)
}

pub(super) fn parse<T: DeserializeOwned>(answer: &[u8]) -> Result<T, ClientError> {
    serde_json::from_slice(answer).map_err(|_| ClientError::Answer)
}
