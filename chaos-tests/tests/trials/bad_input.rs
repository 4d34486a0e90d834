//! Bad input over real sockets gets its clear answer and disturbs nobody else: a conversation goes
//! on in the background and is judged at the end.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context as _, Result, ensure};
use futures_util::future::try_join_all;
use heliograph_chaos_tests::{
    checker::Expectation,
    clock::unix_seconds,
    cluster::Options,
    trial::Trial,
    wire::{AckMode, Device, Dial, Frame, Rest, Socket, WireError, register},
    workload::Config,
};
use hyper::StatusCode;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use crate::support::assert_good;

/// How long an answer may take on a busy machine.
const DEADLINE: Duration = Duration::from_secs(20);
/// How long a socket that says nothing may stay: the server's own limits are 10 and 15 s.
const SILENT_MAX: Duration = Duration::from_secs(40);
/// Sockets that say nothing, or not enough.
const SILENT: usize = 150;
/// What a node's heap may grow by under all of this. One body taken whole would be 100 MB.
const GROWTH_MAX: u64 = 80 << 20;

const EXPECTATION: Expectation =
    Expectation::of_three(Duration::from_secs(5), Duration::from_secs(10));

/// An answer to bytes that may be anything.
#[derive(Debug)]
struct Answer {
    status: u16,
    problem: Value,
}

impl Answer {
    fn expect(&self, status: u16, code: &str) -> Result<()> {
        ensure!(self.status == status && self.problem["code"] == code, "{status} {code}: {self:?}");
        for field in ["type", "title", "detail"] {
            ensure!(self.problem[field].is_string(), "{field} is missing: {self:?}");
        }
        ensure!(self.problem["status"] == status, "{self:?}");
        Ok(())
    }
}

/// Sends bytes and reads one answer. The server may stop reading at any time.
async fn raw(node: SocketAddr, bytes: &[u8]) -> Result<Answer> {
    let exchange = async {
        let stream = TcpStream::connect(node).await?;
        let (mut reader, mut writer) = stream.into_split();
        // An error while writing means that the server has heard enough; its answer tells.
        let write = async { writer.write_all(bytes).await.err() };
        let (_, answer) = tokio::join!(write, read_answer(&mut reader));
        answer
    };
    timeout(DEADLINE, exchange).await.context("no answer in time")?
}

async fn read_answer(reader: &mut (impl tokio::io::AsyncRead + Unpin)) -> Result<Answer> {
    let mut bytes = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        let head_end = bytes.windows(4).position(|window| window == b"\r\n\r\n");
        if let Some(end) = head_end {
            let head = std::str::from_utf8(&bytes[..end])?.to_ascii_lowercase();
            let status = head.split(' ').nth(1).context("no status")?.parse()?;
            let length = head
                .lines()
                .find_map(|line| line.strip_prefix("content-length:"))
                .map_or(Ok(0), |length| length.trim().parse::<usize>())?;
            if bytes.len() >= end + 4 + length {
                let body = &bytes[end + 4..end + 4 + length];
                let problem = serde_json::from_slice(body).unwrap_or(Value::Null);
                let typed = head.contains("content-type: application/problem+json");
                ensure!(typed || problem.is_null(), "a problem without its type: {head}");
                return Ok(Answer { status, problem });
            }
        }
        let read = reader.read(&mut chunk).await?;
        ensure!(read > 0, "closed without an answer, after {} bytes", bytes.len());
        bytes.extend_from_slice(&chunk[..read]);
    }
}

fn head(method: &str, path: &str, key: &str, more: &str) -> String {
    format!(
        "{method} {path} HTTP/1.1\r\nhost: x\r\nx-mosa-timestamp: {}\r\n\
         authorization: Bearer {key}\r\n{more}",
        unix_seconds()
    )
}

