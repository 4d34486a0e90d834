//! The REST calls of the MOSA front door, over a real socket.

use std::{sync::atomic::Ordering, time::Duration};

use super::support::{
    Rig, config,
    http::{Request, get, post, request},
    unix_seconds, within,
};
use heliograph_api::RateConfig;
use heliograph_cluster::RelayError;
use serde_json::{Value, json};

const SEND: &str = "/api/v1/messages/send";
const ACK: &str = "/api/v1/messages/acknowledge";
const REGISTER: &str = "/api/v1/auth/register";
const REVOKE: &str = "/api/v1/auth/revoke";

fn message(id: &str) -> Value {
    json!({"recipient_id": "bob", "content": "aGVsbG8=", "message_id": id, "priority": "high"})
}

#[tokio::test]
async fn status_tells_what_the_gateway_offers() {
    let rig = Rig::start();
    let response = get("/api/v1/gateway/status").header("x-mosa-timestamp", "").send(rig.address);
    let response = response.await;
    assert_eq!(response.status, 200);
    let json = response.json();
    assert_eq!((&json["status"], &json["version"]), (&json!("online"), &json!("1.0")));
    let capabilities = &json["capabilities"];
    assert_eq!(capabilities["websocket_enabled"], true);
    assert_eq!(capabilities["websocket_url"], "ws://gateway.test/ws");
    assert_eq!(capabilities["dedup_window_seconds"], 3600);
    assert_eq!(capabilities["limits"]["content_bytes_max"], 61_440);
    assert_eq!(response.header("access-control-allow-origin"), Some("*"));
    rig.relay.set_not_ready(Some("shard 3 has no leader"));
    assert_eq!(get("/api/v1/gateway/status").send(rig.address).await.json()["status"], "degraded");
}

#[tokio::test]
async fn message_goes_from_send_to_acknowledge() {
    let rig = Rig::start();
    let (alice, bob) = (rig.relay.device("alice"), rig.relay.device("bob"));
    let sent = post(SEND, &message("m1")).key(&alice).send(rig.address).await;
    assert_eq!(sent.status, 202);
    let json = sent.json();
    assert_eq!((&json["success"], &json["status"]), (&json!(true), &json!("queued")));
    assert_eq!(json["message_id"], "m1");
    assert!(json.get("duplicate").is_none() && json.get("seq").is_none());
    assert!(sent.header("ratelimit").unwrap().starts_with("\"device\";r="));
    assert!(sent.header("ratelimit-policy").is_some());

    let receive = || get("/api/v1/messages/receive/bob").key(&bob).send(rig.address);
    for _ in 0..2 {
        let messages = receive().await.json();
        assert_eq!(messages.as_array().unwrap().len(), 1);
        let got = &messages[0];
        assert_eq!((&got["type"], &got["message_id"]), (&json!("message"), &json!("m1")));
        assert_eq!((&got["sender_id"], &got["recipient_id"]), (&json!("alice"), &json!("bob")));
        assert_eq!((&got["content"], &got["priority"]), (&json!("aGVsbG8="), &json!("high")));
        assert_eq!(got["seq"], 1);
        assert!(got["timestamp"].as_u64().unwrap().abs_diff(unix_seconds()) < 60);
    }
    let body = json!({"message_ids": ["m1", "unknown"]});
    let acknowledged = post(ACK, &body).key(&bob).send(rig.address).await;
    assert_eq!(acknowledged.json(), json!({"success": true, "acknowledged": 1}));
    let again = post(ACK, &body).key(&bob).send(rig.address).await;
    assert_eq!(again.json()["acknowledged"], 0);
    assert_eq!(receive().await.json(), json!([]));
}

#[tokio::test]
async fn repeated_send_is_a_duplicate_and_other_content_a_conflict() {
    let rig = Rig::start();
    let alice = rig.relay.device("alice");
    post(SEND, &message("m1")).key(&alice).send(rig.address).await;
    let again = post(SEND, &message("m1")).key(&alice).send(rig.address).await;
    assert_eq!((again.status, &again.json()["duplicate"]), (202, &json!(true)));
    let mut other = message("m1");
    other["content"] = json!("b3RoZXI=");
    let conflict = post(SEND, &other).key(&alice).send(rig.address).await;
    assert_eq!((conflict.status, conflict.problem().as_str()), (409, "message_conflict"));
    assert_eq!(rig.relay.pending("bob"), 1);
}

