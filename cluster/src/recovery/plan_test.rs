use super::*;
use crate::{
    member::Member,
    raft::raft_id,
    replica::Placement,
    topology::{Settings, Topology},
};

fn node(id: u16) -> NodeId {
    NodeId(id)
}

fn raft_ids(nodes: &[u16]) -> BTreeSet<u64> {
    nodes.iter().map(|id| raft_id(node(*id), 0)).collect()
}

fn holding(id: u16, last: (u64, u64), voters: &[u16]) -> Holding {
    Holding {
        node: node(id),
        last_term: last.0,
        last_index: last.1,
        applied_index: 1,
        term: last.0,
        voters: vec![raft_ids(voters)],
        learners: BTreeSet::new(),
    }
}

/// Five nodes; meta on all, one shard on 1, 2, 3.
fn survey(meta: Vec<Holding>, shard: Vec<Holding>) -> Survey {
    let ids: Vec<_> = (1..=5).map(node).collect();
    let member = |id: &NodeId| Member::first(*id, format!("n{id}:1"), String::new());
    let topology = Topology {
        version: 1,
        members: ids.iter().map(member).collect(),
        meta: Placement::formed(&ids),
        shards: vec![Placement::formed(&ids[..3])],
        settings: Settings::default(),
        features: 0,
    };
    let mut groups = std::collections::BTreeMap::from([(META, meta)]);
    if !shard.is_empty() {
        groups.insert(GroupId(1), shard);
    }
    Survey { groups, topology }
}

const ALL: [u16; 5] = [1, 2, 3, 4, 5];

#[test]
fn a_lost_group_goes_on_from_its_longest_log() {
    let meta = vec![holding(2, (4, 9), &ALL), holding(1, (4, 8), &ALL)];
    let shard = vec![holding(1, (7, 50), &[1, 2, 3]), holding(2, (7, 49), &[1, 2, 3])];
    let plan = plan(&survey(meta, shard), &[node(1), node(2)]).unwrap();
    assert_eq!(plan.removed, [node(3), node(4), node(5)]);
    let meta = plan.meta();
    assert!(meta.lost_quorum);
    assert_eq!((meta.kept_from, meta.forced_term), (node(2), 4 + TERMS_ABOVE));
    assert_eq!(meta.survivors, [node(1), node(2)]);
    assert_eq!(meta.lost, [node(3), node(4), node(5)]);
    let shard = &plan.groups[1];
    assert!(!shard.lost_quorum, "two of its three voters are left");
    assert_eq!(plan.lost().count(), 1);
}

#[test]
fn a_whole_registry_is_written_to_only_where_it_cannot_be_outvoted() {
    let shard = || vec![holding(1, (7, 50), &[1, 2, 3])];
    let three = || [1, 4, 5].map(|id| holding(id, (4, 9), &ALL)).to_vec();
    let plan_of = |survey: &Survey, nodes: &[u16]| {
        plan(survey, &nodes.iter().map(|id| node(*id)).collect::<Vec<_>>())
    };
    let recovered = plan_of(&survey(three(), shard()), &[1, 4, 5]).unwrap();
    assert!(!recovered.meta().lost_quorum);
    assert!(recovered.groups[1].lost_quorum);
    let mut four = three();
    four.push(holding(3, (4, 9), &ALL));
    let mut survey = survey(four, shard());
    survey.groups.insert(GroupId(1), vec![holding(3, (1, 1), &[1, 2, 3])]);
    let refused = plan_of(&survey, &[1, 3, 4, 5]);
    assert!(matches!(refused, Err(RecoveryError::RegistryTooWhole)), "{refused:?}");
}

#[test]
fn what_needs_no_recovery_or_allows_none_is_refused() {
    let three = || [1, 2, 3].map(|id| holding(id, (4, 9), &ALL)).to_vec();
    let shard = || [1, 2].map(|id| holding(id, (1, 1), &[1, 2, 3])).to_vec();
    let nodes = [node(1), node(2), node(3)];
    let nothing = plan(&survey(three(), shard()), &nodes);
    assert!(matches!(nothing, Err(RecoveryError::NothingLost)), "{nothing:?}");
    let gone = plan(&survey(three(), vec![]), &nodes);
    assert!(matches!(gone, Err(RecoveryError::NoSurvivor { .. })), "{gone:?}");
    let stranger = plan(&survey(three(), shard()), &[node(1), node(9)]);
    assert!(matches!(stranger, Err(RecoveryError::Stranger(NodeId(9)))), "{stranger:?}");
}

#[test]
fn who_has_no_vote_by_its_own_word_is_not_kept_from() {
    let meta = vec![holding(1, (4, 8), &ALL)];
    let shard = vec![holding(4, (9, 99), &[1, 2, 3]), holding(1, (7, 50), &[1, 2, 3])];
    let plan = plan(&survey(meta, shard), &[node(1), node(4)]).unwrap();
    assert_eq!(plan.groups[1].kept_from, node(1));
    assert_eq!(plan.groups[1].survivors, [node(1)]);
}

#[test]
fn while_voters_were_changing_both_sets_need_their_majority() {
    let mut changing = holding(1, (7, 50), &[1, 2, 3]);
    changing.voters.push(raft_ids(&[1, 4, 5]));
    let second = Holding { node: node(2), ..changing.clone() };
    let meta = [1, 2].map(|id| holding(id, (4, 9), &ALL)).to_vec();
    let plan = plan(&survey(meta, vec![changing, second]), &[node(1), node(2)]).unwrap();
    assert!(plan.groups[1].lost_quorum);
}
