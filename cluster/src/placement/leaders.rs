//! Evening out how many groups the nodes lead: only the order within targets changes.

use super::{
    board::{Board, GroupIndex, NodeIndex},
    view::Reason,
};

impl Board<'_> {
    /// Plans what evens out the preferred leaders, along shortest paths as for replicas.
    pub(super) fn balance_leaders(&mut self) {
        let mut led = vec![Vec::new(); self.nodes.len()];
        for (index, group) in self.groups.iter().enumerate() {
            if group.weight > 0
                && group.is_settled
                && !group.is_changed
                && self.is_safe(group, &group.target)
                && let Some(&first) = group.target.first()
            {
                led[first].push(index);
            }
        }
        let mut is_closed = vec![false; self.nodes.len()];
        let mut planned = 0;
        while planned < self.limits.leaders {
            let open = (0..self.nodes.len())
                .filter(|node| self.nodes[*node].is_ready() && !is_closed[*node]);
            let Some(source) = open.max_by_key(|node| self.nodes[*node].leads) else { return };
            for (group, heir) in self.lead_path(source, &led, &mut is_closed) {
                let mut target = self.groups[group].target.clone();
                if let Some(place) = target.iter().position(|node| *node == heir) {
                    target.swap(0, place);
                    self.change(group, target, Reason::Leaders);
                    planned += 1;
                }
            }
        }
    }

    /// The groups to hand on, and to whom, so that one leadership less is at `source` and one more
    /// at a node with at least two less; closes what it has searched when there is none.
    fn lead_path(
        &self,
        source: NodeIndex,
        led: &[Vec<GroupIndex>],
        is_closed: &mut [bool],
    ) -> Vec<(GroupIndex, NodeIndex)> {
        let leads = self.nodes[source].leads;
        let mut reached_by: Vec<Option<(NodeIndex, GroupIndex)>> = vec![None; self.nodes.len()];
        let mut queue = vec![source];
        let mut next = 0;
        while let Some(&from) = queue.get(next) {
            next += 1;
            for &index in &led[from] {
                let group = &self.groups[index];
                if group.is_changed {
                    continue;
                }
                for &heir in &group.target[1..] {
                    let is_new = heir != source && reached_by[heir].is_none() && !is_closed[heir];
                    if !is_new || !self.nodes[heir].is_ready() {
                        continue;
                    }
                    reached_by[heir] = Some((from, index));
                    queue.push(heir);
                    if self.nodes[heir].leads + 2 <= leads {
                        return trace(heir, &reached_by);
                    }
                }
            }
        }
        for node in queue {
            is_closed[node] = true;
        }
        Vec::new()
    }
}

fn trace(
    end: NodeIndex,
    reached_by: &[Option<(NodeIndex, GroupIndex)>],
) -> Vec<(GroupIndex, NodeIndex)> {
    let mut path = Vec::new();
    let mut at = end;
    while let Some((from, group)) = reached_by[at] {
        path.push((group, at));
        at = from;
    }
    path
}