#[tokio::test]
async fn priorities_come_as_words_and_numbers() {
    let rig = Rig::start();
    let (alice, bob) = (rig.relay.device("alice"), rig.relay.device("bob"));
    let forms = [json!("low"), json!(3), json!("2"), json!("NORMAL"), Value::Null];
    for (index, priority) in forms.iter().enumerate() {
        let mut body = message(&format!("m{index}"));
        body["priority"] = priority.clone();
        assert_eq!(post(SEND, &body).key(&alice).send(rig.address).await.status, 202);
    }
    let messages = get("/api/v1/messages/receive/bob").key(&bob).send(rig.address).await.json();
    let got: Vec<_> = messages.as_array().unwrap().iter().map(|m| &m["priority"]).collect();
    assert_eq!(got, ["urgent", "high", "normal", "normal", "low"]);
    let after = "/api/v1/messages/receive/bob?limit=2&after=high:1";
    let messages = get(after).key(&bob).send(rig.address).await.json();
    let got: Vec<_> = messages.as_array().unwrap().iter().map(|m| &m["message_id"]).collect();
    assert_eq!(got, ["m3", "m4"]);
    let body = json!({"seqs": [{"priority": "urgent", "seq": 1}, {"priority": 0, "seq": 1}]});
    let acknowledged = post(ACK, &body).key(&bob).send(rig.address).await;
    assert_eq!(acknowledged.json()["acknowledged"], 2);
}

#[tokio::test]
async fn long_poll_answers_when_a_message_comes() {
    let rig = Rig::start();
    let (alice, bob) = (rig.relay.device("alice"), rig.relay.device("bob"));
    let poll = get("/api/v1/messages/receive/bob?wait=60").key(&bob).send(rig.address);
    let send = post(SEND, &message("m1")).key(&alice).send(rig.address);
    let (polled, _) = tokio::join!(poll, send);
    assert_eq!(polled.json()[0]["message_id"], "m1");
}

#[tokio::test]
async fn long_poll_ends_when_the_server_stops() {
    let rig = Rig::start();
    let bob = rig.relay.device("bob");
    let path = "/api/v1/messages/receive/bob?wait=60";
    let poll = tokio::spawn(get(path).key(&bob).send(rig.address));
    rig.relay.until(|relay| relay.polls_begun.load(Ordering::SeqCst) == 1).await;
    rig.stop().await;
    assert_eq!(within(poll).await.unwrap().json(), json!([]));
}

#[tokio::test]
async fn receive_is_for_the_owner_alone() {
    let rig = Rig::start();
    let alice = rig.relay.device("alice");
    let response = get("/api/v1/messages/receive/bob").key(&alice).send(rig.address).await;
    assert_eq!((response.status, response.problem().as_str()), (403, "forbidden"));
    let own = get("/api/v1/messages/receive/%61lice").key(&alice).send(rig.address).await;
    assert_eq!(own.status, 200);
    for (path, status) in [
        ("/api/v1/messages/receive/%ff", 400),
        ("/api/v1/messages/receive/a%0ab", 400),
        ("/api/v1/messages/receive/", 404),
        ("/api/v1/messages/receive/a/b", 404),
        ("/api/v1/messages/receive/alice?limit=0", 400),
        ("/api/v1/messages/receive/alice?wait=61", 400),
        ("/api/v1/messages/receive/alice?after=9:9", 400),
    ] {
        let response = get(path).key(&alice).send(rig.address).await;
        assert_eq!(response.status, status, "{path}");
        response.problem();
    }
    let long = format!("/api/v1/messages/receive/{}", "x".repeat(10_000));
    let response = get(&long).key(&alice).send(rig.address).await;
    assert_eq!((response.status, response.fields()), (400, vec!["userId".to_owned()]));
}

