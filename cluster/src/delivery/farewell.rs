//! Where the connections of a node that goes away go on, and how they are known again there.

use tokio::time::Instant;

use super::{
    handle::ClusterHandle,
    tickets::{self, Bearer, TICKET_LIFE},
};
use crate::{Principal, RelayError, ResumeHint, ResumeTicket, metrics};

impl ClusterHandle {
    /// The next node that serves, and a ticket for it. A node without an address of its own, or
    /// with this node's (a balancer's), cannot be aimed at: a ticket is for one node.
    pub(super) fn hint(&self, principal: &Principal) -> Option<ResumeHint> {
        let topology = self.router.topology().ok()?;
        let home = self.context.neighbours.next_home(Instant::now())?;
        let url =
            home.url.clone().filter(|url| Some(url) != self.context.config.client_url.as_ref())?;
        let mut nonce = [0; 16];
        self.context.surroundings.entropy.fill(&mut nonce);
        let bearer = Bearer { device: principal.device.clone(), key_id: principal.key_id };
        let ticket = tickets::issue(&topology.settings.secret_key, &home, &bearer, nonce);
        ::metrics::counter!(metrics::TICKETS_ISSUED_TOTAL).increment(1);
        Some(ResumeHint { url, ticket, expires_in: TICKET_LIFE })
    }

    pub(super) fn take_ticket(&self, ticket: &ResumeTicket) -> Result<Principal, RelayError> {
        let topology = self.router.topology()?;
        let secret_key = &topology.settings.secret_key;
        let bearer = self.tickets.take(secret_key, ticket, self.context.uptime_ms());
        let outcome = if bearer.is_some() { "taken" } else { "refused" };
        ::metrics::counter!(metrics::TICKETS_TOTAL, "outcome" => outcome).increment(1);
        let Bearer { device, key_id } = bearer.ok_or(RelayError::Unauthenticated)?;
        Ok(Principal { device, key_id })
    }

    pub(super) async fn confirm_key(
        &self,
        principal: Principal,
        deadline: Instant,
    ) -> Result<(), RelayError> {
        let mailbox = self.router.topology()?.key_hasher().mailbox(&principal.device);
        let record = self.find_key(mailbox.slot(), principal.key_id, deadline).await?;
        if record.device == principal.device { Ok(()) } else { Err(RelayError::Unauthenticated) }
    }
}
