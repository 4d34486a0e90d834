//! The WebSocket of the MOSA front door, with a client library that is not ours.

use std::{sync::atomic::Ordering, time::Duration};

use heliograph_api::websocket::{Acknowledgement, codec::Opcode};
use heliograph_cluster::{Push, RelayError, model::Priority};
use serde_json::{Value, json};
use tokio_tungstenite::{
    client_async,
    tungstenite::{
        Message,
        client::IntoClientRequest as _,
        protocol::frame::{
            Frame, FrameHeader,
            coding::{Control, Data, OpCode},
        },
    },
};

use super::support::{
    Rig, config,
    http::get,
    within,
    ws::{Bare, Got, Ws},
};

pub(super) fn message(recipient: &str, id: &str) -> Value {
    json!({"type": "message", "recipient_id": recipient, "content": "aGVsbG8=", "message_id": id})
}

#[tokio::test]
async fn two_devices_talk() {
    let rig = Rig::start();
    let mut alice = Ws::open(rig.address, &rig.relay.device("alice")).await;
    let mut bob = Ws::open(rig.address, &rig.relay.device("bob")).await;
    alice.send(&message("bob", "m1")).await;
    let accepted = alice.json().await;
    assert_eq!((&accepted["type"], &accepted["message_id"]), (&json!("accepted"), &json!("m1")));
    let got = bob.json().await;
    assert_eq!((&got["type"], &got["message_id"]), (&json!("message"), &json!("m1")));
    assert_eq!((&got["sender_id"], &got["content"]), (&json!("alice"), &json!("aGVsbG8=")));
    assert_eq!((&got["recipient_id"], &got["priority"]), (&json!("bob"), &json!("normal")));
    let mut without_id = message("bob", "");
    without_id.as_object_mut().unwrap().remove("message_id");
    alice.send(&without_id).await;
    let made = alice.json().await["message_id"].as_str().unwrap().to_owned();
    assert_eq!(made.len(), 32);
    assert_eq!(bob.json().await["message_id"], made.as_str());
}

#[tokio::test]
async fn stock_client_acknowledges_by_reading() {
    let rig = Rig::start();
    let mut ws = Ws::open(rig.address, &rig.relay.device("bob")).await;
    ws.send(&message("bob", "m1")).await;
    let mut alice = Ws::open(rig.address, &rig.relay.device("alice")).await;
    // Reading on is all that it takes: the client's stack answers the Pings.
    let mut ids = Vec::new();
    while ids.len() < 2 {
        let got = ws.json().await;
        if got["type"] == "message" {
            ids.push(got["message_id"].clone());
            alice.send(&message("bob", "m2")).await;
        }
    }
    assert_eq!(ids, ["m1", "m2"]);
    let read_on = async {
        loop {
            let got = ws.next().await;
            assert!(matches!(got, Got::Ping(_) | Got::Json(_)), "{got:?}");
        }
    };
    tokio::select! {
        () = rig.relay.until(|relay| relay.pending("bob") == 0) => {}
        () = read_on => {}
    }
}

#[tokio::test]
async fn only_the_matching_pong_acknowledges() {
    let rig = Rig::start();
    let mut bob = Bare::open(rig.address, &rig.relay.device("bob")).await;
    let mut alice = Ws::open(rig.address, &rig.relay.device("alice")).await;
    let mut nonces = Vec::new();
    for id in ["m1", "m2", "m3"] {
        alice.send(&message("bob", id)).await;
        assert!(matches!(bob.next().await, Got::Json(got) if got["message_id"] == id));
        let Got::Ping(nonce) = bob.next().await else { panic!("a Ping covers each batch") };
        nonces.push(nonce);
    }
    for unsolicited in [vec![], vec![0; 8], vec![1; 125], b"m1".to_vec()] {
        bob.send(Opcode::Pong, &unsolicited).await;
    }
    // The answer proves that the Pongs were taken in before it.
    bob.send(Opcode::Text, b"{\"type\":\"nothing\"}").await;
    assert!(matches!(bob.next().await, Got::Json(error) if error["code"] == "unknown_type"));
    assert_eq!(rig.relay.pending("bob"), 3);
    // The Pong to a later Ping covers the earlier ones (RFC 6455 section 5.5.3).
    bob.send(Opcode::Pong, &nonces[1]).await;
    rig.relay.until(|relay| relay.pending("bob") == 1).await;
    bob.send(Opcode::Pong, &nonces[0]).await;
    bob.send(Opcode::Pong, &nonces[2]).await;
    rig.relay.until(|relay| relay.pending("bob") == 0).await;
}