#[tokio::test]
async fn header_rules_hold_on_every_call() {
    let rig = Rig::start();
    let alice = rig.relay.device("alice");
    let calls: [fn() -> Request; 4] = [
        || post(SEND, &message("m1")),
        || post(ACK, &json!({"message_ids": ["m1"]})),
        || post(REGISTER, &json!({"device_id": "a", "public_key": "00"})),
        || post(REVOKE, &json!({})),
    ];
    for call in calls {
        let cases = [
            ("content-type", "text/plain", 415, "unsupported_media_type"),
            ("content-type", "", 415, "unsupported_media_type"),
            ("accept", "text/html", 406, "not_acceptable"),
            ("x-mosa-timestamp", "", 401, "timestamp_missing"),
            ("x-mosa-timestamp", "soon", 401, "timestamp_invalid"),
            ("x-mosa-timestamp", "1000", 401, "timestamp_skewed"),
        ];
        for (name, value, status, code) in cases {
            let response = call().key(&alice).header(name, value).send(rig.address).await;
            assert_eq!((response.status, response.problem().as_str()), (status, code));
            if status == 401 {
                let time = response.json()["server_time"].as_u64().unwrap();
                assert!(time.abs_diff(unix_seconds()) < 60);
                assert!(response.header("www-authenticate").is_some());
            }
        }
    }
    assert_eq!(rig.relay.pending("bob"), 0);
}

#[tokio::test]
async fn calls_need_a_valid_key() {
    let rig = Rig::start();
    let alice = rig.relay.device("alice");
    let calls: [fn() -> Request; 4] = [
        || post(SEND, &message("m1")),
        || post(ACK, &json!({"message_ids": ["m1"]})),
        || get("/api/v1/messages/receive/alice"),
        || request("POST", REVOKE),
    ];
    for call in calls {
        for (value, code) in [
            ("", "token_missing"),
            ("Basic abc", "token_missing"),
            ("Bearer nobody", "token_invalid"),
            (&format!("Bearer {}", "x".repeat(10_000)), "token_invalid"),
        ] {
            let response = call().header("authorization", value).send(rig.address).await;
            assert_eq!((response.status, response.problem().as_str()), (401, code), "{value:.20}");
            assert!(response.header("www-authenticate").unwrap().starts_with("Bearer"));
        }
    }
    let revoked = request("POST", REVOKE).key(&alice).send(rig.address).await;
    assert_eq!(revoked.json(), json!({"success": true, "revoked": "all"}));
    let response = post(SEND, &message("m1")).key(&alice).send(rig.address).await;
    assert_eq!((response.status, response.problem().as_str()), (401, "token_invalid"));
}

#[tokio::test]
async fn revoke_can_take_one_key() {
    let rig = Rig::start();
    let (first, second) = (rig.relay.device("alice"), rig.relay.device("alice"));
    let revoked = post(REVOKE, &json!({"scope": "key"})).key(&first).send(rig.address).await;
    assert_eq!(revoked.json()["revoked"], "key");
    let own = |key| get("/api/v1/messages/receive/alice").key(key).send(rig.address);
    assert_eq!(own(&first).await.status, 401);
    assert_eq!(own(&second).await.status, 200);
    let wrong = post(REVOKE, &json!({"scope": "both"})).key(&second).send(rig.address).await;
    assert_eq!((wrong.status, wrong.fields()), (400, vec!["scope".to_owned()]));
}

