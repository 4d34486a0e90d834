//! What goes wrong, as clients learn it: RFC 9457 problem documents with stable codes.

use std::borrow::Cow;

use bytes::Bytes;
use heliograph_cluster::RelayError;
use http::{HeaderName, HeaderValue, Response, StatusCode, header};
use http_body_util::Full;
use serde::Serialize;

/// Seconds a client should wait after 503: longer than an election (2–4 s) seldom takes.
const RETRY_AFTER_SECONDS: u32 = 2;
/// Seconds a sender should wait when a mailbox is full: its owner must read first.
const RETRY_AFTER_FULL_SECONDS: u32 = 30;

macro_rules! codes {
    ($($(#[doc = $doc:literal])+ $name:ident = $status:literal $code:literal, $title:literal, $detail:literal;)+) => {
        /// Every code a client can meet over REST or in a WebSocket error frame. Stable: codes are
        /// added, never renamed.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum Code { $($(#[doc = $doc])+ $name,)+ }

        impl Code {
            /// All codes.
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];

            /// The code on the wire.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$name => $code,)+ }
            }

            /// The HTTP status it comes with.
            pub fn status(self) -> StatusCode {
                let status: u16 = match self { $(Self::$name => $status,)+ };
                StatusCode::from_u16(status).expect("the table holds valid statuses")
            }

            /// What it is, the same each time.
            pub fn title(self) -> &'static str {
                match self { $(Self::$name => $title,)+ }
            }

            /// What to do about it, where nothing more is known.
            pub fn advice(self) -> &'static str {
                match self { $(Self::$name => $detail,)+ }
            }
        }
    };
}

