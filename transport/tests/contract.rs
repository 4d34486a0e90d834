//! What every network does: one suite, run on the QUIC network and on the simulated one.
#![allow(missing_docs, clippy::unwrap_used)]

mod support;

use std::time::Duration;

use bytes::Bytes;
use heliograph_transport::{
    Announcement, CallError, FRAME_BYTES_MAX, Lane, NodeId, NotifyError, PROTOCOL_MAX, PeerEvent,
    Protocols, SHARED_LANES,
};
use support::{
    Harness, QuicHarness, Seen, SimHarness, expect,
    harness::{announcement, pair},
    patient,
};
use tokio::time::Instant;

/// Enough for every test that is not about this limit.
const CALLS: usize = 1_000;

const LANES: [Lane; 4] =
    [Lane::Urgent, Lane::Shared(0), Lane::Shared(SHARED_LANES - 1), Lane::Bulk];

macro_rules! contract {
    ($($name:ident),* $(,)?) => {
        mod quic {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                super::$name::<super::QuicHarness>().await;
            })*
        }
        mod simulated {
            $(#[tokio::test(start_paused = true)]
            async fn $name() {
                super::$name::<super::SimHarness>().await;
            })*
        }
    };
}

contract!(
    call_is_answered_on_every_lane,
    notices_of_a_lane_arrive_in_order,
    calls_of_a_lane_begin_in_order,
    unknown_peer_is_not_connected,
    declined_call_is_refused,
    call_ends_at_its_deadline_on_both_sides,
    passed_deadline_sends_nothing,
    largest_payload_passes_and_a_larger_one_does_not,
    answer_over_the_limit_is_lost,
    call_beyond_the_peers_capacity_is_overloaded,
    each_call_gets_its_own_answer,
    end_of_a_peer_is_told_and_its_return,
    removed_peer_is_disconnected_until_it_is_back,
    nobody_is_connected_before_serving,
    calls_to_itself_are_not_connected,
    neighbouring_releases_speak_the_older_protocol,
    peers_know_what_they_announced,
);

/// Waits until calls on every lane pass: bulk connections raise no event.
async fn settle(node: &support::harness::Node, peer: NodeId) {
    loop {
        let call = node.network.call(peer, Lane::Bulk, Bytes::from_static(b"settle"), patient());
        match call.await {
            Ok(_) => return,
            Err(CallError::NotConnected(_)) => tokio::task::yield_now().await,
            Err(error) => panic!("{error}"),
        }
    }
}

async fn call_is_answered_on_every_lane<H: Harness>() {
    let (one, mut two) = pair(&mut H::new(CALLS)).await;
    settle(&one, two.id).await;
    for lane in LANES {
        for (from, to) in [(&one, two.id), (&two, one.id)] {
            let request = Bytes::from(format!("{lane:?}"));
            let answer = from.network.call(to, lane, request.clone(), patient()).await;
            assert_eq!(answer.unwrap(), request);
        }
        // Skips what `settle` asked.
        let call = Seen::Call(one.id, lane, Bytes::from(format!("{lane:?}")));
        expect(&mut two.seen, |seen| *seen == call).await;
    }
}

async fn notices_of_a_lane_arrive_in_order<H: Harness>() {
    let (one, mut two) = pair(&mut H::new(CALLS)).await;
    settle(&one, two.id).await;
    for lane in LANES {
        for number in 0..500u32 {
            // Sizes on both sides of the writer's copy limit.
            let mut payload = vec![0; if number % 50 == 0 { 20_000 } else { 4 }];
            payload[..4].copy_from_slice(&number.to_be_bytes());
            one.network.notify(two.id, lane, payload.into()).unwrap();
        }
        for number in 0..500u32 {
            let notice = expect(&mut two.seen, |seen| matches!(seen, Seen::Notice(..))).await;
            let Seen::Notice(from, seen_lane, payload) = notice else { unreachable!() };
            assert_eq!((from, seen_lane), (one.id, lane));
            assert_eq!(payload[..4], number.to_be_bytes());
        }
    }
}