#[tokio::test]
async fn each_bad_field_is_named() {
    let rig = Rig::start();
    let alice = rig.relay.device("alice");
    let long = "x".repeat(10_000);
    let with = |name: &str, value: Value| {
        let mut body = message("m1");
        body[name] = value;
        body
    };
    let cases = [
        (json!({}), vec!["recipient_id", "content"]),
        (with("recipient_id", json!(5)), vec!["recipient_id"]),
        (with("recipient_id", json!("")), vec!["recipient_id"]),
        (with("recipient_id", json!(long)), vec!["recipient_id"]),
        (with("recipient_id", json!("a\u{0}b")), vec!["recipient_id"]),
        (with("message_id", Value::Null), vec!["message_id"]),
        (with("message_id", json!(["m"])), vec!["message_id"]),
        (with("message_id", json!(long)), vec!["message_id"]),
        (with("content", json!("not base64!")), vec!["content"]),
        (with("content", json!("")), vec!["content"]),
        (with("content", json!({"a": 1})), vec!["content"]),
        (with("priority", json!("fast")), vec!["priority"]),
        (with("priority", json!(4)), vec!["priority"]),
        (with("priority", json!([1])), vec!["priority"]),
        (with("ttl_seconds", json!(0)), vec!["ttl_seconds"]),
        (with("ttl_seconds", json!(1e12)), vec!["ttl_seconds"]),
        (with("ttl_seconds", json!("1")), vec!["ttl_seconds"]),
    ];
    for (body, fields) in cases {
        let response = post(SEND, &body).key(&alice).send(rig.address).await;
        assert_eq!(response.status, 400, "{body:.60}");
        assert_eq!(response.problem(), "validation_failed");
        assert_eq!(response.fields(), fields);
    }
    for body in [json!({}), json!({"message_ids": "m1"}), json!({"seqs": [{"priority": "low"}]})] {
        let response = post(ACK, &body).key(&alice).send(rig.address).await;
        assert_eq!((response.status, response.fields().len()), (400, 1), "{body}");
    }
    let many: Vec<_> = (0..1_001).map(|n| n.to_string()).collect();
    let response = post(ACK, &json!({"message_ids": many})).key(&alice).send(rig.address).await;
    assert_eq!(response.status, 400);
}

#[tokio::test]
async fn bodies_that_are_not_json_objects_are_refused() {
    let rig = Rig::start();
    let alice = rig.relay.device("alice");
    let bodies: [&[u8]; 7] = [
        b"{",
        b"[]",
        b"null",
        b"\"text\"",
        b"\xff\xfe",
        b"{\"a\":1} x",
        b"{\"content\": \"\xff\"}",
    ];
    for body in bodies {
        let response = request("POST", SEND)
            .header("content-type", "application/json")
            .body(body)
            .key(&alice)
            .send(rig.address)
            .await;
        assert_eq!((response.status, response.problem().as_str()), (400, "bad_json"), "{body:?}");
    }
    let none = request("POST", SEND).key(&alice).send(rig.address).await;
    assert_eq!((none.status, none.problem().as_str()), (411, "length_required"));
}

#[tokio::test]
async fn base64_of_all_common_kinds_is_taken() {
    let rig = Rig::start();
    let (alice, bob) = (rig.relay.device("alice"), rig.relay.device("bob"));
    for (index, content) in ["+/8=", "+/8", "-_8=", "-_8"].into_iter().enumerate() {
        let mut body = message(&format!("m{index}"));
        body["content"] = json!(content);
        assert_eq!(post(SEND, &body).key(&alice).send(rig.address).await.status, 202);
    }
    let messages = get("/api/v1/messages/receive/bob").key(&bob).send(rig.address).await.json();
    assert!(messages.as_array().unwrap().iter().all(|message| message["content"] == "+/8="));
}

#[tokio::test]
async fn content_has_a_limit() {
    let rig = Rig::start();
    let alice = rig.relay.device("alice");
    let mut body = message("m1");
    body["content"] = json!("A".repeat(61_440 / 3 * 4));
    assert_eq!(post(SEND, &body).key(&alice).send(rig.address).await.status, 202);
    body["content"] = json!("A".repeat(61_440 / 3 * 4 + 4));
    let response = post(SEND, &body).key(&alice).send(rig.address).await;
    assert_eq!((response.status, response.problem().as_str()), (413, "content_too_large"));
}

#[tokio::test]
async fn relay_errors_have_their_statuses() {
    let rig = Rig::start();
    let alice = rig.relay.device("alice");
    let cases = [
        (RelayError::MailboxFull, 429, "mailbox_full", true),
        (RelayError::Overloaded, 503, "overloaded", true),
        (RelayError::Unavailable, 503, "unavailable", true),
        (RelayError::Storage, 503, "storage_failed", true),
        (RelayError::MessageConflict, 409, "message_conflict", false),
    ];
    for (error, status, code, retries) in cases {
        rig.relay.fail_next([error]);
        let response = post(SEND, &message("m1")).key(&alice).send(rig.address).await;
        assert_eq!((response.status, response.problem().as_str()), (status, code));
        assert_eq!(response.header("retry-after").is_some(), retries, "{code}");
    }
}

