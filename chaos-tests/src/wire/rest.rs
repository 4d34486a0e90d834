//! REST over one kept-alive connection.

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{Method, Request, StatusCode, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::time::timeout;

use super::{Security, WireError};
use crate::clock::unix_seconds;

/// What the server answered, as it came.
#[derive(Clone, Debug)]
pub struct Answer {
    /// HTTP status.
    pub status: StatusCode,
    /// The body.
    pub bytes: Bytes,
    is_json: bool,
    date: Option<u64>,
}

impl Answer {
    /// What it says.
    ///
    /// # Errors
    /// When it is not the JSON that it claims to be.
    pub fn read(self) -> Result<Reply, WireError> {
        let body = if self.bytes.is_empty() {
            Value::Null
        } else if self.is_json {
            serde_json::from_slice(&self.bytes).map_err(WireError::NotJson)?
        } else {
            Value::String(String::from_utf8_lossy(&self.bytes).into_owned())
        };
        Ok(Reply { status: self.status, body, date: self.date })
    }
}

/// What the server answered.
#[derive(Clone, Debug)]
pub struct Reply {
    /// HTTP status.
    pub status: StatusCode,
    /// The body, `null` when there is none, a string when it is not JSON by its type.
    pub body: Value,
    /// The server's time, in seconds since 1970.
    pub date: Option<u64>,
}

impl Reply {
    /// The stable code of a problem answer, or nothing.
    pub fn code(&self) -> &str {
        self.body["code"].as_str().unwrap_or_default()
    }

    /// The reply as an error that shows it.
    pub fn unexpected(self) -> WireError {
        WireError::Unexpected { status: self.status.as_u16(), body: self.body }
    }
}

/// A REST client of one node. The connection is made when needed and made again after an error;
/// no request is repeated.
#[derive(Debug)]
pub struct Rest {
    node: SocketAddr,
    security: Security,
    key: Option<String>,
    connection: Option<http1::SendRequest<Full<Bytes>>>,
}

impl Rest {
    /// A client of `node`, without TLS, not yet connected.
    pub fn new(node: SocketAddr, key: Option<&str>) -> Self {
        Self { node, security: Security::Plain, key: key.map(str::to_owned), connection: None }
    }

    /// The same, with what the node speaks.
    pub fn secured(self, security: Security) -> Self {
        Self { security, ..self }
    }

    /// Which node it talks to.
    pub fn node(&self) -> SocketAddr {
        self.node
    }

    /// Moves to another node.
    pub fn move_to(&mut self, node: SocketAddr) {
        if self.node != node {
            self.node = node;
            self.connection = None;
        }
    }

    /// A GET.
    ///
    /// # Errors
    /// When no answer came within `deadline`; an answer with an error status is a [`Reply`].
    pub async fn get(&mut self, path: &str, deadline: Duration) -> Result<Reply, WireError> {
        self.fetch(path, deadline).await?.read()
    }

    /// A GET whose answer is not looked into.
    ///
    /// # Errors
    /// When no answer came within `deadline`.
    pub async fn fetch(&mut self, path: &str, deadline: Duration) -> Result<Answer, WireError> {
        let request = self.request(Method::GET, path, None, unix_seconds());
        self.call(request, deadline).await
    }

    /// A POST of a text that is JSON already; the answer is not looked into.
    ///
    /// # Errors
    /// As [`Self::fetch`].
    pub async fn post_text(
        &mut self,
        path: &str,
        body: String,
        deadline: Duration,
    ) -> Result<Answer, WireError> {
        let request = self.request(Method::POST, path, Some(body), unix_seconds());
        self.call(request, deadline).await
    }

    /// A POST.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub async fn post(
        &mut self,
        path: &str,
        body: &Value,
        deadline: Duration,
    ) -> Result<Reply, WireError> {
        self.post_at(path, body, unix_seconds(), deadline).await
    }

    /// A POST whose `X-MOSA-Timestamp` is `timestamp`.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub async fn post_at(
        &mut self,
        path: &str,
        body: &Value,
        timestamp: u64,
        deadline: Duration,
    ) -> Result<Reply, WireError> {
        let request = self.request(Method::POST, path, Some(body.to_string()), timestamp);
        self.call(request, deadline).await?.read()
    }

    async fn call(
        &mut self,
        request: Request<Full<Bytes>>,
        deadline: Duration,
    ) -> Result<Answer, WireError> {
        // Taken out while in use: a call that is dropped or fails leaves no half-used connection.
        let mut connection = self.connection.take();
        let call = async {
            if connection.as_ref().is_none_or(http1::SendRequest::is_closed) {
                connection = Some(connect(self.node, &self.security).await?);
            }
            let connection = connection.as_mut().expect("it was made just before");
            // Not ready: the server closed the idle connection before anything was sent.
            connection
                .ready()
                .await
                .map_err(|error| WireError::NotConnected(std::io::Error::other(error)))?;
            let answer = connection.send_request(request).await.map_err(WireError::Broken)?;
            let status = answer.status();
            let date = answer.headers().get(header::DATE).and_then(unix_seconds_of);
            let is_json = answer.headers().get(header::CONTENT_TYPE).is_some_and(is_json);
            let bytes = answer.into_body().collect().await.map_err(WireError::Broken)?.to_bytes();
            Ok::<_, WireError>(Answer { status, bytes, is_json, date })
        };
        let answer = timeout(deadline, call).await.map_err(|_| WireError::Timeout)??;
        self.connection = connection;
        Ok(answer)
    }

    fn request(
        &self,
        method: Method,
        path: &str,
        body: Option<String>,
        timestamp: u64,
    ) -> Request<Full<Bytes>> {
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, self.node.to_string())
            .header(header::ACCEPT, "application/json")
            .header("X-MOSA-Timestamp", timestamp);
        if let Some(key) = &self.key {
            request = request.header(header::AUTHORIZATION, format!("Bearer {key}"));
        }
        let bytes = match body {
            Some(body) => {
                request = request.header(header::CONTENT_TYPE, "application/json");
                Bytes::from(body)
            }
            None => Bytes::new(),
        };
        request.body(Full::new(bytes)).expect("paths and keys of the workload are valid")
    }
}

fn unix_seconds_of(date: &header::HeaderValue) -> Option<u64> {
    let date = httpdate::parse_http_date(date.to_str().ok()?).ok()?;
    Some(date.duration_since(std::time::UNIX_EPOCH).ok()?.as_secs())
}

/// `application/json` and all `application/…+json`.
fn is_json(value: &header::HeaderValue) -> bool {
    let essence = value.as_bytes().split(|byte| *byte == b';').next().unwrap_or_default();
    essence.trim_ascii_end().ends_with(b"json")
}

async fn connect(
    node: SocketAddr,
    security: &Security,
) -> Result<http1::SendRequest<Full<Bytes>>, WireError> {
    let line = security.connect(node, None).await.map_err(WireError::NotConnected)?;
    let (sender, connection) =
        http1::handshake(TokioIo::new(line)).await.map_err(WireError::Broken)?;
    // Ends by itself when the sender is dropped or the server closes; its error shows in the call.
    tokio::spawn(connection);
    Ok(sender)
}
