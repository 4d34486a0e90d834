//! The planner's working state: the view with nodes, zones and groups as indices, loads counted,
//! and the steps planned so far already in it.

use std::collections::BTreeMap;

use heliograph_transport::NodeId;

use super::view::{Limits, Reason, Standing, Step, View};

/// A node's index on the board.
pub(super) type NodeIndex = usize;
/// A group's index on the board.
pub(super) type GroupIndex = usize;

pub(super) struct BoardNode {
    pub(super) id: NodeId,
    pub(super) zone: usize,
    pub(super) standing: Standing,
    pub(super) is_live: bool,
    /// Replicas it should hold.
    pub(super) load: usize,
    /// Groups it should lead.
    pub(super) leads: usize,
    /// Replicas on their way to it.
    pub(super) incoming: usize,
}

impl BoardNode {
    /// Whether it takes part in evening out.
    pub(super) fn is_ready(&self) -> bool {
        self.standing == Standing::Open && self.is_live
    }
}

pub(super) struct BoardGroup {
    pub(super) wanted: usize,
    pub(super) weight: usize,
    pub(super) target: Vec<NodeIndex>,
    pub(super) held: Vec<NodeIndex>,
    pub(super) arriving: Vec<NodeIndex>,
    pub(super) is_settled: bool,
    /// Whether this plan has changed its target.
    pub(super) is_changed: bool,
}

/// See the module.
pub(super) struct Board<'a> {
    view: &'a View,
    pub(super) limits: Limits,
    pub(super) nodes: Vec<BoardNode>,
    pub(super) groups: Vec<BoardGroup>,
    pub(super) zones: usize,
    /// Nodes that may hold replicas, those included that take none now.
    pub(super) usable: usize,
    /// Groups that move.
    pub(super) moving: usize,
    pub(super) steps: Vec<Step>,
}

impl<'a> Board<'a> {
    pub(super) fn new(view: &'a View, limits: Limits) -> Self {
        let mut zones: BTreeMap<&str, usize> = BTreeMap::new();
        let mut nodes = Vec::with_capacity(view.nodes.len());
        let mut index: BTreeMap<NodeId, NodeIndex> = BTreeMap::new();
        for node in &view.nodes {
            let zone_count = zones.len();
            let zone = *zones.entry(node.zone.as_str()).or_insert(zone_count);
            index.insert(node.id, nodes.len());
            nodes.push(BoardNode {
                id: node.id,
                zone,
                standing: node.standing,
                is_live: node.is_live,
                load: 0,
                leads: 0,
                incoming: 0,
            });
        }
        // A replica on a node nobody knows is lost; it gets a zone of its own.
        let strangers = zones.len();
        let mut find = |nodes: &mut Vec<BoardNode>, id: &NodeId| {
            *index.entry(*id).or_insert_with(|| {
                nodes.push(BoardNode {
                    id: *id,
                    zone: strangers,
                    standing: Standing::Gone,
                    is_live: false,
                    load: 0,
                    leads: 0,
                    incoming: 0,
                });
                nodes.len() - 1
            })
        };
        let mut groups = Vec::with_capacity(view.groups.len());
        for group in &view.groups {
            let mut indices = |ids: &[NodeId]| -> Vec<NodeIndex> {
                ids.iter().map(|id| find(&mut nodes, id)).collect()
            };
            groups.push(BoardGroup {
                wanted: group.wanted,
                weight: group.weight,
                target: indices(&group.target),
                held: indices(&group.held),
                arriving: indices(&group.arriving),
                is_settled: group.is_settled,
                is_changed: false,
            });
        }
        let usable =
            nodes.iter().filter(|node| matches!(node.standing, Standing::Open | Standing::Keeping));
        let usable = usable.count();
        let zones = zones.len() + 1;
        let mut board =
            Self { view, limits, nodes, groups, zones, usable, moving: 0, steps: Vec::new() };
        board.count();
        board
    }

    fn count(&mut self) {
        for group in &self.groups {
            for node in &group.target {
                self.nodes[*node].load += group.weight;
            }
            for node in &group.arriving {
                self.nodes[*node].incoming += 1;
            }
            if let Some(first) = group.target.first() {
                self.nodes[*first].leads += group.weight;
            }
            self.moving += usize::from(!group.is_settled);
        }
    }

    /// Whether one more group may move.
    pub(super) fn may_move(&self) -> bool {
        self.moving < self.limits.moving
    }

    /// Whether one more replica may be on its way to `node`.
    pub(super) fn may_arrive(&self, node: NodeIndex) -> bool {
        self.nodes[node].is_ready() && self.nodes[node].incoming < self.limits.incoming
    }

    /// How many of `replicas` each zone has.
    pub(super) fn zone_counts(&self, replicas: &[NodeIndex]) -> Vec<usize> {
        let mut counts = vec![0; self.zones];
        for node in replicas {
            counts[self.nodes[*node].zone] += 1;
        }
        counts
    }

    /// How many of `replicas` are live.
    pub(super) fn live(&self, replicas: &[NodeIndex]) -> usize {
        replicas.iter().filter(|node| self.nodes[**node].is_live).count()
    }

    /// Whether the group is whole and at rest: all its replicas live and on nodes that keep them,
    /// nothing of it under way or planned. Only such groups move merely for the sake of balance.
    pub(super) fn is_at_rest(&self, group: &BoardGroup) -> bool {
        let keeps = |node: &NodeIndex| {
            let node = &self.nodes[*node];
            node.is_live && matches!(node.standing, Standing::Open | Standing::Keeping)
        };
        group.is_settled
            && !group.is_changed
            && group.target.len() == group.wanted.min(self.usable)
            && group.target.iter().all(keeps)
    }

    /// `target` without `leaving` and with `coming` as its last. When the preferred leader leaves,
    /// the ready one with the fewest others takes its place.
    pub(super) fn exchanged(
        &self,
        target: &[NodeIndex],
        leaving: Option<NodeIndex>,
        coming: Option<NodeIndex>,
    ) -> Vec<NodeIndex> {
        let stays = |node: &NodeIndex| Some(*node) != leaving;
        let mut changed: Vec<NodeIndex> = target.iter().copied().filter(stays).collect();
        if leaving.is_some() && target.first().copied() == leaving {
            let ready = (0..changed.len()).filter(|place| self.nodes[changed[*place]].is_ready());
            if let Some(place) = ready.min_by_key(|place| self.nodes[changed[*place]].leads) {
                changed[..=place].rotate_right(1);
            }
        }
        changed.extend(coming);
        changed
    }

    /// Gives a group a new target.
    pub(super) fn change(&mut self, group: GroupIndex, target: Vec<NodeIndex>, reason: Reason) {
        let changing = &mut self.groups[group];
        for node in &changing.target {
            self.nodes[*node].load -= changing.weight;
        }
        if let Some(first) = changing.target.first() {
            self.nodes[*first].leads -= changing.weight;
        }
        for node in &target {
            self.nodes[*node].load += changing.weight;
        }
        if let Some(first) = target.first() {
            self.nodes[*first].leads += changing.weight;
        }
        for node in target.iter().filter(|node| !changing.held.contains(node)) {
            if !changing.arriving.contains(node) {
                self.nodes[*node].incoming += 1;
            }
        }
        // A group that waited for something gone moves already.
        self.moving += usize::from(reason.moves_replicas() && changing.is_settled);
        self.steps.push(Step {
            group: self.view.groups[group].group,
            target: target.iter().map(|node| self.nodes[*node].id).collect(),
            reason,
        });
        changing.target = target;
        changing.is_changed = true;
    }
}
