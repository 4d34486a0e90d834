use std::collections::{BTreeMap, BTreeSet};

use heliograph_storage::GroupId;
use heliograph_transport::NodeId;
use proptest::prelude::*;

use super::{
    planner::{finish, plan, steps_to_do},
    view::{GroupView, Limits, NodeView, Reason, Standing, Step, View},
};

fn node(id: u16, zone: &str) -> NodeView {
    NodeView { id: NodeId(id), zone: zone.into(), standing: Standing::Open, is_live: true }
}

fn group(index: u32, target: &[u16]) -> GroupView {
    let target: Vec<_> = target.iter().map(|id| NodeId(*id)).collect();
    GroupView {
        group: GroupId(index),
        wanted: 3,
        weight: 1,
        held: target.clone(),
        target,
        arriving: Vec::new(),
        is_settled: true,
    }
}

fn view(zones: &[&str], groups: &[&[u16]]) -> View {
    let nodes = (1..).zip(zones).map(|(id, zone)| node(id, zone));
    let groups = (1..).zip(groups).map(|(index, target)| group(index, target));
    View { nodes: nodes.collect(), groups: groups.collect() }
}

fn same_nodes(a: &[NodeId], b: &[NodeId]) -> bool {
    a.len() == b.len() && a.iter().all(|node| b.contains(node))
}

impl View {
    fn stand(&mut self, id: u16, standing: Standing) {
        let node = self.nodes.iter_mut().find(|node| node.id == NodeId(id)).unwrap();
        node.standing = standing;
        node.is_live = standing != Standing::Gone;
    }

    /// Writes a step's target, as the registry does.
    fn take(&mut self, step: &Step) {
        let group = self.groups.iter_mut().find(|group| group.group == step.group).unwrap();
        group.arriving.retain(|node| step.target.contains(node));
        for node in &step.target {
            if !group.held.contains(node) && !group.arriving.contains(node) {
                group.arriving.push(*node);
            }
        }
        group.target.clone_from(&step.target);
        group.is_settled = same_nodes(&group.target, &group.held);
    }

    /// The group's voters become what its target says.
    fn settle(&mut self, place: usize) {
        let group = &mut self.groups[place];
        group.held.clone_from(&group.target);
        group.arriving.clear();
        group.is_settled = true;
    }

    fn is_live(&self, id: &NodeId) -> bool {
        self.nodes.iter().any(|node| node.id == *id && node.is_live)
    }

    fn zone(&self, id: &NodeId) -> &str {
        self.nodes.iter().find(|node| node.id == *id).map_or("", |node| node.zone.as_str())
    }

    fn standing(&self, id: &NodeId) -> Standing {
        let known = self.nodes.iter().find(|node| node.id == *id);
        known.map_or(Standing::Gone, |node| node.standing)
    }
}

fn ids(step: &Step) -> Vec<u16> {
    step.target.iter().map(|id| id.0).collect()
}

fn reasons(steps: &[Step]) -> Vec<Reason> {
    steps.iter().map(|step| step.reason).collect()
}

#[test]
fn a_healthy_balanced_cluster_plans_nothing() {
    let view = view(&["a", "b", "c"], &[&[1, 2, 3], &[2, 3, 1], &[3, 1, 2]]);
    assert_eq!(plan(&view, Limits::NONE), []);
    assert_eq!(steps_to_do(&view), 0);
}

#[test]
fn a_gone_nodes_replicas_are_made_anew_in_its_zone() {
    let mut view = view(&["a", "b", "c", "c", "a"], &[&[1, 2, 3], &[3, 1, 2]]);
    view.stand(3, Standing::Gone);
    let steps = plan(&view, Limits::REPAIRS);
    assert_eq!(reasons(&steps), [Reason::Replace, Reason::Replace]);
    assert_eq!(ids(&steps[0]), [1, 2, 4]);
    // The preferred leader was the gone one: one that has the data takes its place.
    assert_eq!(ids(&steps[1]), [2, 1, 4]);
}

#[test]
fn a_gone_node_keeps_its_seat_where_there_is_no_other_node() {
    let mut view = view(&["a", "b", "c"], &[&[1, 2, 3]]);
    view.stand(3, Standing::Gone);
    assert_eq!(plan(&view, Limits::NONE), []);
}