fn post(path: &str, key: &str, body: &str) -> Vec<u8> {
    let more =
        format!("content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    head("POST", path, key, &more).into_bytes()
}

const SEND: &str = "/api/v1/messages/send";

async fn bodies(node: SocketAddr, key: &str) -> Result<()> {
    let long = "x".repeat(10_000);
    let deep = "[".repeat(50_000);
    let bad = |body: Value| (body.to_string(), "validation_failed");
    let cases = [
        ("not json".to_owned(), "bad_json"),
        (String::new(), "bad_json"),
        ("[]".to_owned(), "bad_json"),
        (deep, "bad_json"),
        ("{\"recipient_id\":\"\\ud800\"}".to_owned(), "validation_failed"),
        bad(json!({})),
        bad(json!({"recipient_id": 7, "message_id": "m", "content": "AA=="})),
        bad(json!({"recipient_id": "r", "message_id": "m"})),
        bad(json!({"recipient_id": "r", "message_id": "m", "content": "not base64!"})),
        bad(json!({"recipient_id": "r", "message_id": "m", "content": "A"})),
        bad(json!({"recipient_id": "r", "message_id": "m", "content": "AA==", "priority": "loud"})),
        bad(json!({"recipient_id": "r", "message_id": "m", "content": "AA==", "priority": 4})),
        bad(json!({"recipient_id": long, "message_id": "m", "content": "AA=="})),
        bad(json!({"recipient_id": "r", "message_id": long, "content": "AA=="})),
        bad(json!({"recipient_id": "a\u{0}b", "message_id": "m", "content": "AA=="})),
    ];
    for (body, code) in cases {
        let shown: String = body.chars().take(80).collect();
        let answer = raw(node, &post(SEND, key, &body)).await.context(shown.clone())?;
        // A missing body has a length of 0 and may be called what it is.
        if body.is_empty() && answer.status == 411 {
            continue;
        }
        answer.expect(400, code).context(shown)?;
    }
    let register = json!({"device_id": long, "public_key": "zz"}).to_string();
    let answer = raw(node, &post("/api/v1/auth/register", "", &register)).await?;
    answer.expect(400, "validation_failed")?;
    let acknowledge = json!({"message_ids": [7]}).to_string();
    let answer = raw(node, &post("/api/v1/messages/acknowledge", key, &acknowledge)).await?;
    answer.expect(400, "validation_failed")
}

async fn headers(node: SocketAddr, key: &str) -> Result<()> {
    let flood: String = (0..100_000).map(|i| format!("x-{i}: y\r\n")).collect();
    let answer = raw(node, head("GET", "/api/v1/gateway/status", key, &flood).as_bytes()).await?;
    ensure!(answer.status == 431, "{answer:?}");
    let fat = format!("x-fat: {}\r\n\r\n", "y".repeat(1 << 20));
    let answer = raw(node, head("GET", "/api/v1/gateway/status", key, &fat).as_bytes()).await?;
    ensure!(answer.status == 431, "{answer:?}");
    let many: String = (0..90).map(|i| format!("x-{i}: y\r\n")).collect();
    let many = head("GET", "/api/v1/gateway/status", key, &format!("{many}\r\n"));
    raw(node, many.as_bytes()).await?.expect(431, "head_too_large")?;
    let long = format!("/api/v1/messages/receive/{}", "x".repeat(10_000));
    let answer = raw(node, head("GET", &long, key, "\r\n").as_bytes()).await?;
    ensure!(
        (400..500).contains(&answer.status) && answer.problem["code"].is_string(),
        "{answer:?}"
    );

    let json = "content-type: application/json\r\ncontent-length: 2\r\n\r\n{}";
    let stamped = |stamp: &str| {
        format!("GET /api/v1/messages/receive/x HTTP/1.1\r\nhost: x\r\n{stamp}\r\n").into_bytes()
    };
    raw(node, &stamped("")).await?.expect(401, "timestamp_missing")?;
    raw(node, &stamped("x-mosa-timestamp: soon\r\n")).await?.expect(401, "timestamp_invalid")?;
    raw(node, &stamped("x-mosa-timestamp: 5\r\n")).await?.expect(401, "timestamp_skewed")?;
    let text = head("POST", SEND, key, &json.replace("application/json", "text/plain"));
    raw(node, text.as_bytes()).await?.expect(415, "unsupported_media_type")?;
    let html = head("POST", SEND, key, &format!("accept: text/html\r\n{json}"));
    raw(node, html.as_bytes()).await?.expect(406, "not_acceptable")?;
    let path = head("GET", "/api/v1/nothing", key, "\r\n");
    raw(node, path.as_bytes()).await?.expect(404, "not_found")?;
    let method = head("GET", SEND, key, "\r\n");
    raw(node, method.as_bytes()).await?.expect(405, "method_not_allowed")
}

async fn garbage(node: SocketAddr) -> Result<()> {
    for bytes in [
        &b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 a TLS hello on a plain port\r\n\r\n"[..],
        b"\x00\x01\x02\x03\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\nhost: x\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n",
    ] {
        let answer = raw(node, bytes).await.with_context(|| format!("{bytes:?}"))?;
        ensure!((400..600).contains(&answer.status), "{answer:?}");
    }
    Ok(())
}

/// The answer comes although nothing of the body was sent, and also while all of it is.
async fn huge_bodies(node: SocketAddr, key: &str) -> Result<()> {
    const HUGE: usize = 100_000_000;
    let more = format!("content-type: application/json\r\ncontent-length: {HUGE}\r\n\r\n");
    let announced = head("POST", SEND, key, &more).into_bytes();
    raw(node, &announced).await?.expect(413, "body_too_large")?;
    let mut whole = announced.clone();
    whole.resize(announced.len() + HUGE, b'x');
    raw(node, &whole).await?.expect(413, "body_too_large")?;
    let more = "content-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n";
    let mut chunked = head("POST", SEND, key, more).into_bytes();
    for _ in 0..HUGE / 0x10000 {
        chunked.extend_from_slice(b"10000\r\n");
        chunked.resize(chunked.len() + 0x10000, b'x');
        chunked.extend_from_slice(b"\r\n");
    }
    raw(node, &chunked).await?.expect(413, "body_too_large")
}

async fn closed_with(socket: &mut Socket, expected: u16) -> Result<()> {
    let end = async {
        loop {
            match socket.next().await {
                Ok(_) => {}
                Err(WireError::Closed { code }) => {
                    ensure!(code == Some(expected), "closed with {code:?}, not {expected}");
                    return Ok(());
                }
                Err(error) => return Err(error.into()),
            }
        }
    };
    timeout(DEADLINE, end).await.with_context(|| format!("not closed with {expected}"))?
}

async fn refused_key(node: SocketAddr, key: &str) -> Result<()> {
    raw(node, &post(SEND, key, "{}")).await?.expect(401, "token_invalid")?;
    match Socket::connect(Dial::to(node, DEADLINE), key, AckMode::Explicit).await {
        Err(WireError::Unexpected { body, .. }) => {
            ensure!(body["type"] == "auth_error" && body["code"] == "token_invalid", "{body}");
        }
        other => anyhow::bail!("a wrong key got {other:?}"),
    }
    let mut socket = Socket::open(Dial::to(node, DEADLINE)).await?;
    socket.send(&json!({"type": "auth", "token": key})).await?;
    closed_with(&mut socket, 3000).await
}

async fn keys(nodes: &[SocketAddr], device: &Device) -> Result<()> {
    // Of another device, of the right shape, of no shape, huge.
    let shaped = format!("{}A", &device.key[..device.key.len() - 1]);
    let other_end = format!("{}B", &device.key[..device.key.len() - 1]);
    let wrong = if shaped == device.key { other_end } else { shaped };
    for key in [wrong.as_str(), "hg1_", "x", &"k".repeat(10_000)] {
        refused_key(nodes[0], key).await.with_context(|| format!("{} bytes", key.len()))?;
    }
    let none = head("GET", "/api/v1/messages/receive/x", "", "\r\n");
    let none = none.replace("authorization: Bearer \r\n", "");
    raw(nodes[0], none.as_bytes()).await?.expect(401, "token_missing")?;

    // Of another device's mailbox.
    let reply = device.rest(nodes[1]).get("/api/v1/messages/receive/other", DEADLINE).await?;
    ensure!(reply.status == StatusCode::FORBIDDEN && reply.code() == "forbidden", "{reply:?}");

    // Revoked: the live socket at another node closes, no node takes the key any more.
    let revoked = register(&mut Rest::new(nodes[1], None), "to-be-revoked", DEADLINE).await?;
    let mut live =
        Socket::connect(Dial::to(nodes[2], DEADLINE), &revoked.key, AckMode::Explicit).await?;
    let mut rest = revoked.rest(nodes[0]);
    let reply = rest.post("/api/v1/auth/revoke", &json!({}), DEADLINE).await?;
    ensure!(reply.status.is_success(), "{reply:?}");
    closed_with(&mut live, 4401).await?;
    for node in nodes {
        refused_key(*node, &revoked.key).await.context("revoked")?;
    }
    Ok(())
}

async fn frames(node: SocketAddr, device: &Device) -> Result<()> {
    let dial = Dial::to(node, DEADLINE);
    let mut early = Socket::open(dial.clone()).await?;
    early.send(&json!({"type": "message", "recipient_id": "r", "content": "AA=="})).await?;
    match timeout(DEADLINE, early.next()).await?? {
        Frame::Other(answer) => {
            ensure!(answer["type"] == "auth_error", "{answer}");
            ensure!(answer["code"] == "auth_required", "{answer}");
        }
        other => anyhow::bail!("{other:?}"),
    }
    closed_with(&mut early, 3000).await?;

    let mut socket = Socket::connect(dial.clone(), &device.key, AckMode::Explicit).await?;
    let long = "x".repeat(10_000);
    for (frame, code) in [
        (json!({"type": "no-such"}), "unknown_type"),
        (json!({}), "unknown_type"),
        (json!({"type": "message", "content": "AA=="}), "validation_failed"),
        (json!({"type": "message", "recipient_id": long, "content": "AA=="}), "validation_failed"),
        (json!({"type": "message", "recipient_id": "r", "content": "?"}), "validation_failed"),
        (json!({"type": "ack", "message_ids": 7}), "validation_failed"),
        (json!({"type": "auth", "token": device.key}), "already_authenticated"),
    ] {
        socket.send(&frame).await?;
        match timeout(DEADLINE, socket.next()).await?? {
            Frame::Other(answer) => {
                ensure!(answer["type"] == "error" && answer["code"] == code, "{code}: {answer}");
            }
            other => anyhow::bail!("{frame}: {other:?}"),
        }
    }
    // It lives: the next frame is served.
    let id = format!("alive-{}", node.port());
    let frame = json!({"type": "message", "recipient_id": "r", "content": "AA==",
        "message_id": id});
    socket.send(&frame).await?;
    let answer = timeout(DEADLINE, socket.next()).await??;
    ensure!(answer == Frame::Accepted { message_id: id }, "{answer:?}");
    socket.send_text("{not json".to_owned()).await?;
    closed_with(&mut socket, 1007).await?;

    let mut socket = Socket::connect(dial, &device.key, AckMode::Explicit).await?;
    // The server may close before all of it is written.
    let _ = socket.send_text("x".repeat(4 << 20)).await;
    match closed_with(&mut socket, 1009).await {
        Ok(()) => Ok(()),
        // Our own half-written frame may make the close frame unreadable to this client.
        Err(error) if error.downcast_ref::<WireError>().is_some() => Ok(()),
        Err(error) => Err(error),
    }
}

/// Opens sockets that say nothing, half a request, or nothing after the upgrade.
async fn silence(node: SocketAddr) -> Result<Vec<TcpStream>> {
    const UPGRADE: &str = "GET /ws HTTP/1.1\r\nhost: x\r\nupgrade: websocket\r\n\
        connection: upgrade\r\nsec-websocket-version: 13\r\n\
        sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    let body = format!(
        "POST {SEND} HTTP/1.1\r\nhost: x\r\nx-mosa-timestamp: {}\r\n\
         content-type: application/json\r\ncontent-length: 50\r\n\r\n{{\"half\":",
        unix_seconds()
    );
    let texts = ["", "GET /api/v1/gat", UPGRADE, &body];
    let open = (0..SILENT).map(|i| {
        let text = texts[i % texts.len()];
        async move {
            let mut stream = TcpStream::connect(node).await?;
            stream.write_all(text.as_bytes()).await?;
            Ok::<_, anyhow::Error>(stream)
        }
    });
    try_join_all(open).await
}

