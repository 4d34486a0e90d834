//! Brings an operator's change to the meta leader.

use std::time::Duration;

use bytes::Bytes;
use heliograph_transport::Lane;
use serde_bytes::ByteBuf;
use tokio::time::Instant;

use super::{
    AdminCommand, AdminError, AdminOutcome,
    wire::{self, AdminAnswer, AdminRequest},
};
use crate::{
    ProposeError,
    context::{Context, META},
    meta::{MetaCommand, MetaOutcome},
    raft::EntryAnswer,
};

/// The pause before the meta leader is looked for again: an election takes a few of them.
const LEADER_PAUSE: Duration = Duration::from_millis(100);
/// The longest address: a DNS name, a colon, a port.
const ADDRESS_BYTES_MAX: usize = 253 + 6;
/// The longest zone: a word of the operator's.
const ZONE_BYTES_MAX: usize = 64;

/// Brings `command` to the meta leader and answers what came of it.
pub(super) async fn change(
    context: &Context,
    command: AdminCommand,
    deadline: Instant,
) -> Result<AdminOutcome, AdminError> {
    check(&command)?;
    let topology = context.topology().ok_or(AdminError::NotFormed)?;
    let entropy = context.surroundings.entropy.as_ref();
    let (command, outcome) = command.prepare(&topology, entropy);
    let bytes = command.encode();
    loop {
        match propose(context, bytes.clone(), deadline).await? {
            Some(MetaOutcome::Done) => return Ok(outcome),
            Some(refused) => return Err(refusal(refused)),
            None if Instant::now() + LEADER_PAUSE < deadline => {
                tokio::time::sleep(LEADER_PAUSE).await;
            }
            None => return Err(AdminError::NoLeader),
        }
    }
}

fn check(command: &AdminCommand) -> Result<(), AdminError> {
    let AdminCommand::Invite { node, address, zone } = command else { return Ok(()) };
    let host_and_port = address
        .rsplit_once(':')
        .filter(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0));
    if node.0 == 0 {
        return Err(AdminError::NodeIdZero);
    }
    if host_and_port.is_none()
        || address.len() > ADDRESS_BYTES_MAX
        || !address.bytes().all(|byte| byte.is_ascii_graphic())
    {
        return Err(AdminError::Address);
    }
    if zone.len() > ZONE_BYTES_MAX || zone.chars().any(char::is_control) {
        return Err(AdminError::Zone);
    }
    Ok(())
}

/// Proposes once, here or at the meta leader; none when it is certain that nothing was done.
async fn propose(
    context: &Context,
    command: Bytes,
    deadline: Instant,
) -> Result<Option<MetaOutcome>, AdminError> {
    let leader = context.group(META).and_then(|meta| meta.leads().leader);
    let answer = match leader {
        None => return Ok(None),
        Some(leader) if leader == context.local() => propose_here(context, command).await,
        Some(leader) => {
            let request = wire::encode(&AdminRequest::Propose(ByteBuf::from(command.to_vec())));
            match context.network.call(leader, Lane::Urgent, request, deadline).await {
                Ok(answer) => wire::decode(&answer),
                Err(error) if error.is_unsent() => return Ok(None),
                Err(_) => None,
            }
        }
    };
    match answer {
        Some(AdminAnswer::Outcome(outcome)) => Ok(Some(outcome)),
        Some(AdminAnswer::NotLeader) => Ok(None),
        _ => Err(AdminError::Unknown),
    }
}

/// Proposes on this node; none when the outcome is unknown.
pub(super) async fn propose_here(context: &Context, command: Bytes) -> Option<AdminAnswer> {
    // Bytes that are no command never enter the log.
    MetaCommand::decode(&command)?;
    let Some(meta) = context.group(META) else { return Some(AdminAnswer::NotLeader) };
    match meta.write(command).await {
        Ok(EntryAnswer::Meta(outcome)) => Some(AdminAnswer::Outcome(outcome)),
        Err(ProposeError::NotLeader { .. }) => Some(AdminAnswer::NotLeader),
        _ => None,
    }
}

fn refusal(outcome: MetaOutcome) -> AdminError {
    use MetaOutcome as O;
    match outcome {
        O::NotFormed => AdminError::NotFormed,
        O::UnknownNode(node) => AdminError::UnknownNode(node),
        O::AlreadyMember => AdminError::AlreadyMember,
        O::AddressTaken(node) => AdminError::AddressTaken(node),
        O::WouldLoseMajority(group) => AdminError::WouldLoseMajority(group.0),
        O::StillHolds(group) => AdminError::StillHolds(group.0),
        O::BadState => AdminError::NotJoined,
        _ => AdminError::Conflict,
    }
}
