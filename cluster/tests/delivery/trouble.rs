//! What the relay does while nodes die and the network breaks.

use std::{collections::BTreeSet, time::Duration};

use heliograph_cluster::{CloseReason, RelayError, RevokeScope, model::Priority};
use tokio::time::Instant;

use crate::{
    cluster::{Cluster, NODES, deadline, eventually},
    device::{Connection, Device, WINDOW, by_id},
    simulate,
};

/// Sends until it is accepted.
async fn send_surely(cluster: &Cluster, at: usize, alice: &Device, bob: &Device, id: &str) {
    let end = Instant::now() + Duration::from_secs(30);
    loop {
        let message = alice.message(bob, id, Priority::Normal);
        let attempt = Instant::now() + Duration::from_secs(5);
        match cluster.relay(at).send(message, attempt).await {
            Ok(_) => return,
            Err(error) => assert!(error.is_retryable() && Instant::now() < end, "{error}"),
        }
    }
}

fn is_ascending(connection: &Connection) -> bool {
    connection.got.windows(2).all(|pair| pair[0].seq < pair[1].seq)
}

#[test]
fn sim_a_leaders_death_mid_delivery_loses_and_repeats_nothing_on_a_living_connection() {
    for seed in 20..30 {
        simulate(seed, |seed| async move {
            let mut cluster = Cluster::start(seed).await;
            let alice = Device::register(&cluster, 0, "alice").await;
            let bob = Device::register(&cluster, 0, "bob").await;
            let leader = cluster.leader_of(&bob.id).await;
            let (at, to) = ((leader + 1) % NODES, (leader + 2) % NODES);
            let mut connection = bob.connect(&cluster, to, WINDOW).await;
            for number in 0..30 {
                send_surely(&cluster, at, &alice, &bob, &format!("m{number}")).await;
                connection.read();
                if number % 3 == 0 {
                    let known: Vec<_> = connection.ids().iter().map(|id| by_id(id)).collect();
                    connection.session.acknowledge(&known);
                }
                if number == 15 {
                    cluster.crash(leader);
                }
            }
            connection.read_to(30).await;
            assert!(is_ascending(&connection), "seed {seed}: {:?}", connection.ids());
            let all: Vec<_> = connection.ids().iter().map(|id| by_id(id)).collect();
            connection.session.acknowledge(&all);
            eventually_empty(&cluster, to, &bob).await;
            assert_eq!(connection.got.len(), 30, "seed {seed}");
        });
    }
}

