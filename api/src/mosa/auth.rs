//! `POST /api/v1/auth/register` and `/revoke`.

use ed25519_dalek::{Signature, VerifyingKey};
use heliograph_cluster::{Registration, RevokeScope, model::DeviceId};
use http::{StatusCode, request::Parts};
use hyper::body::Incoming;
use serde_json::json;

use super::{
    config::RegistrationMode,
    fields::{Gather, Object, field, missing},
    gateway::{Gateway, Known, has_body, json as answer_json},
};
use crate::{
    base64,
    problem::{Code, FieldError, Problem},
    server::handler::Answer,
};

/// What a device signs to register: the key's owner wants this id, now.
pub(crate) fn registration_text(device: &DeviceId, timestamp: &str) -> String {
    format!("mosa-register\n{}\n{timestamp}", device.as_str())
}

impl Gateway {
    pub(super) async fn register(&self, parts: &Parts, body: Incoming) -> Result<Answer, Problem> {
        let timestamp = self.check_headers(parts)?;
        if self.config.registration == RegistrationMode::Closed {
            return Err(Code::RegistrationClosed.into());
        }
        let body = self.read_body(&parts.headers, body).await?;
        let object = Object::parse(&body)?;
        let must_sign = self.config.registration == RegistrationMode::Signed;
        let request = parse(&object, must_sign)?;
        let signed = match &request.signature {
            None => false,
            Some(signature) => {
                let text = registration_text(&request.device, timestamp);
                VerifyingKey::from_bytes(&request.public_key)
                    .and_then(|key| key.verify_strict(text.as_bytes(), signature))
                    .map_err(|_| Problem::from(Code::SignatureInvalid))?;
                true
            }
        };
        let registration =
            Registration { device: request.device.clone(), public_key: request.public_key, signed };
        let key = self.relay.register(registration, self.deadline()).await?;
        let body = json!({
            "success": true,
            "device_id": request.device.as_str(),
            "api_key": key.expose(),
        });
        Ok(answer_json(StatusCode::OK, &body))
    }

    pub(super) async fn revoke(
        &self,
        parts: &Parts,
        body: Incoming,
        known: &mut Known,
    ) -> Result<Answer, Problem> {
        let principal = self.authorize(parts, known).await?;
        let scope = if has_body(&parts.headers) {
            let body = self.read_body(&parts.headers, body).await?;
            parse_scope(&Object::parse(&body)?)?
        } else {
            RevokeScope::EveryKey
        };
        self.relay.revoke(&principal, scope, self.deadline()).await?;
        let revoked = match scope {
            RevokeScope::ThisKey => "key",
            RevokeScope::EveryKey => "all",
        };
        Ok(answer_json(StatusCode::OK, &json!({ "success": true, "revoked": revoked })))
    }
}

struct Request {
    device: DeviceId,
    public_key: [u8; 32],
    signature: Option<Signature>,
}

fn parse(object: &Object<'_>, must_sign: bool) -> Result<Request, Problem> {
    let mut errors = Gather::default();
    let device = errors.take(object.device("device_id"));
    let public_key = errors.take(public_key(object));
    let signature = errors.take(signature(object));
    if must_sign && signature == Some(None) {
        errors.push(missing("signature"));
    }
    errors.finish()?;
    match (device, public_key, signature) {
        (Some(device), Some(public_key), Some(signature)) => {
            Ok(Request { device, public_key, signature })
        }
        _ => unreachable!("a missing value has noted an error"),
    }
}

/// Judges a registration and a revocation.
#[cfg(any(test, fuzzing))]
pub(super) fn fuzz(object: &Object<'_>) {
    if let Ok(request) = parse(object, true) {
        assert!(request.signature.is_some(), "asked for and there");
    }
    let _ = parse_scope(object);
}

/// Bytes in hex where the length says so, else in Base64.
fn bytes<const N: usize>(text: &str) -> Option<[u8; N]> {
    let bytes = if text.len() == N * 2 { hex::decode(text).ok() } else { None };
    bytes.or_else(|| base64::decode(text).ok())?.try_into().ok()
}

/// Any 32 bytes but keys of small order, under which anybody's signature verifies. Bytes that are
/// no point of the curve harm nobody: no signature will ever verify under them.
fn public_key(object: &Object<'_>) -> Result<[u8; 32], FieldError> {
    let name = "public_key";
    let wrong = || field(name, "invalid", "must be an Ed25519 key: 32 bytes in Base64 or hex");
    let key = bytes::<32>(&object.required_text(name)?).ok_or_else(wrong)?;
    match VerifyingKey::from_bytes(&key) {
        Ok(point) if point.is_weak() => Err(wrong()),
        _ => Ok(key),
    }
}

fn signature(object: &Object<'_>) -> Result<Option<Signature>, FieldError> {
    let name = "signature";
    let Some(text) = object.text(name)? else { return Ok(None) };
    let wrong = || field(name, "invalid", "must be an Ed25519 signature: 64 bytes in Base64");
    bytes::<64>(&text).map(|bytes| Some(Signature::from_bytes(&bytes))).ok_or_else(wrong)
}

fn parse_scope(object: &Object<'_>) -> Result<RevokeScope, Problem> {
    let scope = object.text("scope").map_err(|error| vec![error])?;
    match scope.as_deref() {
        None | Some("all") => Ok(RevokeScope::EveryKey),
        Some("key") => Ok(RevokeScope::ThisKey),
        Some(_) => Err(vec![field("scope", "unknown_value", "must be key or all")].into()),
    }
}
