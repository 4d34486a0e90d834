//! A device: its id, its key pair, its API key.

use std::{net::SocketAddr, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use ed25519_dalek::{Signer as _, SigningKey};
use hyper::StatusCode;
use serde_json::json;

use super::{Rest, WireError};
use crate::clock::unix_seconds;

/// A registered device.
#[derive(Clone, Debug)]
pub struct Device {
    /// Its id.
    pub id: String,
    /// Its API key.
    pub key: String,
}

/// Registers `id` with a fresh key pair, signed, so that it works in open and in signed mode.
///
/// # Errors
/// When the node does not answer within `deadline`, or refuses.
pub async fn register(rest: &mut Rest, id: &str, deadline: Duration) -> Result<Device, WireError> {
    let pair = SigningKey::from_bytes(&rand::random());
    // The signature covers the timestamp that is sent.
    let now = unix_seconds();
    let signature = pair.sign(format!("mosa-register\n{id}\n{now}").as_bytes());
    let body = json!({
        "device_id": id,
        "public_key": BASE64.encode(pair.verifying_key().as_bytes()),
        "signature": BASE64.encode(signature.to_bytes()),
    });
    let reply = rest.post_at("/api/v1/auth/register", &body, now, deadline).await?;
    match (reply.status, reply.body["api_key"].as_str()) {
        (StatusCode::OK | StatusCode::CREATED, Some(key)) => {
            Ok(Device { id: id.to_owned(), key: key.to_owned() })
        }
        _ => Err(reply.unexpected()),
    }
}

impl Device {
    /// A REST client of this device.
    pub fn rest(&self, node: SocketAddr) -> Rest {
        Rest::new(node, Some(&self.key))
    }
}
