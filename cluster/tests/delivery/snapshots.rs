//! Snapshots between nodes: they go on where they broke, stall nobody, and keep logs short.

use std::time::Duration;

use heliograph_cluster::{CheckpointConfig, Outgoing, model::Priority};
use tokio::time::Instant;

use crate::{
    bulk::Bulk,
    cluster::{Cluster, NODES, deadline, eventually},
    device::Device,
    simulate,
};

/// Entries of one shard: more than a leader keeps for a follower that is a little behind (1,000), and
/// what it purges at a time (256).
const ENTRIES: usize = 1_600;
/// 1,600 of them are 6 MiB: twelve pieces of 512 KiB.
const CONTENT_BYTES: usize = 4 * 1024;

/// Snapshots after little, so that tests are short.
fn eager() -> CheckpointConfig {
    CheckpointConfig { snapshot_entries: 200, ..CheckpointConfig::default() }
}

/// Never by their number.
fn by_bytes_alone() -> CheckpointConfig {
    CheckpointConfig { snapshot_entries: u64::MAX, ..CheckpointConfig::default() }
}

struct Scene {
    cluster: Cluster,
    bulk: Bulk,
    alice: Device,
    bob: Device,
    /// Leads Bob's shard.
    leader: usize,
    /// Was away while Bob's mailbox filled.
    away: usize,
}

fn letter(alice: &Device, bob: &Device, number: usize) -> Outgoing {
    let mut message = alice.message(bob, &format!("m{number}"), Priority::Normal);
    message.content = vec![number as u8; CONTENT_BYTES].into();
    message
}

impl Scene {
    /// A follower was away until its leader's log began after what it has.
    async fn set(seed: u64) -> Self {
        let bulk = Bulk::default();
        let mut cluster = Cluster::start_with(seed, eager(), &bulk).await;
        let alice = Device::register(&cluster, 0, "alice").await;
        let bob = Device::register(&cluster, 0, "bob").await;
        let leader = cluster.leader_of(&bob.id).await;
        let away = (leader + 1) % NODES;
        cluster.crash(away);
        for number in 0..ENTRIES {
            let message = letter(&alice, &bob, number);
            cluster.relay(leader).send(message, deadline()).await.unwrap();
        }
        let leader = cluster.leader_of(&bob.id).await;
        eventually("the log begins after what the follower has", || {
            cluster.log_range(leader, &bob.id).0 > 50
        })
        .await;
        Self { cluster, bulk, alice, bob, leader, away }
    }

    /// Waits until the follower holds what the leader holds.
    async fn caught_up(&self) {
        let applied = |at: usize| self.cluster.applied(at, &self.bob.id);
        eventually("the follower catches up", || applied(self.away) >= applied(self.leader)).await;
    }
}

#[test]
fn sim_a_broken_snapshot_goes_on_where_it_broke() {
    simulate(41, |seed| async move {
        let mut scene = Scene::set(seed).await;
        scene.bulk.breaks_after(5);
        scene.cluster.boot(scene.away).await;
        eventually("the stream breaks", || scene.bulk.lost() >= 3).await;
        let (before, _) = scene.bulk.pieces();
        assert!(before > 0, "some pieces had arrived");
        scene.bulk.mend();
        scene.caught_up().await;
        let (all, different) = scene.bulk.pieces();
        assert!(different > before, "more than one connection carried it");
        assert_eq!(all, different, "no piece came twice");
    });
}

#[test]
fn sim_a_receiver_that_restarts_gets_its_snapshot() {
    simulate(42, |seed| async move {
        let mut scene = Scene::set(seed).await;
        scene.bulk.breaks_after(5);
        scene.cluster.boot(scene.away).await;
        eventually("the stream breaks", || scene.bulk.lost() >= 1).await;
        scene.cluster.crash(scene.away);
        scene.bulk.mend();
        scene.cluster.boot(scene.away).await;
        scene.caught_up().await;
    });
}