#[tokio::test]
async fn device_over_its_rate_is_told_when_to_return() {
    let mut config = config();
    config.mosa.rate = RateConfig { per_second: 1, burst: 2 };
    let rig = Rig::with(config);
    let (alice, bob) = (rig.relay.device("alice"), rig.relay.device("bob"));
    let ask =
        |key, name| get(&format!("/api/v1/messages/receive/{name}")).key(key).send(rig.address);
    assert_eq!(ask(&alice, "alice").await.status, 200);
    assert_eq!(ask(&alice, "alice").await.status, 200);
    let refused = ask(&alice, "alice").await;
    assert_eq!((refused.status, refused.problem().as_str()), (429, "rate_limited"));
    assert_eq!(refused.header("retry-after"), Some("1"));
    assert!(refused.header("ratelimit").unwrap().starts_with("\"device\";r=0"));
    assert_eq!(ask(&bob, "bob").await.status, 200);
}

#[tokio::test]
async fn unknown_paths_and_methods_say_so() {
    let rig = Rig::start();
    for path in ["/", "/api/v1/nothing", "/api/v1/messages/send/", "/ws/x"] {
        let response = get(path).send(rig.address).await;
        assert_eq!((response.status, response.problem().as_str()), (404, "not_found"), "{path}");
    }
    for (method, path, allow) in [
        ("GET", SEND, "POST, OPTIONS"),
        ("DELETE", "/api/v1/gateway/status", "GET, HEAD, OPTIONS"),
        ("POST", "/ws", "GET"),
    ] {
        let response = request(method, path).send(rig.address).await;
        assert_eq!((response.status, response.problem().as_str()), (405, "method_not_allowed"));
        assert_eq!(response.header("allow"), Some(allow));
    }
}

#[tokio::test]
async fn browsers_may_ask_from_anywhere() {
    let rig = Rig::start();
    let response = request("OPTIONS", SEND)
        .header("origin", "https://web.test")
        .header("access-control-request-method", "POST")
        .send(rig.address)
        .await;
    assert_eq!(response.status, 204);
    assert_eq!(response.header("access-control-allow-origin"), Some("*"));
    assert!(response.header("access-control-allow-methods").unwrap().contains("POST"));
    let headers = response.header("access-control-allow-headers").unwrap();
    for name in ["Authorization", "Content-Type", "X-MOSA-Timestamp"] {
        assert!(headers.contains(name));
    }
    let error = post(SEND, &json!({})).send(rig.address).await;
    assert_eq!(error.header("access-control-allow-origin"), Some("*"));
}

#[tokio::test]
async fn health_and_metrics_are_served() {
    let rig = Rig::start();
    let plain = |path| get(path).header("x-mosa-timestamp", "").send(rig.address);
    assert_eq!(plain("/livez").await.status, 200);
    assert_eq!(plain("/readyz").await.status, 200);
    assert_eq!(plain("/metrics").await.status, 200);
    rig.relay.set_not_ready(Some("the meta group has no leader"));
    let response = plain("/readyz").await;
    assert_eq!((response.status, response.problem().as_str()), (503, "not_ready"));
    assert_eq!(response.json()["detail"], "the meta group has no leader");
    assert_eq!(plain("/livez").await.status, 200);
}

#[tokio::test]
async fn request_that_waits_on_the_cluster_is_answered_while_the_server_stops() {
    let rig = Rig::start();
    let alice = rig.relay.device("alice");
    let held = rig.relay.hold.clone().write_owned().await;
    let sent = tokio::spawn(post(SEND, &message("m1")).key(&alice).send(rig.address));
    rig.relay.until(|relay| relay.sends_begun.load(Ordering::SeqCst) == 1).await;
    rig.shutdown.cancel();
    drop(held);
    assert_eq!(within(sent).await.unwrap().status, 202);
    tokio::time::timeout(Duration::from_secs(5), rig.stop()).await.expect("stops soon");
}
