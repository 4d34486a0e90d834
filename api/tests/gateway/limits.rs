//! What no client may do to others: floods, silence, half-open sockets, too many connections.

use std::{sync::Arc, time::Duration};

use heliograph_api::{
    Server,
    server::{Pem, Security, TlsConfig},
};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use super::support::{
    Rig, config,
    http::{get, post, read_response, request},
    within,
};

const SEND: &str = "/api/v1/messages/send";

/// Every test ends with this: whatever one client did, others are served.
async fn serves_others(rig: &Rig) {
    assert_eq!(get("/api/v1/gateway/status").send(rig.address).await.status, 200);
}

#[tokio::test]
async fn huge_declared_body_is_refused_unread() {
    let rig = Rig::start();
    let alice = rig.relay.device("alice");
    let head = request("POST", SEND)
        .key(&alice)
        .header("content-type", "application/json")
        .header("content-length", "100000000");
    // The head alone: an answer now proves that nothing of the body was waited for.
    let response = head.send(rig.address).await;
    assert_eq!((response.status, response.problem().as_str()), (413, "body_too_large"));
    assert_eq!(response.header("connection"), Some("close"));
    serves_others(&rig).await;
}

#[tokio::test]
async fn client_that_uploads_before_reading_still_gets_413() {
    let rig = Rig::start();
    let alice = rig.relay.device("alice");
    let response = request("POST", SEND)
        .key(&alice)
        .header("content-type", "application/json")
        .body(vec![b'x'; 100_000_000])
        .send(rig.address)
        .await;
    assert_eq!((response.status, response.problem().as_str()), (413, "body_too_large"));
    serves_others(&rig).await;
}

#[tokio::test]
async fn chunked_body_is_refused_once_it_is_too_long() {
    let rig = Rig::start();
    let alice = rig.relay.device("alice");
    within(async {
        let mut stream = TcpStream::connect(rig.address).await.unwrap();
        let head = request("POST", SEND)
            .key(&alice)
            .header("content-type", "application/json")
            .header("transfer-encoding", "chunked");
        stream.write_all(&head.bytes()).await.unwrap();
        let chunk = format!("{:x}\r\n{}\r\n", 64 * 1024, "x".repeat(64 * 1024));
        for _ in 0..5 {
            stream.write_all(chunk.as_bytes()).await.unwrap();
        }
        let response = read_response(&mut stream).await.unwrap();
        assert_eq!((response.status, response.problem().as_str()), (413, "body_too_large"));
    })
    .await;
    serves_others(&rig).await;
}

#[tokio::test]
async fn header_floods_are_refused() {
    let rig = Rig::start();
    let mut many = get("/api/v1/gateway/status");
    for index in 0..70 {
        many = many.header(&format!("x-{index}"), "1");
    }
    let response = many.send(rig.address).await;
    assert_eq!((response.status, response.problem().as_str()), (431, "head_too_large"));
    let long = get("/api/v1/gateway/status").header("x-long", &"x".repeat(40_000));
    let response = long.send(rig.address).await;
    assert_eq!((response.status, response.problem().as_str()), (431, "head_too_large"));
    // Far beyond, the parser gives up before we see the request.
    let mut flood = get("/api/v1/gateway/status");
    for index in 0..5_000 {
        flood = flood.header(&format!("x-{index}"), &"x".repeat(100));
    }
    assert_eq!(flood.send(rig.address).await.status, 431);
    serves_others(&rig).await;
}

#[tokio::test]
async fn garbage_is_refused() {
    let rig = Rig::start();
    for garbage in ["\x16\x03\x01\x02\x00\x01\x00\x01", "GET\r\n\r\n", "BREW / HTCPCP/1.0\r\n\r\n"]
    {
        within(async {
            let mut stream = TcpStream::connect(rig.address).await.unwrap();
            stream.write_all(garbage.as_bytes()).await.unwrap();
            stream.shutdown().await.unwrap();
            let answer = read_response(&mut stream).await;
            assert!(answer.is_none_or(|answer| answer.status == 400));
        })
        .await;
    }
    serves_others(&rig).await;
}

#[tokio::test]
async fn silent_and_slow_heads_are_cut() {
    let mut config = config();
    config.limits.head_timeout = Duration::from_millis(200);
    let rig = Rig::with(config);
    within(async {
        let mut silent = TcpStream::connect(rig.address).await.unwrap();
        assert!(read_response(&mut silent).await.is_none());
        let mut slow = TcpStream::connect(rig.address).await.unwrap();
        slow.write_all(b"GET /livez HTTP/1.1\r\nhost: x\r\n").await.unwrap();
        let response = read_response(&mut slow).await.unwrap();
        assert_eq!((response.status, response.problem().as_str()), (408, "request_timeout"));
        let mut rest = Vec::new();
        slow.read_to_end(&mut rest).await.unwrap();
        // Idle between requests is the same silence.
        let mut idle = TcpStream::connect(rig.address).await.unwrap();
        idle.write_all(&get("/livez").bytes()).await.unwrap();
        assert_eq!(read_response(&mut idle).await.unwrap().status, 200);
        assert!(read_response(&mut idle).await.is_none());
    })
    .await;
    serves_others(&rig).await;
}

#[tokio::test]
async fn slow_body_is_cut() {
    let mut config = config();
    config.limits.body_timeout = Duration::from_millis(200);
    let rig = Rig::with(config);
    let alice = rig.relay.device("alice");
    let response = request("POST", SEND)
        .key(&alice)
        .header("content-type", "application/json")
        .header("content-length", "100")
        .send(rig.address)
        .await;
    assert_eq!((response.status, response.problem().as_str()), (408, "request_timeout"));
    serves_others(&rig).await;
}

