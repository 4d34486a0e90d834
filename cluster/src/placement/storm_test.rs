//! The planner at the size of a large cluster: a hundred nodes and 4,096 groups, with a simple
//! model of settling instead of Raft.

use std::collections::BTreeMap;

use heliograph_storage::GroupId;
use heliograph_transport::NodeId;

use super::{
    initial::initial,
    planner::plan,
    view::{GroupView, Limits, NodeView, Standing, View},
};

const NODES: u16 = 100;
const ZONES: u16 = 5;
const GROUPS: u16 = 4096;

fn nodes(ids: std::ops::RangeInclusive<u16>) -> Vec<(NodeId, String)> {
    ids.map(|id| (NodeId(id), format!("zone-{}", id % ZONES))).collect()
}

fn open((id, zone): (NodeId, String)) -> NodeView {
    NodeView { id, zone, standing: Standing::Open, is_live: true }
}

fn large_cluster() -> View {
    let nodes = nodes(1..=NODES);
    let groups = (0..).zip(initial(&nodes, GROUPS, 3)).map(|(index, target)| GroupView {
        group: GroupId(index),
        wanted: 3,
        weight: 1,
        held: target.clone(),
        target,
        arriving: Vec::new(),
        is_settled: true,
    });
    View { groups: groups.collect(), nodes: nodes.into_iter().map(open).collect() }
}

fn take(view: &mut View, limits: Limits) -> usize {
    let steps = plan(view, limits);
    for step in &steps {
        // Groups stand in the order of their ids.
        let group = &mut view.groups[step.group.0 as usize];
        group.target.clone_from(&step.target);
        let is_new = |id: &&NodeId| !group.held.contains(id);
        group.arriving = step.target.iter().filter(is_new).copied().collect();
        group.is_settled = !step.reason.moves_replicas();
    }
    steps.len()
}

/// Settles groups whose new replica lives; others wait.
fn settle(view: &mut View) {
    let live: Vec<_> = view.nodes.iter().filter(|node| node.is_live).map(|node| node.id).collect();
    for group in &mut view.groups {
        if !group.is_settled && group.arriving.iter().all(|id| live.contains(id)) {
            group.held.clone_from(&group.target);
            group.arriving.clear();
            group.is_settled = true;
        }
    }
}

/// Plans and settles until there is nothing to do; answers after how many rounds.
fn rest(view: &mut View, limits: Limits) -> usize {
    for round in 0..4000 {
        if take(view, limits) == 0 && view.groups.iter().all(|group| group.is_settled) {
            return round;
        }
        settle(view);
    }
    panic!("planning does not end");
}

fn spread(view: &View, count: impl Fn(&GroupView) -> &[NodeId]) -> (usize, usize) {
    let mut counts: BTreeMap<NodeId, usize> = BTreeMap::new();
    for node in view.nodes.iter().filter(|node| node.standing == Standing::Open) {
        counts.insert(node.id, 0);
    }
    for id in view.groups.iter().flat_map(count) {
        *counts.entry(*id).or_default() += 1;
    }
    (*counts.values().min().unwrap(), *counts.values().max().unwrap())
}

fn assert_even(view: &View) {
    for what in [spread(view, |group| &group.held), spread(view, |group| &group.target[..1])] {
        assert!(what.1 - what.0 <= 1, "{what:?}");
    }
    for group in &view.groups {
        let zone = |id: &NodeId| id.0 % ZONES;
        let mut zones: Vec<_> = group.held.iter().map(zone).collect();
        zones.sort_unstable();
        zones.dedup();
        assert_eq!(zones.len(), 3, "{group:?}");
    }
}

fn lose(view: &mut View, ids: impl Iterator<Item = u16>) {
    for id in ids {
        let node = &mut view.nodes[usize::from(id - 1)];
        node.is_live = false;
        node.standing = Standing::Gone;
    }
}

#[test]
fn a_hundred_nodes_and_4096_groups_survive_a_storm() {
    let mut view = large_cluster();
    assert_even(&view);
    assert_eq!(take(&mut view, Limits::NONE), 0, "a new cluster is at rest");

    // Four nodes of different zones die while one more comes; then a fifth, in the middle of it.
    lose(&mut view, [7, 23, 49, 86].into_iter());
    view.nodes.extend(nodes(101..=101).into_iter().map(open));
    let quorate: Vec<bool> = view
        .groups
        .iter()
        .map(|group| group.held.iter().filter(|id| [7, 23, 49, 86].contains(&id.0)).count() < 2)
        .collect();
    for _ in 0..3 {
        take(&mut view, Limits::PROMPT);
    }
    let second = view.groups.iter().find_map(|group| group.arriving.first()).unwrap().0;
    lose(&mut view, [second].into_iter());
    rest(&mut view, Limits::PROMPT);
    for (group, was_quorate) in view.groups.iter().zip(&quorate) {
        let lost = group.held.iter().filter(|id| [7, 23, 49, 86].contains(&id.0)).count();
        if *was_quorate && !group.held.contains(&NodeId(second)) {
            assert_eq!(lost, 0, "{group:?}");
        }
    }

    // All come back: what could not be repaired is well again, and everything becomes even.
    for node in &mut view.nodes {
        node.is_live = true;
        node.standing = Standing::Open;
    }
    rest(&mut view, Limits::PROMPT);
    assert_even(&view);
}

/// How long planning takes at this size; figures are in docs/benchmarks.md:
/// `cargo test --release -p heliograph-cluster --lib -- --ignored --nocapture planning_at_size`.
#[test]
#[ignore = "measures; asserts nothing that a load on the machine could not break"]
fn planning_at_size() {
    let measure = |what: &str, view: &View, limits: Limits| {
        let mut times: Vec<_> = (0..21)
            .map(|_| {
                let begun = tokio::time::Instant::now();
                let steps = plan(view, limits).len();
                (begun.elapsed(), steps)
            })
            .collect();
        times.sort_unstable();
        let (median, steps) = times[10];
        println!("{what}: {steps} steps, median {median:?}, longest {:?}", times[20].0);
    };
    let begun = tokio::time::Instant::now();
    let mut view = large_cluster();
    println!("placing a new cluster: {:?}", begun.elapsed());
    measure("nothing to do", &view, Limits::PACED);
    view.nodes.extend(nodes(101..=101).into_iter().map(open));
    measure("a node has joined", &view, Limits::PACED);
    measure("a node has joined, everything at once", &view, Limits::NONE);
    lose(&mut view, [7].into_iter());
    measure("a node is gone", &view, Limits::PACED);
    lose(&mut view, 1..=20);
    measure("20 nodes are gone", &view, Limits::PACED);
    measure("20 nodes are gone, everything at once", &view, Limits::NONE);
}
