//! What version 1 wrote: one incarnation a node, no zones, and replicas as bare nodes. Read for
//! ever, written no more.

use heliograph_transport::NodeId;
use serde::Deserialize;

use super::MetaCommand;
use crate::{
    member::Member,
    replica::Placement,
    topology::{Settings, Topology},
};

#[derive(Deserialize)]
struct MemberOne {
    id: NodeId,
    address: String,
    incarnation: u32,
    admitted: bool,
}

#[derive(Deserialize)]
struct TopologyOne {
    version: u64,
    members: Vec<MemberOne>,
    shards: Vec<Vec<NodeId>>,
    settings: Settings,
}

#[derive(Deserialize)]
enum CommandOne {
    Bootstrap(Box<TopologyOne>),
    Admit { node: NodeId, incarnation: u32 },
    Join(MemberOne),
}

/// Reads a topology row behind its version byte.
pub(super) fn topology(bytes: &[u8]) -> Option<Topology> {
    rmp_serde::from_slice::<TopologyOne>(bytes).ok().map(upgrade)
}

/// Reads a command behind its version byte.
pub(super) fn command(bytes: &[u8]) -> Option<MetaCommand> {
    Some(match rmp_serde::from_slice(bytes).ok()? {
        CommandOne::Bootstrap(topology) => MetaCommand::Bootstrap(Box::new(upgrade(*topology))),
        CommandOne::Admit { node, incarnation } => {
            MetaCommand::Admit { node, incarnation, disk: None, token: None }
        }
        CommandOne::Join(MemberOne { id, address, .. }) => {
            MetaCommand::Invite { node: id, address, zone: String::new(), token: None }
        }
    })
}

fn upgrade(old: TopologyOne) -> Topology {
    let nodes: Vec<_> = old.members.iter().map(|member| member.id).collect();
    let member = |old: MemberOne| Member {
        incarnation: old.incarnation,
        admitted: old.admitted,
        ..Member::first(old.id, old.address, String::new())
    };
    Topology {
        version: old.version,
        members: old.members.into_iter().map(member).collect(),
        // The first members were its voters, and nobody ever joined.
        meta: Placement::formed(&nodes),
        shards: old.shards.iter().map(|nodes| Placement::formed(nodes)).collect(),
        settings: old.settings,
        features: 0,
    }
}
