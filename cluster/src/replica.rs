//! Where the replicas of a group are and where they should be. Pure.

use heliograph_transport::NodeId;
use serde::{Deserialize, Serialize};

/// One replica of one group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Replica {
    /// The node that runs it.
    pub node: NodeId,
    /// Which change of the group's placement made it; 0 as formed. Part of its Raft id: a replica
    /// that begins anew on the same node has another one, and what it voted before binds nobody.
    pub incarnation: u32,
}

/// The replicas of one group.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placement {
    /// Where replicas should be, the preferred leader first.
    pub target: Vec<Replica>,
    /// The voters of the Raft membership that was last reported as in place.
    pub held: Vec<Replica>,
    /// Replicas of targets that were given up before they were in place: until the next report
    /// they may be voters.
    pub former: Vec<Replica>,
    /// Replicas without a vote (only of the meta group: all other nodes).
    pub learners: Vec<Replica>,
    /// Nodes whose replica began anew since the last report.
    pub renewed: Vec<NodeId>,
    /// Counts changes of the target. 0 is as formed: only then may a pristine group be initialised.
    pub changes: u64,
}

/// Why a replica may not begin anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RenewError {
    /// Too few sound replicas would be left to tell what was accepted.
    WouldLoseMajority,
    /// The node is to hold no replica.
    NotTargeted,
}

impl Placement {
    /// A group as it is formed, on `nodes`, the preferred leader first.
    pub fn formed(nodes: &[NodeId]) -> Self {
        let first = |node: &NodeId| Replica { node: *node, incarnation: 0 };
        let target: Vec<_> = nodes.iter().map(first).collect();
        Self { held: target.clone(), target, ..Self::default() }
    }

    /// The replica that `node` is to run, if any.
    pub fn replica_of(&self, node: NodeId) -> Option<Replica> {
        let all = self.target.iter().chain(&self.learners).chain(&self.former).chain(&self.held);
        all.copied().find(|replica| replica.node == node)
    }

    /// The nodes that hold the group's data, the preferred leader first.
    pub fn holders(&self) -> Vec<NodeId> {
        let holds = |node: &NodeId| self.held.iter().any(|held| held.node == *node);
        let mut holders: Vec<_> = nodes(&self.target).filter(holds).collect();
        let others: Vec<_> = nodes(&self.held).filter(|node| !holders.contains(node)).collect();
        holders.extend(others);
        holders
    }

    /// The nodes that are to hold the group, the preferred leader first.
    pub fn target_nodes(&self) -> Vec<NodeId> {
        nodes(&self.target).collect()
    }

    /// Whether the membership was reported to be the target.
    pub fn is_settled(&self) -> bool {
        let sorted = |replicas: &[Replica]| {
            let mut replicas = replicas.to_vec();
            replicas.sort_unstable();
            replicas
        };
        self.former.is_empty()
            && self.renewed.is_empty()
            && sorted(&self.target) == sorted(&self.held)
    }

    /// Whether `node` votes, should vote, or may still be a voter.
    pub fn is_on(&self, node: NodeId) -> bool {
        [&self.target, &self.held, &self.former].into_iter().any(|list| has(list, node))
    }

    /// Sets where the replicas should be. One that runs already keeps its incarnation; others get
    /// one that no replica of this group ever had.
    pub(crate) fn retarget(&mut self, wanted: &[NodeId]) {
        self.changes += 1;
        let made = self.next_incarnation();
        let replica = |node: &NodeId| {
            self.replica_of(*node).unwrap_or(Replica { node: *node, incarnation: made })
        };
        let target: Vec<_> = wanted.iter().map(replica).collect();
        let old = std::mem::replace(&mut self.target, target);
        self.former.extend(old);
        let (target, held) = (&self.target, &self.held);
        self.former.retain(|former| !has(target, former.node) && !held.contains(former));
        self.learners.retain(|learner| !has(target, learner.node));
        self.renewed.retain(|node| has(target, *node));
    }

