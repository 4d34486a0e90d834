//! How a leader brings its group's Raft membership to where the registry wants it: one step at a
//! time, each decided from what is the case alone, so that any leader can go on at any point. Pure.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    raft::{incarnation_of, node_of, raft_id},
    replica::{Placement, Replica},
};

/// A learner at most this many entries behind becomes a voter.
const LAG_MAX: u64 = 64;

/// A group's membership and the state of its replication, as its leader has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Membership {
    /// The voters; two sets while it is on its way from the one to the other.
    pub(crate) voters: Vec<BTreeSet<u64>>,
    /// Who receives the log without a vote.
    pub(crate) learners: BTreeSet<u64>,
    /// Whether it is committed.
    pub(crate) is_committed: bool,
    /// Up to which index each member has the log.
    pub(crate) matched: BTreeMap<u64, u64>,
    /// The leader's last index.
    pub(crate) last: u64,
}

/// What the leader does next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Nothing: it is where it should be, or something is under way.
    Wait,
    /// Learners catch up.
    CatchUp,
    /// Let these receive the log.
    AddLearners(BTreeSet<u64>),
    /// Let these receive nothing any more.
    RemoveLearners(BTreeSet<u64>),
    /// End a change of voters that was begun.
    Flatten,
    /// Make these the voters.
    ChangeVoters(BTreeSet<u64>),
    /// Tell the registry that it is done.
    Report,
}

impl Membership {
    fn is_caught_up(&self, id: u64) -> bool {
        self.matched.get(&id).is_some_and(|matched| matched + LAG_MAX >= self.last)
    }
}

fn ids(replicas: &[Replica]) -> BTreeSet<u64> {
    replicas.iter().map(|replica| raft_id(replica.node, replica.incarnation)).collect()
}

/// Decides.
pub(crate) fn next(wanted: &Placement, now: &Membership) -> Step {
    let [voters] = &now.voters[..] else {
        return if now.is_committed && now.voters.len() > 1 { Step::Flatten } else { Step::Wait };
    };
    let members = || voters.union(&now.learners).copied();
    let is_later = |id: u64| u64::from(incarnation_of(id)) > wanted.changes;
    if !now.is_committed || members().any(is_later) {
        // The second: this node's registry is older than what the membership follows.
        return Step::Wait;
    }
    let (target, learners) = (ids(&wanted.target), ids(&wanted.learners));
    let missing: BTreeSet<u64> = target
        .union(&learners)
        .copied()
        .filter(|id| !members().any(|member| member == *id))
        .collect();
    if !missing.is_empty() {
        return Step::AddLearners(missing);
    }
    let superfluous: BTreeSet<u64> = now
        .learners
        .iter()
        .copied()
        .filter(|id| !target.contains(id) && !learners.contains(id))
        .collect();
    if !superfluous.is_empty() {
        return Step::RemoveLearners(superfluous);
    }
    if *voters == target {
        return if wanted.is_settled() { Step::Wait } else { Step::Report };
    }
    let coming: Vec<u64> = target.difference(voters).copied().collect();
    if coming.iter().all(|id| now.is_caught_up(*id)) {
        return Step::ChangeVoters(target);
    }
    // One that began anew takes the place of its dead former self without waiting for others.
    let mut better = voters.clone();
    for id in coming.iter().filter(|id| now.is_caught_up(**id)) {
        if let Some(former) = voters.iter().find(|voter| node_of(**voter) == node_of(*id)) {
            better.remove(former);
            better.insert(*id);
        }
    }
    if better == *voters { Step::CatchUp } else { Step::ChangeVoters(better) }
}

#[cfg(test)]
mod tests {
    use heliograph_transport::NodeId;

    use super::*;

    const A: NodeId = NodeId(1);
    const B: NodeId = NodeId(2);
    const C: NodeId = NodeId(3);
    const D: NodeId = NodeId(4);

    fn set(ids: &[(NodeId, u32)]) -> BTreeSet<u64> {
        ids.iter().map(|(node, incarnation)| raft_id(*node, *incarnation)).collect()
    }

    fn formed() -> Membership {
        Membership {
            voters: vec![set(&[(A, 0), (B, 0), (C, 0)])],
            is_committed: true,
            last: 1000,
            ..Membership::default()
        }
    }