async fn calls_of_a_lane_begin_in_order<H: Harness>() {
    let (one, mut two) = pair(&mut H::new(CALLS)).await;
    let lane = Lane::Shared(SHARED_LANES + 3);
    let calls: Vec<_> = (0..100)
        .map(|number| {
            let request = Bytes::from(format!("wait {number}"));
            tokio::spawn(one.network.call(two.id, lane, request, patient()))
        })
        .collect();
    for number in 0..100 {
        let begun = expect(&mut two.seen, |seen| matches!(seen, Seen::Call(..))).await;
        let request = Bytes::from(format!("wait {number}"));
        assert_eq!(begun, Seen::Call(one.id, Lane::Shared(3), request));
    }
    two.handler.release(100);
    for call in calls {
        call.await.unwrap().unwrap();
    }
}

async fn unknown_peer_is_not_connected<H: Harness>() {
    let (one, _two) = pair(&mut H::new(CALLS)).await;
    let stranger = NodeId(9);
    assert!(!one.network.is_connected(stranger));
    let call = one.network.call(stranger, Lane::Urgent, Bytes::new(), patient()).await;
    assert!(matches!(call, Err(CallError::NotConnected(NodeId(9)))), "{call:?}");
    assert!(call.unwrap_err().is_unsent());
    let notice = one.network.notify(stranger, Lane::Urgent, Bytes::new());
    assert_eq!(notice, Err(NotifyError::NotConnected(stranger)));
}

async fn declined_call_is_refused<H: Harness>() {
    let (one, two) = pair(&mut H::new(CALLS)).await;
    let call = one.network.call(two.id, Lane::Urgent, Bytes::from_static(b"refuse"), patient());
    let error = call.await.unwrap_err();
    assert!(matches!(error, CallError::Refused(NodeId(2))), "{error:?}");
}

async fn call_ends_at_its_deadline_on_both_sides<H: Harness>() {
    let (one, mut two) = pair(&mut H::new(CALLS)).await;
    let request = Bytes::from_static(b"wait for ever");
    let deadline = Instant::now() + Duration::from_millis(200);
    let error =
        one.network.call(two.id, Lane::Urgent, request.clone(), deadline).await.unwrap_err();
    assert!(Instant::now() >= deadline);
    assert!(matches!(error, CallError::Deadline(NodeId(2))), "{error:?}");
    assert!(!error.is_unsent());
    expect(&mut two.seen, |seen| *seen == Seen::Dropped(request.clone())).await;
}

async fn passed_deadline_sends_nothing<H: Harness>() {
    let (one, mut two) = pair(&mut H::new(CALLS)).await;
    let late = Bytes::from_static(b"late");
    let call = one.network.call(two.id, Lane::Urgent, late, Instant::now()).await;
    assert!(matches!(call, Err(CallError::Deadline(_))), "{call:?}");
    let next = Bytes::from_static(b"next");
    one.network.call(two.id, Lane::Urgent, next.clone(), patient()).await.unwrap();
    let seen = expect(&mut two.seen, |seen| matches!(seen, Seen::Call(..))).await;
    assert_eq!(seen, Seen::Call(one.id, Lane::Urgent, next));
}

async fn largest_payload_passes_and_a_larger_one_does_not<H: Harness>() {
    let (one, two) = pair(&mut H::new(CALLS)).await;
    settle(&one, two.id).await;
    for lane in LANES {
        let largest = Bytes::from(vec![7; FRAME_BYTES_MAX]);
        let answer = one.network.call(two.id, lane, largest.clone(), patient()).await.unwrap();
        assert!(answer == largest);
        let larger = Bytes::from(vec![7; FRAME_BYTES_MAX + 1]);
        let call = one.network.call(two.id, lane, larger.clone(), patient()).await;
        assert!(matches!(call, Err(CallError::TooLarge { .. })), "{call:?}");
        assert_eq!(one.network.notify(two.id, lane, larger), Err(NotifyError::TooLarge));
    }
}

