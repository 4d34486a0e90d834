//! The meta group's state machine. The topology is one row.

use bytes::Bytes;
use heliograph_storage::{Error, GroupId, RowsRead, RowsWrite};
use heliograph_transport::NodeId;

use super::{MetaCommand, MetaOutcome, version_one};
use crate::{
    context::{META, shard_of},
    member::{Member, MemberState},
    replica::{Placement, RenewError, Replica},
    topology::Topology,
};

/// The only row: version byte, then the topology as MessagePack.
pub(super) const TOPOLOGY_KEY: &[u8] = b"\xFF\xFFtopology";
const TOPOLOGY_VERSION: u8 = 2;
/// The most replicas of a group. Seven survive three failures; more only make each write slower.
const REPLICAS_MAX: usize = 7;

/// The meta group's state machine; holds the topology decoded.
#[derive(Debug, Default)]
pub(crate) struct MetaMachine {
    topology: Option<Topology>,
}

impl MetaMachine {
    /// Rebuilds it from rows.
    pub(crate) fn load(rows: &impl RowsRead) -> Result<Self, Error> {
        let row = rows.get(TOPOLOGY_KEY)?;
        let topology = row.as_deref().and_then(|bytes| match bytes.split_first()? {
            (1, body) => version_one::topology(body),
            (&TOPOLOGY_VERSION, body) => rmp_serde::from_slice(body).ok(),
            _ => None,
        });
        Ok(Self { topology })
    }

    /// The topology, once the cluster is formed.
    pub(crate) fn topology(&self) -> Option<&Topology> {
        self.topology.as_ref()
    }

    /// Writes the registry of a restored cluster in place of the one of the backup.
    pub(crate) fn reform(rows: &mut impl RowsWrite, topology: &Topology) {
        rows.put(TOPOLOGY_KEY, encode(topology));
    }

    /// Applies one command.
    pub(crate) fn apply(&mut self, rows: &mut impl RowsWrite, command: MetaCommand) -> MetaOutcome {
        let before = self.topology.clone();
        let changed = self.change(command);
        let outcome = changed.as_ref().err().cloned().unwrap_or(MetaOutcome::Done);
        if outcome != MetaOutcome::Done {
            self.topology = before;
            return outcome;
        }
        if let Some(topology) = &mut self.topology
            && before.as_ref() != Some(topology)
        {
            topology.version += u64::from(before.is_some());
            rows.put(TOPOLOGY_KEY, encode(topology));
        }
        outcome
    }

    fn change(&mut self, command: MetaCommand) -> Result<(), MetaOutcome> {
        use MetaCommand as C;
        let Some(topology) = &mut self.topology else {
            let C::Bootstrap(topology) = command else { return Err(MetaOutcome::NotFormed) };
            self.topology = Some(*topology);
            return Ok(());
        };
        match command {
            C::Bootstrap(_) => Err(MetaOutcome::AlreadyFormed),
            C::Invite { node, address, zone, token } => {
                topology.invite(Member::invited(node, address, zone, token))
            }
            C::Admit { node, incarnation, disk, token } => {
                topology.admit(node, incarnation, disk, token)
            }
            C::SetTarget { group, target, expected_changes } => {
                topology.set_target(group, &target, expected_changes)
            }
            C::Settled { group, changes } => topology.settled(group, changes),
            C::Reseed { node, group, incarnation } => topology.reseed(node, group, incarnation),
            C::Replace { node, token } => topology.replace(node, token),
            C::SetState { node, state } => topology.set_state(node, state),
            C::Remove { node } => topology.remove(node),
            C::Recover { removed, groups } => topology.recover(&removed, groups),
            C::SetAddress { node, address } => topology.set_address(node, address),
            C::SetZone { node, zone } => {
                topology.known(node)?.zone = zone;
                Ok(())
            }
            C::ActivateFeatures { features } => {
                topology.features |= features;
                Ok(())
            }
        }
    }
}

fn encode(topology: &Topology) -> Bytes {
    let mut value = vec![TOPOLOGY_VERSION];
    rmp_serde::encode::write(&mut value, topology).expect("plain data encodes into memory");
    value.into()
}

/// How commands change the registry. An error leaves it in pieces: the machine puts it back.
impl Topology {
    fn known(&mut self, node: NodeId) -> Result<&mut Member, MetaOutcome> {
        let member = self.members.iter_mut().find(|member| member.id == node);
        member.ok_or(MetaOutcome::UnknownNode(node))
    }

    fn address_is_free(&self, node: NodeId, address: &str) -> Result<(), MetaOutcome> {
        let mut others = self.members.iter().filter(|member| member.id != node);
        match others.find(|member| member.address == address) {
            Some(other) => Err(MetaOutcome::AddressTaken(other.id)),
            None => Ok(()),
        }
    }

    fn invite(&mut self, invited: Member) -> Result<(), MetaOutcome> {
        self.address_is_free(invited.id, &invited.address)?;
        match self.members.iter_mut().find(|member| member.id == invited.id) {
            Some(member) if member.state != MemberState::Invited => Err(MetaOutcome::AlreadyMember),
            Some(member) => {
                *member = invited;
                Ok(())
            }
            None => {
                self.members.push(invited);
                Ok(())
            }
        }
    }

    fn admit(
        &mut self,
        node: NodeId,
        incarnation: u32,
        disk: Option<[u8; 16]>,
        token: Option<[u8; 32]>,
    ) -> Result<(), MetaOutcome> {
        let member = self.known(node)?;
        if member.incarnation != incarnation {
            return Err(MetaOutcome::Incarnation(member.incarnation));
        }
        if member.admitted {
            // Whoever was admitted brings its disk: an empty one is none.
            if disk != member.disk {
                return Err(MetaOutcome::OtherDisk);
            }
        } else {
            match (member.token, token) {
                (Some(_), None) => return Err(MetaOutcome::TokenMissing),
                (Some(wanted), Some(brought)) if wanted != brought => {
                    return Err(MetaOutcome::TokenWrong);
                }
                _ => {}
            }
        }
        member.disk = disk;
        member.token = None;
        member.admitted = true;
        if member.state == MemberState::Invited {
            member.state = MemberState::Active;
        }
        // Whoever has no vote in the meta group learns from it.
        self.meta.add_learner(node);
        Ok(())
    }