async fn eventually_empty(cluster: &Cluster, at: usize, device: &Device) {
    let end = Instant::now() + Duration::from_secs(30);
    while !device.receive(cluster, at, Duration::ZERO).await.is_empty() {
        assert!(Instant::now() < end, "what was acknowledged is forgotten");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[test]
fn sim_traffic_goes_on_within_two_seconds_of_a_leaders_death() {
    for seed in 40..50 {
        simulate(seed, |seed| async move {
            let mut cluster = Cluster::start(seed).await;
            let alice = Device::register(&cluster, 0, "alice").await;
            let bob = Device::register(&cluster, 0, "bob").await;
            let leader = cluster.leader_of(&bob.id).await;
            let (at, to) = ((leader + 1) % NODES, (leader + 2) % NODES);
            let mut connection = bob.connect(&cluster, to, WINDOW).await;
            send_surely(&cluster, at, &alice, &bob, "before").await;
            connection.read_to(1).await;
            let began = Instant::now();
            cluster.crash(leader);
            send_surely(&cluster, at, &alice, &bob, "after").await;
            connection.read_to(2).await;
            let gap = began.elapsed();
            assert!(gap < Duration::from_secs(2), "seed {seed}: {gap:?}");
        });
    }
}

#[test]
fn sim_traffic_goes_on_within_two_seconds_of_a_leaders_partition() {
    for seed in 50..60 {
        simulate(seed, |seed| async move {
            let cluster = Cluster::start(seed).await;
            let alice = Device::register(&cluster, 0, "alice").await;
            let bob = Device::register(&cluster, 0, "bob").await;
            let leader = cluster.leader_of(&bob.id).await;
            let at = (leader + 1) % NODES;
            send_surely(&cluster, at, &alice, &bob, "before").await;
            cluster.fabric.isolate(heliograph_transport::NodeId(leader as u16 + 1));
            let began = Instant::now();
            // One request, which waits at a node that can be reached.
            let message = alice.message(&bob, "after", Priority::Normal);
            cluster.relay(at).send(message, deadline()).await.unwrap();
            // The sender's own key may have been leased by the one that is cut off.
            alice.authenticate(&cluster, at).await.unwrap();
            let gap = began.elapsed();
            assert!(gap < Duration::from_secs(2), "seed {seed}: {gap:?}");
        });
    }
}

#[test]
fn sim_a_connection_outlives_a_network_that_loses_and_cuts() {
    for seed in 60..70 {
        simulate(seed, |seed| async move {
            let cluster = Cluster::start(seed).await;
            let alice = Device::register(&cluster, 0, "alice").await;
            let bob = Device::register(&cluster, 0, "bob").await;
            let leader = cluster.leader_of(&bob.id).await;
            let to = (leader + 1) % NODES;
            let node =
                |index: usize| heliograph_transport::NodeId(u16::try_from(index + 1).unwrap());
            let mut connection = bob.connect(&cluster, to, WINDOW).await;
            for number in 0..40 {
                send_surely(&cluster, leader, &alice, &bob, &format!("m{number}")).await;
                match number {
                    5 | 25 => cluster.fabric.partition(node(leader), node(to)),
                    15 => cluster.fabric.partition_one_way(node(leader), node(to)),
                    10 | 20 | 30 => cluster.fabric.heal(),
                    _ => {}
                }
                let pause = Duration::from_millis(seed * number % 170);
                tokio::time::sleep(pause).await;
                connection.read();
            }
            connection.read_to(40).await;
            assert!(is_ascending(&connection), "seed {seed}: {:?}", connection.ids());
        });
    }
}

#[test]
fn sim_a_node_that_restarts_is_found_again_by_its_peers_and_devices() {
    simulate(80, |seed| async move {
        let mut cluster = Cluster::start(seed).await;
        let alice = Device::register(&cluster, 0, "alice").await;
        let bob = Device::register(&cluster, 0, "bob").await;
        for at in 0..NODES {
            let mut here = bob.connect(&cluster, at, WINDOW).await;
            let other = (at + 1) % NODES;
            send_surely(&cluster, other, &alice, &bob, &format!("before-{at}")).await;
            here.read_to(1).await;
            cluster.crash(at);
            drop(here);
            let mut there = bob.connect_surely(&cluster, other).await;
            there.read_to(1).await;
            there.session.acknowledge(&[by_id(&format!("before-{at}"))]);
            cluster.boot(at).await;
            cluster.ready().await;
            send_surely(&cluster, at, &alice, &bob, &format!("after-{at}")).await;
            there.read_to(2).await;
            there.session.acknowledge(&[by_id(&format!("after-{at}"))]);
            drop(there);
            eventually_empty(&cluster, at, &bob).await;
        }
    });
}

#[test]
fn sim_a_node_that_stops_in_order_tells_its_connections_and_hands_over() {
    simulate(81, |seed| async move {
        let mut cluster = Cluster::start(seed).await;
        let alice = Device::register(&cluster, 0, "alice").await;
        let bob = Device::register(&cluster, 0, "bob").await;
        let leader = cluster.leader_of(&bob.id).await;
        let other = (leader + 1) % NODES;
        let mut here = bob.connect(&cluster, leader, WINDOW).await;
        let mut there = bob.connect(&cluster, other, WINDOW).await;
        send_surely(&cluster, other, &alice, &bob, "before").await;
        there.read_to(1).await;
        cluster.stop(leader).await;
        assert_eq!(here.closed().await, CloseReason::NodeRestarts);
        send_surely(&cluster, other, &alice, &bob, "after").await;
        there.read_to(2).await;
        assert_eq!(there.ids(), ["before", "after"]);
    });
}

#[test]
fn sim_a_key_revoked_while_a_node_is_cut_off_is_not_honoured_there_after_the_answer() {
    for seed in 90..95 {
        simulate(seed, |seed| async move {
            let cluster = Cluster::start(seed).await;
            let bob = Device::register(&cluster, 0, "bob").await;
            let leader = cluster.leader_of(&bob.id).await;
            let cut = (leader + 1) % NODES;
            let mut connection = bob.connect(&cluster, cut, WINDOW).await;
            // Its key is leased there, its connection subscribed.
            tokio::time::sleep(Duration::from_secs(5)).await;
            let principal = bob.authenticate(&cluster, cut).await.unwrap();
            cluster.fabric.isolate(heliograph_transport::NodeId(u16::try_from(cut + 1).unwrap()));
            let began = Instant::now();
            let relay = cluster.relay(leader);
            relay.revoke(&principal, RevokeScope::ThisKey, deadline()).await.unwrap();
            assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
            let soon = Instant::now() + Duration::from_millis(200);
            let answer = cluster.relay(cut).authenticate(&bob.key, soon).await;
            assert_eq!(answer, Err(RelayError::Unavailable), "seed {seed}: it cannot know");
            cluster.fabric.heal();
            assert_eq!(connection.closed().await, CloseReason::KeyRevoked);
            let mut answer = Ok(principal);
            while answer != Err(RelayError::Unauthenticated) {
                answer = bob.authenticate(&cluster, cut).await;
            }
        });
    }
}

#[test]
fn sim_without_a_quorum_nothing_is_accepted_and_all_is_well_after() {
    simulate(100, |seed| async move {
        let mut cluster = Cluster::start(seed).await;
        let alice = Device::register(&cluster, 0, "alice").await;
        let bob = Device::register(&cluster, 0, "bob").await;
        let mut connection = bob.connect(&cluster, 0, WINDOW).await;
        send_surely(&cluster, 0, &alice, &bob, "before").await;
        connection.read_to(1).await;
        cluster.crash(1);
        cluster.crash(2);
        let began = Instant::now();
        let until = began + Duration::from_secs(4);
        let message = alice.message(&bob, "during", Priority::Normal);
        let answer = cluster.relay(0).send(message, until).await;
        assert_eq!(answer, Err(RelayError::Unavailable));
        assert!(began.elapsed() < Duration::from_millis(4100), "the deadline is kept");
        cluster.boot(1).await;
        cluster.boot(2).await;
        cluster.ready().await;
        send_surely(&cluster, 0, &alice, &bob, "during").await;
        connection.read_to(2).await;
        let seqs: BTreeSet<_> = connection.got.iter().map(|message| message.seq).collect();
        assert_eq!(seqs.len(), 2);
        eventually("the connection is open", || connection.read().is_empty()).await;
    });
}
