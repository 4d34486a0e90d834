//! The registry: what its commands do, what they refuse, and that old bytes are read.

use heliograph_storage::{GroupId, MemoryRows, RowsRead, RowsWrite};
use heliograph_transport::NodeId;

use super::{MetaCommand as C, MetaMachine, MetaOutcome as O, machine::TOPOLOGY_KEY};
use crate::{
    context::META,
    member::{Member, MemberState},
    replica::{Placement, Replica},
    topology::{Settings, Topology},
};

const A: NodeId = NodeId(1);
const B: NodeId = NodeId(2);
const C3: NodeId = NodeId(300);
const D: NodeId = NodeId(4);
const SHARD: GroupId = GroupId(1);
const DISK: Option<[u8; 16]> = Some([7; 16]);
const TOKEN: Option<[u8; 32]> = Some([9; 32]);

fn topology() -> Topology {
    let member = |id: NodeId, incarnation, admitted| Member {
        incarnation,
        admitted,
        ..Member::first(id, format!("node-{id}:7400"), String::new())
    };
    Topology {
        version: 7,
        members: vec![member(A, 0, true), member(B, 0, true), member(C3, 2, false)],
        meta: Placement::formed(&[A, B, C3]),
        shards: vec![Placement::formed(&[A, B, C3]), Placement::formed(&[B, C3, A])],
        settings: Settings {
            routing_key: [0xAA; 32],
            secret_key: [0xBB; 32],
            ..Settings::default()
        },
        features: 0,
    }
}

struct Registry {
    rows: MemoryRows,
    machine: MetaMachine,
}

impl Registry {
    fn new() -> Self {
        let mut registry = Self { rows: MemoryRows::default(), machine: MetaMachine::default() };
        assert_eq!(registry.tell(C::Bootstrap(Box::new(topology()))), O::Done);
        assert_eq!(registry.tell(admit(C3, 2, None)), O::Done);
        registry
    }

    /// With D, which came by token.
    fn with_d() -> Self {
        let mut registry = Self::new();
        assert_eq!(registry.tell(invite(D)), O::Done);
        assert_eq!(registry.tell(admit(D, 0, TOKEN)), O::Done);
        registry
    }

    /// Applies what the log would say, after a reload from rows half of the time.
    fn tell(&mut self, command: C) -> O {
        let command = C::decode(&command.encode()).unwrap();
        let outcome = self.machine.apply(&mut self.rows, command);
        let reloaded = MetaMachine::load(&self.rows).unwrap();
        assert_eq!(reloaded.topology(), self.machine.topology());
        outcome
    }

    fn topology(&self) -> &Topology {
        self.machine.topology().unwrap()
    }

    fn shard(&self) -> &Placement {
        &self.topology().shards[0]
    }
}

fn invite(node: NodeId) -> C {
    C::Invite { node, address: format!("node-{node}:7400"), zone: "west".into(), token: TOKEN }
}

fn admit(node: NodeId, incarnation: u32, token: Option<[u8; 32]>) -> C {
    C::Admit { node, incarnation, disk: DISK, token }
}

fn target(nodes: &[NodeId], expected_changes: u64) -> C {
    C::SetTarget { group: SHARD, target: nodes.to_vec(), expected_changes }
}

