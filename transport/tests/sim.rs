//! What only the simulated network does: partitions, crashes, and the same run again.
#![allow(missing_docs, clippy::unwrap_used)]

mod support;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use heliograph_transport::{
    CallError, Lane, Network, NodeId, NotifyError, PeerEvent, SimConfig, SimFabric,
};
use rand::{Rng, SeedableRng, rngs::StdRng};
use support::{
    Harness, Seen, SimHarness, expect,
    harness::{Node, pair},
    patient,
};
use tokio::time::{Instant, advance, sleep};

const ONE: NodeId = NodeId(1);
const TWO: NodeId = NodeId(2);

/// Ends a process's part of its node's log.
const CRASHED: &str = "crashed";

fn bytes(text: &'static str) -> Bytes {
    Bytes::from_static(text.as_bytes())
}

async fn first_event(node: &mut Node) -> PeerEvent {
    match expect(&mut node.seen, |seen| matches!(seen, Seen::Peer(_))).await {
        Seen::Peer(event) => event,
        _ => unreachable!("only events match"),
    }
}

#[tokio::test(start_paused = true)]
async fn short_partition_delays_frames_and_loses_none() {
    let mut harness = SimHarness::new(1_000);
    let (one, mut two) = pair(&mut harness).await;
    harness.fabric.partition(ONE, TWO);
    let cut = Instant::now();
    for number in 0..100u8 {
        one.network.notify(TWO, Lane::Urgent, vec![number].into()).unwrap();
    }
    let call = tokio::spawn(one.network.call(TWO, Lane::Urgent, bytes("late"), patient()));
    sleep(Duration::from_secs(3)).await;
    assert!(!call.is_finished());
    assert!(one.network.is_connected(TWO) && two.network.is_connected(ONE));
    harness.fabric.heal();
    assert_eq!(call.await.unwrap().unwrap(), bytes("late"));
    assert!(cut.elapsed() > Duration::from_secs(3));
    for number in 0..100u8 {
        let notice = expect(&mut two.seen, |seen| matches!(seen, Seen::Notice(..))).await;
        assert_eq!(notice, Seen::Notice(ONE, Lane::Urgent, vec![number].into()));
    }
}

