//! The opening handshake of RFC 6455 section 4.2.

use base64::Engine as _;
use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Response, StatusCode, Version, header, request::Parts,
};
use http_body_util::Full;
use sha1::{Digest as _, Sha1};

use crate::problem::{Code, Problem};

/// The sub-protocol spoken, and the default where a client names none.
pub(crate) const SUBPROTOCOL: &str = "mosa.v1.json";

/// `Sec-WebSocket-Accept` for a client's key.
pub(crate) fn accept_key(key: &[u8]) -> String {
    /// RFC 6455 section 1.3.
    const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
    let digest = Sha1::new().chain_update(key).chain_update(GUID).finalize();
    crate::base64::encode(&digest)
}

/// Checks a handshake and answers `101 Switching Protocols`.
pub(crate) fn accept_handshake(parts: &Parts) -> Result<Response<Full<Bytes>>, Problem> {
    let headers = &parts.headers;
    if !has_token(headers, &header::UPGRADE, "websocket") {
        let problem = Problem::from(Code::UpgradeRequired);
        return Err(problem.header(header::UPGRADE, HeaderValue::from_static("websocket")));
    }
    let malformed = |detail: &'static str| Problem::from(Code::BadHandshake).detail(detail);
    if parts.version != Version::HTTP_11 || !has_token(headers, &header::CONNECTION, "upgrade") {
        return Err(malformed("Send `Connection: Upgrade` over HTTP/1.1."));
    }
    if headers.get(header::SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
        let version = HeaderValue::from_static("13");
        let problem = Problem::from(Code::UpgradeRequired).detail("Speak WebSocket version 13.");
        return Err(problem.header(header::SEC_WEBSOCKET_VERSION, version));
    }
    let key = headers.get(header::SEC_WEBSOCKET_KEY).map(HeaderValue::as_bytes);
    let is_key = |key: &&[u8]| {
        base64::engine::general_purpose::STANDARD.decode(key).is_ok_and(|bytes| bytes.len() == 16)
    };
    let Some(key) = key.filter(is_key) else {
        return Err(malformed("Send Sec-WebSocket-Key: 16 bytes in Base64."));
    };
    let mut response = Response::new(Full::new(Bytes::new()));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let accept = HeaderValue::from_str(&accept_key(key)).expect("Base64 is a header value");
    let answers = response.headers_mut();
    answers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    answers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    answers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    if has_token(headers, &header::SEC_WEBSOCKET_PROTOCOL, SUBPROTOCOL) {
        let protocol = HeaderValue::from_static(SUBPROTOCOL);
        answers.insert(header::SEC_WEBSOCKET_PROTOCOL, protocol);
    }
    Ok(response)
}

/// Whether a comma-separated list holds `token`, in any case.
fn has_token(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    let fields = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    fields.flat_map(|field| field.split(',')).any(|item| item.trim().eq_ignore_ascii_case(token))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accept_key_is_that_of_the_rfc() {
        assert_eq!(accept_key(b"dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }
}
