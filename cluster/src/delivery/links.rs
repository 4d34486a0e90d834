//! The leases this node holds at leaders. Pure: time comes in.
//!
//! A lease counts from the moment it was asked for, so it ends here before it ends at the leader.

use std::collections::BTreeMap;

use heliograph_transport::NodeId;
use tokio::time::Instant;

use super::leases::LEASE;
use crate::model::ShardId;

/// Under what something was granted: the leader, its lease, its term.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Grant {
    pub(crate) node: NodeId,
    pub(crate) lease: u64,
    pub(crate) term: u64,
}

/// A lease to be renewed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Renewal {
    pub(crate) node: NodeId,
    pub(crate) lease: u64,
    /// What it is used for, and the terms.
    pub(crate) shards: Vec<(ShardId, u64)>,
}

#[derive(Debug)]
struct Link {
    lease: u64,
    valid_until: Instant,
    /// What the lease is used for, and the terms.
    shards: BTreeMap<ShardId, u64>,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Links {
    nodes: BTreeMap<NodeId, Link>,
}

impl Links {
    /// Notes a grant for `shard`. Answers the shards whose grants are void by it (another lease at
    /// the same leader means that the leader forgot the former), or `None` where it is void itself.
    pub(crate) fn granted(
        &mut self,
        shard: ShardId,
        grant: Grant,
        asked: Instant,
    ) -> Option<Vec<ShardId>> {
        let mut void = Vec::new();
        for (node, link) in &mut self.nodes {
            let is_older = link.shards.get(&shard).is_some_and(|term| *term < grant.term);
            if *node != grant.node && is_older {
                link.shards.remove(&shard);
                void.push(shard);
            }
        }
        let valid_until = asked + LEASE;
        let fresh = || Link { lease: grant.lease, valid_until, shards: BTreeMap::new() };
        let link = self.nodes.entry(grant.node).or_insert_with(fresh);
        if link.lease != grant.lease {
            if valid_until < link.valid_until {
                // An answer that was overtaken by a later lease.
                return None;
            }
            void.extend(std::mem::replace(link, fresh()).shards.into_keys());
        }
        link.valid_until = link.valid_until.max(valid_until);
        let before = link.shards.insert(shard, grant.term);
        if before.is_some_and(|term| term != grant.term) {
            void.push(shard);
        }
        void.sort_unstable();
        void.dedup();
        Some(void)
    }

    /// Whether what was granted still counts.
    pub(crate) fn counts(&self, shard: ShardId, grant: Grant, now: Instant) -> bool {
        let Some(link) = self.nodes.get(&grant.node) else { return false };
        link.lease == grant.lease
            && link.valid_until > now
            && link.shards.get(&shard) == Some(&grant.term)
    }

    /// What there is to renew.
    pub(crate) fn to_renew(&self) -> Vec<Renewal> {
        let links = self.nodes.iter().filter(|(_, link)| !link.shards.is_empty());
        links
            .map(|(node, link)| {
                let shards = link.shards.iter().map(|(shard, term)| (*shard, *term)).collect();
                Renewal { node: *node, lease: link.lease, shards }
            })
            .collect()
    }

    /// The leader renewed the lease at our request of `asked`, but leads `gone` no more.
    pub(crate) fn renewed(&mut self, node: NodeId, lease: u64, gone: &[ShardId], asked: Instant) {
        if let Some(link) = self.nodes.get_mut(&node)
            && link.lease == lease
        {
            link.valid_until = link.valid_until.max(asked + LEASE);
            for shard in gone {
                link.shards.remove(shard);
            }
        }
    }

    /// The leader does not know the lease. Answers the shards whose grants are void.
    pub(crate) fn unknown(&mut self, node: NodeId, lease: u64) -> Vec<ShardId> {
        if self.nodes.get(&node).is_some_and(|link| link.lease == lease) {
            return self.lost(node);
        }
        Vec::new()
    }

    /// The leader is gone. Answers the shards whose grants are void.
    pub(crate) fn lost(&mut self, node: NodeId) -> Vec<ShardId> {
        let link = self.nodes.remove(&node);
        link.map(|link| link.shards.into_keys().collect()).unwrap_or_default()
    }

    /// Another node leads `shard` in a newer term. Answers whether that voids grants.
    pub(crate) fn superseded(&mut self, shard: ShardId, node: NodeId, term: u64) -> bool {
        let mut is_void = false;
        for (leader, link) in &mut self.nodes {
            let is_older = link.shards.get(&shard).is_some_and(|known| *known < term);
            if is_older || (*leader != node && link.shards.get(&shard) == Some(&term)) {
                link.shards.remove(&shard);
                is_void = true;
            }
        }
        is_void
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const A: NodeId = NodeId(1);
    const B: NodeId = NodeId(2);
    const S: ShardId = ShardId(0);
    const T: ShardId = ShardId(1);

    fn grant(node: NodeId, lease: u64, term: u64) -> Grant {
        Grant { node, lease, term }
    }

    #[tokio::test(start_paused = true)]
    async fn a_grant_counts_for_a_second_from_the_question() {
        let asked = Instant::now();
        let mut links = Links::default();
        assert_eq!(links.granted(S, grant(A, 7, 1), asked), Some(vec![]));
        let just_before = asked + LEASE - Duration::from_millis(1);
        assert!(links.counts(S, grant(A, 7, 1), just_before));
        assert!(!links.counts(S, grant(A, 7, 1), asked + LEASE));
        assert!(!links.counts(T, grant(A, 7, 1), asked));
        links.renewed(A, 7, &[], just_before);
        assert!(links.counts(S, grant(A, 7, 1), asked + LEASE));
        links.renewed(A, 7, &[S], just_before);
        assert!(!links.counts(S, grant(A, 7, 1), just_before));
    }

    #[tokio::test(start_paused = true)]
    async fn another_lease_voids_what_the_former_covered() {
        let now = Instant::now();
        let mut links = Links::default();
        links.granted(S, grant(A, 7, 1), now);
        links.granted(T, grant(A, 7, 1), now);
        assert_eq!(links.granted(S, grant(A, 8, 1), now), Some(vec![S, T]));
        let before = now - Duration::from_millis(1);
        assert_eq!(links.granted(S, grant(A, 7, 1), before), None);
        assert!(links.counts(S, grant(A, 8, 1), now));
        assert!(!links.counts(T, grant(A, 8, 1), now));
        assert_eq!(links.unknown(A, 7), []);
        assert_eq!(links.unknown(A, 8), [S]);
        assert!(links.to_renew().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_newer_leader_voids_the_grants_of_the_older() {
        let now = Instant::now();
        let mut links = Links::default();
        links.granted(S, grant(A, 7, 1), now);
        links.granted(T, grant(A, 7, 1), now);
        assert_eq!(links.granted(S, grant(B, 9, 2), now), Some(vec![S]));
        assert!(!links.counts(S, grant(A, 7, 1), now));
        assert!(links.counts(T, grant(A, 7, 1), now));
        let renewal = |node, lease, shards| Renewal { node, lease, shards };
        let due = [renewal(A, 7, vec![(T, 1)]), renewal(B, 9, vec![(S, 2)])];
        assert_eq!(links.to_renew(), due);
        assert!(!links.superseded(S, B, 2));
        assert!(links.superseded(S, A, 3));
        assert!(!links.counts(S, grant(B, 9, 2), now));
        assert_eq!(links.lost(A), [T]);
    }
}