async fn answer_over_the_limit_is_lost<H: Harness>() {
    let (one, two) = pair(&mut H::new(CALLS)).await;
    let call = one.network.call(two.id, Lane::Urgent, Bytes::from_static(b"huge"), patient());
    let error = call.await.unwrap_err();
    assert!(matches!(error, CallError::Lost(NodeId(2))), "{error:?}");
    assert!(one.network.is_connected(two.id));
}

async fn call_beyond_the_peers_capacity_is_overloaded<H: Harness>() {
    let (one, mut two) = pair(&mut H::new(2)).await;
    let call = |request: &'static str| {
        one.network.call(two.id, Lane::Urgent, Bytes::from_static(request.as_bytes()), patient())
    };
    let (first, second, third) = (call("wait 1"), call("wait 2"), call("wait 3"));
    let error = third.await.unwrap_err();
    assert!(matches!(error, CallError::Overloaded(NodeId(2))), "{error:?}");
    two.handler.release(2);
    first.await.unwrap();
    second.await.unwrap();
    call("after").await.unwrap();
    for request in ["wait 1", "wait 2", "after"] {
        let seen = expect(&mut two.seen, |seen| matches!(seen, Seen::Call(..))).await;
        assert_eq!(seen, Seen::Call(one.id, Lane::Urgent, Bytes::from_static(request.as_bytes())));
    }
}

async fn each_call_gets_its_own_answer<H: Harness>() {
    let (one, mut two) = pair(&mut H::new(CALLS)).await;
    let mut kept = Vec::new();
    for number in 0..200u32 {
        let request = Bytes::from(format!("wait {number}"));
        let lane = Lane::Shared(number);
        let call = one.network.call(two.id, lane, request.clone(), patient());
        if number % 2 == 0 {
            kept.push((request, call));
        } else {
            // Forgotten: its answer must reach nobody.
            drop(call);
        }
    }
    for _ in 0..200 {
        expect(&mut two.seen, |seen| matches!(seen, Seen::Call(..))).await;
    }
    two.handler.release(200);
    for (request, call) in kept {
        assert_eq!(call.await.unwrap(), request);
    }
}

async fn end_of_a_peer_is_told_and_its_return<H: Harness>() {
    let mut harness = H::new(CALLS);
    let (mut one, two) = pair(&mut harness).await;
    let under_way = one.network.call(two.id, Lane::Urgent, Bytes::from_static(b"wait"), patient());
    let own = two.network.call(one.id, Lane::Urgent, Bytes::from_static(b"wait"), patient());
    two.network.shutdown().await;
    assert!(!two.network.is_connected(one.id));
    assert!(matches!(own.await, Err(CallError::Lost(_))));
    let error = under_way.await.unwrap_err();
    assert!(matches!(error, CallError::Lost(NodeId(2))), "{error:?}");
    let mut events = Vec::new();
    for _ in 0..2 {
        events.push(expect(&mut one.seen, |seen| matches!(seen, Seen::Peer(_))).await);
    }
    assert!(events.contains(&Seen::Peer(PeerEvent::Disconnected(two.id))), "{events:?}");
    assert!(events.contains(&Seen::Peer(PeerEvent::TripwireBroken(two.id))), "{events:?}");
    assert!(!one.network.is_connected(two.id));

    drop(two);
    let mut two = harness.node(2, &[1]);
    one.event(PeerEvent::Connected(two.id)).await;
    two.event(PeerEvent::Connected(one.id)).await;
    let again = Bytes::from_static(b"again");
    let answer = two.network.call(one.id, Lane::Urgent, again.clone(), patient()).await;
    assert_eq!(answer.unwrap(), again);
}

