//! How a WebSocket of the MOSA front door ends: by either side, for each of the reasons.

use std::time::Duration;

use heliograph_cluster::{CloseReason, Push};
use serde_json::json;
use tokio_tungstenite::tungstenite::{Message, protocol::CloseFrame};

use super::{
    socket::message,
    support::{
        Rig, config,
        ws::{Got, Ws},
    },
};

#[tokio::test]
async fn closing_handshake_echoes_the_code() {
    let rig = Rig::start();
    let mut ws = Ws::open(rig.address, &rig.relay.device("alice")).await;
    let close = CloseFrame { code: 4000.into(), reason: "bye".into() };
    ws.raw(Message::Close(Some(close))).await;
    assert_eq!(ws.closed().await, 4000);
    assert!(matches!(ws.next().await, Got::End));
    rig.relay.until(|relay| relay.sessions("alice").is_empty()).await;
}

#[tokio::test]
async fn cluster_can_close() {
    let rig = Rig::start();
    for (reason, code) in [
        (CloseReason::KeyRevoked, 4401),
        (CloseReason::SlowReader, 4408),
        (CloseReason::NodeRestarts, 1012),
        (CloseReason::TryAgainLater, 1013),
    ] {
        let mut ws = Ws::open(rig.address, &rig.relay.device("bob")).await;
        rig.relay.push("bob", &Push::Close(reason));
        assert_eq!(ws.closed().await, code);
    }
}

#[tokio::test]
async fn revoking_closes_live_sockets() {
    let rig = Rig::start();
    let bob = rig.relay.device("bob");
    let mut ws = Ws::open(rig.address, &bob).await;
    let revoke = super::support::http::request("POST", "/api/v1/auth/revoke").key(&bob);
    assert_eq!(revoke.send(rig.address).await.status, 200);
    assert_eq!(ws.closed().await, 4401);
}

#[tokio::test]
async fn stopping_server_says_restart() {
    let rig = Rig::start();
    let mut ws = Ws::open(rig.address, &rig.relay.device("bob")).await;
    let mut silent = Ws::connect(rig.address).await;
    rig.shutdown.cancel();
    assert_eq!(ws.closed().await, 1012);
    assert_eq!(silent.closed().await, 1012);
    rig.stop().await;
}

#[tokio::test]
async fn peer_that_answers_no_ping_is_dropped() {
    let mut config = config();
    config.websocket.ping_min = Duration::from_millis(100);
    config.websocket.ping_max = Duration::from_millis(150);
    let rig = Rig::with(config);
    let ws = Ws::open(rig.address, &rig.relay.device("bob")).await;
    // Held open and never read: its Pings stay unanswered.
    rig.relay.until(|relay| !relay.sessions("bob").is_empty()).await;
    rig.relay.until(|relay| relay.sessions("bob").is_empty()).await;
    drop(ws);
}

#[tokio::test]
async fn slow_reader_is_closed_and_keeps_its_messages() {
    let mut config = config();
    config.websocket.write_timeout = Duration::from_millis(300);
    config.websocket.close_timeout = Duration::from_millis(100);
    let rig = Rig::with(config);
    let (alice, bob) = (rig.relay.device("alice"), rig.relay.device("bob"));
    let slow = Ws::open(rig.address, &bob).await;
    let mut from = Ws::open(rig.address, &alice).await;
    for n in 0..200 {
        let mut big = message("bob", &format!("m{n}"));
        big["content"] = json!("A".repeat(80_000));
        from.send(&big).await;
        assert_eq!(from.json().await["type"], "accepted");
    }
    rig.relay.until(|relay| relay.sessions("bob").is_empty()).await;
    assert_eq!(rig.relay.pending("bob"), 200);
    drop(slow);
    let mut again = Ws::open(rig.address, &bob).await;
    assert_eq!(again.json().await["message_id"], "m0");
}
