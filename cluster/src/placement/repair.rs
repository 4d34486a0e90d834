//! What a group needs whatever the balance: replicas in place of those that are gone or must go,
//! the right number, the best spread over zones.

use super::{
    board::{Board, BoardGroup, GroupIndex, NodeIndex},
    view::{Reason, Standing},
};

/// A group's next target.
pub(super) type Change = (Vec<NodeIndex>, Reason);

/// Where a new replica may go.
enum Place {
    /// To this node.
    At(NodeIndex),
    /// To a node that takes no more at the moment.
    Later,
    /// There is no node for it.
    Nowhere,
}

impl Board<'_> {
    /// The next change that gives a group the right replicas on usable nodes, if it needs one.
    pub(super) fn repair(&self, index: GroupIndex) -> Option<Change> {
        let group = &self.groups[index];
        let is_stuck = || {
            let gone = |node: &NodeIndex| self.nodes[*node].standing == Standing::Gone;
            group.arriving.iter().any(gone)
        };
        if group.is_changed || group.target.is_empty() || !(group.is_settled || is_stuck()) {
            return None;
        }
        let change = self.wanted_change(group)?;
        self.is_safe(group, &change.0).then_some(change)
    }

    fn wanted_change(&self, group: &BoardGroup) -> Option<Change> {
        let on = |standing| {
            let mut there =
                group.target.iter().filter(move |node| self.nodes[**node].standing == standing);
            there.next().copied()
        };
        if let Some(gone) = on(Standing::Gone) {
            return self.replaced(group, gone, Reason::Replace);
        }
        if let Some(leaving) = on(Standing::Leaving) {
            return self.replaced(group, leaving, Reason::Evacuate);
        }
        let count = group.target.len();
        if count < group.wanted.min(self.usable) {
            let Place::At(node) = self.place(group, &group.target) else { return None };
            return Some((self.exchanged(&group.target, None, Some(node)), Reason::Grow));
        }
        if count > group.wanted {
            let surplus = self.surplus(group)?;
            return Some((self.exchanged(&group.target, Some(surplus), None), Reason::Shrink));
        }
        None
    }

    /// Something else in place of the replica at `old`.
    fn replaced(&self, group: &BoardGroup, old: NodeIndex, reason: Reason) -> Option<Change> {
        let rest = self.exchanged(&group.target, Some(old), None);
        let usable = rest.iter().filter(|node| {
            matches!(self.nodes[**node].standing, Standing::Open | Standing::Keeping)
        });
        let usable = usable.count();
        if usable >= group.wanted {
            // There are enough without it.
            return Some((rest, reason));
        }
        match self.place(group, &rest) {
            Place::At(new) if group.held.len() > 2 => {
                Some((self.exchanged(&group.target, Some(old), Some(new)), reason))
            }
            // One of two or one is no minority: the new one first, then the old one goes.
            Place::At(new) => Some((self.exchanged(&group.target, None, Some(new)), reason)),
            // A gone node keeps its seat, for it may come back to it; who is to leave is let go.
            Place::Nowhere
                if reason == Reason::Evacuate && usable >= group.wanted.min(self.usable) =>
            {
                Some((rest, reason))
            }
            Place::Later | Place::Nowhere => None,
        }
    }

    /// The best node for one more replica beside `rest`: of the zone with the fewest of them, and
    /// there the one with the least load.
    fn place(&self, group: &BoardGroup, rest: &[NodeIndex]) -> Place {
        let counts = self.zone_counts(rest);
        let is_candidate = |node: &NodeIndex| {
            self.nodes[*node].is_ready()
                && !group.target.contains(node)
                && !group.held.contains(node)
        };
        let candidates = || (0..self.nodes.len()).filter(is_candidate);
        let in_zone = |node: &NodeIndex| counts[self.nodes[*node].zone];
        let Some(best_zone) = candidates().map(|node| in_zone(&node)).min() else {
            return Place::Nowhere;
        };
        let free = candidates().filter(|node| in_zone(node) == best_zone && self.may_arrive(*node));
        let least = free.min_by_key(|node| {
            let node = &self.nodes[*node];
            (node.load, node.incoming, node.id)
        });
        least.map_or(Place::Later, Place::At)
    }

    /// Which replica a group with too many can best do without.
    fn surplus(&self, group: &BoardGroup) -> Option<NodeIndex> {
        let counts = self.zone_counts(&group.target);
        group.target.iter().copied().max_by_key(|index| {
            let node = &self.nodes[*index];
            (!node.is_live, counts[node.zone], node.load, node.id)
        })
    }

    /// The next exchange that spreads a group better over the zones, if there is one.
    pub(super) fn zone_change(&self, index: GroupIndex) -> Option<Change> {
        let group = &self.groups[index];
        if group.target.len() < 2 || !self.is_at_rest(group) {
            return None;
        }
        let counts = self.zone_counts(&group.target);
        let movable = group.target.iter().copied().filter(|node| self.nodes[*node].is_ready());
        let old = movable.max_by_key(|index| {
            let node = &self.nodes[*index];
            (counts[node.zone], node.load, node.id)
        })?;
        let rest = self.exchanged(&group.target, Some(old), None);
        let Place::At(new) = self.place(group, &rest) else { return None };
        if counts[self.nodes[new].zone] + 1 >= counts[self.nodes[old].zone] {
            return None;
        }
        let change = (self.exchanged(&group.target, Some(old), Some(new)), Reason::Zones);
        self.is_safe(group, &change.0).then_some(change)
    }

    /// Whether the group can make this change, and is no worse off with it: its live voters are a
    /// majority before and after, and new voters come in place of a minority at most.
    pub(super) fn is_safe(&self, group: &BoardGroup, target: &[NodeIndex]) -> bool {
        let dropped = group.held.iter().filter(|node| !target.contains(node)).count();
        let brings_new = target.iter().any(|node| !group.held.contains(node));
        let stays_live = target.iter().any(|node| {
            group.held.contains(node) && !group.arriving.contains(node) && self.nodes[*node].is_live
        });
        let voting = group.held.iter().copied().filter(|node| !group.arriving.contains(node));
        let voting: Vec<NodeIndex> = voting.collect();
        stays_live
            && self.live(&voting) * 2 > group.held.len()
            && self.live(target) * 2 > target.len()
            && (!brings_new || dropped * 2 < group.held.len())
    }

    /// How urgent a repair is: the fewer voters the group can still lose, the more.
    pub(super) fn spare(&self, index: GroupIndex) -> usize {
        let held = &self.groups[index].held;
        self.live(held).saturating_sub(held.len() / 2 + 1)
    }
}
