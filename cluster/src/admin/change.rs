//! Brings an operator's change to the meta leader.

use std::sync::Arc;

use tokio::time::Instant;

use super::{AdminCommand, AdminError, AdminOutcome, LEADER_PAUSE};
use crate::{
    context::Context,
    meta::MetaOutcome,
    registry::{self, Told},
};

/// The longest address: a DNS name, a colon, a port.
const ADDRESS_BYTES_MAX: usize = 253 + 6;
/// The longest zone: a word of the operator's.
const ZONE_BYTES_MAX: usize = 64;

/// Brings `command` to the meta leader and answers what came of it.
pub(super) async fn change(
    context: &Arc<Context>,
    command: AdminCommand,
    deadline: Instant,
) -> Result<AdminOutcome, AdminError> {
    check(&command)?;
    let topology = context.topology().ok_or(AdminError::NotFormed)?;
    let entropy = context.surroundings.entropy.as_ref();
    let (command, outcome) = command.prepare(&topology, entropy);
    loop {
        match registry::tell(context, &command, deadline).await {
            Told::Applied(MetaOutcome::Done) => return Ok(outcome),
            Told::Applied(refused) => return Err(refusal(refused)),
            Told::NotDone if Instant::now() + LEADER_PAUSE < deadline => {
                tokio::time::sleep(LEADER_PAUSE).await;
            }
            Told::NotDone => return Err(AdminError::NoLeader),
            Told::Unknown => return Err(AdminError::Unknown),
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