    fn placement_mut(&mut self, group: GroupId) -> Result<&mut Placement, MetaOutcome> {
        if group == META {
            return Ok(&mut self.meta);
        }
        let shard = shard_of(group);
        let placement = shard.and_then(|shard| self.shards.get_mut(usize::from(shard.0)));
        placement.ok_or(MetaOutcome::UnknownGroup(group))
    }

    fn set_target(
        &mut self,
        group: GroupId,
        target: &[NodeId],
        expected_changes: u64,
    ) -> Result<(), MetaOutcome> {
        let placement = self.placement_mut(group)?.clone();
        if placement.changes != expected_changes {
            return Err(MetaOutcome::Changed(placement.changes));
        }
        let is_twice = |(at, node): (usize, &NodeId)| target[..at].contains(node);
        // A cluster may have been formed with more voters of meta; their number may sink.
        let most = REPLICAS_MAX.max(placement.target.len());
        if !(1..=most).contains(&target.len()) || target.iter().enumerate().any(is_twice) {
            return Err(MetaOutcome::BadTarget);
        }
        for node in target {
            let member = self.known(*node)?;
            if !placement.is_on(*node) && !member.may_hold() {
                return Err(MetaOutcome::NotPlaceable(*node));
            }
        }
        if placement.target_nodes() == target {
            return Ok(());
        }
        match group {
            META => self.meta.retarget_voters(target),
            _ => self.placement_mut(group)?.retarget(target),
        }
        Ok(())
    }

    fn settled(&mut self, group: GroupId, changes: u64) -> Result<(), MetaOutcome> {
        let placement = self.placement_mut(group)?;
        if placement.changes != changes {
            return Err(MetaOutcome::Changed(placement.changes));
        }
        placement.settle();
        Ok(())
    }

    fn reseed(
        &mut self,
        node: NodeId,
        group: GroupId,
        incarnation: u32,
    ) -> Result<(), MetaOutcome> {
        let placement = self.placement_mut(group)?;
        match placement.replica_of(node) {
            // A later one was made since: this is a repetition.
            Some(replica) if replica.incarnation > incarnation => return Ok(()),
            Some(replica) if replica.incarnation == incarnation => {}
            _ => return Err(MetaOutcome::NotTargeted),
        }
        renew(placement, group, node)
    }

    fn replace(&mut self, node: NodeId, token: Option<[u8; 32]>) -> Result<(), MetaOutcome> {
        let member = self.known(node)?;
        member.token = token;
        if !member.admitted {
            // It has not come in this life: a new token for the same one.
            return Ok(());
        }
        member.incarnation += 1;
        member.admitted = false;
        member.disk = None;
        for (group, placement) in self.placements_mut() {
            match renew(placement, group, node) {
                Ok(()) | Err(MetaOutcome::NotTargeted) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn set_state(&mut self, node: NodeId, state: MemberState) -> Result<(), MetaOutcome> {
        let member = self.known(node)?;
        if state == MemberState::Invited || member.state == MemberState::Invited {
            return Err(MetaOutcome::BadState);
        }
        member.state = state;
        Ok(())
    }

    fn remove(&mut self, node: NodeId) -> Result<(), MetaOutcome> {
        self.known(node)?;
        if let Some((group, _)) = self.placements_mut().find(|(_, group)| group.is_on(node)) {
            return Err(MetaOutcome::StillHolds(group));
        }
        self.meta.remove_learner(node);
        self.members.retain(|member| member.id != node);
        Ok(())
    }

    /// Lost nodes are struck out; one that is to hold something still is first moved away from, and
    /// never comes back with the disk it had.
    fn recover(
        &mut self,
        removed: &[NodeId],
        groups: Vec<(GroupId, Vec<Replica>)>,
    ) -> Result<(), MetaOutcome> {
        for (group, voters) in groups {
            self.placement_mut(group)?.force(voters);
        }
        for node in removed {
            match self.remove(*node) {
                Ok(()) | Err(MetaOutcome::UnknownNode(_)) => {}
                Err(_) => {
                    let member = self.known(*node)?;
                    member.state = MemberState::Leaving;
                    member.incarnation += 1;
                    member.admitted = false;
                    member.disk = None;
                    // No token has this hash: nobody is admitted under it.
                    member.token = Some([0; 32]);
                }
            }
        }
        Ok(())
    }

    fn set_address(&mut self, node: NodeId, address: String) -> Result<(), MetaOutcome> {
        self.address_is_free(node, &address)?;
        self.known(node)?.address = address;
        Ok(())
    }

    fn placements_mut(&mut self) -> impl Iterator<Item = (GroupId, &mut Placement)> {
        let shards = self.shards.iter_mut().zip(1_u32..);
        let shards = shards.map(|(placement, group)| (GroupId(group), placement));
        std::iter::once((META, &mut self.meta)).chain(shards)
    }
}

fn renew(placement: &mut Placement, group: GroupId, node: NodeId) -> Result<(), MetaOutcome> {
    match placement.renew(node) {
        Ok(_) => Ok(()),
        Err(RenewError::WouldLoseMajority) => Err(MetaOutcome::WouldLoseMajority(group)),
        Err(RenewError::NotTargeted) => Err(MetaOutcome::NotTargeted),
    }
}