#[tokio::test]
async fn explicit_client_acknowledges_by_itself() {
    let rig = Rig::start();
    let (alice, bob) = (rig.relay.device("alice"), rig.relay.device("bob"));
    let mut ws = Ws::connect(rig.address).await;
    ws.send(&json!({"type": "auth", "token": bob.expose(), "ack": "explicit"})).await;
    let auth = ws.json().await;
    assert_eq!((&auth["type"], &auth["ack"]), (&json!("auth_success"), &json!("explicit")));
    assert_eq!(auth["device_id"], "bob");
    let mut from = Ws::open(rig.address, &alice).await;
    for id in ["m1", "m2", "m3"] {
        from.send(&message("bob", id)).await;
        match ws.next().await {
            Got::Json(got) => assert_eq!(got["message_id"], id),
            other => panic!("no Ping is due to an explicit client: {other:?}"),
        }
    }
    assert_eq!(rig.relay.pending("bob"), 3);
    ws.send(&json!({"type": "ack", "message_ids": ["m1"]})).await;
    rig.relay.until(|relay| relay.pending("bob") == 2).await;
    ws.send(&json!({"type": "ack", "seqs": [{"priority": "normal", "seq": 3}]})).await;
    rig.relay.until(|relay| relay.pending("bob") == 1).await;
    ws.send(&json!({"type": "ack"})).await;
    let error = ws.json().await;
    assert_eq!(error["code"], "validation_failed");
    assert_eq!(error["errors"][0]["field"], "message_ids");
}

#[tokio::test]
async fn first_ack_frame_switches_to_explicit() {
    let rig = Rig::start();
    let bob = rig.relay.device("bob");
    let mut ws = Ws::open(rig.address, &bob).await;
    ws.send(&json!({"type": "ack", "message_ids": ["none"]})).await;
    ws.send(&message("bob", "m1")).await;
    let mut kinds = Vec::new();
    for _ in 0..2 {
        match ws.next().await {
            Got::Json(got) => kinds.push(got["type"].as_str().unwrap().to_owned()),
            other => panic!("no Ping is due: {other:?}"),
        }
    }
    kinds.sort();
    assert_eq!(kinds, ["accepted", "message"]);
    assert_eq!(rig.relay.pending("bob"), 1);
}

#[tokio::test]
async fn operator_can_force_explicit() {
    let mut config = config();
    config.websocket.acknowledgement = Acknowledgement::Explicit;
    let rig = Rig::with(config);
    let mut ws = Ws::connect(rig.address).await;
    let bob = rig.relay.device("bob");
    ws.send(&json!({"type": "auth", "token": bob.expose()})).await;
    assert_eq!(ws.json().await["ack"], "explicit");
}

#[tokio::test]
async fn written_frees_the_window() {
    let rig = Rig::start();
    let mut bob = Ws::open(rig.address, &rig.relay.device("bob")).await;
    bob.send(&message("bob", "m1")).await;
    rig.relay
        .until(|relay| {
            relay.sessions("bob").iter().any(|s| *s.written.lock() == [(Priority::Normal, 1)])
        })
        .await;
}

