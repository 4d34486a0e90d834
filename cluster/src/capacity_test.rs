//! The control plane at sizes that no machine here runs: what its messages and its registry weigh, and
//! what happens when nodes of a hundred die at once. The figures of `docs/capacity.md` are printed and
//! bounded here: `cargo test -p heliograph-cluster --lib capacity -- --nocapture`.

use std::collections::{BTreeMap, BTreeSet};

use heliograph_storage::{GroupId, MemoryRows, RowsRead};
use heliograph_transport::NodeId;
use tokio::time::Instant;

use crate::{
    detector::Detector,
    member::Member,
    meta::{MetaCommand, MetaMachine, MetaOutcome},
    model::ShardId,
    neighbours::{About, Stance},
    node_wire::{self, Beat},
    placement::{GroupView, Limits, NodeView, Standing, View, initial, plan},
    replica::Placement,
    topology::{Settings, Topology},
};

const ZONES: u16 = 5;
const REPLICAS: u8 = 3;
/// Voters of meta, wherever there are as many nodes; all others learn from them.
const META_VOTERS: u16 = 3;

fn nodes(count: u16) -> Vec<(NodeId, String)> {
    (1..=count).map(|id| (NodeId(id), format!("zone-{}", id % ZONES))).collect()
}

/// The registry of a cluster with names as long as Kubernetes gives them.
fn registry(count: u16, shards: u16) -> Topology {
    let nodes = nodes(count);
    let member = |(id, zone): &(NodeId, String)| Member {
        admitted: true,
        disk: Some([7; 16]),
        ..Member::first(
            *id,
            format!("heliograph-{}.heliograph-peers.relay.svc.cluster.local:7400", id.0),
            zone.clone(),
        )
    };
    let mut meta = Placement::formed(&(1..=META_VOTERS.min(count)).map(NodeId).collect::<Vec<_>>());
    for id in META_VOTERS + 1..=count {
        meta.add_learner(NodeId(id));
    }
    let shards = initial(&nodes, shards, REPLICAS);
    Topology {
        version: 1,
        members: nodes.iter().map(member).collect(),
        meta,
        shards: shards.iter().map(|target| Placement::formed(target)).collect(),
        settings: Settings::default(),
        features: 0,
    }
}

fn stored(rows: &MemoryRows) -> usize {
    let rows = rows.scan(b"\xFF", &[0xff; 16], usize::MAX).unwrap();
    rows.iter().map(|(key, value)| key.len() + value.len()).sum()
}

#[test]
fn the_registry_weighs_what_the_model_says() {
    // Nodes, shards, the most bytes of its row.
    let sizes = [
        (3, 16, 1_000),
        (10, 64, 3_500),
        (100, 256, 20_000),
        (100, 4096, 125_000),
        (1000, 4096, 320_000),
    ];
    for (count, shards, bound) in sizes {
        let mut rows = MemoryRows::default();
        let mut machine = MetaMachine::default();
        let formed = MetaCommand::Bootstrap(Box::new(registry(count, shards)));
        assert_eq!(machine.apply(&mut rows, formed), MetaOutcome::Done);
        let bytes = stored(&rows);
        // A change is a small entry, and writes the whole row anew on each node.
        let topology = machine.topology().unwrap();
        let target: Vec<_> = topology.shards[0].target_nodes();
        let expected_changes = topology.shards[0].changes;
        let moved = MetaCommand::SetTarget {
            group: GroupId(1),
            target: target.into_iter().rev().collect(),
            expected_changes,
        };
        let entry = moved.encode().len();
        assert_eq!(machine.apply(&mut rows, moved), MetaOutcome::Done);
        println!(
            "{count} nodes, {shards} shards: registry {bytes} bytes ({:.1} a shard, {:.1} a node), \
             an entry {entry} bytes",
            bytes as f64 / f64::from(shards),
            bytes as f64 / f64::from(count),
        );
        assert!(bytes <= bound, "{bytes} bytes of registry, not {bound}");
        assert!(entry < 100, "{entry} bytes of an entry");
    }
}

fn beat(leads: u16, suspects: BTreeSet<NodeId>) -> Beat {
    Beat {
        wall_ms: 1_800_000_000_000,
        leads: (0..leads).map(|shard| (ShardId(shard * 16), 123)).collect(),
        suspects,
        about: About {
            boot: u64::MAX,
            uptime_ms: 1_000_000_000,
            stance: Stance::Ready,
            client_url: Some("wss://heliograph-123.relay.example.net/ws".to_owned()),
        },
        registry: 1_000_000,
    }
}

#[test]
fn beats_weigh_what_the_model_says() {
    for (count, shards, bound) in
        [(3_u16, 16_u16, 130), (10, 64, 130), (100, 4096, 300), (1000, 4096, 130)]
    {
        let bytes = node_wire::encode(&beat(shards.div_ceil(count), BTreeSet::new())).len();
        // Two a second to each peer, and as many from it.
        let beats = 2 * (count - 1);
        let bandwidth = usize::from(beats) * bytes;
        println!(
            "{count} nodes, {shards} shards: {beats} beats/s each way of {bytes} bytes, {bandwidth} bytes/s"
        );
        assert!(bytes <= bound, "{bytes} bytes of a beat, not {bound}");
    }
}

/// A hundred nodes that all hear each other.
fn detectors(count: u16, now: Instant) -> BTreeMap<NodeId, Detector> {
    let ids: Vec<NodeId> = (1..=count).map(NodeId).collect();
    let mut all = BTreeMap::new();
    for id in &ids {
        let mut detector = Detector::default();
        for peer in ids.iter().filter(|peer| *peer != id) {
            assert!(detector.beat(*peer, BTreeSet::new(), now).is_empty());
        }
        all.insert(*id, detector);
    }
    all
}