#[test]
fn a_silent_node_is_waited_for() {
    let mut view = view(&["a", "b", "c", "c"], &[&[1, 2, 3]]);
    view.nodes[2].standing = Standing::Keeping;
    view.nodes[2].is_live = false;
    assert_eq!(plan(&view, Limits::NONE), []);
}

#[test]
fn a_leaving_node_is_let_go_even_when_nobody_takes_its_place() {
    let mut view = view(&["a", "b", "c"], &[&[3, 1, 2]]);
    view.stand(3, Standing::Leaving);
    let steps = plan(&view, Limits::REPAIRS);
    assert_eq!((ids(&steps[0]), steps[0].reason), (vec![1, 2], Reason::Evacuate));
}

#[test]
fn a_leaving_node_waits_for_one_that_only_drains() {
    let mut view = view(&["a", "b", "c", "d"], &[&[3, 1, 2]]);
    view.stand(3, Standing::Leaving);
    view.stand(4, Standing::Keeping);
    assert_eq!(plan(&view, Limits::REPAIRS), []);
}

#[test]
fn one_of_two_voters_goes_only_after_another_has_come() {
    let mut view = view(&["a", "b", "c"], &[&[1, 2]]);
    view.groups[0].wanted = 2;
    view.stand(2, Standing::Leaving);
    let grow = plan(&view, Limits::REPAIRS);
    assert_eq!(ids(&grow[0]), [1, 2, 3]);
    view.take(&grow[0]);
    assert_eq!(plan(&view, Limits::REPAIRS), [], "it has not settled");
    view.settle(0);
    assert_eq!(ids(&plan(&view, Limits::REPAIRS)[0]), [1, 3]);
}

#[test]
fn a_group_without_a_live_majority_is_left_alone() {
    let mut view = view(&["a", "b", "c", "d", "e"], &[&[1, 2, 3]]);
    view.stand(2, Standing::Gone);
    view.stand(3, Standing::Gone);
    assert_eq!(plan(&view, Limits::NONE), []);
}

#[test]
fn a_leaving_replica_stays_while_its_group_could_not_do_without() {
    let mut view = view(&["a", "b", "c"], &[&[1, 2, 3]]);
    view.stand(2, Standing::Leaving);
    view.stand(3, Standing::Gone);
    assert_eq!(plan(&view, Limits::NONE), []);
}

#[test]
fn an_unsettled_group_is_left_alone_until_what_it_waits_for_is_gone() {
    let mut view = view(&["a", "b", "c", "c", "c"], &[&[1, 2, 3]]);
    view.stand(3, Standing::Gone);
    let steps = plan(&view, Limits::REPAIRS);
    assert_eq!(ids(&steps[0]), [1, 2, 4]);
    view.take(&steps[0]);
    assert_eq!(plan(&view, Limits::NONE), []);
    view.stand(4, Standing::Gone);
    assert_eq!(ids(&plan(&view, Limits::NONE)[0]), [1, 2, 5]);
}

#[test]
fn the_fewer_voters_a_group_can_lose_the_sooner_it_is_repaired() {
    let mut view = view(&["a"; 7], &[&[1, 2, 3, 4, 5], &[5, 6, 1]]);
    view.groups[0].wanted = 5;
    view.stand(5, Standing::Gone);
    let limits = Limits { moving: 1, ..Limits::REPAIRS };
    assert_eq!(plan(&view, limits)[0].group, GroupId(2));
}

#[test]
fn a_group_grows_once_there_are_nodes() {
    let mut view = view(&["a", "b"], &[&[1, 2]]);
    assert_eq!(plan(&view, Limits::NONE), []);
    view.nodes.push(node(3, "b"));
    let steps = plan(&view, Limits::NONE);
    assert_eq!((ids(&steps[0]), steps[0].reason), (vec![1, 2, 3], Reason::Grow));
}

#[test]
fn a_new_zone_is_used() {
    let view = view(&["a", "a", "b", "c"], &[&[1, 2, 3]]);
    let steps = plan(&view, Limits::PROMPT);
    assert_eq!((ids(&steps[0]), steps[0].reason), (vec![1, 3, 4], Reason::Zones));
}

