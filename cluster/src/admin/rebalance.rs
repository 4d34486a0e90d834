//! Evens the load out when an operator asks for it.

use std::sync::Arc;

use heliograph_transport::Lane;
use tokio::time::Instant;

use super::{
    AdminError, LEADER_PAUSE,
    ask::ask,
    wire::{AdminAnswer, AdminRequest},
};
use crate::context::{Context, META};

/// Has the node that leads meta even the load out now.
pub(super) async fn rebalance(context: &Arc<Context>, deadline: Instant) -> Result<(), AdminError> {
    context.topology().ok_or(AdminError::NotFormed)?;
    loop {
        let answer = match context.group(META).and_then(|meta| meta.leads().leader) {
            Some(leader) if leader == context.local() => Some(rebalance_here(context)),
            Some(leader) => {
                ask(context, leader, Lane::Urgent, &AdminRequest::Rebalance, deadline).await
            }
            None => None,
        };
        if let Some(AdminAnswer::Begun) = answer {
            return Ok(());
        }
        if Instant::now() + LEADER_PAUSE >= deadline {
            return Err(AdminError::NoLeader);
        }
        // To ask twice does no harm.
        tokio::time::sleep(LEADER_PAUSE).await;
    }
}

/// Tells this node's controller, if it decides.
pub(super) fn rebalance_here(context: &Context) -> AdminAnswer {
    match context.group(META).and_then(|meta| meta.acting_term()) {
        Some(_) => {
            context.controller.rebalance();
            AdminAnswer::Begun
        }
        None => AdminAnswer::NotLeader,
    }
}
