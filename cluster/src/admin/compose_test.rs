use super::*;
use crate::{raft::raft_id, topology::Settings};

fn topology() -> Topology {
    let member = |id| Member {
        admitted: true,
        ..Member::first(NodeId(id), format!("n{id}:7400"), String::new())
    };
    let nodes = [1, 2, 3].map(NodeId);
    Topology {
        version: 7,
        // Node 2 left, and joined again.
        members: [1, 3, 2].map(member).to_vec(),
        meta: Placement::formed(&nodes),
        shards: vec![Placement::formed(&nodes)],
        settings: Settings::default(),
        features: 0,
    }
}

fn group_report(group: u32, leader: u16, node: u16, term: u64) -> GroupReport {
    GroupReport {
        group,
        term,
        leader: Some(NodeId(leader)),
        acts: leader == node,
        committed: Some(term * 10 + u64::from(node)),
        last: Some(100),
        learners: Vec::new(),
    }
}

/// Node 1 leads meta, node 2 the shard.
fn heard(node: u16) -> Heard {
    let groups = vec![group_report(0, 1, node, 3), group_report(1, 2, node, 4)];
    let report = NodeReport { version: "1.2".into(), groups, ..NodeReport::default() };
    Heard { report: Some(report), silence: Some(Duration::ZERO) }
}

fn status(change: impl FnOnce(&mut BTreeMap<NodeId, Heard>)) -> ClusterStatus {
    let topology = topology();
    let mut heard = (1..=3).map(|node| (NodeId(node), heard(node))).collect();
    change(&mut heard);
    compose(&Known { cluster_id: [0xAB; 16], asked: NodeId(3), topology: &topology, heard })
}

#[test]
fn a_whole_cluster_is_healthy() {
    let status = status(|_| {});
    assert_eq!(status.cluster_id, "ab".repeat(16));
    assert_eq!((status.topology_version, status.answered_by), (7, NodeId(3)));
    assert_eq!(status.health, ClusterHealth::Healthy);
    assert_eq!(status.moves, []);
    assert_eq!(status.progress, None, "its leader did not tell");
    let leads: Vec<_> = status.nodes.iter().map(|node| (node.leads, node.holds)).collect();
    assert_eq!(leads, [(1, 2), (1, 2), (0, 2)]);
    assert!(status.nodes.is_sorted_by_key(|node| node.id));
    assert!(status.nodes.iter().all(|node| node.ready && node.silent_ms.is_none()));
    let shard = &status.groups[1];
    assert_eq!((shard.name.as_str(), shard.leader, shard.term), ("shard 0", Some(NodeId(2)), 4));
    assert_eq!(shard.commit_index, Some(43));
    assert_eq!(shard.acting_term.is_some(), shard.leader.is_some());
    assert_eq!(shard.live.len(), 3);
}

#[test]
fn progress_is_what_the_leader_of_meta_tells() {
    let progress = |to_do| Some(Progress { under_way: 1, done: 2, to_do });
    let status = status(|heard| {
        for node in 1..=3 {
            let report = heard.get_mut(&NodeId(node)).unwrap().report.as_mut().unwrap();
            report.progress = progress(node.into());
        }
    });
    assert_eq!(status.progress, progress(1));
}

#[test]
fn a_silent_node_is_suspected_then_gone_and_the_cluster_degraded() {
    for (silence, liveness) in [
        (Some(Duration::from_secs(3)), Liveness::Suspected),
        (Some(Duration::from_secs(31)), Liveness::Gone),
        (None, Liveness::Gone),
    ] {
        let status = status(|heard| {
            heard.insert(NodeId(3), Heard { report: None, silence });
        });
        assert_eq!(status.health, ClusterHealth::Degraded);
        let node = &status.nodes[2];
        assert_eq!(node.liveness, liveness);
        assert_eq!(node.silent_ms, silence.map(|time| time.as_millis() as u64));
        assert_eq!((node.ready, node.reason.as_deref()), (false, Some("it does not answer")));
        assert_eq!(status.groups[1].live, [NodeId(1), NodeId(2)]);
    }
}

#[test]
fn without_a_leader_the_cluster_is_unavailable() {
    let status = status(|heard| {
        heard.remove(&NodeId(2));
    });
    assert_eq!(status.health, ClusterHealth::Unavailable);
    assert_eq!(status.groups[1].leader, None);
    assert_eq!(status.groups[0].leader, Some(NodeId(1)));
}

#[test]
fn of_two_that_say_they_lead_the_later_term_counts() {
    let status = status(|heard| {
        let report = heard.get_mut(&NodeId(3)).unwrap().report.as_mut().unwrap();
        report.groups[1] = group_report(1, 3, 3, 5);
    });
    assert_eq!((status.groups[1].leader, status.groups[1].term), (Some(NodeId(3)), 5));
}

#[test]
fn learners_tell_how_far_they_are() {
    let status = status(|heard| {
        let report = heard.get_mut(&NodeId(2)).unwrap().report.as_mut().unwrap();
        report.groups[1].learners =
            vec![(raft_id(NodeId(4), 1), Some(60)), (raft_id(NodeId(5), 0), None)];
    });
    let replica = |node, incarnation| ReplicaStatus { node: NodeId(node), incarnation };
    assert_eq!(
        status.groups[1].learners,
        [
            LearnerStatus { replica: replica(4, 1), behind_entries: Some(40) },
            LearnerStatus { replica: replica(5, 0), behind_entries: None },
        ]
    );
}

#[test]
fn a_group_that_is_not_where_it_should_be_is_a_move() {
    let replica = |node| ReplicaStatus { node: NodeId(node), incarnation: 0 };
    let mut group = status(|_| {}).groups.remove(1);
    group.target = vec![replica(1), replica(2), replica(4)];
    let moving = |behind_entries| MoveStatus {
        group: 1,
        adding: vec![replica(4)],
        removing: vec![replica(3)],
        behind_entries,
    };
    assert_eq!(move_of(&group), Some(moving(None)));
    group.learners = vec![LearnerStatus { replica: replica(4), behind_entries: Some(5) }];
    assert_eq!(move_of(&group), Some(moving(Some(5))));
}