#[test]
fn a_path_over_two_groups_evens_out_what_no_single_move_can() {
    // Node 1 holds two more than node 3, but its groups have zone b already, in node 2; only the
    // group that lacks b can go there, from node 4 of zone d.
    let mut view =
        view(&["a", "b", "b", "d"], &[&[1, 2], &[1, 2], &[1, 2], &[1, 4], &[4, 1], &[4, 2]]);
    for group in &mut view.groups {
        group.wanted = 2;
    }
    finish(&mut view);
    let mut loads: BTreeMap<NodeId, usize> = BTreeMap::new();
    for id in view.groups.iter().flat_map(|group| &group.target) {
        *loads.entry(*id).or_default() += 1;
    }
    assert_eq!(loads.values().copied().collect::<Vec<_>>(), [3, 3, 3, 3]);
}

#[test]
fn evening_out_waits_while_repairs_move() {
    let mut view = view(&["a"; 5], &[&[1, 2, 3], &[1, 2, 3], &[1, 2, 3], &[1, 2, 4]]);
    view.stand(3, Standing::Gone);
    let steps = plan(&view, Limits { leaders: 0, ..Limits::PACED });
    assert_eq!(reasons(&steps), [Reason::Replace; 3]);
}

#[test]
fn limits_hold() {
    let mut view = view(&["a"; 5], &[&[1_u16, 2, 3][..]; 9]);
    view.stand(3, Standing::Gone);
    let limits = Limits { moving: 5, incoming: 2, balancing: 0, leaders: 0 };
    assert_eq!(plan(&view, limits).len(), 4, "two to each of the two free nodes");
    let limits = Limits { moving: 3, ..limits };
    let steps = plan(&view, limits);
    assert_eq!(steps.len(), 3);
    for step in &steps {
        view.take(step);
    }
    assert_eq!(plan(&view, limits), [], "three move");
}

#[test]
fn a_draining_node_gets_no_leaderships_and_nothing_new() {
    let mut view = view(&["a"; 4], &[&[1, 2, 3], &[1, 2, 3], &[1, 2, 3], &[1, 2, 3]]);
    view.stand(2, Standing::Keeping);
    for step in plan(&view, Limits::NONE) {
        assert_ne!(step.target[0], NodeId(2));
    }
    view.stand(4, Standing::Keeping);
    let steps = plan(&view, Limits::NONE);
    assert!(steps.iter().all(|step| step.reason == Reason::Leaders), "{steps:?}");
}

#[test]
fn single_replicas_move_by_way_of_two() {
    let mut view = view(&["a", "a"], &[&[1], &[1], &[1], &[1]]);
    for group in &mut view.groups {
        group.wanted = 1;
    }
    let steps = plan(&view, Limits::NONE);
    assert_eq!(steps.len(), 2, "half of them: {steps:?}");
    assert!(steps.iter().all(|step| step.target.len() == 2));
    finish(&mut view);
    let on_first = view.groups.iter().filter(|group| group.target == [NodeId(1)]).count();
    assert_eq!(on_first, 2);
}

/// What steps must lower, the most important first.
fn cost(view: &View) -> [usize; 4] {
    let usable = |id: &NodeId| matches!(view.standing(id), Standing::Open | Standing::Keeping);
    let count = view.nodes.iter().filter(|node| usable(&node.id)).count();
    let mut wrong = 0;
    let mut crowded = 0;
    let mut loads: BTreeMap<NodeId, usize> = BTreeMap::new();
    let mut leads: BTreeMap<NodeId, usize> = BTreeMap::new();
    for group in &view.groups {
        let good = group.target.iter().filter(|id| usable(id)).count();
        let wanted = group.wanted.min(count);
        wrong += (group.target.len() - good) + 2 * wanted.saturating_sub(good);
        wrong += good.saturating_sub(wanted);
        let mut zones: BTreeMap<&str, usize> = BTreeMap::new();
        for id in &group.target {
            *zones.entry(view.zone(id)).or_default() += 1;
            *loads.entry(*id).or_default() += group.weight;
        }
        crowded += zones.values().map(|count| count * count).sum::<usize>();
        *leads.entry(group.target[0]).or_default() += group.weight;
    }
    let squares = |counts: &BTreeMap<NodeId, usize>| counts.values().map(|n| n * n).sum::<usize>();
    [wrong, crowded, squares(&loads), squares(&leads)]
}