    /// As [`Placement::retarget`], of a group that all nodes follow: who loses its vote stays as a
    /// learner.
    pub(crate) fn retarget_voters(&mut self, wanted: &[NodeId]) {
        self.retarget(wanted);
        let leaving = [&self.held[..], &self.former[..]].concat();
        for replica in leaving {
            if !has(&self.target, replica.node) && !has(&self.learners, replica.node) {
                self.learners.push(replica);
            }
        }
        self.former.clear();
    }

    /// Adds a replica without a vote.
    pub(crate) fn add_learner(&mut self, node: NodeId) {
        if self.replica_of(node).is_none() {
            self.changes += 1;
            self.learners.push(Replica { node, incarnation: self.next_incarnation() });
        }
    }

    /// Lets the replica on `node` begin anew, with nothing of what it held.
    pub(crate) fn renew(&mut self, node: NodeId) -> Result<Replica, RenewError> {
        if !has(&self.target, node) && !has(&self.learners, node) {
            return Err(RenewError::NotTargeted);
        }
        if self.is_on(node) {
            // The membership in place may be the one that was reported or already the target.
            for voters in [&self.held, &self.target] {
                let is_sound = |voter: &NodeId| *voter != node && !self.renewed.contains(voter);
                let sound = nodes(voters).filter(is_sound).count();
                if has(voters, node) && sound < voters.len() / 2 + 1 {
                    return Err(RenewError::WouldLoseMajority);
                }
            }
            self.renewed.push(node);
        }
        self.changes += 1;
        let renewed = Replica { node, incarnation: self.next_incarnation() };
        for replica in self.target.iter_mut().chain(&mut self.learners) {
            if replica.node == node {
                *replica = renewed;
            }
        }
        Ok(renewed)
    }

    /// Notes that the membership is the target.
    pub(crate) fn settle(&mut self) {
        self.held.clone_from(&self.target);
        self.former.clear();
        self.renewed.clear();
    }

    /// Makes `voters` all there is, whatever was agreed before: see [`crate::recovery`].
    pub(crate) fn force(&mut self, voters: Vec<Replica>) {
        self.changes += 1;
        self.former.clear();
        self.renewed.clear();
        self.learners.retain(|learner| !has(&voters, learner.node));
        self.target.clone_from(&voters);
        self.held = voters;
    }

    /// Forgets a learner; whether there was one.
    pub(crate) fn remove_learner(&mut self, node: NodeId) {
        if has(&self.learners, node) {
            self.changes += 1;
            self.learners.retain(|learner| learner.node != node);
        }
    }

    fn next_incarnation(&self) -> u32 {
        u32::try_from(self.changes).expect("a group's replicas move less than 2^32 times")
    }
}

fn nodes(replicas: &[Replica]) -> impl Iterator<Item = NodeId> {
    replicas.iter().map(|replica| replica.node)
}

