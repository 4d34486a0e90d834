//! What a leader grants to nodes: subscriptions and API keys, both under the node's lease.

use std::{sync::Arc, time::Duration};

use futures_util::future::join_all;
use heliograph_transport::NodeId;
use tokio::time::Instant;

use super::{
    leases::{Holding, LEASE},
    service::Service,
    wire::{self, Failure, KeyRecord, RelayAnswer, RelayRequest, SubscribeEntry, SubscribeResult},
};
use crate::{
    Fence, ShardHandle,
    actors::mailbox_handle::MailboxEvent,
    machine::{Command, Outcome, Resume, SubscriptionId},
    model::{MailboxKey, ShardId, Slot},
};

/// For so long after its leadership began a leader waits before it says that a revoked key is
/// honoured nowhere: the former one may have leased it until its own licence ended, a second after
/// its last quorum, and a lease lives for a second more.
const FORMER_LEASES: Duration = Duration::from_millis(2500);
/// Between two attempts to tell a node that a key is revoked.
const RETELL: Duration = Duration::from_millis(100);

impl Service {
    pub(super) fn authenticate(
        &self,
        from: NodeId,
        boot: u64,
        slot: Slot,
        key_id: u64,
    ) -> Result<RelayAnswer, Failure> {
        let (shard, fence) = self.acting_for(slot)?;
        self.enter(fence);
        let Some(key) = KeyRecord::read(&shard, slot, key_id)? else {
            return Ok(RelayAnswer::Key { lease: None, term: fence.term, key: None });
        };
        self.grant(from, boot);
        let lease = self.leases.lock().hold_key(from, slot, key_id, key.mailbox);
        // Revoked between the read and the lease: whoever revoked may have missed this holder.
        let key = KeyRecord::read(&shard, slot, key_id)?;
        Ok(RelayAnswer::Key { lease, term: fence.term, key })
    }

    pub(super) async fn revoke(
        &self,
        mailbox: MailboxKey,
        key_id: Option<u64>,
        deadline: Instant,
    ) -> Result<RelayAnswer, Failure> {
        let (shard, fence) = self.acting_for(mailbox.slot())?;
        let since = self.enter(fence);
        let command = Command::RevokeKey { mailbox, key_id };
        let outcome = self.propose_in(&shard, command, deadline).await?;
        if !matches!(outcome, Outcome::KeysRevoked { .. }) {
            return Ok(RelayAnswer::Done(outcome));
        }
        let holders = self.leases.lock().holders(&mailbox, key_id);
        let told = holders.into_iter().map(|(node, lease)| async move {
            self.tell_revoked(node, lease, mailbox, key_id, deadline).await
        });
        if join_all(told).await.contains(&Told::Unknown) {
            return Err(Failure::Unknown);
        }
        let former = since + FORMER_LEASES;
        if former > deadline {
            tokio::time::sleep_until(deadline).await;
            return Err(Failure::Unknown);
        }
        tokio::time::sleep_until(former).await;
        Ok(RelayAnswer::Revoked)
    }

    /// Tells a node until it confirms or its lease lapses.
    async fn tell_revoked(
        &self,
        node: NodeId,
        lease: u64,
        mailbox: MailboxKey,
        key_id: Option<u64>,
        deadline: Instant,
    ) -> Told {
        let request = RelayRequest::DropKeys { mailbox, key_id };
        if node == self.parts.local {
            if let Some(sink) = self.local_sink() {
                sink.drop_keys(&mailbox, key_id);
            }
            self.leases.lock().release_keys(node, &mailbox, key_id);
            return Told::Confirmed;
        }
        let Ok(shard) = self.shard_of(mailbox.slot()) else { return Told::Unknown };
        let payload = wire::encode_outgoing(&request, 0);
        loop {
            let now = Instant::now();
            if self.leases.lock().lives(node, lease, now).is_none() {
                return Told::Confirmed;
            }
            if now >= deadline {
                return Told::Unknown;
            }
            let attempt_ends = deadline.min(now + LEASE);
            let call = self.parts.peers.call(node, shard, payload.clone(), attempt_ends);
            if let Ok(answer) = call.await
                && wire::decode(&answer) == Some(RelayAnswer::Revoked)
            {
                self.leases.lock().release_keys(node, &mailbox, key_id);
                return Told::Confirmed;
            }
            tokio::time::sleep_until(deadline.min(Instant::now() + RETELL)).await;
        }
    }

    pub(super) fn subscribe(
        self: &Arc<Self>,
        from: NodeId,
        boot: u64,
        shard: ShardId,
        entries: Vec<SubscribeEntry>,
    ) -> Result<RelayAnswer, Failure> {
        let (handle, fence) = self.acting_in(shard)?;
        self.enter(fence);
        let lease = self.grant(from, boot);
        let mut results = Vec::with_capacity(entries.len());
        for entry in entries {
            results.push(self.subscribe_one(from, &handle, fence, entry)?);
        }
        Ok(RelayAnswer::Subscribed { lease, term: fence.term, results })
    }

    fn subscribe_one(
        &self,
        from: NodeId,
        handle: &ShardHandle,
        fence: Fence,
        entry: SubscribeEntry,
    ) -> Result<SubscribeResult, Failure> {
        let id = SubscriptionId { node: from.0, number: entry.number };
        if self.shard_of(entry.mailbox.slot())? != fence.shard {
            return Ok(SubscribeResult::Refused);
        }
        // Held before the key is read: a revocation after the read finds the holder.
        let holding = self.leases.lock().hold(id, entry.generation, entry.mailbox, fence.shard);
        match holding {
            Holding::New => {}
            Holding::Known => return Ok(SubscribeResult::Subscribed),
            Holding::Outdated | Holding::Full => return Ok(SubscribeResult::Refused),
        }
        let key = KeyRecord::read(handle, entry.mailbox.slot(), entry.key_id)?;
        if key.is_none_or(|key| key.mailbox != entry.mailbox) {
            self.orphaned(from, entry.number);
            return Ok(SubscribeResult::Revoked);
        }
        let event = MailboxEvent::Subscribe {
            id,
            generation: entry.generation,
            connected_ms: entry.connected_ms,
            window: entry.window,
            resume: Resume {
                in_flight: entry.in_flight,
                delivered: entry.delivered,
                unconfirmed: entry.unconfirmed,
            },
        };
        match self.send(entry.mailbox, event) {
            Ok(()) => Ok(SubscribeResult::Subscribed),
            Err(failure) => {
                self.leases.lock().release(id);
                if failure == Failure::Overloaded {
                    return Ok(SubscribeResult::Refused);
                }
                Err(failure)
            }
        }
    }

    /// Begins or prolongs a node's lease; ends what an older process of the node held.
    fn grant(&self, node: NodeId, boot: u64) -> u64 {
        let fresh = self.parts.surroundings.random();
        let (lease, ended) = self.leases.lock().grant(node, boot, fresh, Instant::now());
        for held in ended {
            self.unsubscribe(&held);
        }
        lease
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    Confirmed,
    Unknown,
}
