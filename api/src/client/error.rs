//! What can go wrong between a client and a gateway.

use std::time::Duration;

use serde::Deserialize;

/// A gateway's problem document, or the error frame of a WebSocket.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Refusal {
    /// The HTTP status; 0 for an error frame.
    pub status: u16,
    /// The stable code; see [`crate::Code`]. Empty when the answer came from something in between.
    pub code: String,
    /// What to do about it, for people.
    pub detail: String,
    /// The fields that are not valid, each with what it must be.
    pub fields: Vec<(String, String)>,
    /// How long to wait.
    pub retry_after: Option<Duration>,
    /// The server's time in Unix seconds, where the timestamp was refused.
    pub server_time: Option<u64>,
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({})", self.detail, self.code)?;
        for (field, detail) in &self.fields {
            write!(f, "; {field} {detail}")?;
        }
        Ok(())
    }
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Document {
    code: String,
    detail: String,
    errors: Vec<DocumentField>,
    server_time: Option<u64>,
    retry_after: Option<u64>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct DocumentField {
    field: String,
    detail: String,
}

impl Refusal {
    /// Reads a problem document or an error frame; a body that is neither leaves the status.
    pub(super) fn parse(status: u16, body: &[u8], retry_after: Option<u64>) -> Self {
        let document: Document = serde_json::from_slice(body).unwrap_or_default();
        let detail = if document.detail.is_empty() {
            format!("the gateway answered with status {status}")
        } else {
            document.detail
        };
        let fields = document.errors.into_iter().map(|error| (error.field, error.detail));
        Self {
            status,
            code: document.code,
            detail,
            fields: fields.collect(),
            retry_after: retry_after.or(document.retry_after).map(Duration::from_secs),
            server_time: document.server_time,
        }
    }

    /// Whether the same request may succeed later, or elsewhere.
    pub fn is_retryable(&self) -> bool {
        let by_code = matches!(
            self.code.as_str(),
            "rate_limited"
                | "mailbox_full"
                | "overloaded"
                | "unavailable"
                | "storage_failed"
                | "connection_limit"
                | "not_ready"
                | "internal"
                | "request_timeout"
        );
        by_code || matches!(self.status, 408 | 429 | 500..=599)
    }
}

/// Why a call did not succeed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// The gateway cannot be reached: nothing was sent.
    #[error("cannot reach the gateway")]
    Connect(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The connection broke: it is unknown what the gateway did.
    #[error("the connection to the gateway broke")]
    Lost,
    /// The time was up: it is unknown what the gateway did.
    #[error("the gateway did not answer in time")]
    Deadline,
    /// The gateway said no.
    #[error("the gateway refused: {0}")]
    Refused(Refusal),
    /// The gateway closed the WebSocket, with this code.
    #[error("the gateway closed the connection with code {0}")]
    Closed(u16),
    /// The gateway's answer is not what the protocol says.
    #[error("the gateway's answer was not understood")]
    Answer,
    /// The certificate authorities given for TLS are no PEM certificates.
    #[error("the root certificates are not valid PEM")]
    Roots,
    /// A call that needs a key, without one.
    #[error("register first: this call needs an API key")]
    NoKey,
    /// The gateway's address.
    #[error(transparent)]
    Endpoint(#[from] super::EndpointError),
}

impl ClientError {
    /// Whether the same request, with the same message id, may succeed later or elsewhere.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Connect(_) | Self::Lost | Self::Deadline => true,
            Self::Refused(refusal) => refusal.is_retryable(),
            // Where reconnecting helps; see docs/reference/mosa-http.md.
            Self::Closed(code) => matches!(code, 1006 | 1011 | 1012 | 1013 | 4408),
            Self::Answer | Self::Roots | Self::NoKey | Self::Endpoint(_) => false,
        }
    }

    /// How long the gateway wants to be left alone.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Refused(refusal) => refusal.retry_after,
            _ => None,
        }
    }
}
