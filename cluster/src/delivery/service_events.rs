//! What the leader's side hears: of its mailbox actors, of applied entries, of leadership.

use std::sync::Arc;

use heliograph_transport::NodeId;

use super::{
    mailboxes::MailboxWatcher,
    service::Service,
    wire::{Deliver, Parcel, RelayNotice},
};
use crate::{
    Fence, Leadership, Role, ShardObserver,
    actors::{
        mailbox::MailboxHost,
        mailbox_handle::{MailboxEvent, MailboxHandle, Refusal},
        mailbox_rest::MailboxRest,
    },
    machine::{Effect, SubscriptionId},
    model::ShardId,
};

impl MailboxHost for Service {
    fn deliver(&self, id: SubscriptionId, deliver: Deliver) {
        let content_bytes = match &deliver.parcel {
            Parcel::Messages(messages) => {
                messages.iter().map(|message| message.content.len() + 128).sum()
            }
            Parcel::Skipped { .. } => 0,
        };
        let shard = deliver.fence.shard;
        self.leases.lock().sent(id, deliver.generation, deliver.delivery_no);
        self.notify(NodeId(id.node), shard, RelayNotice::Deliver(deliver), content_bytes);
    }

    fn dropped(&self, id: SubscriptionId, generation: u32) {
        let held = self.leases.lock().release(id);
        if let Some(held) = held {
            let notice = RelayNotice::Dropped { number: id.number, generation };
            self.notify(NodeId(id.node), held.shard, notice, 0);
        }
    }

    fn passivated(&self, handle: &Arc<MailboxHandle>) {
        self.mailboxes.remove(handle);
    }

    fn wake(&self, handle: &Arc<MailboxHandle>, rest: Box<MailboxRest>) {
        self.mailboxes.wake(handle, rest);
    }
}

impl MailboxWatcher for Service {
    fn actor_failed(&self, actor: ractor::ActorId) {
        if let Some(handle) = self.mailboxes.find_by_actor(actor) {
            self.end_mailbox(&handle);
        }
    }
}

impl ShardObserver for Service {
    fn applied(&self, _shard: ShardId, _term: u64, effects: Vec<Effect>) {
        for effect in effects {
            let (mailbox, event) = match effect {
                Effect::Arrived { mailbox, pending } => (mailbox, MailboxEvent::Arrived(pending)),
                Effect::Removed { mailbox, items, reason } => {
                    (mailbox, MailboxEvent::Removed { items, reason })
                }
                // Whoever proposed the revocation tells those who hold the keys.
                Effect::KeysRevoked { .. } => continue,
            };
            let Some(handle) = self.mailboxes.find(&mailbox) else { continue };
            if let Err((Refusal::Full, _)) = handle.push(event) {
                // It would miss something: its connections begin anew from the rows.
                tracing::warn!("a mailbox actor could not keep up and starts anew");
                self.end_mailbox(&handle);
            }
        }
    }

    fn leadership(&self, shard: ShardId, leadership: &Leadership) {
        if leadership.role == Role::Acting {
            let fence = Fence { shard, term: leadership.term };
            self.mailboxes.end_shard(shard, Some(fence));
            self.enter(fence);
            return;
        }
        self.mailboxes.end_shard(shard, None);
        let mut acting = self.acting.lock();
        if acting.remove(&shard).is_some() {
            let ended = self.end_grants(shard);
            drop(acting);
            self.tell_gone(ended);
        }
    }
}
