//! The meta group's state machine. The topology is one row.

use bytes::Bytes;
use heliograph_storage::{Error, RowsRead, RowsWrite};

use super::{MetaCommand, MetaOutcome};
use crate::topology::Topology;

/// The only row: version byte, then the topology as MessagePack.
const TOPOLOGY_KEY: &[u8] = b"\xFF\xFFtopology";
const TOPOLOGY_VERSION: u8 = 1;

/// The meta group's state machine; holds the topology decoded.
#[derive(Debug, Default)]
pub(crate) struct MetaMachine {
    topology: Option<Topology>,
}

impl MetaMachine {
    /// Rebuilds it from rows.
    pub(crate) fn load(rows: &impl RowsRead) -> Result<Self, Error> {
        let row = rows.get(TOPOLOGY_KEY)?;
        let topology = row.as_deref().and_then(|bytes| match bytes.split_first() {
            Some((&TOPOLOGY_VERSION, body)) => rmp_serde::from_slice(body).ok(),
            _ => None,
        });
        Ok(Self { topology })
    }

    /// The topology, once the cluster is formed.
    pub(crate) fn topology(&self) -> Option<&Topology> {
        self.topology.as_ref()
    }

    /// Applies one command.
    pub(crate) fn apply(&mut self, rows: &mut impl RowsWrite, command: MetaCommand) -> MetaOutcome {
        let outcome = self.change(command);
        if outcome == MetaOutcome::Done
            && let Some(topology) = &self.topology
        {
            let mut value = vec![TOPOLOGY_VERSION];
            rmp_serde::encode::write(&mut value, topology).expect("plain data encodes into memory");
            rows.put(Bytes::from_static(TOPOLOGY_KEY), value.into());
        }
        outcome
    }

    fn change(&mut self, command: MetaCommand) -> MetaOutcome {
        match (command, &mut self.topology) {
            (MetaCommand::Bootstrap(_), Some(_)) => MetaOutcome::AlreadyFormed,
            (MetaCommand::Bootstrap(topology), none) => {
                *none = Some(*topology);
                MetaOutcome::Done
            }
            (_, None) => MetaOutcome::Unknown,
            (MetaCommand::Admit { node, incarnation }, Some(topology)) => {
                let member = topology.members.iter_mut().find(|member| member.id == node);
                let Some(member) = member else { return MetaOutcome::Unknown };
                member.admitted = true;
                member.incarnation = incarnation;
                topology.version += 1;
                MetaOutcome::Done
            }
            (MetaCommand::Join(joining), Some(topology)) => {
                match topology.members.iter_mut().find(|member| member.id == joining.id) {
                    Some(member) => member.address = joining.address,
                    None => topology.members.push(joining),
                }
                topology.version += 1;
                MetaOutcome::Done
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use heliograph_storage::MemoryRows;
    use heliograph_transport::NodeId;

    use super::*;
    use crate::topology::{Member, Settings};

    fn topology() -> Topology {
        let member = Member {
            id: NodeId(1),
            address: "127.0.0.1:1".into(),
            incarnation: 0,
            admitted: false,
        };
        Topology {
            version: 1,
            members: vec![member],
            shards: vec![vec![NodeId(1)]],
            settings: Settings::default(),
        }
    }

    #[test]
    fn a_cluster_forms_once() {
        let mut rows = MemoryRows::default();
        let mut machine = MetaMachine::default();
        let admit = MetaCommand::Admit { node: NodeId(1), incarnation: 0 };
        assert_eq!(machine.apply(&mut rows, admit.clone()), MetaOutcome::Unknown);
        let form = MetaCommand::Bootstrap(Box::new(topology()));
        assert_eq!(machine.apply(&mut rows, form.clone()), MetaOutcome::Done);
        assert_eq!(machine.apply(&mut rows, form), MetaOutcome::AlreadyFormed);
        assert_eq!(machine.apply(&mut rows, admit), MetaOutcome::Done);
        let reloaded = MetaMachine::load(&rows).unwrap();
        assert!(reloaded.topology().unwrap().members[0].admitted);
        assert_eq!(reloaded.topology(), machine.topology());
    }

    #[test]
    fn a_joining_node_appears_once_and_may_move() {
        let mut rows = MemoryRows::default();
        let mut machine = MetaMachine::default();
        machine.apply(&mut rows, MetaCommand::Bootstrap(Box::new(topology())));
        for address in ["127.0.0.1:2", "127.0.0.1:3"] {
            let member =
                Member { id: NodeId(2), address: address.into(), incarnation: 0, admitted: false };
            assert_eq!(machine.apply(&mut rows, MetaCommand::Join(member)), MetaOutcome::Done);
        }
        let members = &machine.topology().unwrap().members;
        assert_eq!(members.len(), 2);
        assert_eq!(members[1].address, "127.0.0.1:3");
    }
}