codes! {
    /// The body is not JSON, or not an object.
    BadJson = 400 "bad_json", "The body is not a JSON object", "Send one JSON object in UTF-8.";
    /// Fields are missing or wrong; `errors` names each.
    ValidationFailed = 400 "validation_failed", "Some fields are not valid", "Correct the fields named in `errors`.";
    /// `GET /ws` with headers that are no WebSocket handshake.
    BadHandshake = 400 "bad_handshake", "Not a WebSocket handshake", "Send the headers of RFC 6455 section 4.1.";
    /// The head cannot be understood.
    BadRequest = 400 "bad_request", "The request is malformed", "Send a request as RFC 9112 has it.";
    /// No `X-MOSA-Timestamp`.
    TimestampMissing = 401 "timestamp_missing", "X-MOSA-Timestamp is missing", "Send the current Unix time in seconds as X-MOSA-Timestamp.";
    /// `X-MOSA-Timestamp` is no number.
    TimestampInvalid = 401 "timestamp_invalid", "X-MOSA-Timestamp is not a number", "Send the current Unix time in seconds as X-MOSA-Timestamp.";
    /// `X-MOSA-Timestamp` is too far from the server's time.
    TimestampSkewed = 401 "timestamp_skewed", "X-MOSA-Timestamp is too far from the server's time", "Set the device's clock, or correct for `server_time`.";
    /// No bearer token.
    TokenMissing = 401 "token_missing", "The API key is missing", "Send `Authorization: Bearer <API_KEY>`; register to get a key.";
    /// An unknown or revoked API key.
    TokenInvalid = 401 "token_invalid", "The API key is not valid", "Register again to get a fresh key.";
    /// A signature that does not verify.
    SignatureInvalid = 401 "signature_invalid", "The signature does not verify", "Sign `mosa-register\\n<device_id>\\n<X-MOSA-Timestamp>` with the key of `public_key` (Ed25519) and send the signature as Base64.";
    /// Registration is closed.
    RegistrationClosed = 403 "registration_closed", "This gateway takes no registrations", "Ask the operator to add the device.";
    /// Another device's mailbox.
    Forbidden = 403 "forbidden", "Only the device itself may read its mailbox", "Use the device id that the API key belongs to.";
    /// No such route.
    NotFound = 404 "not_found", "There is nothing here", "See the gateway's API reference for the paths.";
    /// The path exists, the method does not.
    MethodNotAllowed = 405 "method_not_allowed", "The method is not allowed", "Use a method named in the Allow field.";
    /// `Accept` excludes JSON.
    NotAcceptable = 406 "not_acceptable", "Only application/json is offered", "Accept application/json.";
    /// The body did not come in time.
    RequestTimeout = 408 "request_timeout", "The request took too long to arrive", "Send the whole request at once; repeat it.";
    /// The device id is another key's, or must be proven by a signature.
    DeviceTaken = 409 "device_taken", "The device id is taken", "Register with the public key the device has, with a signature, or choose another id.";
    /// The message id was used for another content.
    MessageConflict = 409 "message_conflict", "The message id was used for another content", "Choose a fresh message_id for new content.";
    /// The cluster does not allow that in its state.
    Conflict = 409 "conflict", "The cluster does not allow that now", "Look at the status, then repeat.";
    /// A body without length.
    LengthRequired = 411 "length_required", "The request has no body", "Send a body with Content-Length or chunked coding.";
    /// A body over the limit; it was not read.
    BodyTooLarge = 413 "body_too_large", "The body is too large", "Send less at once; status names the limits.";
    /// A message's content over the limit.
    ContentTooLarge = 413 "content_too_large", "The content is too large", "Send it as a file, or split it; status names the limit.";
    /// A body that is not JSON by its type.
    UnsupportedMediaType = 415 "unsupported_media_type", "The body must be application/json", "Send `Content-Type: application/json`.";
    /// The WebSocket path without an upgrade.
    UpgradeRequired = 426 "upgrade_required", "This path speaks WebSocket", "Connect with a WebSocket client, version 13.";
    /// Too many requests of one device.
    RateLimited = 429 "rate_limited", "Too many requests", "Wait as Retry-After says, then go on more slowly.";
    /// The recipient's mailbox is full.
    MailboxFull = 429 "mailbox_full", "The recipient's mailbox is full", "Wait until the recipient has read, then repeat with the same message_id.";
    /// Header fields over the limits.
    HeadTooLarge = 431 "head_too_large", "The header fields are too large", "Send fewer or shorter header fields.";
    /// A defect of ours.
    Internal = 500 "internal", "Something broke here", "Repeat the request with the same message_id; tell the operator if it persists.";
    /// The node has too much queued; nothing was done.
    Overloaded = 503 "overloaded", "The node is overloaded", "Nothing was done; repeat after Retry-After.";
    /// No quorum answered; the outcome is unknown.
    Unavailable = 503 "unavailable", "No quorum answered in time", "It is unknown whether it was done; repeat with the same message_id after Retry-After.";
    /// A disk failed; the outcome is unknown.
    StorageFailed = 503 "storage_failed", "A node's storage failed", "It is unknown whether it was done; repeat with the same message_id, at another node if there is one.";
    /// Too many connections.
    ConnectionLimit = 503 "connection_limit", "The node has too many connections", "Connect to another node, or again after Retry-After.";
    /// Not ready to serve.
    NotReady = 503 "not_ready", "The node is not ready", "Use another node.";
    /// A WebSocket frame before `auth`.
    AuthRequired = 401 "auth_required", "The first frame must be auth", "Send {\"type\":\"auth\",\"token\":API_KEY} first.";
    /// No `auth` frame in time.
    AuthTimeout = 401 "auth_timeout", "No auth frame came in time", "Send {\"type\":\"auth\",\"token\":API_KEY} right after connecting.";
    /// A second `auth` frame.
    AlreadyAuthenticated = 409 "already_authenticated", "The connection is authenticated", "Open another connection for another key.";
    /// A frame without a `type`, or an unknown one.
    UnknownType = 400 "unknown_type", "The frame type is unknown", "See the reference for the frame types.";
    /// A frame type that is specified and not offered here.
    NotSupported = 501 "not_supported", "This gateway does not offer that yet", "Do without, or use another gateway.";
}

/// One field that is not valid.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FieldError {
    /// The field, parameter or header.
    pub field: &'static str,
    /// `missing`, `wrong_type`, `invalid`, `too_long`, `out_of_range`, `too_many`, `unknown_value`.
    pub code: &'static str,
    /// What it must be.
    pub detail: Cow<'static, str>,
}

/// A problem on its way to a client.
#[derive(Debug, Clone)]
pub struct Problem {
    code: Code,
    detail: Option<Cow<'static, str>>,
    errors: Vec<FieldError>,
    server_time: Option<u64>,
    retry_after: Option<u32>,
    headers: Vec<(HeaderName, HeaderValue)>,
    closing: Closing,
}