fn unhex(text: &str) -> Vec<u8> {
    let digits = text.trim().as_bytes().chunks(2);
    digits.map(|two| u8::from_str_radix(std::str::from_utf8(two).unwrap(), 16).unwrap()).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn version_one_is_read() {
    let mut rows = MemoryRows::default();
    let row = unhex(include_str!("../../fixtures/topology-v1.hex"));
    rows.put(TOPOLOGY_KEY, row.into());
    let machine = MetaMachine::load(&rows).unwrap();
    assert_eq!(machine.topology(), Some(&topology()));
    let commands = [
        (include_str!("../../fixtures/meta-bootstrap-v1.hex"), C::Bootstrap(Box::new(topology()))),
        (
            include_str!("../../fixtures/meta-admit-v1.hex"),
            C::Admit { node: C3, incarnation: 2, disk: None, token: None },
        ),
        (
            include_str!("../../fixtures/meta-join-v1.hex"),
            C::Invite { node: D, address: "node-4:7400".into(), zone: "".into(), token: None },
        ),
    ];
    for (bytes, command) in commands {
        assert_eq!(C::decode(&unhex(bytes)), Some(command));
    }
}

#[test]
fn version_two_has_its_layout() {
    let expected = "0281a541646d697494cd012c02c41007070707070707070707070707070707c0";
    assert_eq!(hex(&admit(C3, 2, None).encode()), expected);
    let registry = Registry::with_d();
    let row = registry.rows.get(TOPOLOGY_KEY).unwrap().unwrap();
    assert_eq!(hex(&row), include_str!("../../fixtures/topology-v2.hex").trim());
    assert_eq!(C::decode(&[]), None);
    assert_eq!(C::decode(&[9, 1, 2]), None);
}

#[test]
fn features_are_switched_on_for_ever_and_written_only_then() {
    let mut registry = Registry::with_d();
    assert_eq!(registry.tell(C::ActivateFeatures { features: 0b01 }), O::Done);
    assert_eq!(registry.tell(C::ActivateFeatures { features: 0b10 }), O::Done);
    assert_eq!(registry.topology().features, 0b11);
    let version = registry.topology().version;
    assert_eq!(registry.tell(C::ActivateFeatures { features: 0b01 }), O::Done);
    assert_eq!((registry.topology().features, registry.topology().version), (0b11, version));
    let row = registry.rows.get(TOPOLOGY_KEY).unwrap().unwrap();
    let kept = include_str!("../../fixtures/topology-v2.hex").trim();
    // The same array, now of six fields.
    assert!(hex(&row).starts_with("0296") && kept.starts_with("0295"));
    assert_eq!(MetaMachine::load(&registry.rows).unwrap().topology(), Some(registry.topology()));
}

#[test]
fn a_cluster_forms_once() {
    let mut registry = Registry { rows: MemoryRows::default(), machine: MetaMachine::default() };
    assert_eq!(registry.tell(admit(A, 0, None)), O::NotFormed);
    let form = C::Bootstrap(Box::new(topology()));
    assert_eq!(registry.tell(form.clone()), O::Done);
    assert_eq!(registry.tell(form), O::AlreadyFormed);
    assert_eq!(registry.topology().version, 7);
    assert_eq!(registry.tell(admit(C3, 2, None)), O::Done);
    assert!(registry.topology().member(C3).unwrap().admitted);
    assert_eq!(registry.topology().version, 8);
}

#[test]
fn a_node_joins_with_its_token_once() {
    let mut registry = Registry::new();
    assert_eq!(registry.tell(admit(D, 0, TOKEN)), O::UnknownNode(D));
    assert_eq!(registry.tell(invite(D)), O::Done);
    assert_eq!(registry.tell(admit(D, 0, None)), O::TokenMissing);
    assert_eq!(registry.tell(admit(D, 0, Some([1; 32]))), O::TokenWrong);
    assert_eq!(registry.tell(admit(D, 1, TOKEN)), O::Incarnation(0));
    assert!(!registry.topology().member(D).unwrap().admitted);
    assert_eq!(registry.tell(admit(D, 0, TOKEN)), O::Done);
    let version = registry.topology().version;
    assert_eq!(registry.tell(admit(D, 0, TOKEN)), O::Done, "asked again");
    assert_eq!(registry.topology().version, version, "and nothing changed");
    let other = C::Admit { node: D, incarnation: 0, disk: Some([8; 16]), token: TOKEN };
    assert_eq!(registry.tell(other), O::OtherDisk);
    let member = registry.topology().member(D).unwrap();
    assert_eq!((member.state, member.token, member.disk), (MemberState::Active, None, DISK));
    assert_eq!(member.zone, "west");
    assert_eq!(registry.topology().meta.learners, [Replica { node: D, incarnation: 1 }]);
}

#[test]
fn an_invitation_can_be_renewed_until_the_node_comes() {
    let mut registry = Registry::new();
    assert_eq!(registry.tell(invite(A)), O::AlreadyMember);
    assert_eq!(registry.tell(invite(D)), O::Done);
    let moved = C::Invite {
        node: D,
        address: "node-1:7400".into(),
        zone: String::new(),
        token: Some([5; 32]),
    };
    assert_eq!(registry.tell(moved), O::AddressTaken(A));
    assert_eq!(registry.tell(C::Remove { node: D }), O::Done);
    assert_eq!(registry.topology().member(D), None);
}

#[test]
fn replicas_move_to_a_node_that_came() {
    let mut registry = Registry::new();
    assert_eq!(registry.tell(target(&[A, B, D], 0)), O::UnknownNode(D));
    registry.tell(invite(D));
    assert_eq!(registry.tell(target(&[A, B, D], 0)), O::NotPlaceable(D));
    registry.tell(admit(D, 0, TOKEN));
    for bad in [&[][..], &[A, A, B]] {
        assert_eq!(registry.tell(target(bad, 0)), O::BadTarget);
    }
    assert_eq!(registry.tell(target(&[A, B, D], 0)), O::Done);
    assert_eq!(registry.tell(target(&[A, B, C3], 0)), O::Changed(1));
    assert_eq!(registry.shard().replica_of(D), Some(Replica { node: D, incarnation: 1 }));
    assert_eq!(registry.tell(C::Settled { group: SHARD, changes: 0 }), O::Changed(1));
    assert_eq!(registry.tell(C::Settled { group: SHARD, changes: 1 }), O::Done);
    assert!(registry.shard().is_settled());
    assert_eq!(registry.shard().replica_of(C3), None);
    let unknown = C::SetTarget { group: GroupId(3), target: vec![A], expected_changes: 0 };
    assert_eq!(registry.tell(unknown), O::UnknownGroup(GroupId(3)));
}

#[test]
fn a_damaged_replica_begins_anew_unless_it_is_needed() {
    let mut registry = Registry::new();
    let reseed = |node, incarnation| C::Reseed { node, group: SHARD, incarnation };
    assert_eq!(registry.tell(reseed(D, 0)), O::NotTargeted);
    assert_eq!(registry.tell(reseed(B, 0)), O::Done);
    assert_eq!(registry.shard().replica_of(B), Some(Replica { node: B, incarnation: 1 }));
    let version = registry.topology().version;
    assert_eq!(registry.tell(reseed(B, 0)), O::Done, "asked again");
    assert_eq!(registry.topology().version, version);
    assert_eq!(registry.tell(reseed(A, 0)), O::WouldLoseMajority(SHARD));
    registry.tell(C::Settled { group: SHARD, changes: 1 });
    assert_eq!(registry.tell(reseed(A, 0)), O::Done);
}

#[test]
fn a_lost_disk_renews_all_replicas_of_its_node() {
    let mut registry = Registry::with_d();
    assert_eq!(registry.tell(C::Replace { node: B, token: TOKEN }), O::Done);
    let topology = registry.topology();
    let member = topology.member(B).unwrap();
    assert_eq!((member.incarnation, member.admitted, member.token), (1, false, TOKEN));
    assert_eq!(topology.meta.replica_of(B), Some(Replica { node: B, incarnation: 2 }));
    assert_eq!(topology.shards[1].replica_of(B), Some(Replica { node: B, incarnation: 1 }));
    let version = topology.version;
    let again = C::Replace { node: B, token: Some([5; 32]) };
    assert_eq!(registry.tell(again), O::Done, "a new token for the same life");
    assert_eq!(registry.topology().member(B).unwrap().incarnation, 1);
    assert_eq!(registry.topology().version, version + 1);
    assert_eq!(registry.tell(C::Replace { node: A, token: TOKEN }), O::WouldLoseMajority(META));
    assert!(registry.topology().member(A).unwrap().admitted, "a refusal changes nothing");
    assert_eq!(registry.tell(admit(B, 0, TOKEN)), O::Incarnation(1));
    assert_eq!(registry.tell(admit(B, 1, Some([5; 32]))), O::Done);
}

#[test]
fn a_node_leaves_when_it_holds_nothing() {
    let mut registry = Registry::with_d();
    let leaving = C::SetState { node: C3, state: MemberState::Leaving };
    assert_eq!(registry.tell(leaving), O::Done);
    let invited = C::SetState { node: C3, state: MemberState::Invited };
    assert_eq!(registry.tell(invited), O::BadState);
    assert_eq!(registry.topology().preferred(crate::model::ShardId(1)), Some(B));
    assert_eq!(registry.tell(C::Remove { node: C3 }), O::StillHolds(META));
    for (group, nodes) in [(META, [A, B, D]), (SHARD, [A, B, D]), (GroupId(2), [B, D, A])] {
        let placement = registry.topology().placement_of(group).unwrap();
        let expected_changes = placement.changes;
        let moved = C::SetTarget { group, target: nodes.to_vec(), expected_changes };
        assert_eq!(registry.tell(moved), O::Done);
        assert_eq!(registry.tell(C::Remove { node: C3 }), O::StillHolds(META));
    }
    for group in [META, SHARD, GroupId(2)] {
        assert!(matches!(registry.tell(C::Remove { node: C3 }), O::StillHolds(_)));
        let changes = registry.topology().placement_of(group).unwrap().changes;
        assert_eq!(registry.tell(C::Settled { group, changes }), O::Done);
    }
    assert_eq!(registry.tell(C::Remove { node: C3 }), O::Done);
    assert_eq!(registry.topology().meta.learners, []);
    assert_eq!(registry.tell(C::Remove { node: C3 }), O::UnknownNode(C3));
}

#[test]
fn a_node_may_move() {
    let mut registry = Registry::new();
    let moved = |node, address: &str| C::SetAddress { node, address: address.into() };
    assert_eq!(registry.tell(moved(A, "node-2:7400")), O::AddressTaken(B));
    assert_eq!(registry.tell(moved(D, "x:1")), O::UnknownNode(D));
    assert_eq!(registry.tell(moved(A, "x:1")), O::Done);
    assert_eq!(registry.tell(C::SetZone { node: A, zone: "east".into() }), O::Done);
    let member = registry.topology().member(A).unwrap();
    assert_eq!((&*member.address, &*member.zone), ("x:1", "east"));
}