async fn removed_peer_is_disconnected_until_it_is_back<H: Harness>() {
    let mut harness = H::new(CALLS);
    let (mut one, mut two) = pair(&mut harness).await;
    let under_way = one.network.call(two.id, Lane::Urgent, Bytes::from_static(b"wait"), patient());
    harness.introduce(&two, &[]);
    for (node, peer) in [(&mut one, two.id), (&mut two, NodeId(1))] {
        // Not the tripwire: the process lives.
        let event = expect(&mut node.seen, |seen| matches!(seen, Seen::Peer(_))).await;
        assert_eq!(event, Seen::Peer(PeerEvent::Disconnected(peer)));
    }
    assert!(matches!(under_way.await, Err(CallError::Lost(_))));
    harness.introduce(&two, &[1]);
    for (node, peer) in [(&mut one, two.id), (&mut two, NodeId(1))] {
        let event = expect(&mut node.seen, |seen| matches!(seen, Seen::Peer(_))).await;
        assert_eq!(event, Seen::Peer(PeerEvent::Connected(peer)));
    }
}

async fn nobody_is_connected_before_serving<H: Harness>() {
    let mut harness = H::new(CALLS);
    let two = harness.network(NodeId(2));
    let mut one = harness.node(1, &[2]);
    two.set_peers(vec![(NodeId(1), harness.address(NodeId(1)))]);
    // Long enough for several attempts; under paused time it takes none.
    let attempts = tokio::time::timeout(Duration::from_millis(500), one.seen.recv());
    assert_eq!(attempts.await.ok(), None);
    let (handler, _seen) = support::TestHandler::new();
    two.serve(handler);
    one.event(PeerEvent::Connected(NodeId(2))).await;
}

async fn calls_to_itself_are_not_connected<H: Harness>() {
    let mut harness = H::new(CALLS);
    let one = harness.node(1, &[]);
    harness.introduce(&one, &[1]);
    let call = one.network.call(one.id, Lane::Urgent, Bytes::new(), patient()).await;
    assert!(matches!(call, Err(CallError::NotConnected(_))), "{call:?}");
}

async fn peers_know_what_they_announced<H: Harness>() {
    let (one, two) = pair(&mut H::new(CALLS)).await;
    for (node, peer) in [(&one, two.id), (&two, one.id)] {
        let info = node.network.peer_info(peer).unwrap();
        assert_eq!(info.protocol, PROTOCOL_MAX);
        assert_eq!(info.announced.features, announcement().features);
        assert_ne!(info.announced.boot, 0);
        assert_eq!(&*info.announced.build, env!("CARGO_PKG_VERSION"));
        assert_eq!(node.network.peer_info(NodeId(9)), None);
    }
    assert_ne!(
        one.network.peer_info(two.id).unwrap().announced.boot,
        two.network.peer_info(one.id).unwrap().announced.boot
    );
}

/// Node 1 or node 2 is of the first release: the one dials, the other is dialled.
async fn neighbouring_releases_speak_the_older_protocol<H: Harness>() {
    for older in [1, 2] {
        let mut harness = H::new(CALLS);
        let announced = |id| match id == older {
            true => Announcement { protocols: Protocols::FIRST, ..announcement() },
            false => announcement(),
        };
        let mut one = harness.node_announcing(1, &[], announced(1));
        let mut two = harness.node_announcing(2, &[1], announced(2));
        harness.introduce(&one, &[2]);
        one.event(PeerEvent::Connected(two.id)).await;
        two.event(PeerEvent::Connected(one.id)).await;
        settle(&one, two.id).await;
        for (node, peer) in [(&one, two.id), (&two, one.id)] {
            let info = node.network.peer_info(peer).unwrap();
            assert_eq!(info.protocol, 1);
            assert_eq!((info.announced.features, info.announced.boot), (0, 0));
            let request = Bytes::from_static(b"hello");
            let answer = node.network.call(peer, Lane::Urgent, request.clone(), patient()).await;
            assert_eq!(answer.unwrap(), request);
        }
    }
}
