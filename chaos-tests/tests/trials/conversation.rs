//! Devices on different nodes talk, over REST and WebSocket, in every mix.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context as _, Result, bail, ensure};
use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use heliograph_chaos_tests::{
    cluster::{LocalCluster, Options},
    wire::{AckMode, Device, Dial, Frame, Received, Rest, Socket, register},
};
use hyper::StatusCode;
use serde_json::json;
use tokio::time::timeout;

/// How long one step may take on a busy machine.
const DEADLINE: Duration = Duration::from_secs(20);

/// How a device talks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Road {
    Rest,
    Socket,
}

const ROADS: [Road; 2] = [Road::Rest, Road::Socket];

async fn device(node: SocketAddr, id: &str) -> Result<Device> {
    let mut rest = Rest::new(node, None);
    register(&mut rest, id, DEADLINE).await.with_context(|| format!("register {id}"))
}

/// Sends and answers once it is accepted.
async fn send(
    road: Road,
    node: SocketAddr,
    from: &Device,
    to: &Device,
    message: &str,
) -> Result<()> {
    let mut body = json!({
        "recipient_id": to.id,
        "message_id": message,
        "content": BASE64.encode(message),
        "priority": "normal",
    });
    match road {
        Road::Rest => {
            let reply = from.rest(node).post("/api/v1/messages/send", &body, DEADLINE).await?;
            ensure!(reply.status == StatusCode::ACCEPTED, "{reply:?}");
            ensure!(reply.body["success"] == true, "{reply:?}");
            ensure!(reply.body["status"] == "queued", "{reply:?}");
            ensure!(reply.body["message_id"] == message, "{reply:?}");
        }
        Road::Socket => {
            let dial = Dial::to(node, DEADLINE);
            let mut socket = Socket::connect(dial, &from.key, AckMode::Explicit).await?;
            body["type"] = json!("message");
            socket.send(&body).await?;
            let answer = timeout(DEADLINE, socket.next()).await??;
            ensure!(answer == Frame::Accepted { message_id: message.to_owned() }, "{answer:?}");
        }
    }
    Ok(())
}

/// Takes one message: reads and acknowledges it.
async fn take(road: Road, node: SocketAddr, to: &Device) -> Result<Received> {
    match road {
        Road::Rest => {
            let messages = pending(node, to, 10).await?;
            let first = messages.into_iter().next().context("nothing came")?;
            let body = json!({"message_ids": [first.message_id]});
            let path = "/api/v1/messages/acknowledge";
            let reply = to.rest(node).post(path, &body, DEADLINE).await?;
            ensure!(reply.status == StatusCode::OK, "{reply:?}");
            ensure!(reply.body["acknowledged"] == 1, "{reply:?}");
            Ok(first)
        }
        Road::Socket => {
            let dial = Dial::to(node, DEADLINE);
            let mut socket = Socket::connect(dial, &to.key, AckMode::Explicit).await?;
            let message = next_message(&mut socket).await?;
            socket.send(&json!({"type": "ack", "message_ids": [message.message_id]})).await?;
            gone(node, to).await?;
            Ok(message)
        }
    }
}

async fn next_message(socket: &mut Socket) -> Result<Received> {
    match timeout(DEADLINE, socket.next()).await.context("nothing came")?? {
        Frame::Message(message) => Ok(message),
        other => bail!("not a message: {other:?}"),
    }
}

async fn pending(node: SocketAddr, to: &Device, wait: u64) -> Result<Vec<Received>> {
    let path = format!("/api/v1/messages/receive/{}?wait={wait}", to.id);
    let reply = to.rest(node).get(&path, DEADLINE + Duration::from_secs(wait)).await?;
    ensure!(reply.status == StatusCode::OK, "{reply:?}");
    Ok(serde_json::from_value(reply.body)?)
}

/// Waits until a mailbox is empty: an `ack` frame has no answer.
async fn gone(node: SocketAddr, to: &Device) -> Result<()> {
    let empty = async {
        while !pending(node, to, 0).await?.is_empty() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    };
    timeout(DEADLINE, empty).await.context("acknowledged messages stay")?
}

