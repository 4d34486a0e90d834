//! Where the replicas of a new cluster go.

use heliograph_storage::GroupId;
use heliograph_transport::NodeId;

use super::{
    planner::finish,
    view::{GroupView, NodeView, Standing, View},
};

/// Places `shards` shards with `replicas` replicas each over `nodes`, given with their zones (fewer
/// replicas where there are fewer nodes): per shard the replicas, the preferred leader first.
/// Replicas, leaders, and the ranks that follow a dead leader are spread as evenly as whole numbers
/// and zones allow.
pub(crate) fn initial(nodes: &[(NodeId, String)], shards: u16, replicas: u8) -> Vec<Vec<NodeId>> {
    let draft = rotated(&interleaved(nodes), usize::from(shards), usize::from(replicas));
    let open = |(id, zone): &(NodeId, String)| NodeView {
        id: *id,
        zone: zone.clone(),
        standing: Standing::Open,
        is_live: true,
    };
    let shard = |(index, target): (usize, Vec<NodeId>)| GroupView {
        group: GroupId(u32::try_from(index).expect("shards are counted in 16 bits")),
        wanted: usize::from(replicas),
        weight: 1,
        held: target.clone(),
        target,
        arriving: Vec::new(),
        is_settled: true,
    };
    let mut view = View {
        nodes: nodes.iter().map(open).collect(),
        groups: draft.into_iter().enumerate().map(shard).collect(),
    };
    // Where zones differ in size the rotation alone does not do.
    finish(&mut view);
    view.groups.into_iter().map(|group| group.target).collect()
}

/// One node of each zone after the other, then the second ones.
fn interleaved(nodes: &[(NodeId, String)]) -> Vec<NodeId> {
    let mut ranked: Vec<(usize, usize, NodeId)> = Vec::with_capacity(nodes.len());
    for (place, (id, zone)) in nodes.iter().enumerate() {
        let rank = nodes[..place].iter().filter(|(_, other)| other == zone).count();
        let first = nodes.iter().position(|(_, other)| other == zone).unwrap_or(place);
        ranked.push((rank, first, *id));
    }
    ranked.sort_unstable();
    ranked.into_iter().map(|(_, _, id)| id).collect()
}

/// The rotation: exact where there are no zones, a good draft where there are.
fn rotated(nodes: &[NodeId], shards: usize, replicas: usize) -> Vec<Vec<NodeId>> {
    let count = nodes.len();
    let held = replicas.min(count);
    (0..shards)
        .map(|shard| {
            let leader = shard % count;
            // Each round over the nodes starts its followers one further on, so that a dead node's
            // shards fall to all others alike.
            let shift = (shard / count) % (count - 1).max(1);
            let follower = |rank: usize| {
                let step = 1 + (rank + shift) % (count - 1).max(1);
                nodes[(leader + step) % count]
            };
            let followers = (0..held.saturating_sub(1)).map(follower);
            std::iter::once(nodes[leader]).chain(followers).collect()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;

    fn without_zones(ids: &[NodeId]) -> Vec<(NodeId, String)> {
        ids.iter().map(|id| (*id, String::new())).collect()
    }

    fn in_zones(zones: &[&str]) -> Vec<(NodeId, String)> {
        (1..).map(NodeId).zip(zones.iter().map(|zone| (*zone).to_owned())).collect()
    }

    proptest! {
        #[test]
        fn replicas_are_distinct_and_evenly_spread(
            nodes in 1_u16..12,
            shards in 1_u16..257,
            replicas in prop_oneof![Just(1_u8), Just(3), Just(5)],
        ) {
            let ids: Vec<_> = (1..=nodes).map(NodeId).collect();
            let map = initial(&without_zones(&ids), shards, replicas);
            let mut leaders = BTreeMap::new();
            let mut held = BTreeMap::new();
            for shard in &map {
                prop_assert_eq!(shard.len(), usize::from(replicas).min(ids.len()));
                let distinct: BTreeSet<_> = shard.iter().collect();
                prop_assert_eq!(distinct.len(), shard.len());
                *leaders.entry(shard[0]).or_insert(0_i32) += 1;
                for node in shard {
                    *held.entry(*node).or_insert(0_i32) += 1;
                }
            }
            let spread = |counts: &BTreeMap<NodeId, i32>| {
                let of = |id: &NodeId| counts.get(id).copied().unwrap_or(0);
                let all: Vec<_> = ids.iter().map(of).collect();
                all.iter().max().unwrap() - all.iter().min().unwrap()
            };
            prop_assert!(spread(&leaders) <= 1, "leaders {:?}", leaders);
            prop_assert!(spread(&held) <= 1, "replicas {:?}", held);
        }
    }

    #[test]
    fn a_dead_nodes_shards_fall_to_all_others() {
        let ids = [NodeId(1), NodeId(2), NodeId(3)];
        let map = initial(&without_zones(&ids), 12, 3);
        let heirs: Vec<_> =
            map.iter().filter(|shard| shard[0] == NodeId(1)).map(|shard| shard[1].0).collect();
        assert_eq!(heirs, [2, 3, 2, 3]);
    }

    #[test]
    fn each_shard_is_in_all_three_zones() {
        let nodes = in_zones(&["a", "a", "a", "b", "b", "c"]);
        for replicas in initial(&nodes, 32, 3) {
            let zone = |id: &NodeId| nodes.iter().find(|(node, _)| node == id).unwrap().1.clone();
            let zones: BTreeSet<_> = replicas.iter().map(zone).collect();
            assert_eq!(zones.len(), 3, "{replicas:?}");
        }
    }
}
