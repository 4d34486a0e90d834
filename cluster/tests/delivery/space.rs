//! Nodes that are short of disk space.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use heliograph_cluster::{DiskUse, Host, RelayError};
use heliograph_transport::NodeId;

use crate::{
    cluster::{Cluster, NODES, eventually},
    device::{Device, ids},
    simulate,
};

/// Longer than three rounds of balancing leaders, and forty beats.
const ROUNDS: Duration = Duration::from_secs(20);

/// How much is free on a simulated disk.
#[derive(Debug, Default)]
pub(crate) struct Space {
    is_short: AtomicBool,
}

impl Space {
    pub(crate) const FREE_MIN: u64 = 1 << 30;

    fn run_short(&self) {
        self.is_short.store(true, Ordering::Relaxed);
    }

    fn come_back(&self) {
        self.is_short.store(false, Ordering::Relaxed);
    }
}

impl Host for Space {
    fn version(&self) -> &str {
        "simulated"
    }

    fn disk(&self) -> Option<DiskUse> {
        let free_bytes = match self.is_short.load(Ordering::Relaxed) {
            true => Self::FREE_MIN - 1,
            false => Self::FREE_MIN * 2,
        };
        Some(DiskUse { free_bytes, ..DiskUse::default() })
    }
}

/// The terms in which all nodes have all shards.
fn terms(cluster: &Cluster) -> Vec<u64> {
    let shards = (0..NODES).flat_map(|index| cluster.node(index).shards().all());
    shards.map(|shard| shard.leadership().borrow().term).collect()
}

#[test]
fn sim_a_node_short_of_space_leads_nothing_until_it_has_some() {
    simulate(51, |seed| async move {
        let cluster = Cluster::start_latest(seed).await;
        let alice = Device::register(&cluster, 0, "alice").await;
        let bob = Device::register(&cluster, 0, "bob").await;
        let led = || cluster.led_by(NodeId(2));
        eventually("leaders are balanced", || led() > 0).await;
        cluster.space[1].run_short();
        let began = tokio::time::Instant::now();
        eventually("nothing is led", || led() == 0).await;
        assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
        let before = terms(&cluster);
        tokio::time::sleep(ROUNDS).await;
        assert_eq!((led(), terms(&cluster)), (0, before), "nothing is handed back");
        alice.send(&cluster, 1, &bob, "m").await.unwrap();
        cluster.space[1].come_back();
        eventually("it leads again", || led() > 0).await;
    });
}

#[test]
fn sim_where_all_are_short_leaderships_stay_and_what_makes_room_is_done() {
    simulate(52, |seed| async move {
        let cluster = Cluster::start_latest(seed).await;
        let alice = Device::register(&cluster, 0, "alice").await;
        let bob = Device::register(&cluster, 0, "bob").await;
        alice.send(&cluster, 0, &bob, "m0").await.unwrap();
        for space in &cluster.space {
            space.run_short();
        }
        tokio::time::sleep(ROUNDS).await;
        let before = terms(&cluster);
        tokio::time::sleep(ROUNDS).await;
        assert_eq!(terms(&cluster), before, "leaderships go round");
        for at in 0..NODES {
            let refused = alice.send(&cluster, at, &bob, "m1").await;
            assert_eq!(refused, Err(RelayError::Overloaded));
            assert_eq!(ids(&bob.receive(&cluster, at, Duration::ZERO).await), ["m0"]);
        }
        bob.acknowledge(&cluster, 1, &["m0"]).await;
        for space in &cluster.space {
            space.come_back();
        }
        tokio::time::sleep(ROUNDS).await;
        alice.send(&cluster, 2, &bob, "m2").await.unwrap();
        assert_eq!(ids(&bob.receive(&cluster, 0, Duration::ZERO).await), ["m2"]);
    });
}