fn has(replicas: &[Replica], node: NodeId) -> bool {
    nodes(replicas).any(|held| held == node)
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: NodeId = NodeId(1);
    const B: NodeId = NodeId(2);
    const C: NodeId = NodeId(3);
    const D: NodeId = NodeId(4);
    const E: NodeId = NodeId(5);

    fn replica(node: NodeId, incarnation: u32) -> Replica {
        Replica { node, incarnation }
    }

    #[test]
    fn a_formed_group_is_settled() {
        let placement = Placement::formed(&[A, B, C]);
        assert!(placement.is_settled());
        assert_eq!((placement.changes, placement.replica_of(B)), (0, Some(replica(B, 0))));
        assert_eq!(placement.holders(), [A, B, C]);
    }

    #[test]
    fn a_move_keeps_both_until_it_is_reported() {
        let mut placement = Placement::formed(&[A, B, C]);
        placement.retarget(&[D, B, C]);
        assert_eq!(placement.replica_of(D), Some(replica(D, 1)));
        assert_eq!(placement.replica_of(A), Some(replica(A, 0)));
        assert_eq!(placement.holders(), [B, C, A]);
        assert!(!placement.is_settled());
        placement.settle();
        assert!(placement.is_settled());
        assert_eq!(placement.replica_of(A), None);
    }

    #[test]
    fn who_comes_back_is_another_replica() {
        let mut placement = Placement::formed(&[A, B, C]);
        placement.retarget(&[D, B, C]);
        placement.settle();
        placement.retarget(&[A, B, C]);
        assert_eq!(placement.replica_of(A), Some(replica(A, 2)));
        // D left the target, but has not left the membership.
        placement.retarget(&[D, B, C]);
        assert_eq!(placement.replica_of(D), Some(replica(D, 1)));
    }

    #[test]
    fn a_target_given_up_may_still_vote_until_the_report() {
        let mut placement = Placement::formed(&[A, B, C]);
        placement.retarget(&[D, B, C]);
        placement.retarget(&[E, B, C]);
        assert_eq!(placement.former, [replica(D, 1)]);
        assert!(placement.is_on(D));
        placement.retarget(&[A, B, C]);
        assert!(!placement.is_settled(), "the membership may be any of the three");
        placement.settle();
        assert!(placement.is_settled());
        assert_eq!((placement.replica_of(D), placement.replica_of(E)), (None, None));
    }

    #[test]
    fn a_minority_may_begin_anew_and_no_more() {
        let mut placement = Placement::formed(&[A, B, C]);
        assert_eq!(placement.renew(B), Ok(replica(B, 1)));
        assert_eq!(placement.replica_of(B), Some(replica(B, 1)));
        assert_eq!(placement.renew(C), Err(RenewError::WouldLoseMajority));
        assert_eq!(placement.renew(B), Ok(replica(B, 2)), "it was damaged again");
        placement.settle();
        assert_eq!(placement.held, [replica(A, 0), replica(B, 2), replica(C, 0)]);
        assert_eq!(placement.renew(C), Ok(replica(C, 3)));
        let mut alone = Placement::formed(&[A]);
        assert_eq!(alone.renew(A), Err(RenewError::WouldLoseMajority));
    }

    #[test]
    fn beginning_anew_counts_the_target_as_well_as_what_is_held() {
        let mut placement = Placement::formed(&[A, B, C]);
        placement.retarget(&[B, C, D]);
        assert_eq!(placement.renew(A), Err(RenewError::NotTargeted));
        assert!(placement.renew(D).is_ok());
        // B, C, D may be in place already: with B there would be C alone.
        assert_eq!(placement.renew(B), Err(RenewError::WouldLoseMajority));
    }

    #[test]
    fn a_replica_that_began_anew_and_leaves_runs_as_it_is() {
        let mut placement = Placement::formed(&[A, B, C]);
        placement.renew(B).unwrap();
        placement.retarget(&[A, C, D]);
        assert_eq!(placement.replica_of(B), Some(replica(B, 1)));
        assert_eq!(placement.renewed, []);
    }

    #[test]
    fn learners_follow_and_become_voters_as_they_are() {
        let mut meta = Placement::formed(&[A, B, C]);
        meta.add_learner(D);
        assert_eq!(meta.replica_of(D), Some(replica(D, 1)));
        assert!(meta.is_settled());
        meta.retarget_voters(&[D, B, C]);
        assert_eq!(
            (meta.replica_of(D), meta.replica_of(A)),
            (Some(replica(D, 1)), Some(replica(A, 0)))
        );
        assert_eq!(meta.learners, [replica(A, 0)]);
        meta.settle();
        assert_eq!(meta.replica_of(A), Some(replica(A, 0)));
        assert_eq!(meta.renew(A), Ok(replica(A, 3)));
        assert_eq!(meta.renewed, []);
        meta.remove_learner(A);
        assert_eq!(meta.replica_of(A), None);
    }
}
