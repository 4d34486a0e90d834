//! In which order the replicas of a shard are asked: a pure plan.

use std::time::Duration;

use heliograph_transport::NodeId;

/// Hints followed in a row before the others are asked: two nodes that name each other must not
/// make a request run in circles.
const HINTS_MAX: u32 = 2;
/// The first pause after all replicas were asked in vain.
const PAUSE_FIRST: Duration = Duration::from_millis(20);
/// The longest pause. Failover takes some 300 ms; a shorter pause would let waiting requests
/// flood the nodes that elect.
const PAUSE_MAX: Duration = Duration::from_millis(320);

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Ask this node.
    Ask(NodeId),
    /// Wait so long (the caller adds jitter), or until a leader becomes known.
    Pause(Duration),
}

/// Why a node's answer did not help.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Missed {
    /// It does not lead; perhaps it knows who does.
    NotLeader(Option<NodeId>),
    /// It leads, but may not act yet.
    NotActing,
    /// It could not be reached, or was lost.
    Lost,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct RoutePlan {
    replicas: Vec<NodeId>,
    hint: Option<NodeId>,
    hints: u32,
    /// How many replicas were asked since the last pause.
    asked: usize,
    /// Where in `replicas` to go on.
    at: usize,
    pauses: u32,
}

impl RoutePlan {
    /// A plan over `replicas` (the preferred leader first), beginning with `leader`.
    pub(crate) fn new(replicas: &[NodeId], leader: Option<NodeId>) -> Self {
        Self { replicas: replicas.to_vec(), hint: leader, hints: 0, asked: 0, at: 0, pauses: 0 }
    }

    /// What to do next. `leader` is who is known to lead by now.
    pub(crate) fn step(&mut self, leader: Option<NodeId>) -> Step {
        if let Some(hint) = self.hint.take() {
            return Step::Ask(hint);
        }
        if self.asked < self.replicas.len() {
            let node = self.replicas[self.at % self.replicas.len()];
            self.at += 1;
            self.asked += 1;
            return Step::Ask(node);
        }
        self.asked = 0;
        self.hints = 0;
        self.hint = leader;
        let pause = PAUSE_FIRST.saturating_mul(1 << self.pauses.min(8)).min(PAUSE_MAX);
        self.pauses += 1;
        Step::Pause(pause)
    }

    /// Takes note that `node` did not help; `leader` is who is known to lead by now.
    pub(crate) fn missed(&mut self, node: NodeId, missed: Missed, leader: Option<NodeId>) {
        match missed {
            // It was left because another one leads now, or that became known meanwhile. To go
            // through the replicas instead would ask a dead preferred leader first, until the
            // connection to it is given up.
            Missed::Lost if leader.is_some_and(|leader| leader != node) => self.hint = leader,
            Missed::NotLeader(Some(leader)) if leader != node && self.hints < HINTS_MAX => {
                self.hints += 1;
                self.hint = Some(leader);
            }
            // The others know no better: wait for it.
            Missed::NotActing => self.asked = self.replicas.len(),
            Missed::NotLeader(_) | Missed::Lost => {}
        }
    }

    /// Takes note that `leader` became known while pausing.
    pub(crate) fn learned(&mut self, leader: Option<NodeId>) {
        if leader.is_some() {
            self.hint = leader;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: NodeId = NodeId(1);
    const B: NodeId = NodeId(2);
    const C: NodeId = NodeId(3);

    #[test]
    fn the_known_leader_is_asked_first() {
        let mut plan = RoutePlan::new(&[A, B, C], Some(C));
        assert_eq!(plan.step(None), Step::Ask(C));
        plan.missed(C, Missed::Lost, Some(C));
        assert_eq!(plan.step(None), Step::Ask(A));
    }

    #[test]
    fn hints_are_followed_but_not_in_circles() {
        let mut plan = RoutePlan::new(&[A, B, C], None);
        assert_eq!(plan.step(None), Step::Ask(A));
        plan.missed(A, Missed::NotLeader(Some(B)), None);
        assert_eq!(plan.step(None), Step::Ask(B));
        plan.missed(B, Missed::NotLeader(Some(A)), None);
        assert_eq!(plan.step(None), Step::Ask(A));
        plan.missed(A, Missed::NotLeader(Some(B)), None);
        assert_eq!(plan.step(None), Step::Ask(B), "as the next replica, not as a hint");
        plan.missed(B, Missed::NotLeader(Some(A)), None);
        assert_eq!(plan.step(None), Step::Ask(C));
        plan.missed(C, Missed::NotLeader(None), None);
        assert_eq!(plan.step(None), Step::Pause(PAUSE_FIRST));
    }

    #[test]
    fn who_was_left_for_a_new_leader_is_not_asked_again_before_it() {
        let mut plan = RoutePlan::new(&[A, B, C], Some(A));
        assert_eq!(plan.step(Some(A)), Step::Ask(A));
        plan.missed(A, Missed::Lost, Some(C));
        assert_eq!(plan.step(Some(C)), Step::Ask(C));
        // Lost as well, and nobody else is known: the replicas in turn.
        plan.missed(C, Missed::Lost, Some(C));
        assert_eq!(plan.step(Some(C)), Step::Ask(A));
    }

    #[test]
    fn a_node_that_names_itself_is_not_asked_at_once() {
        let mut plan = RoutePlan::new(&[A, B], None);
        assert_eq!(plan.step(None), Step::Ask(A));
        plan.missed(A, Missed::NotLeader(Some(A)), None);
        assert_eq!(plan.step(None), Step::Ask(B));
    }

    #[test]
    fn pauses_grow_to_the_limit_and_begin_with_the_leader_known_then() {
        let mut plan = RoutePlan::new(&[A], None);
        let mut pauses = Vec::new();
        for _ in 0..7 {
            assert_eq!(plan.step(None), Step::Ask(A));
            plan.missed(A, Missed::Lost, None);
            let Step::Pause(pause) = plan.step(None) else { panic!("all were asked") };
            pauses.push(pause.as_millis());
        }
        assert_eq!(pauses, [20, 40, 80, 160, 320, 320, 320]);
        assert_eq!(plan.step(None), Step::Ask(A));
        plan.missed(A, Missed::Lost, None);
        assert_eq!(plan.step(Some(C)), Step::Pause(PAUSE_MAX));
        assert_eq!(plan.step(None), Step::Ask(C));
    }

    #[test]
    fn a_leader_that_may_not_act_yet_is_waited_for() {
        let mut plan = RoutePlan::new(&[A, B, C], Some(B));
        assert_eq!(plan.step(None), Step::Ask(B));
        plan.missed(B, Missed::NotActing, None);
        assert_eq!(plan.step(Some(B)), Step::Pause(PAUSE_FIRST));
        assert_eq!(plan.step(None), Step::Ask(B));
    }

    #[test]
    fn a_shard_without_replicas_pauses() {
        let mut plan = RoutePlan::new(&[], None);
        assert_eq!(plan.step(None), Step::Pause(PAUSE_FIRST));
    }
}
