//! A server that goes away: who is told what, in which order, and how they come back.

use std::{sync::atomic::Ordering, time::Duration};

use heliograph_cluster::ApiKey;
use serde_json::{Value, json};

use super::support::{
    Rig,
    http::{get, post},
    within,
    ws::{Got, Ws},
};

const SEND: &str = "/api/v1/messages/send";
const NEXT: &str = "ws://next.example/ws";

fn letter(to: &str, id: &str) -> Value {
    json!({ "type": "message", "recipient_id": to, "content": "aGVsbG8=", "message_id": id })
}

/// Opens with an `auth` frame of these fields; answers what came.
async fn enter(rig: &Rig, mut auth: Value) -> (Ws, Value) {
    let mut ws = Ws::connect(rig.address).await;
    auth["type"] = json!("auth");
    ws.send(&auth).await;
    let answer = ws.json().await;
    (ws, answer)
}

/// The hint, then the close code.
async fn farewell(ws: &mut Ws) -> (Value, u16) {
    let hint = ws.json().await;
    (hint, ws.closed().await)
}

async fn ticket(rig: &Rig, key: &ApiKey) -> String {
    let mut ws = Ws::open(rig.address, key).await;
    rig.server().send_off(Duration::ZERO).await;
    let (hint, code) = farewell(&mut ws).await;
    assert_eq!((hint["type"].as_str(), code), (Some("resume"), 1012));
    assert_eq!((hint["url"].as_str(), hint["expires_in"].as_u64()), (Some(NEXT), Some(30)));
    rig.server().stay();
    hint["ticket"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn who_is_sent_away_is_told_where_to_go_on_and_enters_by_ticket_once() {
    let rig = Rig::start();
    rig.relay.set_next_home(NEXT);
    let bob = rig.relay.device("bob");
    let ticket = ticket(&rig, &bob).await;
    let (mut ws, answer) = enter(&rig, json!({ "ticket": ticket })).await;
    assert_eq!((&answer["type"], &answer["resumed"]), (&json!("auth_success"), &json!(true)));
    assert_eq!(answer["device_id"], "bob");
    ws.send(&letter("bob", "m1")).await;
    assert_eq!(ws.json().await["type"], "accepted");
    let (mut again, answer) = enter(&rig, json!({ "ticket": ticket })).await;
    assert_eq!((&answer["type"], &answer["code"]), (&json!("auth_error"), &json!("token_invalid")));
    assert_eq!(again.closed().await, 3000);
    // With its key beside it a ticket that is no good does no harm.
    let both = json!({ "ticket": ticket, "token": bob.expose() });
    let (_ws, answer) = enter(&rig, both).await;
    assert_eq!((&answer["type"], &answer["resumed"]), (&json!("auth_success"), &Value::Null));
}

#[tokio::test]
async fn nothing_is_done_by_ticket_before_its_key_is_confirmed() {
    let rig = Rig::start();
    rig.relay.set_next_home(NEXT);
    let bob = rig.relay.device("bob");
    let (first, second) = (ticket(&rig, &bob).await, ticket(&rig, &bob).await);
    let held = rig.relay.hold_keys.clone().write_owned().await;
    let (mut ws, answer) = enter(&rig, json!({ "ticket": first })).await;
    assert_eq!(answer["type"], "auth_success");
    ws.send(&letter("carol", "early")).await;
    let (mut late, _) = enter(&rig, json!({ "ticket": second })).await;
    late.send(&letter("carol", "late")).await;
    drop(held);
    // The answer to what was sent early comes once the key is confirmed.
    assert_eq!(ws.json().await["message_id"], "early");
    assert_eq!(late.json().await["message_id"], "late");
    let held = rig.relay.hold_keys.clone().write_owned().await;
    let third = ticket(&rig, &bob).await;
    let revoke = post("/api/v1/auth/revoke", &json!({})).key(&bob);
    assert_eq!(revoke.send(rig.address).await.status, 200);
    let before = rig.relay.sent_order().len();
    let (mut revoked, answer) = enter(&rig, json!({ "ticket": third })).await;
    assert_eq!(answer["type"], "auth_success");
    revoked.send(&letter("carol", "revoked")).await;
    drop(held);
    assert_eq!(revoked.closed().await, 4401);
    assert_eq!(rig.relay.sent_order().len(), before);
}

#[tokio::test]
async fn what_a_device_presents_does_not_come_again() {
    let rig = Rig::start();
    let (alice, bob) = (rig.relay.device("alice"), rig.relay.device("bob"));
    let mut from = Ws::open(rig.address, &alice).await;
    for id in ["m1", "m2", "m3"] {
        from.send(&letter("bob", id)).await;
        assert_eq!(from.json().await["type"], "accepted");
    }
    let received = json!([{ "priority": "normal", "seq": 1 }, { "priority": 1, "seq": 2 }]);
    let auth = json!({ "token": bob.expose(), "ack": "explicit", "received": received });
    let (mut ws, answer) = enter(&rig, auth).await;
    assert_eq!(answer["type"], "auth_success");
    assert_eq!(ws.json().await["message_id"], "m3");
    assert_eq!(rig.relay.pending("bob"), 3);
    ws.send(&json!({ "type": "ack", "seqs": received })).await;
    rig.relay.until(|relay| relay.pending("bob") == 1).await;
    // A stock client's stack has them: that is what its Pong would have said.
    let received = json!([{ "priority": "normal", "seq": 3 }]);
    let (_ws, _) = enter(&rig, json!({ "token": bob.expose(), "received": received })).await;
    rig.relay.until(|relay| relay.pending("bob") == 0).await;
    for wrong in [json!(7), json!([7]), json!([{ "seq": 1 }, { "priority": "no", "seq": 1 }])] {
        let auth = json!({ "token": bob.expose(), "received": wrong });
        assert_eq!(enter(&rig, auth).await.1["code"], "validation_failed", "{wrong}");
    }
}

#[tokio::test]
async fn what_is_under_way_is_answered_before_the_connection_closes() {
    let rig = Rig::start();
    let mut ws = Ws::open(rig.address, &rig.relay.device("bob")).await;
    let held = rig.relay.hold.clone().write_owned().await;
    ws.send(&letter("bob", "m1")).await;
    rig.relay.until(|relay| relay.sends_begun.load(Ordering::SeqCst) == 1).await;
    let (gone, ()) = tokio::join!(
        async {
            let mut seen = Vec::new();
            loop {
                match ws.next().await {
                    Got::Json(frame) => seen.push(frame["type"].as_str().unwrap().to_owned()),
                    Got::Close(code) => return (seen, code),
                    Got::End => panic!("no close frame"),
                    Got::Ping(_) | Got::Pong(_) => {}
                }
            }
        },
        async {
            let sending_off = rig.server().send_off(Duration::ZERO);
            let releasing = async {
                tokio::task::yield_now().await;
                drop(held);
            };
            tokio::join!(sending_off, releasing);
        }
    );
    assert_eq!(gone, (vec!["accepted".to_owned()], Some(1012)));
    assert_eq!(rig.relay.pending("bob"), 1, "it was not delivered any more");
}

#[tokio::test]
async fn pongs_on_their_way_still_count() {
    let rig = Rig::start();
    let (alice, bob) = (rig.relay.device("alice"), rig.relay.device("bob"));
    let mut to = Ws::open(rig.address, &bob).await;
    let mut from = Ws::open(rig.address, &alice).await;
    from.send(&letter("bob", "m1")).await;
    rig.relay
        .until(|relay| relay.sessions("bob").iter().any(|s| !s.written.lock().is_empty()))
        .await;
    // Written, and its Pong not sent yet: that happens while `to` is read.
    let ((), code) = tokio::join!(rig.server().send_off(Duration::ZERO), to.closed());
    assert_eq!(code, 1012);
    assert_eq!(rig.relay.pending("bob"), 0);
}

#[tokio::test]
async fn http_clients_leave_with_their_next_answer_and_new_ones_are_served() {
    let rig = Rig::start();
    let (alice, bob) = (rig.relay.device("alice"), rig.relay.device("bob"));
    let poll = get("/api/v1/messages/receive/bob?wait=60").key(&bob).send(rig.address);
    let poll = tokio::spawn(poll);
    rig.relay.until(|relay| relay.polls_begun.load(Ordering::SeqCst) == 1).await;
    rig.server().leave();
    let polled = within(poll).await.unwrap();
    assert_eq!((polled.status, polled.json()), (200, json!([])));
    assert_eq!(polled.header("connection"), Some("close"));
    let sent = post(SEND, &letter("bob", "m1")).key(&alice).send(rig.address).await;
    assert_eq!((sent.status, sent.header("connection")), (202, Some("close")));
    let status = get("/api/v1/gateway/status").send(rig.address).await;
    assert_eq!(status.json()["status"], "draining");
    // A WebSocket is still taken, and what it sends.
    let mut ws = Ws::open(rig.address, &alice).await;
    ws.send(&letter("bob", "m2")).await;
    assert_eq!(ws.json().await["type"], "accepted");
    rig.server().stay();
    let sent = post(SEND, &letter("bob", "m3")).key(&alice).send(rig.address).await;
    assert_eq!((sent.status, sent.header("connection")), (202, None));
    rig.stop().await;
}