#[tokio::test]
async fn client_that_reads_nothing_is_cut() {
    let mut config = config();
    config.limits.write_timeout = Duration::from_millis(300);
    let rig = Rig::with(config);
    let (alice, bob) = (rig.relay.device("alice"), rig.relay.device("bob"));
    for index in 0..40 {
        let body = json!({
            "recipient_id": "bob",
            "content": "A".repeat(80_000),
            "message_id": format!("m{index}"),
        });
        assert_eq!(post(SEND, &body).key(&alice).send(rig.address).await.status, 202);
    }
    within(async {
        let before = rig.server().tasks();
        let mut stream = TcpStream::connect(rig.address).await.unwrap();
        let request = get("/api/v1/messages/receive/bob").key(&bob).bytes();
        for _ in 0..8 {
            stream.write_all(&request).await.unwrap();
        }
        // 8 × 3 MB fit no socket buffer: only the time-out can end this connection.
        rig.relay
            .until(|relay| relay.polls_begun.load(std::sync::atomic::Ordering::SeqCst) > 0)
            .await;
        while rig.server().tasks() > before {
            tokio::task::yield_now().await;
        }
    })
    .await;
    serves_others(&rig).await;
}

#[tokio::test]
async fn connections_over_the_limit_are_told() {
    let mut config = config();
    config.limits.connections_max = 2;
    let rig = Rig::with(config);
    within(async {
        let mut held = Vec::new();
        for _ in 0..2 {
            let mut stream = TcpStream::connect(rig.address).await.unwrap();
            stream.write_all(&get("/livez").bytes()).await.unwrap();
            assert_eq!(read_response(&mut stream).await.unwrap().status, 200);
            held.push(stream);
        }
        let mut over = TcpStream::connect(rig.address).await.unwrap();
        over.write_all(&get("/livez").bytes()).await.unwrap();
        let response = read_response(&mut over).await.unwrap();
        assert_eq!((response.status, response.problem().as_str()), (503, "connection_limit"));
        assert!(response.header("retry-after").is_some());
        assert!(read_response(&mut over).await.is_none());
        drop(held);
        // A place is free as soon as the server has seen one close.
        while get("/livez").send(rig.address).await.status != 200 {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn half_open_client_ends_with_its_request() {
    let rig = Rig::start();
    let bob = rig.relay.device("bob");
    within(async {
        let mut stream = TcpStream::connect(rig.address).await.unwrap();
        let poll = get("/api/v1/messages/receive/bob?wait=60").key(&bob);
        stream.write_all(&poll.bytes()).await.unwrap();
        rig.relay
            .until(|relay| relay.polls_begun.load(std::sync::atomic::Ordering::SeqCst) == 1)
            .await;
        drop(stream);
        // The accept task alone is left: the poll did not wait for its 60 s.
        while rig.server().tasks() > 1 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    serves_others(&rig).await;
}

#[tokio::test]
async fn tls_serves_and_reloads() {
    let tls = |name: &str| {
        let made = rcgen::generate_simple_self_signed(vec![name.to_owned()]).unwrap();
        let config = TlsConfig {
            certificate: Pem::Bytes(made.cert.pem().into_bytes()),
            key: Pem::Bytes(made.signing_key.serialize_pem().into_bytes()),
        };
        (config, made.cert.der().clone())
    };
    let (first, first_root) = tls("gateway.test");
    let mut config = config();
    config.security = Security::Tls(first);
    let rig = Rig::with(config);
    assert_eq!(ask(&rig, first_root.clone()).await, Some(200));
    let (second, second_root) = tls("gateway.test");
    rig.server().reload_tls(&second).unwrap();
    assert_eq!(ask(&rig, second_root).await, Some(200));
    assert_eq!(ask(&rig, first_root).await, None);
    // Plain HTTP to the TLS port gets nothing, and disturbs nobody.
    within(async {
        let mut plain = TcpStream::connect(rig.address).await.unwrap();
        plain.write_all(&get("/livez").bytes()).await.unwrap();
        assert!(read_response(&mut plain).await.is_none());
    })
    .await;
}

/// The status of a request over TLS, if the certificate is trusted.
async fn ask(rig: &Rig, root: rustls::pki_types::CertificateDer<'static>) -> Option<u16> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(root).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    within(async {
        let stream = TcpStream::connect(rig.address).await.unwrap();
        let name = "gateway.test".try_into().unwrap();
        let connector = tokio_rustls::TlsConnector::from(Arc::new(tls));
        let mut stream = connector.connect(name, stream).await.ok()?;
        stream.write_all(&get("/livez").header("connection", "close").bytes()).await.unwrap();
        let mut text = Vec::new();
        stream.read_to_end(&mut text).await.unwrap();
        String::from_utf8(text).unwrap().split(' ').nth(1)?.parse().ok()
    })
    .await
}

#[tokio::test]
async fn bad_certificates_are_refused_at_start() {
    for (certificate, key) in [("", ""), ("garbage", "garbage")] {
        let mut config = config();
        config.security = Security::Tls(TlsConfig {
            certificate: Pem::Bytes(certificate.into()),
            key: Pem::Bytes(key.into()),
        });
        let metrics =
            metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder().handle();
        let relay = Arc::new(super::support::FakeRelay::default());
        let token = tokio_util::sync::CancellationToken::new();
        assert!(Server::start(config, relay, metrics, token).is_err());
    }
}