/// What every step must keep.
fn check_step(view: &View, step: &Step) -> Result<(), TestCaseError> {
    let group = view.groups.iter().find(|group| group.group == step.group).unwrap();
    let target: BTreeSet<_> = step.target.iter().collect();
    prop_assert_eq!(target.len(), step.target.len(), "a node twice");
    let is_stuck = group.arriving.iter().any(|id| view.standing(id) == Standing::Gone);
    prop_assert!(group.is_settled || is_stuck, "unsettled group changed");
    let dropped = group.held.iter().filter(|id| !target.contains(id)).count();
    let brought: Vec<_> = step.target.iter().filter(|id| !group.target.contains(id)).collect();
    prop_assert!(dropped <= 1 && brought.len() <= 1, "more than one replica a step");
    prop_assert!(brought.is_empty() || dropped * 2 < group.held.len(), "not a minority");
    let live = step.target.iter().filter(|id| view.is_live(id)).count();
    prop_assert!(live * 2 > step.target.len(), "no live majority");
    let known = step.target.iter().filter(|id| group.held.contains(id) && view.is_live(id));
    prop_assert!(known.count() > 0, "nobody has the data");
    for id in brought {
        prop_assert!(view.is_live(id) && view.standing(id) == Standing::Open, "to {id}");
    }
    Ok(())
}

fn standing() -> impl Strategy<Value = Standing> {
    prop_oneof![
        8 => Just(Standing::Open),
        1 => Just(Standing::Keeping),
        1 => Just(Standing::Leaving),
        2 => Just(Standing::Gone),
    ]
}

/// Nodes in up to four zones, groups placed at random.
fn any_view(standings: impl Strategy<Value = Standing>) -> impl Strategy<Value = View> {
    let nodes = prop::collection::vec((0..4_usize, standings), 1..10);
    let groups = prop::collection::vec(
        (prop::sample::select(vec![1_usize, 3, 3, 3, 5]), 1..6_usize, any::<u64>()),
        1..24,
    );
    (nodes, groups).prop_map(|(nodes, groups)| {
        let nodes: Vec<_> = (1..)
            .zip(nodes)
            .map(|(id, (zone, standing))| NodeView {
                standing,
                is_live: standing != Standing::Gone,
                ..node(id, ["a", "b", "c", "d"][zone])
            })
            .collect();
        let wanted = groups[0].0;
        let groups = (1..).zip(groups).map(|(index, (_, size, seed))| {
            let mut all: Vec<u16> = (1..=u16::try_from(nodes.len()).unwrap()).collect();
            all.sort_by_key(|id| {
                blake3::hash(&(seed ^ u64::from(*id)).to_le_bytes()).as_bytes()[0]
            });
            all.truncate(size);
            GroupView { wanted, ..group(index, &all) }
        });
        View { groups: groups.collect(), nodes }
    })
}

/// Plans and settles at random until nothing is left to do; every plan is checked.
fn converge(view: &mut View, limits: Limits, mut order: u64) -> Result<(), TestCaseError> {
    for _ in 0..5_000 {
        let steps = plan(view, limits);
        if steps.is_empty() && view.groups.iter().all(|group| group.is_settled) {
            return Ok(());
        }
        for step in &steps {
            check_step(view, step)?;
            view.take(step);
        }
        let moving = view.groups.iter().filter(|group| !group.is_settled).count();
        prop_assert!(moving <= limits.moving, "{moving} move");
        for node in &view.nodes {
            let incoming = view.groups.iter().filter(|group| group.arriving.contains(&node.id));
            prop_assert!(incoming.count() <= limits.incoming, "too many to {}", node.id);
        }
        order = order.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let unsettled: Vec<_> =
            (0..view.groups.len()).filter(|place| !view.groups[*place].is_settled).collect();
        if !unsettled.is_empty() {
            view.settle(unsettled[(order >> 33) as usize % unsettled.len()]);
        }
    }
    Err(TestCaseError::fail("planning does not end"))
}