#[tokio::test]
async fn live_frames_are_forwarded_with_their_true_sender() {
    let rig = Rig::start();
    let mut alice = Ws::open(rig.address, &rig.relay.device("alice")).await;
    let mut bob = Ws::open(rig.address, &rig.relay.device("bob")).await;
    let sent = json!({
        "type": "audio_stream", "recipient_id": "bob", "sender_id": "mallory",
        "chunk": "AAAA", "n": 7, "nested": {"a": [1, 2.5, null]},
    });
    alice.send(&sent).await;
    let mut expected = sent.clone();
    expected["sender_id"] = json!("alice");
    assert_eq!(bob.json().await, expected);
    bob.send(&json!({"type": "video_signal", "recipient_id": "alice", "sdp": "v=0\r\n"})).await;
    let got = alice.json().await;
    assert_eq!((&got["type"], &got["sdp"]), (&json!("video_signal"), &json!("v=0\r\n")));
    assert_eq!(rig.relay.pending("bob"), 0);
    alice.send(&json!({"type": "audio_stream"})).await;
    assert_eq!(alice.json().await["errors"][0]["field"], "recipient_id");
}

#[tokio::test]
async fn sender_learns_once_a_second_that_nobody_listens() {
    let rig = Rig::start();
    let mut alice = Ws::open(rig.address, &rig.relay.device("alice")).await;
    let began = tokio::time::Instant::now();
    for _ in 0..50 {
        alice.send(&json!({"type": "audio_stream", "recipient_id": "bob"})).await;
    }
    alice.send(&json!({"type": "end"})).await;
    let mut told = 0;
    loop {
        let frame = alice.json().await;
        match frame["type"].as_str().unwrap() {
            "unavailable" => {
                assert_eq!(frame["recipient_id"], "bob");
                told += 1;
            }
            _ => break,
        }
    }
    let seconds = began.elapsed().as_secs();
    assert!(told >= 1 && told <= 1 + seconds, "{told} in {seconds} s");
}

#[tokio::test]
async fn skipped_numbers_are_told() {
    let rig = Rig::start();
    let mut bob = Ws::open(rig.address, &rig.relay.device("bob")).await;
    let skipped = Push::Skipped { priority: Priority::High, from: 3, to: 9, reason: "expired" };
    assert_eq!(rig.relay.push("bob", &skipped), 1);
    let expected =
        json!({"type": "skipped", "priority": "high", "from": 3, "to": 9, "reason": "expired"});
    assert_eq!(bob.json().await, expected);
}

#[tokio::test]
async fn sends_of_one_connection_keep_their_order_and_overlap() {
    let mut config = config();
    config.websocket.in_flight_max = 8;
    let rig = Rig::with(config);
    let mut alice = Ws::open(rig.address, &rig.relay.device("alice")).await;
    let held = rig.relay.hold.clone().write_owned().await;
    let ids: Vec<_> = (0..20).map(|n| format!("m{n}")).collect();
    for id in &ids {
        alice.send(&message("bob", id)).await;
    }
    rig.relay.until(|relay| relay.sends_begun.load(Ordering::SeqCst) == 8).await;
    drop(held);
    let mut accepted = Vec::new();
    for _ in &ids {
        accepted.push(alice.json().await["message_id"].as_str().unwrap().to_owned());
    }
    assert_eq!(rig.relay.sent_order(), ids);
    accepted.sort();
    let mut all = ids.clone();
    all.sort();
    assert_eq!(accepted, all);
}

#[tokio::test]
async fn errors_name_their_message_and_the_connection_lives() {
    let rig = Rig::start();
    let mut alice = Ws::open(rig.address, &rig.relay.device("alice")).await;
    rig.relay.fail_next([RelayError::MailboxFull]);
    alice.send(&message("bob", "m1")).await;
    let error = alice.json().await;
    assert_eq!((&error["type"], &error["code"]), (&json!("error"), &json!("mailbox_full")));
    assert_eq!(error["message_id"], "m1");
    assert!(error["retry_after"].as_u64().unwrap() > 0);
    let mut bad = message("bob", "m2");
    bad["content"] = json!("***");
    alice.send(&bad).await;
    let error = alice.json().await;
    assert_eq!((&error["code"], &error["message_id"]), (&json!("validation_failed"), &json!("m2")));
    for (frame, code) in [
        (json!({"type": "dance"}), "unknown_type"),
        (json!({"no": "type"}), "unknown_type"),
        (json!({"type": 7}), "unknown_type"),
        (json!({"type": "attach", "token": "x"}), "not_supported"),
        (json!({"type": "detach", "device_id": "x"}), "not_supported"),
        (json!({"type": "subscribe_presence"}), "not_supported"),
        (json!({"type": "auth", "token": "x"}), "already_authenticated"),
    ] {
        alice.send(&frame).await;
        assert_eq!(alice.json().await["code"], code, "{frame}");
    }
    alice.send(&message("bob", "m3")).await;
    assert_eq!(alice.json().await["type"], "accepted");
}

