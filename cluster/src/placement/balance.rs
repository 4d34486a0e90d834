//! Evening out how many replicas the nodes hold.
//!
//! A replica may go from a node to a less loaded one directly, or, where zones stand in the way,
//! along a path: one group's replica from the first node to a second, another group's from there
//! to a third. Shortest augmenting paths reach the least uneven spread the zones allow (the loads
//! are a sum of matroid bases, whose best points have no improving exchange).

use super::{
    board::{Board, GroupIndex, NodeIndex},
    view::Reason,
};

/// A replica of a group that goes from one node to another.
#[derive(Clone, Copy)]
struct Hop {
    group: GroupIndex,
    from: NodeIndex,
    to: NodeIndex,
}

impl Board<'_> {
    /// Plans what evens out the replicas, as far as the limits allow.
    pub(super) fn balance(&mut self) {
        let mut hosted = vec![Vec::new(); self.nodes.len()];
        for (index, group) in self.groups.iter().enumerate() {
            if group.weight > 0 && self.is_at_rest(group) {
                for node in &group.target {
                    hosted[*node].push(index);
                }
            }
        }
        // Nodes from which no less loaded one can be reached, and whatever they reach: their loads
        // differ too little, and steps planned meanwhile open no new way out.
        let mut is_closed = vec![false; self.nodes.len()];
        while self.may_balance() {
            let open = (0..self.nodes.len())
                .filter(|node| self.nodes[*node].is_ready() && !is_closed[*node]);
            let Some(source) = open.max_by_key(|node| self.nodes[*node].load) else { return };
            let path = self.path_down(source, &hosted, &mut is_closed);
            for hop in path {
                if !self.may_balance() {
                    return;
                }
                let group = &self.groups[hop.group];
                if group.is_changed {
                    continue; // two replicas of one group: the second follows once it has settled
                }
                // One or two voters get another one first; the old one goes once that is there.
                let leaving = (group.held.len() > 2).then_some(hop.from);
                let target = self.exchanged(&group.target, leaving, Some(hop.to));
                if !self.is_safe(group, &target) {
                    is_closed[source] = true;
                    continue;
                }
                if leaving.is_none() {
                    self.nodes[hop.from].load -= group.weight;
                }
                self.change(hop.group, target, Reason::Balance);
            }
        }
    }

    fn may_balance(&self) -> bool {
        self.may_move() && self.moving < self.limits.balancing
    }

    /// The shortest way from `source` to a node with at least two replicas less; closes what it
    /// has searched when there is none.
    fn path_down(
        &self,
        source: NodeIndex,
        hosted: &[Vec<GroupIndex>],
        is_closed: &mut [bool],
    ) -> Vec<Hop> {
        let load = self.nodes[source].load;
        let mut unvisited = vec![Vec::new(); self.zones];
        for node in 0..self.nodes.len() {
            if node != source && !is_closed[node] && self.may_arrive(node) {
                unvisited[self.nodes[node].zone].push(node);
            }
        }
        let mut reached_by: Vec<Option<Hop>> = vec![None; self.nodes.len()];
        let mut queue = vec![source];
        let mut next = 0;
        while let Some(&from) = queue.get(next) {
            next += 1;
            let seen = queue.len();
            for &index in &hosted[from] {
                self.visit(index, from, &mut unvisited, &mut |hop: Hop| {
                    reached_by[hop.to] = Some(hop);
                    queue.push(hop.to);
                });
            }
            let lower = queue[seen..].iter().filter(|node| self.nodes[**node].load + 2 <= load);
            if let Some(&end) = lower.min_by_key(|node| self.nodes[**node].load) {
                return trace(end, &reached_by);
            }
        }
        for node in queue {
            is_closed[node] = true;
        }
        Vec::new()
    }

    /// Tells to which unvisited nodes the group's replica at `from` may go.
    fn visit(
        &self,
        index: GroupIndex,
        from: NodeIndex,
        unvisited: &mut [Vec<NodeIndex>],
        visited: &mut impl FnMut(Hop),
    ) {
        let group = &self.groups[index];
        if group.is_changed {
            return;
        }
        let home = self.nodes[from].zone;
        let in_zone = |zone: usize| {
            group.target.iter().filter(|node| self.nodes[**node].zone == zone).count()
        };
        let at_home = in_zone(home);
        for (zone, nodes) in unvisited.iter_mut().enumerate() {
            // No zone may come to hold more of the group than the one it leaves.
            if nodes.is_empty() || (zone != home && in_zone(zone) + 1 > at_home) {
                continue;
            }
            nodes.retain(|node| {
                let stays = group.target.contains(node);
                if !stays {
                    visited(Hop { group: index, from, to: *node });
                }
                stays
            });
        }
    }
}

fn trace(end: NodeIndex, reached_by: &[Option<Hop>]) -> Vec<Hop> {
    let mut path = Vec::new();
    let mut at = end;
    while let Some(hop) = reached_by[at] {
        path.push(hop);
        at = hop.from;
    }
    path.reverse();
    path
}