#[tokio::test(start_paused = true)]
async fn long_partition_disconnects_without_breaking_tripwires_and_mends() {
    let mut harness = SimHarness::new(1_000);
    let (mut one, mut two) = pair(&mut harness).await;
    harness.fabric.partition(ONE, TWO);
    let call = one.network.call(TWO, Lane::Urgent, bytes("lost"), patient());
    assert_eq!(first_event(&mut one).await, PeerEvent::Disconnected(TWO));
    assert_eq!(first_event(&mut two).await, PeerEvent::Disconnected(ONE));
    assert!(matches!(call.await, Err(CallError::Lost(TWO))));
    let notice = one.network.notify(TWO, Lane::Urgent, bytes("no"));
    assert_eq!(notice, Err(NotifyError::NotConnected(TWO)));
    harness.fabric.heal();
    assert_eq!(first_event(&mut one).await, PeerEvent::Connected(TWO));
    assert_eq!(first_event(&mut two).await, PeerEvent::Connected(ONE));
    one.network.call(TWO, Lane::Urgent, bytes("again"), patient()).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn one_way_partition_lets_the_other_way_pass() {
    let mut harness = SimHarness::new(1_000);
    let (mut one, mut two) = pair(&mut harness).await;
    harness.fabric.partition_one_way(ONE, TWO);
    two.network.notify(ONE, Lane::Urgent, bytes("passes")).unwrap();
    expect(&mut one.seen, |seen| *seen == Seen::Notice(TWO, Lane::Urgent, bytes("passes"))).await;
    one.network.notify(TWO, Lane::Urgent, bytes("stays")).unwrap();
    // Node 2 hears nothing and gives up first; node 1 hears nothing from then on.
    assert_eq!(first_event(&mut two).await, PeerEvent::Disconnected(ONE));
    assert!(one.network.is_connected(TWO));
    assert_eq!(first_event(&mut one).await, PeerEvent::Disconnected(TWO));
    assert!(two.seen.try_recv().is_err());
}

#[tokio::test(start_paused = true)]
async fn crash_breaks_tripwires_ends_calls_and_drops_what_was_served() {
    let mut harness = SimHarness::new(1_000);
    let (mut one, mut two) = pair(&mut harness).await;
    let lost = one.network.call(TWO, Lane::Urgent, bytes("wait"), patient());
    let own = two.network.call(ONE, Lane::Urgent, bytes("wait"), patient());
    expect(&mut two.seen, |seen| matches!(seen, Seen::Call(..))).await;
    let crashed = Instant::now();
    harness.fabric.crash(TWO);
    assert_eq!(first_event(&mut one).await, PeerEvent::TripwireBroken(TWO));
    assert_eq!(first_event(&mut one).await, PeerEvent::Disconnected(TWO));
    assert!(crashed.elapsed() < Duration::from_secs(1));
    assert!(matches!(lost.await, Err(CallError::Lost(TWO))));
    assert!(matches!(own.await, Err(CallError::Lost(ONE))));
    expect(&mut two.seen, |seen| *seen == Seen::Dropped(bytes("wait"))).await;
    let dead = two.network.call(ONE, Lane::Urgent, bytes("dead"), patient()).await;
    assert!(matches!(dead, Err(CallError::NotConnected(ONE))));

    let mut again = harness.node(2, &[1]);
    assert_eq!(first_event(&mut one).await, PeerEvent::Connected(TWO));
    assert_eq!(first_event(&mut again).await, PeerEvent::Connected(ONE));
    // The former life stays dead, and its end does not touch the new one.
    two.network.shutdown().await;
    two.network.set_peers(Vec::new());
    again.network.call(ONE, Lane::Urgent, bytes("alive"), patient()).await.unwrap();
    assert!(!two.network.is_connected(ONE));
}

#[tokio::test(start_paused = true)]
async fn crash_behind_a_partition_breaks_no_tripwire() {
    let mut harness = SimHarness::new(1_000);
    let (mut one, _two) = pair(&mut harness).await;
    harness.fabric.isolate(TWO);
    harness.fabric.crash(TWO);
    let again = harness.node(2, &[1]);
    assert_eq!(first_event(&mut one).await, PeerEvent::Disconnected(TWO));
    sleep(Duration::from_secs(20)).await;
    assert!(one.seen.try_recv().is_err(), "isolation outlives the process");
    harness.fabric.heal();
    assert_eq!(first_event(&mut one).await, PeerEvent::Connected(TWO));
    drop(again);
}

#[tokio::test(start_paused = true)]
async fn lane_is_full_at_its_limit_and_has_room_again() {
    let config = SimConfig { lane_frames_max: 10, ..SimConfig::default() };
    let mut harness = SimHarness { fabric: SimFabric::with_config(1, config) };
    let (one, mut two) = pair(&mut harness).await;
    harness.fabric.partition(ONE, TWO);
    for _ in 0..10 {
        one.network.notify(TWO, Lane::Urgent, bytes("fits")).unwrap();
    }
    let notice = one.network.notify(TWO, Lane::Urgent, bytes("too many"));
    assert_eq!(notice, Err(NotifyError::Overloaded(TWO)));
    let call = one.network.call(TWO, Lane::Urgent, bytes("too many"), patient()).await;
    assert!(matches!(call, Err(CallError::Overloaded(TWO))));
    one.network.notify(TWO, Lane::Shared(0), bytes("other lane")).unwrap();
    harness.fabric.heal_between(ONE, TWO);
    for _ in 0..11 {
        expect(&mut two.seen, |seen| matches!(seen, Seen::Notice(..))).await;
    }
    one.network.call(TWO, Lane::Urgent, bytes("room"), patient()).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn lost_packets_delay_and_keep_the_order() {
    let mut harness = SimHarness::new(1_000);
    let (one, mut two) = pair(&mut harness).await;
    harness.fabric.reconfigure(|config| config.loss_probability = 0.5);
    let begin = Instant::now();
    for number in 0..200u8 {
        one.network.notify(TWO, Lane::Bulk, vec![number].into()).unwrap();
    }
    for number in 0..200u8 {
        let notice = expect(&mut two.seen, |seen| matches!(seen, Seen::Notice(..))).await;
        assert_eq!(notice, Seen::Notice(ONE, Lane::Bulk, vec![number].into()));
    }
    assert!(begin.elapsed() > SimConfig::default().retransmit_after);
}

/// Three nodes, random traffic, random faults: what every node saw, and the fabric's trace.
async fn storm(seed: u64) -> (Vec<Vec<String>>, u64) {
    let mut harness = SimHarness { fabric: SimFabric::new(seed) };
    let mut rng = StdRng::seed_from_u64(seed);
    let ids = [1, 2, 3];
    let mut nodes: Vec<Node> = ids.iter().map(|&id| harness.node(id, &ids)).collect();
    let mut logs = vec![Vec::new(); ids.len()];
    let mut calls = Vec::new();
    for step in 0..300u32 {
        let (from, to) = (rng.random_range(0..3), NodeId(rng.random_range(1..=3)));
        match rng.random_range(0..100) {
            0..=1 => harness.fabric.partition(nodes[from].id, to),
            2..=3 => harness.fabric.partition_one_way(nodes[from].id, to),
            4..=6 => harness.fabric.heal(),
            7 => {
                harness.fabric.crash(nodes[from].id);
                let mut dead = std::mem::replace(&mut nodes[from], harness.node(ids[from], &ids));
                drain(&mut dead, &mut logs[from]);
                logs[from].push(CRASHED.to_owned());
            }
            8..=40 => {
                let payload = step.to_be_bytes().to_vec().into();
                let sent = nodes[from].network.notify(to, Lane::Shared(step % 3), payload);
                logs[from].push(format!("notify {step} {sent:?}"));
            }
            _ => {
                let request = if rng.random_bool(0.1) { "wait" } else { "ping" };
                let deadline = Instant::now() + Duration::from_secs(rng.random_range(1..20));
                let call = nodes[from].network.call(to, Lane::Urgent, bytes(request), deadline);
                calls.push((from, step, tokio::spawn(call)));
            }
        }
        advance(Duration::from_millis(rng.random_range(0..200))).await;
    }
    for (from, step, call) in calls {
        let result = call.await.unwrap();
        logs[from].push(format!("call {step} {result:?}"));
    }
    for (node, log) in nodes.iter_mut().zip(&mut logs) {
        drain(node, log);
    }
    (logs, harness.fabric.trace())
}

fn drain(node: &mut Node, log: &mut Vec<String>) {
    while let Ok(seen) = node.seen.try_recv() {
        log.push(format!("{seen:?}"));
    }
}

fn storm_in_its_own_runtime(seed: u64) -> (Vec<Vec<String>>, u64) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(storm(seed))
}

#[test]
fn same_seed_gives_the_same_run_and_another_seed_another() {
    let mut traces = Vec::new();
    for seed in 0..20 {
        let (first, second) = (storm_in_its_own_runtime(seed), storm_in_its_own_runtime(seed));
        assert_eq!(first, second, "seed {seed}");
        traces.push(first.1);
    }
    traces.sort_unstable();
    traces.dedup();
    assert_eq!(traces.len(), 20);
}

#[test]
fn events_of_a_peer_alternate_in_any_storm() {
    for seed in 100..160 {
        let (logs, _) = storm_in_its_own_runtime(seed);
        for log in logs {
            for peer in [1, 2, 3] {
                let connected = format!("Peer(Connected(n{peer}))");
                let disconnected = format!("Peer(Disconnected(n{peer}))");
                let mut stands = false;
                for line in &log {
                    if line == CRASHED {
                        stands = false;
                    } else if *line == connected {
                        assert!(!stands, "seed {seed}: {log:?}");
                        stands = true;
                    } else if *line == disconnected {
                        assert!(stands, "seed {seed}: {log:?}");
                        stands = false;
                    }
                }
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn fabric_ends_its_task_when_all_is_dropped() {
    let fabric = SimFabric::new(3);
    let network: Arc<dyn Network> = fabric.node(ONE);
    let metrics = tokio::runtime::Handle::current().metrics();
    assert_eq!(metrics.num_alive_tasks(), 1);
    drop((fabric, network));
    tokio::task::yield_now().await;
    assert_eq!(metrics.num_alive_tasks(), 0);
}

/// A handler that owns its network and uses it while it is dropped.
struct Owner(std::sync::OnceLock<Arc<dyn Network>>);

impl heliograph_transport::Handler for Owner {
    fn call(
        self: Arc<Self>,
        _from: NodeId,
        _lane: Lane,
        request: Bytes,
        _deadline: Instant,
    ) -> heliograph_transport::BoxFuture<'static, Option<Bytes>> {
        Box::pin(std::future::ready(Some(request)))
    }

    fn notify(&self, _from: NodeId, _lane: Lane, _payload: Bytes) {}

    fn peer(&self, _event: PeerEvent) {}
}

impl Drop for Owner {
    fn drop(&mut self) {
        if let Some(network) = self.0.get() {
            assert!(!network.is_connected(TWO));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn crash_lets_go_of_a_handler_that_owns_its_network() {
    let fabric = SimFabric::new(4);
    let network: Arc<dyn Network> = fabric.node(ONE);
    let owner = Arc::new(Owner(std::sync::OnceLock::new()));
    assert!(owner.0.set(Arc::clone(&network)).is_ok());
    let watched = Arc::downgrade(&owner);
    network.serve(owner);
    drop(network);
    assert!(watched.upgrade().is_some());
    fabric.crash(ONE);
    assert!(watched.upgrade().is_none());
}
