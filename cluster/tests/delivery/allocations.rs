//! How many allocations a message costs on its whole way through three nodes: sent, replicated,
//! accepted, pushed, acknowledged. One thread, simulated time: the same work is counted on every
//! machine. A regression guard, since times on shared machines mean nothing.

use std::{sync::Arc, time::Duration};

use allocation_counter::measure;
use futures_util::future::join_all;
use heliograph_cluster::{AckItem, model::Priority};

use crate::{
    cluster::{Cluster, NODES, deadline, eventually},
    device::{Connection, Device, WINDOW},
};

/// Messages in flight.
const IN_FLIGHT: usize = 128;
/// Mailboxes, over all shards; each is read at another node than most of it is sent by.
const MAILBOXES: usize = 16;
/// Rounds of as many messages as are in flight: one before anything is counted, so that tables and
/// buffers have their size, and those that are counted.
const ROUNDS: usize = 8;

/// The most allocations a message may cost, all three nodes, their simulated disks and network and
/// the clients together. A change that lowers the figure lowers this, too.
const ALLOCATIONS_MAX: f64 = 75.0;
/// The most bytes a message of 256 may allocate on its way.
const BYTES_MAX: f64 = 17_600.0;

struct Traffic {
    cluster: Cluster,
    alice: Device,
    bobs: Vec<Device>,
    connections: Vec<Connection>,
    sent: usize,
}

impl Traffic {
    async fn start(seed: u64) -> Self {
        let cluster = Cluster::start(seed).await;
        let alice = Device::register(&cluster, 0, "alice").await;
        let (mut bobs, mut connections) = (Vec::new(), Vec::new());
        for number in 0..MAILBOXES {
            let bob = Device::register(&cluster, 0, &format!("bob-{number}")).await;
            connections.push(bob.connect(&cluster, number % NODES, WINDOW).await);
            bobs.push(bob);
        }
        Self { cluster, alice, bobs, connections, sent: 0 }
    }

    /// Sends as many messages as are in flight, waits until each is accepted and delivered, and
    /// acknowledges them.
    async fn round(&mut self) {
        let sending = (self.sent..self.sent + IN_FLIGHT).map(|number| {
            let relay = self.cluster.relay(number % NODES);
            let mut message =
                self.alice.message(&self.bobs[number % MAILBOXES], &id(number), Priority::Normal);
            message.content = vec![7; 256].into();
            async move { relay.send(message, deadline()).await.unwrap() }
        });
        join_all(sending).await;
        self.sent += IN_FLIGHT;
        for connection in &mut self.connections {
            let before = connection.got.len();
            connection.read_to(before + IN_FLIGHT / MAILBOXES).await;
            let got = &connection.got[before..];
            let items: Vec<_> =
                got.iter().map(|message| AckItem::Seq(message.priority, message.seq)).collect();
            connection.session.acknowledge(&items);
        }
        // What lingers before it is replicated.
        tokio::time::sleep(Duration::from_millis(50)).await;
    }

    async fn is_settled(&self) {
        let devices: Vec<_> = self.bobs.iter().map(|bob| Arc::new(bob.id.clone())).collect();
        eventually("the nodes have applied the same", || {
            devices.iter().all(|device| {
                let applied = self.cluster.applied(0, device);
                (1..NODES).all(|node| self.cluster.applied(node, device) == applied)
            })
        })
        .await;
    }
}

fn id(number: usize) -> String {
    format!("{number:032x}")
}

#[test]
fn sim_a_message_costs_no_more_allocations_than_it_did() {
    heliograph_cluster::simulation::seed_raft(41);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    let mut traffic = runtime.block_on(async {
        let mut traffic = Traffic::start(41).await;
        traffic.round().await;
        traffic
    });
    let counted = measure(|| {
        runtime.block_on(async {
            for _ in 0..ROUNDS {
                traffic.round().await;
            }
            traffic.is_settled().await;
        });
    });
    let messages = (ROUNDS * IN_FLIGHT) as f64;
    let allocations = counted.count_total as f64 / messages;
    let bytes = counted.bytes_total as f64 / messages;
    println!("{allocations:.2} allocations and {bytes:.0} bytes a message");
    assert!(allocations <= ALLOCATIONS_MAX, "{allocations:.2} allocations a message");
    assert!(bytes <= BYTES_MAX, "{bytes:.0} bytes allocated a message");
}
