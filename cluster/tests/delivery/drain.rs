//! A node that goes away: its leaderships and its connections move, by ticket, once.

use std::{sync::Arc, time::Duration};

use heliograph_cluster::{
    CloseReason, Condition, Principal, PushSink, RelayError, ResumeHint, RevokeScope,
    model::Priority,
};
use heliograph_transport::NodeId;

use crate::{
    cluster::{Cluster, NODES, deadline, eventually},
    device::{Connection, Device, Queue, WINDOW, ids},
    simulate,
};

/// Longer than three rounds of balancing leaders.
const ROUNDS: Duration = Duration::from_secs(20);

fn connect(cluster: &Cluster, at: usize, bob: &Principal, received: &[u64]) -> Connection {
    let queue = Arc::new(Queue::new(usize::MAX));
    let sink = Arc::clone(&queue) as Arc<dyn PushSink>;
    let received: Vec<_> = received.iter().map(|seq| (Priority::Normal, *seq)).collect();
    let session = cluster.relay(at).connect(bob, &received, WINDOW, sink);
    Connection { queue, session, got: Vec::new() }
}

/// The index of the node that the hint names.
fn target(hint: &ResumeHint) -> usize {
    (0..NODES).find(|index| hint.url == Cluster::client_url(*index)).expect("a node's address")
}

#[test]
fn sim_leaderships_leave_a_draining_node_and_do_not_come_back() {
    simulate(31, |seed| async move {
        let cluster = Cluster::start(seed).await;
        let alice = Device::register(&cluster, 0, "alice").await;
        let bob = Device::register(&cluster, 0, "bob").await;
        cluster.node(0).drain(Duration::from_secs(5)).await;
        let relay = cluster.relay(0);
        for round in 0..2 {
            let led = cluster.led_by(NodeId(1));
            assert_eq!(led, 0, "round {round}");
            assert_eq!(relay.status().condition, Condition::Draining);
            assert_eq!(relay.status().not_ready, Some("the node is going away"));
            // It still serves whoever is there.
            alice.send(&cluster, 0, &bob, &format!("m{round}")).await.unwrap();
            tokio::time::sleep(ROUNDS).await;
        }
        assert_eq!(ids(&bob.receive(&cluster, 0, Duration::ZERO).await), ["m0", "m1"]);
    });
}

#[test]
fn sim_a_leader_that_drains_stalls_nobody() {
    // Among them those that lost a vote, and those that lost a majority, on the way.
    for seed in (32..40).chain([62, 70, 87, 105]) {
        simulate(seed, drains_stall_nobody);
    }
}

async fn drains_stall_nobody(seed: u64) {
    let mut cluster = Cluster::start(seed).await;
    let alice = Device::register(&cluster, 0, "alice").await;
    let bob = Device::register(&cluster, 0, "bob").await;
    let mut longest = Duration::ZERO;
    for stopped in 0..NODES {
        let at = (stopped + 1) % NODES;
        let (relay, message) = (cluster.relay(at), |number: usize| {
            alice.message(&bob, &format!("m{stopped}-{number}"), Priority::Normal)
        });
        let sending = async {
            let mut longest = Duration::ZERO;
            for number in 0..300 {
                let began = tokio::time::Instant::now();
                relay.send(message(number), deadline()).await.unwrap();
                longest = longest.max(began.elapsed());
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            longest
        };
        let (waited, ()) = tokio::join!(sending, cluster.stop(stopped));
        longest = longest.max(waited);
        cluster.boot(stopped).await;
        cluster.ready().await;
    }
    // Simulated time knows no busy machine.
    assert!(longest < Duration::from_secs(1), "seed {seed}: {longest:?}");
    let pending = bob.receive(&cluster, 0, Duration::ZERO).await;
    assert_eq!(pending.len(), 100, "as many as one answer takes");
}

/// A device whose node goes away, and where that sends it.
async fn sent_away(cluster: &Cluster) -> (Principal, ResumeHint) {
    let bob = Device::register(cluster, 0, "bob").await;
    let principal = bob.authenticate(cluster, 0).await.unwrap();
    cluster.node(0).drain(Duration::from_secs(5)).await;
    let mut hint = None;
    eventually("a node to go on at", || {
        hint = cluster.relay(0).farewell(&principal);
        hint.is_some()
    })
    .await;
    (principal, hint.unwrap())
}

#[test]
fn sim_a_ticket_is_taken_once_and_by_its_node_alone() {
    simulate(33, |seed| async move {
        let cluster = Cluster::start(seed).await;
        let (principal, hint) = sent_away(&cluster).await;
        let target = target(&hint);
        assert_ne!(target, 0, "not the one that goes away");
        let refused = Err(RelayError::Unauthenticated);
        for at in (0..NODES).filter(|at| *at != target) {
            assert_eq!(cluster.relay(at).resume(&hint.ticket), refused);
        }
        let relay = cluster.relay(target);
        assert_eq!(relay.resume(&hint.ticket), Ok(principal.clone()));
        assert_eq!(relay.confirm(&principal, deadline()).await, Ok(()));
        assert_eq!(relay.resume(&hint.ticket), refused, "once");
        // Another one, used too late.
        let hint = cluster.relay(0).farewell(&principal).unwrap();
        tokio::time::sleep(hint.expires_in + Duration::from_secs(1)).await;
        let target = self::target(&hint);
        assert_eq!(cluster.relay(target).resume(&hint.ticket), refused);
    });
}

#[test]
fn sim_a_ticket_does_not_outlive_its_key() {
    simulate(34, |seed| async move {
        let cluster = Cluster::start(seed).await;
        let (principal, hint) = sent_away(&cluster).await;
        let relay = cluster.relay(target(&hint));
        relay.revoke(&principal, RevokeScope::ThisKey, deadline()).await.unwrap();
        let bearer = relay.resume(&hint.ticket).unwrap();
        assert_eq!(
            relay.confirm(&bearer, deadline()).await,
            Err(RelayError::Unauthenticated),
            "nothing is done in its name"
        );
        let mut connection = connect(&cluster, target(&hint), &bearer, &[]);
        assert_eq!(connection.closed().await, CloseReason::KeyRevoked);
        assert!(connection.got.is_empty());
    });
}

#[test]
fn sim_what_a_device_presents_is_not_pushed_again_and_can_be_acknowledged() {
    simulate(35, |seed| async move {
        let cluster = Cluster::start(seed).await;
        let alice = Device::register(&cluster, 0, "alice").await;
        let bob = Device::register(&cluster, 0, "bob").await;
        for number in 1..=4 {
            alice.send(&cluster, 0, &bob, &format!("m{number}")).await.unwrap();
        }
        let principal = bob.authenticate(&cluster, 1).await.unwrap();
        // It got three over another node and saw none acknowledged.
        let mut connection = connect(&cluster, 1, &principal, &[1, 2, 3]);
        connection.read_to(1).await;
        assert_eq!(connection.ids(), ["m4"]);
        let first = heliograph_cluster::AckItem::Seq(Priority::Normal, 1);
        assert_eq!(connection.session.acknowledge(&[first]), 1);
        drop(connection);
        let mut left = Vec::new();
        let end = deadline();
        while left != ["m2", "m3", "m4"] {
            assert!(tokio::time::Instant::now() < end, "{left:?}");
            left = ids(&bob.receive(&cluster, 2, Duration::ZERO).await);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
}