/// Plans and settles everything at once until nothing is left to do.
fn descend(view: &mut View) -> Result<(), TestCaseError> {
    for _ in 0..200 {
        let before = cost(view);
        let steps = plan(view, Limits::NONE);
        if steps.is_empty() {
            return Ok(());
        }
        for step in &steps {
            view.take(step);
        }
        let by_way_of_two =
            view.groups[0].wanted == 1 && steps.iter().any(|step| step.reason == Reason::Balance);
        prop_assert!(cost(view) < before || by_way_of_two, "{steps:?}");
        for place in 0..view.groups.len() {
            view.settle(place);
        }
    }
    Err(TestCaseError::fail("planning does not end"))
}

/// The least sum of squares that `wanted` replicas can have over zones of these sizes.
fn least_crowded(sizes: &[usize], wanted: usize) -> usize {
    let mut counts = vec![0; sizes.len()];
    for _ in 0..wanted {
        let free = (0..sizes.len()).filter(|zone| counts[*zone] < sizes[*zone]);
        if let Some(zone) = free.min_by_key(|zone| counts[*zone]) {
            counts[zone] += 1;
        }
    }
    counts.iter().map(|count| count * count).sum()
}

fn spread(view: &View, of: impl Fn(&GroupView) -> Vec<NodeId>) -> usize {
    let mut counts: BTreeMap<NodeId, usize> = view.nodes.iter().map(|node| (node.id, 0)).collect();
    for id in view.groups.iter().flat_map(of) {
        *counts.get_mut(&id).unwrap() += 1;
    }
    counts.values().max().unwrap() - counts.values().min().unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    #[test]
    fn planning_ends_and_keeps_its_promises(view in any_view(standing()), order: u64) {
        let mut view = view;
        let limits = Limits { balancing: 3, moving: 4, ..Limits::PACED };
        converge(&mut view, limits, order)?;
        // Whoever could be helped was.
        let is_free = |node: &&NodeView| node.standing == Standing::Open;
        let open = view.nodes.iter().filter(is_free).count();
        for group in &view.groups {
            let live = group.held.iter().filter(|id| view.is_live(id)).count();
            let lost = group.target.iter().any(|id| view.standing(id) == Standing::Gone);
            let here = group.target.iter().filter(|id| view.standing(id) == Standing::Open);
            if lost && live * 2 > group.held.len() {
                prop_assert_eq!(here.count(), open, "a gone replica stays though a node is free");
            }
        }
    }

    #[test]
    fn each_plan_lowers_the_cost(view in any_view(standing())) {
        let mut view = view;
        descend(&mut view)?;
    }

    #[test]
    fn open_nodes_end_up_even(view in any_view(Just(Standing::Open)), order: u64) {
        let mut view = view;
        converge(&mut view, Limits::PROMPT, order)?;
        let mut sizes: BTreeMap<&str, usize> = BTreeMap::new();
        for node in &view.nodes {
            *sizes.entry(node.zone.as_str()).or_default() += 1;
        }
        let sizes: Vec<_> = sizes.into_values().collect();
        for group in &view.groups {
            let wanted = group.wanted.min(view.nodes.len());
            prop_assert_eq!(group.held.len(), wanted);
            let mut zones: BTreeMap<&str, usize> = BTreeMap::new();
            for id in &group.held {
                *zones.entry(view.zone(id)).or_default() += 1;
            }
            let crowded: usize = zones.values().map(|count| count * count).sum();
            prop_assert_eq!(crowded, least_crowded(&sizes, wanted), "{:?}", group);
        }
        // Where every zone is as large as the others nothing stands in the way of an even spread.
        if sizes.iter().all(|size| *size == sizes[0]) {
            prop_assert!(spread(&view, |group| group.held.clone()) <= 1, "{:?}", view.groups);
            prop_assert!(spread(&view, |group| vec![group.target[0]]) <= 1, "{:?}", view.groups);
        }
        prop_assert_eq!(plan(&view, Limits::NONE), vec![]);
        prop_assert_eq!(steps_to_do(&view), 0);
    }
}
