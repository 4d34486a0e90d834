//! What only the QUIC network does: addresses, names, and letting go.
#![allow(missing_docs, clippy::unwrap_used)]

mod support;

use std::sync::Arc;

use bytes::Bytes;
use heliograph_transport::{
    Announcement, BindError, Identity, IdentityError, Lane, Limits, Network, NodeId, PeerEvent,
    QuicConfig, QuicNetwork,
};
use support::{
    Harness, QuicHarness, TestHandler,
    certs::Authority,
    harness::{CLUSTER, pair},
    patient,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn peer_is_found_by_host_name_and_at_its_new_address() {
    let mut harness = QuicHarness::new(10);
    let mut one = harness.node(1, &[]);
    let two = harness.node(2, &[1]);
    let port = harness.socket_address(two.id).port();
    one.network.set_peers(vec![(two.id, format!("localhost:{port}"))]);
    one.event(PeerEvent::Connected(two.id)).await;
    two.network.shutdown().await;
    one.event(PeerEvent::Disconnected(two.id)).await;

    // The same node elsewhere: another process has its port.
    let mut elsewhere = QuicHarness::with_authority(harness.into_authority(), 10);
    let mut two = elsewhere.node(2, &[]);
    two.network.set_peers(vec![(one.id, "127.0.0.1:9".to_owned())]);
    elsewhere.introduce(&one, &[2]);
    one.event(PeerEvent::Connected(two.id)).await;
    two.event(PeerEvent::Connected(one.id)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shutdown_lets_go_of_the_handler_and_the_port() {
    let mut harness = QuicHarness::new(10);
    let (one, two) = pair(&mut harness).await;
    let handler = Arc::downgrade(&one.handler);
    one.network.shutdown().await;
    drop(one);
    assert!(handler.upgrade().is_none());
    drop(two);
    // Binds again, or panics.
    harness.network(NodeId(1));
    harness.network(NodeId(2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_works_after_the_shutdown() {
    let (one, two) = pair(&mut QuicHarness::new(10)).await;
    one.network.shutdown().await;
    one.network.shutdown().await;
    one.network.set_peers(vec![(two.id, "127.0.0.1:9".to_owned())]);
    assert!(!one.network.is_connected(two.id));
    let call = one.network.call(two.id, Lane::Urgent, Bytes::new(), patient()).await;
    assert!(call.unwrap_err().is_unsent());
}

fn bind(node: u16, identity: Identity) -> Result<Arc<QuicNetwork>, BindError> {
    QuicNetwork::bind(QuicConfig {
        node: NodeId(node),
        cluster_id: CLUSTER,
        incarnation: 0,
        listen: "127.0.0.1:0".parse().unwrap(),
        identity,
        limits: Limits::default(),
        announced: Announcement::new(1, 0),
    })
}

#[tokio::test]
async fn bind_refuses_an_identity_that_is_not_the_nodes() {
    let authority = Authority::new();
    let other = bind(1, authority.node(NodeId(2), CLUSTER)).err().unwrap();
    let BindError::Identity(IdentityError::OtherNode { expected, found }) = other else {
        panic!("{other}");
    };
    assert_eq!((expected, found), (NodeId(1), NodeId(2)));
    let cluster = bind(1, authority.node(NodeId(1), [0; 16])).err().unwrap();
    assert!(matches!(cluster, BindError::Identity(IdentityError::NoNode)), "{cluster}");

    let mut mixed = authority.node(NodeId(1), CLUSTER);
    mixed.key = authority.node(NodeId(1), CLUSTER).key;
    let mixed = bind(1, mixed).err().unwrap();
    assert!(matches!(mixed, BindError::Tls(_)), "{mixed}");

    let mut rootless = authority.node(NodeId(1), CLUSTER);
    rootless.roots.clear();
    let rootless = bind(1, rootless).err().unwrap();
    assert!(matches!(rootless, BindError::Roots(_)), "{rootless}");
}

#[tokio::test]
async fn bind_refuses_a_port_that_is_taken() {
    let authority = Authority::new();
    let first = bind(1, authority.node(NodeId(1), CLUSTER)).unwrap();
    let second = QuicNetwork::bind(QuicConfig {
        node: NodeId(2),
        cluster_id: CLUSTER,
        incarnation: 0,
        listen: first.local_addr(),
        identity: authority.node(NodeId(2), CLUSTER),
        limits: Limits::default(),
        announced: Announcement::new(1, 0),
    });
    assert!(matches!(second, Err(BindError::Socket { .. })));
    let (handler, _seen) = TestHandler::new();
    first.serve(handler);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn second_process_under_one_identity_is_refused_until_the_first_has_ended() {
    let mut harness = QuicHarness::new(10);
    let (one, mut two) = pair(&mut harness).await;
    let address = harness.address(two.id);
    let authority = harness.into_authority();
    let mut elsewhere = QuicHarness::with_authority(authority, 10);
    let mut twin = elsewhere.node(1, &[]);
    twin.network.set_peers(vec![(two.id, address)]);
    let answer = one.network.call(two.id, Lane::Urgent, Bytes::from_static(b"a"), patient());
    assert_eq!(answer.await.unwrap(), "a");
    one.network.shutdown().await;
    two.event(PeerEvent::Disconnected(one.id)).await;
    twin.event(PeerEvent::Connected(two.id)).await;
    two.event(PeerEvent::Connected(one.id)).await;
}

/// More than the kernel takes in one call is on its way in both directions: every call of quinn is
/// filled. A batch that the kernel refuses is lost to quinn, and with it the next one, and the next.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_with_much_to_say_goes_on() {
    const CALLS: u32 = 64;
    const BYTES: usize = 1 << 20;
    let (one, two) = pair(&mut QuicHarness::new(CALLS as usize)).await;
    // Path discovery has gone as far as it will.
    for _ in 0..200 {
        one.network.call(two.id, Lane::Urgent, Bytes::from_static(b"a"), patient()).await.unwrap();
    }
    let payload = Bytes::from(vec![7; BYTES]);
    let calls = (0..CALLS).map(|lane| {
        let (network, payload) = (Arc::clone(&one.network), payload.clone());
        tokio::spawn(async move {
            network.call(NodeId(2), Lane::Shared(lane), payload, patient()).await
        })
    });
    for call in calls.collect::<Vec<_>>() {
        assert_eq!(call.await.unwrap().unwrap().len(), BYTES);
    }
}
