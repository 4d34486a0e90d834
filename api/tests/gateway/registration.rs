//! Registration over the REST call of the MOSA front door, in each of its modes.

use ed25519_dalek::{Signer as _, SigningKey};
use heliograph_api::RegistrationMode;
use serde_json::{Value, json};

use super::support::{
    Rig, config,
    http::{get, post},
    unix_seconds,
};

const REGISTER: &str = "/api/v1/auth/register";

fn signed(device: &str, key: &SigningKey, timestamp: u64) -> Value {
    use base64::Engine as _;
    let text = format!("mosa-register\n{device}\n{timestamp}");
    let base64 = base64::engine::general_purpose::STANDARD;
    json!({
        "device_id": device,
        "public_key": base64.encode(key.verifying_key().to_bytes()),
        "signature": base64.encode(key.sign(text.as_bytes()).to_bytes()),
    })
}

#[tokio::test]
async fn signed_registration_needs_the_private_key() {
    let mut config = config();
    config.mosa.registration = RegistrationMode::Signed;
    let rig = Rig::with(config);
    let key = SigningKey::from_bytes(&[7; 32]);
    let now = unix_seconds();
    let stamped = |body: &Value| post(REGISTER, body).header("x-mosa-timestamp", &now.to_string());
    let good = signed("alice", &key, now);
    let response = stamped(&good).send(rig.address).await;
    assert_eq!(response.status, 200);
    let api_key = response.json()["api_key"].as_str().unwrap().to_owned();
    let own =
        get("/api/v1/messages/receive/alice").header("authorization", &format!("Bearer {api_key}"));
    assert_eq!(own.send(rig.address).await.status, 200);
    let fresh = stamped(&good).send(rig.address).await.json();
    assert_ne!(fresh["api_key"], api_key.as_str());

    let mut unsigned = good.clone();
    unsigned.as_object_mut().unwrap().remove("signature");
    let response = stamped(&unsigned).send(rig.address).await;
    assert_eq!((response.status, response.fields()), (400, vec!["signature".to_owned()]));
    let mut of_another = signed("alice", &SigningKey::from_bytes(&[8; 32]), now);
    let response = stamped(&of_another).send(rig.address).await;
    assert_eq!((response.status, response.problem().as_str()), (409, "device_taken"));
    of_another["public_key"] = good["public_key"].clone();
    for wrong in [of_another, signed("alice", &key, now - 1), signed("bob", &key, now)] {
        let mut wrong = wrong;
        wrong["device_id"] = json!("alice");
        let response = stamped(&wrong).send(rig.address).await;
        assert_eq!((response.status, response.problem().as_str()), (401, "signature_invalid"));
    }
}

#[tokio::test]
async fn registration_judges_each_field() {
    let rig = Rig::start();
    let key = hex::encode(SigningKey::from_bytes(&[7; 32]).verifying_key().to_bytes());
    let good = json!({"device_id": "alice", "public_key": key});
    assert_eq!(post(REGISTER, &good).send(rig.address).await.status, 200);
    let again = post(REGISTER, &good).send(rig.address).await;
    assert_eq!((again.status, again.problem().as_str()), (409, "device_taken"));
    // Not a point of the curve: an unsigned registration takes it, as it takes any 32 bytes.
    let no_point = json!({"device_id": "bob", "public_key": "02".to_owned() + &"00".repeat(31)});
    assert_eq!(post(REGISTER, &no_point).send(rig.address).await.status, 200);
    let weak = "01".to_owned() + &"00".repeat(31);
    for (name, value) in [
        ("device_id", json!("x".repeat(10_000))),
        ("device_id", json!(null)),
        ("public_key", json!("00")),
        ("public_key", json!(weak)),
        ("public_key", json!(17)),
        ("signature", json!("AAAA")),
    ] {
        let mut body = good.clone();
        body[name] = value;
        let response = post(REGISTER, &body).send(rig.address).await;
        assert_eq!(
            (response.status, response.fields()),
            (400, vec![name.to_owned()]),
            "{body:.60}"
        );
    }
}

#[tokio::test]
async fn closed_registration_is_closed() {
    let mut config = config();
    config.mosa.registration = RegistrationMode::Closed;
    let rig = Rig::with(config);
    let body = json!({"device_id": "a", "public_key": "00"});
    let response = post(REGISTER, &body).send(rig.address).await;
    assert_eq!((response.status, response.problem().as_str()), (403, "registration_closed"));
}

#[tokio::test]
async fn invite_registration_is_refused_at_start() {
    let mut config = config();
    config.mosa.registration = RegistrationMode::Invite;
    let metrics = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder().handle();
    let relay = std::sync::Arc::new(super::support::FakeRelay::default());
    let token = tokio_util::sync::CancellationToken::new();
    let error = heliograph_api::Server::start(config, relay, metrics, token).unwrap_err();
    assert!(error.to_string().contains("invite"), "{error}");
}