/// Waits until the server has closed each.
async fn closed(streams: Vec<TcpStream>) -> Result<()> {
    let each = streams.into_iter().map(|mut stream| async move {
        let mut chunk = [0; 1024];
        // An answer may come first; a reset is a close.
        while matches!(stream.read(&mut chunk).await, Ok(read) if read > 0) {}
    });
    let all = futures_util::future::join_all(each);
    timeout(SILENT_MAX, all).await.context("silent sockets are kept")?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_input_gets_its_answer_and_disturbs_nobody() -> Result<()> {
    let mut trial = Trial::start(Options::three("bad-input"), Config::modest()).await?;
    trial.workload.start_reading();
    trial.flow(Duration::from_secs(1)).await?;
    let nodes = trial.cluster.addresses();
    let device = register(&mut Rest::new(nodes[0], None), "rude", DEADLINE).await?;
    let before: Vec<u64> = heap(&trial)?;
    let silent = try_join_all(nodes.iter().map(|node| silence(*node))).await?;
    let outcome = abuse(&nodes, &device).await;
    if outcome.is_err() {
        trial.cluster.keep_logs();
    }
    outcome?;
    // Every node still runs as the process it was, and has not taken the bodies in.
    for (before, after) in before.iter().zip(heap(&trial)?) {
        ensure!(after < before + GROWTH_MAX, "a node's heap grew from {before} to {after}");
    }
    closed(silent.into_iter().flatten().collect()).await?;
    trial.flow(Duration::from_secs(1)).await?;
    let (verdict, report) = trial.judge(&EXPECTATION).await?;
    assert_good(&verdict, &report)
}

async fn abuse(nodes: &[SocketAddr], device: &Device) -> Result<()> {
    let mut outcomes = vec![
        bodies(nodes[0], &device.key).await.context("bodies"),
        headers(nodes[1], &device.key).await.context("headers"),
        garbage(nodes[2]).await.context("garbage"),
        huge_bodies(nodes[0], &device.key).await.context("huge bodies"),
        keys(nodes, device).await.context("keys"),
    ];
    for node in nodes {
        outcomes.push(frames(*node, device).await.context("frames"));
    }
    // All of them, not the first one alone.
    let wrong: Vec<_> = outcomes.into_iter().filter_map(Result::err).collect();
    ensure!(wrong.is_empty(), "{wrong:#?}");
    Ok(())
}

fn heap(trial: &Trial) -> Result<Vec<u64>> {
    let ids = trial.cluster.nodes().iter().map(|node| node.id);
    ids.map(|id| Ok(trial.cluster.usage(id)?.anonymous_bytes)).collect()
}