    /// Does what a leader would do, everybody catching up at once; answers the steps.
    fn run(wanted: &mut Placement, now: &mut Membership) -> Vec<Step> {
        let mut steps = Vec::new();
        loop {
            let step = next(wanted, now);
            match &step {
                Step::Wait => return steps,
                Step::CatchUp => {
                    let last = now.last;
                    now.matched.extend(now.learners.iter().map(|id| (*id, last)));
                }
                Step::AddLearners(ids) => now.learners.extend(ids),
                Step::RemoveLearners(ids) => now.learners.retain(|id| !ids.contains(id)),
                Step::Flatten => drop(now.voters.remove(0)),
                Step::ChangeVoters(ids) => {
                    now.voters.push(ids.clone());
                    now.learners.retain(|id| !ids.contains(id));
                }
                Step::Report => wanted.settle(),
            }
            steps.push(step);
            assert!(steps.len() < 20, "it does not end: {steps:?}");
        }
    }

    #[test]
    fn where_all_is_well_nothing_is_done() {
        assert_eq!(next(&Placement::formed(&[A, B, C]), &formed()), Step::Wait);
    }

    #[test]
    fn a_replica_moves_step_by_step() {
        let mut wanted = Placement::formed(&[A, B, C]);
        wanted.retarget(&[A, B, D]);
        let mut now = formed();
        let d = set(&[(D, 1)]);
        let target = set(&[(A, 0), (B, 0), (D, 1)]);
        let expected = [
            Step::AddLearners(d),
            Step::CatchUp,
            Step::ChangeVoters(target.clone()),
            Step::Flatten,
            Step::Report,
        ];
        assert_eq!(run(&mut wanted, &mut now), expected);
        assert_eq!(now.voters, [target]);
        assert!(wanted.is_settled());
    }

    #[test]
    fn a_target_given_up_is_left_behind() {
        let mut wanted = Placement::formed(&[A, B, C]);
        wanted.retarget(&[A, B, D]);
        let mut now = formed();
        now.learners = set(&[(D, 1)]);
        wanted.retarget(&[A, B, C]);
        assert_eq!(
            run(&mut wanted, &mut now),
            [Step::RemoveLearners(set(&[(D, 1)])), Step::Report]
        );
    }

    #[test]
    fn who_began_anew_takes_its_place_before_others_have_come() {
        let mut wanted = Placement::formed(&[A, B, C]);
        wanted.renew(B).unwrap();
        wanted.retarget(&[A, B, D]);
        let mut now = formed();
        now.learners = set(&[(B, 1), (D, 2)]);
        now.matched = BTreeMap::from([(raft_id(B, 1), 990)]);
        let better = set(&[(A, 0), (B, 1), (C, 0)]);
        assert_eq!(next(&wanted, &now), Step::ChangeVoters(better));
    }

    #[test]
    fn nothing_is_done_before_the_last_change_is_committed() {
        let mut wanted = Placement::formed(&[A, B, C]);
        wanted.retarget(&[A, B, D]);
        let now = Membership { is_committed: false, ..formed() };
        assert_eq!(next(&wanted, &now), Step::Wait);
        let voters = vec![set(&[(A, 0), (B, 0), (C, 0)]), set(&[(A, 0), (B, 0), (D, 1)])];
        let joint = Membership { voters, ..formed() };
        assert_eq!(next(&wanted, &joint), Step::Flatten);
        assert_eq!(next(&wanted, &Membership { is_committed: false, ..joint }), Step::Wait);
    }

    #[test]
    fn an_old_registry_moves_nothing() {
        let wanted = Placement::formed(&[A, B, C]);
        let voters = vec![set(&[(A, 0), (B, 0), (D, 1)])];
        assert_eq!(next(&wanted, &Membership { voters, ..formed() }), Step::Wait);
    }

    #[test]
    fn meta_keeps_everybody_as_a_learner() {
        let mut wanted = Placement::formed(&[A, B, C]);
        wanted.add_learner(D);
        let mut now = formed();
        assert_eq!(run(&mut wanted, &mut now), [Step::AddLearners(set(&[(D, 1)]))]);
        wanted.retarget_voters(&[D, B, C]);
        let steps = run(&mut wanted, &mut now);
        assert_eq!(steps.last(), Some(&Step::Report));
        assert_eq!(now.voters, [set(&[(D, 1), (B, 0), (C, 0)])]);
    }
}
