//! What happens to those who do not keep to the protocol: they are told why and are gone, and
//! nobody else notices.
#![allow(missing_docs, clippy::unwrap_used)]

mod support;

use std::time::Duration;

use bytes::Bytes;
use heliograph_transport::{Lane, NodeId, PeerEvent, identity::node_dns_name};
use quinn::ConnectionError;
use rand::{Rng, SeedableRng, rngs::StdRng};
use support::{
    Harness, PATIENCE, QuicHarness, Seen,
    certs::Authority,
    expect,
    harness::{CLUSTER, Node},
    patient,
    raw::{RawHello, RawPeer},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

/// The node under attack, an honest peer of it, and the id the attacker's certificate is of.
const TARGET: NodeId = NodeId(3);
const HONEST: u16 = 2;
const HOSTILE: u16 = 1;
/// A peer that the target dials.
const KNOCKING: u16 = 4;

struct Scene {
    harness: QuicHarness,
    target: Node,
    honest: Node,
}

impl Scene {
    async fn new() -> Self {
        let mut harness = QuicHarness::new(1_000);
        let mut target = harness.node(TARGET.0, &[]);
        let honest = harness.node(HONEST, &[TARGET.0]);
        let nowhere = "127.0.0.1:9";
        target.network.set_peers(vec![
            (honest.id, harness.address(honest.id)),
            (NodeId(HOSTILE), nowhere.to_owned()),
            (NodeId(KNOCKING), nowhere.to_owned()),
        ]);
        target.event(PeerEvent::Connected(honest.id)).await;
        Self { harness, target, honest }
    }

    /// Connects with the certificate of node `id`.
    async fn raw(&self, id: u16) -> RawPeer {
        let own = self.harness.authority().node(NodeId(id), CLUSTER);
        RawPeer::connect(&own, Some(&own), TARGET, self.harness.socket_address(TARGET))
            .await
            .unwrap()
    }

    /// How a handshake of the second version is refused: the code and what it says.
    async fn refusal_saying(&self, id: u16, hello: &[u8]) -> (u64, String) {
        let own = self.harness.authority().node(NodeId(id), CLUSTER);
        let address = self.harness.socket_address(TARGET);
        let raw = RawPeer::connect_speaking(b"heliograph/2", &own, Some(&own), TARGET, address);
        let raw = raw.await.unwrap();
        let _welcome = raw.greet(hello).await;
        raw.closed().await
    }

    /// The code with which a handshake is refused.
    async fn refusal(&self, id: u16, hello: &[u8]) -> u64 {
        let raw = self.raw(id).await;
        let _welcome = raw.greet(hello).await;
        raw.close_code().await
    }

    /// The honest peer is still served, on the connection it had.
    async fn unharmed(&mut self) {
        let request = Bytes::from_static(b"still there");
        for lane in [Lane::Urgent, Lane::Shared(1)] {
            let answer = self.honest.network.call(TARGET, lane, request.clone(), patient()).await;
            assert_eq!(answer.unwrap(), request);
        }
        let lost = Seen::Peer(PeerEvent::Disconnected(TARGET));
        while let Ok(seen) = self.honest.seen.try_recv() {
            assert_ne!(seen, lost);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn handshake_that_does_not_fit_is_refused_with_its_reason() {
    let mut scene = Scene::new().await;
    let right = RawHello::of(HOSTILE);
    let cases = [
        ("version", HOSTILE, RawHello { version: 2, ..right }.bytes(), 16),
        ("cluster", HOSTILE, RawHello { cluster_id: [0; 16], ..right }.bytes(), 17),
        ("claimed id", HOSTILE, RawHello::of(HONEST).bytes(), 18),
        ("knock", KNOCKING, RawHello::of(KNOCKING).bytes(), 20),
        ("direction", 5, RawHello::of(5).bytes(), 20),
        ("own id", TARGET.0, RawHello::of(TARGET.0).bytes(), 20),
        ("not a peer", 0, RawHello::of(0).bytes(), 2),
        ("empty", HOSTILE, vec![0, 0], 21),
        ("too long", HOSTILE, vec![0xff, 0xff], 21),
        ("wrong length", HOSTILE, vec![0, 2, 1, 1], 21),
    ];
    for (name, id, hello, code) in cases {
        assert_eq!(scene.refusal(id, &hello).await, code, "{name}");
    }
    scene.unharmed().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn announcement_that_does_not_fit_is_refused_with_its_reason() {
    let mut scene = Scene::new().await;
    let hello = RawHello { version: 2, ..RawHello::of(HOSTILE) };
    let (code, reason) = scene.refusal_saying(HOSTILE, &hello.announcing(7, 9, 1)).await;
    assert_eq!(code, 23);
    assert!(reason.contains("1 to 2") && reason.contains("7 to 9"), "both ranges: {reason}");
    let twin = RawHello { version: 2, ..RawHello::of(HONEST) };
    let (code, reason) = scene.refusal_saying(HONEST, &twin.announcing(1, 2, u64::MAX)).await;
    assert_eq!(code, 24, "{reason}");
    for (name, hello) in [
        ("no announcement", hello.bytes()),
        ("first version", RawHello { version: 1, ..hello }.bytes()),
        ("upside down", hello.announcing(2, 1, 1)),
    ] {
        let (code, _) = scene.refusal_saying(HOSTILE, &hello).await;
        assert!([16, 21].contains(&code), "{name}: {code}");
    }
    scene.unharmed().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn older_incarnation_is_refused() {
    let scene = Scene::new().await;
    let newer = RawHello { incarnation: 5, ..RawHello::of(HOSTILE) };
    let mut bytes = [0; 60];
    let raw = scene.raw(HOSTILE).await;
    raw.greet(&newer.bytes()).await.read_exact(&mut bytes).await.unwrap();
    let older = RawHello { incarnation: 4, ..newer };
    assert_eq!(scene.refusal(HOSTILE, &older.bytes()).await, 19);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificate_that_proves_nothing_is_refused() {
    let mut scene = Scene::new().await;
    let address = scene.harness.socket_address(TARGET);
    let roots = scene.harness.authority().node(NodeId(HOSTILE), CLUSTER);
    let foreign = Authority::new().node(NodeId(HOSTILE), CLUSTER);
    for own in [None, Some(&foreign)] {
        let error = match RawPeer::connect(&roots, own, TARGET, address).await {
            Err(error) => error,
            // In TLS 1.3 the client is done before the server has looked at its certificate.
            Ok(raw) => timeout(PATIENCE, raw.connection.closed()).await.unwrap(),
        };
        assert!(matches!(error, ConnectionError::ConnectionClosed(_)), "{error:?}");
    }
    let names = [
        vec!["n1.example.org".to_owned()],
        vec![node_dns_name(NodeId(HOSTILE), [9; 16])],
        vec![node_dns_name(NodeId(HOSTILE), CLUSTER), node_dns_name(NodeId(HONEST), CLUSTER)],
    ];
    for names in names {
        let own = scene.harness.authority().named(names);
        let raw = RawPeer::connect(&roots, Some(&own), TARGET, address).await.unwrap();
        assert_eq!(raw.close_code().await, 18);
    }
    scene.unharmed().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dialled_node_must_be_the_one_meant() {
    let mut harness = QuicHarness::new(10);
    let mut one = harness.node(1, &[]);
    let _two = harness.node(2, &[1]);
    // Node 3 is said to be where node 2 is.
    one.network.set_peers(vec![(NodeId(3), harness.address(NodeId(2)))]);
    let connected = timeout(Duration::from_millis(500), one.seen.recv()).await;
    assert!(connected.is_err(), "{connected:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silent_stranger_is_closed_after_the_handshake_timeout() {
    let mut scene = Scene::new().await;
    let raw = scene.raw(HOSTILE).await;
    assert_eq!(raw.close_code().await, 22);
    scene.unharmed().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn broken_frames_close_the_connection_with_their_reason() {
    let mut scene = Scene::new().await;
    let head = |length: u32, version: u8, kind: u8| {
        let mut bytes = length.to_be_bytes().to_vec();
        bytes.extend([version, kind]);
        bytes.extend([0; 12]);
        bytes
    };
    let cases = [
        ("oversized", head(14 + 4 * 1024 * 1024 + 1, 1, 3), 32),
        ("huge", head(u32::MAX, 1, 3), 32),
        ("too short", head(13, 1, 3), 32),
        ("version", head(14, 2, 3), 33),
        ("kind", head(14, 1, 4), 34),
    ];
    for (name, bytes, code) in cases {
        let raw = scene.raw(HOSTILE).await;
        let mut lanes = raw.establish(HOSTILE).await;
        scene.target.event(PeerEvent::Connected(NodeId(HOSTILE))).await;
        lanes[3].0.write_all(&bytes).await.unwrap();
        assert_eq!(raw.close_code().await, code, "{name}");
        scene.target.event(PeerEvent::Disconnected(NodeId(HOSTILE))).await;
    }
    scene.unharmed().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ended_lane_and_surplus_stream_close_the_connection() {
    let mut scene = Scene::new().await;
    let raw = scene.raw(HOSTILE).await;
    let mut lanes = raw.establish(HOSTILE).await;
    lanes[2].0.finish().unwrap();
    assert_eq!(raw.close_code().await, 35);

    let raw = scene.raw(HOSTILE).await;
    let _lanes = raw.establish(HOSTILE).await;
    let mut surplus = Vec::new();
    let flood = async {
        while let Ok((mut send, receive)) = raw.connection.open_bi().await {
            if send.write_all(b"more").await.is_err() {
                break;
            }
            surplus.push((send, receive));
        }
    };
    timeout(PATIENCE, flood).await.expect("the flood is stopped");
    assert_eq!(raw.close_code().await, 36);
    scene.unharmed().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn newer_connection_replaces_the_older() {
    let mut scene = Scene::new().await;
    let first = scene.raw(HOSTILE).await;
    let _lanes = first.establish(HOSTILE).await;
    scene.target.event(PeerEvent::Connected(NodeId(HOSTILE))).await;
    let second = scene.raw(HOSTILE).await;
    let _more_lanes = second.establish(HOSTILE).await;
    assert_eq!(first.close_code().await, 1);
    for event in [PeerEvent::Disconnected(NodeId(HOSTILE)), PeerEvent::Connected(NodeId(HOSTILE))] {
        let seen = expect(&mut scene.target.seen, |seen| matches!(seen, Seen::Peer(_))).await;
        assert_eq!(seen, Seen::Peer(event));
    }
    assert!(second.connection.close_reason().is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_of_any_kind_harms_nobody_else() {
    let mut scene = Scene::new().await;
    let seed: u64 = 0x5eed;
    let mut rng = StdRng::seed_from_u64(seed);
    for round in 0..40 {
        let raw = scene.raw(HOSTILE).await;
        if rng.random_bool(0.3) {
            let mut hello = RawHello::of(HOSTILE).bytes();
            // Not the incarnation: who holds the certificate may shut its own past out.
            let place = rng.random_range(0..hello.len() - 4);
            let place = if place < 21 { place } else { place + 4 };
            hello[place] ^= rng.random_range(1..=255u8);
            let mut welcome = raw.greet(&hello).await;
            // Refused, welcomed, or left to the timeout: the next round must not care.
            let _ = timeout(Duration::from_millis(50), welcome.read_to_end(1_000)).await;
            continue;
        }
        let mut lanes = raw.establish(HOSTILE).await;
        for _ in 0..rng.random_range(1..20) {
            let lane = rng.random_range(0..lanes.len());
            let mut bytes = vec![0; rng.random_range(1..3_000)];
            rng.fill(&mut bytes[..]);
            if rng.random_bool(0.7) {
                // A sound head, so that the payload, ids and replies are what is odd.
                let length = (bytes.len().max(18) - 4) as u32;
                bytes.resize(length as usize + 4, 0);
                bytes[..4].copy_from_slice(&length.to_be_bytes());
                bytes[4] = 1;
                bytes[5] = rng.random_range(0..4);
            }
            if lanes[lane].0.write_all(&bytes).await.is_err() {
                break;
            }
        }
        if let Some(reason) = raw.connection.close_reason() {
            let ConnectionError::ApplicationClosed(close) = reason else {
                panic!("seed {seed} round {round}: {reason}");
            };
            let code = close.error_code.into_inner();
            assert!((32..48).contains(&code), "seed {seed} round {round}: {code}");
        }
        scene.unharmed().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_at_the_tripwire_are_dropped() {
    let mut scene = Scene::new().await;
    let address = scene.harness.socket_address(TARGET);
    let mut garbage = TcpStream::connect(address).await.unwrap();
    garbage.write_all(&[0x16; 37]).await.unwrap();
    let mut unknown_token = TcpStream::connect(address).await.unwrap();
    let mut greeting = b"HGTW\x01".to_vec();
    greeting.extend([0; 32]);
    unknown_token.write_all(&greeting).await.unwrap();
    let mut silent = Vec::new();
    for _ in 0..100 {
        silent.push(TcpStream::connect(address).await.unwrap());
    }
    silent.extend([garbage, unknown_token]);
    for mut stranger in silent {
        let ended = timeout(PATIENCE, stranger.read_u8()).await.expect("it is dropped");
        assert!(ended.is_err());
    }
    // And a peer that comes when they are gone gets its wire: its end is seen there.
    let late = scene.harness.node(HOSTILE, &[TARGET.0]);
    scene.target.event(PeerEvent::Connected(late.id)).await;
    late.network.shutdown().await;
    scene.target.event(PeerEvent::TripwireBroken(late.id)).await;
    scene.unharmed().await;
}