#[test]
fn sim_a_snapshot_that_trickles_stalls_nobody() {
    simulate(43, |seed| async move {
        let mut scene = Scene::set(seed).await;
        // Ten pieces and more take minutes.
        scene.bulk.slow_down(Duration::from_secs(15));
        let term = scene.cluster.term(scene.leader, &scene.bob.id);
        scene.cluster.boot(scene.away).await;
        let begun = Instant::now();
        let mut number = ENTRIES;
        let mut longest = Duration::ZERO;
        while scene.cluster.applied(scene.away, &scene.bob.id)
            < scene.cluster.applied(scene.leader, &scene.bob.id)
        {
            assert!(begun.elapsed() < Duration::from_secs(1200), "it never arrives");
            let asked = Instant::now();
            let message = letter(&scene.alice, &scene.bob, number);
            scene.cluster.relay(scene.leader).send(message, deadline()).await.unwrap();
            longest = longest.max(asked.elapsed());
            number += 1;
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        assert!(begun.elapsed() > Duration::from_secs(60), "it did trickle: {:?}", begun.elapsed());
        assert!(longest < Duration::from_secs(1), "{longest:?}");
        // Nobody took the leader for dead: not one election.
        assert_eq!(scene.cluster.term(scene.leader, &scene.bob.id), term);
    });
}

#[test]
fn sim_the_log_stays_short_behind_an_unread_message_and_a_dead_follower() {
    simulate(44, |seed| async move {
        let bulk = Bulk::default();
        // By bytes alone: what is live is one message.
        let by_bytes = CheckpointConfig { snapshot_log_bytes: 256 * 1024, ..by_bytes_alone() };
        let mut cluster = Cluster::start_with(seed, by_bytes, &bulk).await;
        let alice = Device::register(&cluster, 0, "alice").await;
        let bob = Device::register(&cluster, 0, "bob").await;
        let leader = cluster.leader_of(&bob.id).await;
        cluster.crash((leader + 1) % NODES);
        let mut longest = 0;
        for number in 0..3 * ENTRIES {
            let message = letter(&alice, &bob, number);
            cluster.relay(leader).send(message, deadline()).await.unwrap();
            if number > 0 {
                assert_eq!(bob.receive(&cluster, leader, Duration::ZERO).await.len(), 2);
                assert_eq!(bob.acknowledge(&cluster, leader, &[&format!("m{number}")]).await, 1);
            }
            let (first, last) = cluster.log_range(leader, &bob.id);
            longest = longest.max(last - first);
        }
        // The shard's share of what is kept for followers, some 50 KiB in twelve messages, and what comes
        // while a snapshot is due and made.
        assert!(longest < 500, "{longest} of {} entries", 6 * ENTRIES);
        assert_eq!(bob.receive(&cluster, leader, Duration::ZERO).await.len(), 1);
    });
}

#[test]
fn sim_restarts_do_not_let_the_log_grow() {
    /// Of a process: 160 KiB, too little for a snapshot.
    const LETTERS: usize = 40;
    const RESTARTS: usize = 12;
    simulate(46, |seed| async move {
        let bulk = Bulk::default();
        let by_bytes = CheckpointConfig { snapshot_log_bytes: 256 * 1024, ..by_bytes_alone() };
        let mut cluster = Cluster::start_with(seed, by_bytes, &bulk).await;
        let alice = Device::register(&cluster, 0, "alice").await;
        let bob = Device::register(&cluster, 0, "bob").await;
        for restart in 0..RESTARTS {
            let leader = cluster.leader_of(&bob.id).await;
            let ids: Vec<_> = (0..LETTERS).map(|at| restart * LETTERS + at).collect();
            for &number in &ids {
                let message = letter(&alice, &bob, number);
                cluster.relay(leader).send(message, deadline()).await.unwrap();
            }
            let ids: Vec<_> = ids.iter().map(|number| format!("m{number}")).collect();
            let ids: Vec<_> = ids.iter().map(String::as_str).collect();
            assert_eq!(bob.acknowledge(&cluster, leader, &ids).await as usize, LETTERS);
            // Time for a snapshot, where one is due.
            tokio::time::sleep(Duration::from_secs(5)).await;
            for node in 0..NODES {
                cluster.stop(node).await;
                cluster.boot(node).await;
                cluster.ready().await;
            }
        }
        let leader = cluster.leader_of(&bob.id).await;
        let (first, last) = cluster.log_range(leader, &bob.id);
        assert!(last - first < 4 * LETTERS as u64, "{} of {last} entries", last - first);
    });
}

/// Devices in two shards that one node leads.
async fn two_of_one_leader(cluster: &Cluster) -> (Device, Device, usize) {
    let mut known: Vec<(Device, usize)> = Vec::new();
    for number in 0..50 {
        let device = Device::register(cluster, 0, &format!("device{number}")).await;
        let leader = cluster.leader_of(&device.id).await;
        let shard = cluster.shard_of(&device.id);
        let fits = |(other, leads): &(Device, usize)| {
            *leads == leader && cluster.shard_of(&other.id) != shard
        };
        if let Some(at) = known.iter().position(fits) {
            return (known.swap_remove(at).0, device, leader);
        }
        known.push((device, leader));
    }
    panic!("four shards on three nodes: one of them leads two");
}

#[test]
fn sim_small_entries_count_and_snapshots_are_sent_in_turn() {
    simulate(45, |seed| async move {
        let bulk = Bulk::default();
        // Some 100 bytes an entry: only their number can be too large.
        let mut cluster = Cluster::start_with(seed, eager(), &bulk).await;
        let (first, second, leader) = two_of_one_leader(&cluster).await;
        let away = (leader + 1) % NODES;
        cluster.crash(away);
        let mailboxes = [&first, &second];
        for number in 0..ENTRIES {
            for mailbox in mailboxes {
                first.send(&cluster, leader, mailbox, &format!("m{number}")).await.unwrap();
            }
        }
        for mailbox in mailboxes {
            let shortened = || cluster.log_range(leader, &mailbox.id).0 > 50;
            eventually("the log begins after what the follower has", shortened).await;
        }
        bulk.slow_down(Duration::from_secs(1));
        cluster.boot(away).await;
        for mailbox in mailboxes {
            let applied = |at: usize| cluster.applied(at, &mailbox.id);
            eventually("the follower catches up", || applied(away) >= applied(leader)).await;
        }
        assert_eq!(bulk.most_under_way(), 1);
    });
}
