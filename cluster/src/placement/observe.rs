//! The planner's view, out of the registry and of what was heard. Pure.

use std::{collections::BTreeMap, time::Duration};

use heliograph_storage::GroupId;
use heliograph_transport::NodeId;

use super::view::{GroupView, NodeView, Standing, View};
use crate::{
    context::{META, group_of},
    member::{Member, MemberState},
    replica::Placement,
    topology::Topology,
};

/// How many voters meta has where there are nodes enough: without it nothing moves and nobody
/// joins, so it survives two failures. It writes little: that five must take it costs nothing.
const META_REPLICAS: usize = 5;
/// How many it has in smaller clusters: four survive no more failures than three.
const META_REPLICAS_FEW: usize = 3;

/// What was heard of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Heard {
    /// For how long nothing was heard of it.
    pub(crate) silence: Duration,
    /// Whether it is not suspected.
    pub(crate) is_live: bool,
}

/// Composes the planner's view.
pub(crate) fn observe(
    topology: &Topology,
    heard: &BTreeMap<NodeId, Heard>,
    replace_after: Duration,
    replicas: u8,
) -> View {
    let node = |member: &Member| {
        // Who is invited may never come: it counts once it has.
        if member.state == MemberState::Invited {
            return None;
        }
        let heard = heard.get(&member.id)?;
        Some(NodeView {
            id: member.id,
            zone: member.zone.clone(),
            standing: standing(member, heard, replace_after),
            is_live: heard.is_live,
        })
    };
    let nodes: Vec<NodeView> = topology.members.iter().filter_map(node).collect();
    let usable =
        nodes.iter().filter(|node| matches!(node.standing, Standing::Open | Standing::Keeping));
    let voters = match usable.count() {
        META_REPLICAS.. => META_REPLICAS,
        _ => META_REPLICAS_FEW,
    };
    let meta = group(META, &topology.meta, voters, 0);
    let shards = topology
        .shards()
        .zip(&topology.shards)
        .map(|(shard, placement)| group(group_of(shard), placement, usize::from(replicas), 1));
    View { nodes, groups: std::iter::once(meta).chain(shards).collect() }
}

fn standing(member: &Member, heard: &Heard, replace_after: Duration) -> Standing {
    if member.state == MemberState::Leaving {
        return Standing::Leaving;
    }
    if !heard.is_live && heard.silence >= replace_after {
        return Standing::Gone;
    }
    match heard.is_live && member.may_hold() {
        true => Standing::Open,
        false => Standing::Keeping,
    }
}

fn group(group: GroupId, placement: &Placement, wanted: usize, weight: usize) -> GroupView {
    let arriving = placement.target.iter().filter(|replica| !placement.held.contains(replica));
    GroupView {
        group,
        wanted,
        weight,
        target: placement.target_nodes(),
        held: placement.held.iter().map(|replica| replica.node).collect(),
        arriving: arriving.map(|replica| replica.node).collect(),
        is_settled: placement.is_settled(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::Settings;

    const REPLACE_AFTER: Duration = Duration::from_secs(600);

    fn topology() -> Topology {
        let member = |id: u16| {
            let mut member = Member::first(NodeId(id), format!("n{id}:7400"), format!("zone-{id}"));
            member.admitted = true;
            member
        };
        let nodes = [NodeId(1), NodeId(2), NodeId(3)];
        Topology {
            version: 1,
            members: (1..=4).map(member).collect(),
            meta: Placement::formed(&nodes),
            shards: vec![Placement::formed(&nodes), Placement::formed(&nodes)],
            settings: Settings::default(),
            features: 0,
        }
    }

    fn heard(silent: &[(u16, u64)]) -> BTreeMap<NodeId, Heard> {
        let of = |id: u16| {
            let silence = silent.iter().find(|(node, _)| *node == id).map_or(0, |(_, secs)| *secs);
            let heard = Heard { silence: Duration::from_secs(silence), is_live: silence == 0 };
            (NodeId(id), heard)
        };
        (1..=4).map(of).collect()
    }

    fn standings(topology: &Topology, silent: &[(u16, u64)]) -> Vec<Standing> {
        let view = observe(topology, &heard(silent), REPLACE_AFTER, 3);
        view.nodes.iter().map(|node| node.standing).collect()
    }

    #[test]
    fn silence_becomes_absence_only_after_the_set_time() {
        use Standing::{Gone, Keeping, Open};
        let topology = topology();
        assert_eq!(standings(&topology, &[(3, 599)]), [Open, Open, Keeping, Open]);
        assert_eq!(standings(&topology, &[(3, 600)]), [Open, Open, Gone, Open]);
    }

    #[test]
    fn who_drains_or_leaves_takes_nothing() {
        use Standing::{Gone, Keeping, Leaving, Open};
        let mut topology = topology();
        topology.members[0].state = MemberState::Draining;
        topology.members[1].state = MemberState::Leaving;
        topology.members[3].admitted = false;
        assert_eq!(standings(&topology, &[]), [Keeping, Leaving, Open, Keeping]);
        let silent = [(1, 600), (2, 600)];
        assert_eq!(standings(&topology, &silent), [Gone, Leaving, Open, Keeping]);
    }

    #[test]
    fn who_is_invited_does_not_count_yet() {
        let mut topology = topology();
        topology.members[3].state = MemberState::Invited;
        assert_eq!(standings(&topology, &[]).len(), 3);
    }

    #[test]
    fn a_replica_that_begins_anew_is_arriving() {
        let mut topology = topology();
        topology.shards[1].renew(NodeId(2)).unwrap();
        let view = observe(&topology, &heard(&[]), REPLACE_AFTER, 5);
        let [meta, first, second] = &view.groups[..] else { panic!("three groups") };
        assert_eq!((meta.group, meta.weight, meta.wanted), (META, 0, 3));
        assert!(meta.is_settled && first.is_settled && !second.is_settled);
        assert_eq!(second.arriving, [NodeId(2)]);
        assert_eq!(second.held, [NodeId(1), NodeId(2), NodeId(3)]);
    }
}