/// Whether the HTTP connection may be used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Closing {
    Keep,
    Close,
}

#[derive(Serialize)]
struct Document<'a> {
    r#type: String,
    title: &'a str,
    status: u16,
    detail: &'a str,
    code: &'a str,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    errors: &'a [FieldError],
    #[serde(skip_serializing_if = "Option::is_none")]
    server_time: Option<u64>,
}

impl From<Code> for Problem {
    fn from(code: Code) -> Self {
        let retry_after = match code {
            Code::MailboxFull => Some(RETRY_AFTER_FULL_SECONDS),
            code if code.status() == StatusCode::SERVICE_UNAVAILABLE => Some(RETRY_AFTER_SECONDS),
            _ => None,
        };
        // What is left of such a request is never read as the next one.
        let closing = match code {
            Code::BodyTooLarge | Code::RequestTimeout | Code::HeadTooLarge => Closing::Close,
            Code::ConnectionLimit | Code::Internal => Closing::Close,
            _ => Closing::Keep,
        };
        Self {
            code,
            detail: None,
            errors: Vec::new(),
            server_time: None,
            retry_after,
            headers: Vec::new(),
            closing,
        }
    }
}

impl From<RelayError> for Problem {
    fn from(error: RelayError) -> Self {
        Code::from(&error).into()
    }
}

impl From<&RelayError> for Code {
    fn from(error: &RelayError) -> Self {
        match error {
            RelayError::Unauthenticated => Self::TokenInvalid,
            RelayError::DeviceTaken => Self::DeviceTaken,
            RelayError::MessageConflict => Self::MessageConflict,
            RelayError::MailboxFull => Self::MailboxFull,
            RelayError::Overloaded => Self::Overloaded,
            RelayError::Storage => Self::StorageFailed,
            // What is not known yet is as uncertain as a lost quorum.
            _ => Self::Unavailable,
        }
    }
}

impl From<Vec<FieldError>> for Problem {
    fn from(errors: Vec<FieldError>) -> Self {
        Self { errors, ..Code::ValidationFailed.into() }
    }
}

impl Problem {
    /// With words for this one case.
    #[must_use]
    pub fn detail(mut self, detail: impl Into<Cow<'static, str>>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    /// With the server's time in Unix seconds.
    #[must_use]
    pub fn server_time(mut self, seconds: u64) -> Self {
        self.server_time = Some(seconds);
        self
    }

    /// With a `Retry-After`, in seconds.
    #[must_use]
    pub fn retry_after(mut self, seconds: u32) -> Self {
        self.retry_after = Some(seconds);
        self
    }

    /// With a header field.
    #[must_use]
    pub fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }

    /// Its code.
    pub fn code(&self) -> Code {
        self.code
    }

    /// The fields that are not valid.
    pub fn errors(&self) -> &[FieldError] {
        &self.errors
    }

    /// What to do about it.
    pub fn detail_text(&self) -> &str {
        self.detail.as_deref().unwrap_or(self.code.advice())
    }

    /// Seconds after which to try again.
    pub fn retry_after_seconds(&self) -> Option<u32> {
        self.retry_after
    }

    /// The HTTP response.
    pub fn into_response(self) -> Response<Full<Bytes>> {
        let status = self.code.status();
        let document = Document {
            r#type: format!("urn:heliograph:problem:{}", self.code.as_str()),
            title: self.code.title(),
            status: status.as_u16(),
            detail: self.detail_text(),
            code: self.code.as_str(),
            errors: &self.errors,
            server_time: self.server_time,
        };
        let body = serde_json::to_vec(&document).expect("a problem document is plain JSON");
        let mut response = Response::new(Full::new(Bytes::from(body)));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some(seconds) = self.retry_after {
            headers.insert(header::RETRY_AFTER, seconds.into());
        }
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(
                header::WWW_AUTHENTICATE,
                HeaderValue::from_static("Bearer realm=\"mosa\""),
            );
        }
        if self.closing == Closing::Close {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        for (name, value) in self.headers {
            headers.insert(name, value);
        }
        response
    }
}
