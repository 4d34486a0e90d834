//! Which node holds which shard. Pure: functions of (nodes, counts).

use heliograph_transport::NodeId;

/// Places `shards` shards with `replicas` replicas each over `nodes` (fewer replicas where there
/// are fewer nodes): per shard the replicas, the preferred leader first. Replicas, leaders, and
/// the ranks that follow a dead leader are spread as evenly as whole numbers allow.
pub(crate) fn initial(nodes: &[NodeId], shards: u16, replicas: u8) -> Vec<Vec<NodeId>> {
    let count = nodes.len();
    let held = usize::from(replicas).min(count);
    (0..usize::from(shards))
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

    proptest! {
        #[test]
        fn replicas_are_distinct_and_evenly_spread(
            nodes in 1_u16..12,
            shards in 1_u16..257,
            replicas in prop_oneof![Just(1_u8), Just(3), Just(5)],
        ) {
            let ids: Vec<_> = (1..=nodes).map(NodeId).collect();
            let map = initial(&ids, shards, replicas);
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
            prop_assert!(spread(&held) <= i32::from(replicas), "replicas {:?}", held);
        }
    }

    #[test]
    fn a_dead_nodes_shards_fall_to_all_others() {
        let ids = [NodeId(1), NodeId(2), NodeId(3)];
        let map = initial(&ids, 12, 3);
        let heirs: Vec<_> =
            map.iter().filter(|shard| shard[0] == NodeId(1)).map(|shard| shard[1].0).collect();
        assert_eq!(heirs, [2, 3, 2, 3]);
    }
}