#[tokio::test(flavor = "multi_thread")]
async fn devices_on_different_nodes_talk_in_every_mix() -> Result<()> {
    let mut cluster = LocalCluster::start(Options::three("mix")).await?;
    let nodes = cluster.addresses();
    let mut count = 0;
    for (a, from_node) in nodes.iter().enumerate() {
        for (b, to_node) in nodes.iter().enumerate() {
            // Registered at one node, used at others.
            let register_at = nodes[(a + b) % nodes.len()];
            let from = device(register_at, &format!("from-{a}-{b}")).await?;
            let to = device(register_at, &format!("to-{a}-{b}")).await?;
            for sending in ROADS {
                for receiving in ROADS {
                    let mix = format!("{sending:?}@{a} to {receiving:?}@{b}");
                    send(sending, *from_node, &from, &to, &mix).await.context(mix.clone())?;
                    let got = take(receiving, *to_node, &to).await.context(mix.clone())?;
                    ensure!(got.message_id == mix && got.sender_id == from.id, "{mix}: {got:?}");
                    ensure!(got.content == BASE64.encode(&mix), "{mix}: {got:?}");
                    ensure!(got.level() == Some(1), "{mix}: {got:?}");
                    count += 1;
                    ensure!(pending(*from_node, &to, 0).await?.is_empty(), "{mix}");
                }
            }
        }
    }
    assert_eq!(count, 36);
    cluster.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn listening_devices_hear_each_other_at_once_and_live_frames_pass() -> Result<()> {
    let mut cluster = LocalCluster::start(Options::three("live")).await?;
    let nodes = cluster.addresses();
    let alice = device(nodes[0], "alice").await?;
    let bob = device(nodes[1], "bob").await?;
    let dial = |node| Dial::to(node, DEADLINE);
    let mut at_a = Socket::connect(dial(nodes[1]), &alice.key, AckMode::Explicit).await?;
    // Bob is a stock client: he never says `ack`.
    let mut at_b = Socket::connect(dial(nodes[2]), &bob.key, AckMode::Pong).await?;
    for i in 0..20 {
        let id = format!("to-bob-{i}");
        at_a.send(&json!({"type": "message", "recipient_id": "bob", "message_id": id,
            "content": "AA=="}))
            .await?;
        let accepted = timeout(DEADLINE, at_a.next()).await??;
        ensure!(accepted == Frame::Accepted { message_id: id.clone() }, "{accepted:?}");
        let got = next_message(&mut at_b).await?;
        ensure!(got.message_id == id && got.seq == i + 1, "{got:?}");
    }
    // While he reads on, his Pongs acknowledge.
    let answers = async {
        let mut other = bob.rest(nodes[0]);
        loop {
            let reply = other.get("/api/v1/messages/receive/bob", DEADLINE).await?;
            if reply.body.as_array().is_some_and(Vec::is_empty) {
                return Ok::<_, anyhow::Error>(());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::select! {
        settled = timeout(DEADLINE, answers) => settled.context("Pongs do not acknowledge")??,
        frame = at_b.next() => bail!("unexpected {frame:?}"),
    }
    for kind in ["audio_stream", "video_signal"] {
        at_a.send(&json!({"type": kind, "recipient_id": "bob", "data": "AAEC", "n": 7})).await?;
        let Frame::Other(frame) = timeout(DEADLINE, at_b.next()).await?? else {
            bail!("not a live frame");
        };
        ensure!(frame["type"] == kind && frame["sender_id"] == "alice", "{frame}");
        ensure!(frame["data"] == "AAEC" && frame["n"] == 7, "{frame}");
    }
    at_a.send(&json!({"type": "audio_stream", "recipient_id": "nobody", "data": "AA=="})).await?;
    let Frame::Other(frame) = timeout(DEADLINE, at_a.next()).await?? else {
        bail!("no answer");
    };
    ensure!(frame["type"] == "unavailable" && frame["recipient_id"] == "nobody", "{frame}");
    cluster.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_moves_from_node_to_node_and_finds_its_backlog() -> Result<()> {
    let mut cluster = LocalCluster::start(Options::three("backlog")).await?;
    let nodes = cluster.addresses();
    let from = device(nodes[0], "writer").await?;
    let to = device(nodes[0], "reader").await?;
    for i in 1..=30 {
        send(Road::Rest, nodes[i % 3], &from, &to, &format!("m{i}")).await?;
    }
    let mut seen = 0;
    // Ten at each node, of which it acknowledges ten; what it has not goes with it.
    for node in &nodes {
        let all = pending(*node, &to, 0).await?;
        let ids: Vec<_> = all.iter().map(|message| message.message_id.clone()).collect();
        let expected: Vec<_> = (seen + 1..=30).map(|i| format!("m{i}")).collect();
        ensure!(ids == expected, "{ids:?}");
        let dial = Dial::to(*node, DEADLINE);
        let mut socket = Socket::connect(dial, &to.key, AckMode::Explicit).await?;
        for i in seen + 1..=seen + 10 {
            let message = next_message(&mut socket).await?;
            ensure!(message.message_id == format!("m{i}"), "{message:?}");
            ensure!(message.seq == i as u64, "{message:?}");
        }
        socket.send(&json!({"type": "ack", "message_ids": ids[..10]})).await?;
        seen += 10;
        let settled = async {
            while pending(*node, &to, 0).await?.len() != 30 - seen {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            Ok::<_, anyhow::Error>(())
        };
        timeout(DEADLINE, settled).await.context("acknowledged messages stay")??;
    }
    for node in &nodes {
        ensure!(pending(*node, &to, 0).await?.is_empty());
    }
    // All of it is there after a clean stop and a start, too.
    send(Road::Socket, nodes[2], &from, &to, "last").await?;
    cluster.stop_and_start().await?;
    for node in cluster.addresses() {
        let left = pending(node, &to, 0).await?;
        ensure!(left.len() == 1 && left[0].message_id == "last" && left[0].seq == 31, "{left:?}");
    }
    cluster.stop().await
}