/// What the death of some nodes of `view` sets off, by the rules of `detector` and of the elections:
/// the first live voter in the order of the target runs.
struct Storm {
    leaderless: usize,
    without_majority: usize,
    elections_most: usize,
    elections_mean: f64,
    beats: usize,
}

fn die(view: &View, dead: &BTreeSet<NodeId>) -> Storm {
    let now = Instant::now();
    let mut detectors = detectors(view.nodes.len() as u16, now);
    detectors.retain(|id, _| !dead.contains(id));
    let survivors: Vec<NodeId> = detectors.keys().copied().collect();
    // Each tripwire that breaks is told to all at once, in a beat of its own; the last one says it all.
    let mut sent = 0;
    let mut beats = BTreeMap::new();
    for (id, detector) in &mut detectors {
        for lost in dead {
            if !detector.tripwire_broken(*lost, now).suspected.is_empty() {
                sent += survivors.len() - 1;
                beats.insert(*id, detector.suspects());
            }
        }
    }
    let mut condemned: BTreeMap<NodeId, BTreeSet<NodeId>> = BTreeMap::new();
    for (from, suspects) in beats {
        for (id, detector) in detectors.iter_mut().filter(|(id, _)| **id != from) {
            let verdict = detector.beat(from, suspects.clone(), now);
            condemned.entry(*id).or_default().extend(verdict.condemned);
        }
    }
    assert!(condemned.values().all(|by_one| by_one == dead), "everybody condemns the dead alone");
    let (mut leaderless, mut without_majority) = (0, 0);
    let mut elections: BTreeMap<NodeId, usize> = BTreeMap::new();
    for group in view.groups.iter().filter(|group| dead.contains(&group.target[0])) {
        leaderless += 1;
        let live: Vec<_> = group.target.iter().filter(|id| !dead.contains(id)).collect();
        if live.len() * 2 <= group.held.len() {
            without_majority += 1;
        } else {
            *elections.entry(*live[0]).or_default() += 1;
        }
    }
    let begun: usize = elections.values().sum();
    Storm {
        leaderless,
        without_majority,
        elections_most: elections.values().copied().max().unwrap_or(0),
        elections_mean: begun as f64 / survivors.len() as f64,
        beats: sent,
    }
}

fn large_cluster() -> View {
    let nodes = nodes(100);
    let groups = (0..).zip(initial(&nodes, 4096, REPLICAS)).map(|(index, target)| GroupView {
        group: GroupId(index),
        wanted: usize::from(REPLICAS),
        weight: 1,
        held: target.clone(),
        target,
        arriving: Vec::new(),
        is_settled: true,
    });
    let open = |(id, zone)| NodeView { id, zone, standing: Standing::Open, is_live: true };
    View { groups: groups.collect(), nodes: nodes.into_iter().map(open).collect() }
}

/// Plans and settles until all is repaired; answers after how many rounds, and with how many moves.
fn repair(mut view: View, dead: &BTreeSet<NodeId>) -> (usize, usize) {
    for node in view.nodes.iter_mut().filter(|node| dead.contains(&node.id)) {
        node.is_live = false;
        node.standing = Standing::Gone;
    }
    let mut moves = 0;
    for round in 0..4000 {
        let steps = plan(&view, Limits::REPAIRS);
        if steps.is_empty() {
            return (round, moves);
        }
        moves += steps.len();
        for step in steps {
            // Settled by the next round: how long that takes is the size of a group over the rate.
            let group = &mut view.groups[step.group.0 as usize];
            group.held.clone_from(&step.target);
            group.target = step.target;
        }
    }
    panic!("repairs do not end");
}

#[test]
fn a_failover_storm_of_a_hundred_nodes_is_what_the_model_says() {
    let view = large_cluster();
    let zone: BTreeSet<NodeId> = (1..=100).map(NodeId).filter(|id| id.0 % ZONES == 0).collect();
    let one = BTreeSet::from([NodeId(42)]);
    let five = BTreeSet::from([7, 23, 49, 64, 86].map(NodeId));
    for (what, dead) in [("one node", one), ("five nodes", five), ("a zone of 20", zone.clone())] {
        let storm = die(&view, &dead);
        let (rounds, moves) = repair(large_cluster(), &dead);
        println!(
            "{what}: {} groups lose their leader, {} of them a majority; a survivor begins {} \
             elections at most, {:.1} on average; {} beats tell of it; {moves} moves in {rounds} rounds",
            storm.leaderless,
            storm.without_majority,
            storm.elections_most,
            storm.elections_mean,
            storm.beats,
        );
        // Leaders are spread evenly, and so is what their nodes leave behind.
        let share = 4096.0 / 100.0 * dead.len() as f64;
        assert!((storm.leaderless as f64 - share).abs() <= 0.05 * share + 1.0, "{what}");
        assert!(storm.elections_most as f64 <= 4.0 * storm.elections_mean + 10.0, "{what}");
        let is_zone = dead == zone;
        assert!(!is_zone || storm.without_majority == 0, "no zone has a majority of any group");
        assert!(moves >= 3 * storm.leaderless * 9 / 10, "every lost replica is made anew: {what}");
    }
}

#[test]
fn a_beat_costs_a_node_of_a_thousand_little() {
    let now = Instant::now();
    let mut detector = Detector::default();
    for peer in 2..=1000 {
        assert!(detector.beat(NodeId(peer), BTreeSet::new(), now).is_empty());
    }
    let begun = Instant::now();
    for peer in 2..=1000 {
        detector.beat(NodeId(peer), BTreeSet::new(), now);
    }
    // Printed, not asserted: a busy machine would break it.
    println!("1,000 nodes: a beat takes a node {:?}", begun.elapsed() / 999);
}