#[tokio::test]
async fn wrong_keys_and_early_frames_are_refused() {
    let rig = Rig::start();
    for (frame, code) in [
        (json!({"type": "auth", "token": "nobody"}), "token_invalid"),
        (json!({"type": "auth", "token": "x".repeat(10_000)}), "token_invalid"),
        (json!({"type": "auth"}), "validation_failed"),
        (json!({"type": "auth", "token": 5}), "validation_failed"),
        (message("bob", "m1"), "auth_required"),
        (json!({}), "auth_required"),
    ] {
        let mut ws = Ws::connect(rig.address).await;
        ws.send(&frame).await;
        let error = ws.json().await;
        assert_eq!((&error["type"], &error["code"]), (&json!("auth_error"), &json!(code)));
        assert_eq!(ws.closed().await, 3000);
    }
    assert_eq!(rig.relay.sends_begun.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn silence_before_auth_is_cut() {
    let mut config = config();
    config.websocket.auth_timeout = Duration::from_millis(200);
    let rig = Rig::with(config);
    let mut ws = Ws::connect(rig.address).await;
    assert_eq!(ws.json().await["code"], "auth_timeout");
    assert_eq!(ws.closed().await, 3000);
}

#[tokio::test]
async fn bad_frames_close_with_their_code() {
    let rig = Rig::start();
    let alice = rig.relay.device("alice");
    let frame = |opcode, fin, payload: &[u8]| {
        let header = FrameHeader { is_final: fin, opcode, ..FrameHeader::default() };
        Message::Frame(Frame::from_payload(header, payload.to_vec().into()))
    };
    let text = OpCode::Data(Data::Text);
    let cases = [
        (Message::text("not json"), 1007),
        (Message::text("[1,2]"), 1007),
        (frame(text, true, b"\xff\xfe"), 1007),
        (Message::text("x".repeat(200_000)), 1009),
        (Message::binary(vec![1, 2, 3]), 1003),
        (frame(OpCode::Data(Data::Continue), true, b"x"), 1002),
        (frame(OpCode::Control(Control::Ping), true, &[0; 126]), 1002),
        (frame(OpCode::Control(Control::Close), true, &[0x03]), 1002),
        (frame(OpCode::Control(Control::Close), true, &[0x03, 0xED]), 1002),
    ];
    for (bad, code) in cases {
        let mut ws = Ws::open(rig.address, &alice).await;
        ws.raw(bad).await;
        assert_eq!(ws.closed().await, code);
    }
    assert_eq!(get("/livez").send(rig.address).await.status, 200);
}

#[tokio::test]
async fn fragments_and_interleaved_pings_work() {
    let rig = Rig::start();
    let mut ws = Ws::open(rig.address, &rig.relay.device("alice")).await;
    let whole = message("bob", "m\u{1F600}1").to_string();
    let bytes = whole.as_bytes();
    let mut opcode = OpCode::Data(Data::Text);
    for chunk in bytes.chunks(7) {
        ws.raw(Message::Frame(Frame::message(chunk.to_vec(), opcode, false))).await;
        opcode = OpCode::Data(Data::Continue);
        ws.raw(Message::Ping(b"between".to_vec().into())).await;
    }
    ws.raw(Message::Frame(Frame::message(vec![], opcode, true))).await;
    let mut pongs = 0;
    loop {
        match ws.next().await {
            Got::Pong(payload) => {
                assert_eq!(payload, b"between");
                pongs += 1;
            }
            Got::Json(accepted) => {
                assert_eq!(accepted["message_id"], "m\u{1F600}1");
                break;
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(pongs, bytes.chunks(7).count());
}

#[tokio::test]
async fn handshake_is_judged() {
    let rig = Rig::start();
    let good = || {
        get("/ws")
            .header("x-mosa-timestamp", "")
            .header("connection", "keep-alive, Upgrade")
            .header("upgrade", "WebSocket")
            .header("sec-websocket-version", "13")
            .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
    };
    let response = good().send(rig.address).await;
    assert_eq!(response.status, 101);
    let accept = response.header("sec-websocket-accept");
    assert_eq!(accept, Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
    for (name, value, status, code) in [
        ("upgrade", "", 426, "upgrade_required"),
        ("sec-websocket-version", "8", 426, "upgrade_required"),
        ("sec-websocket-key", "short", 400, "bad_handshake"),
        ("connection", "keep-alive", 400, "bad_handshake"),
    ] {
        let response = good().header(name, value).send(rig.address).await;
        assert_eq!((response.status, response.problem().as_str()), (status, code), "{name}");
    }
}

#[tokio::test]
async fn subprotocol_is_chosen_where_offered() {
    let rig = Rig::start();
    for (offered, chosen) in [
        (Some("mosa.v1.json"), Some("mosa.v1.json")),
        (Some("mosa.v1.msgpack, mosa.v1.json"), Some("mosa.v1.json")),
        (None, None),
    ] {
        let mut request = format!("ws://{}/ws", rig.address).into_client_request().unwrap();
        if let Some(offered) = offered {
            request.headers_mut().insert("sec-websocket-protocol", offered.parse().unwrap());
        }
        let stream = tokio::net::TcpStream::connect(rig.address).await.unwrap();
        let (_, response) = within(client_async(request, stream)).await.unwrap();
        let got = response.headers().get("sec-websocket-protocol");
        assert_eq!(got.map(|value| value.to_str().unwrap()), chosen);
    }
}

/// Frames that are valid WebSocket and nonsense otherwise: each gets an answer or closes its own
/// connection, and nobody else notices.
#[tokio::test]
async fn nonsense_disturbs_nobody() {
    let rig = Rig::start();
    let key = rig.relay.device("mallory");
    let mut alice = Ws::open(rig.address, &rig.relay.device("alice")).await;
    let mut seed = 0x9E37_79B9_7F4A_7C15_u64;
    let mut next = || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed
    };
    let words = [
        "{",
        "}",
        "[",
        "]",
        ":",
        ",",
        "\"type\"",
        "\"message\"",
        "\"ack\"",
        "null",
        "1e999",
        "\"recipient_id\"",
        "\"seqs\"",
        "-1",
        "\"\\ud800\"",
        "\"content\"",
        " ",
        "true",
    ];
    for _ in 0..200 {
        let mut mallory = Bare::open(rig.address, &key).await;
        for _ in 0..5 {
            let length = next() % 12;
            let text: String =
                (0..length).map(|_| words[(next() % words.len() as u64) as usize]).collect();
            let opcode = if next() % 8 == 0 { Opcode::Binary } else { Opcode::Text };
            if !mallory.try_send(opcode, text.as_bytes()).await {
                break;
            }
        }
    }
    alice.send(&message("bob", "m1")).await;
    assert_eq!(alice.json().await["type"], "accepted");
}

#[tokio::test]
async fn deep_nesting_is_harmless() {
    let rig = Rig::start();
    let mut ws = Ws::open(rig.address, &rig.relay.device("alice")).await;
    let deep = format!("{}1{}", "[".repeat(50_000), "]".repeat(50_000));
    ws.raw(Message::text(format!("{{\"type\":\"x\",\"deep\":{deep}}}"))).await;
    assert_eq!(ws.json().await["code"], "unknown_type");
    let ack = format!("{{\"type\":\"ack\",\"message_ids\":{deep}}}");
    ws.raw(Message::text(ack)).await;
    assert_eq!(ws.json().await["code"], "validation_failed");
}
