//! A mailbox that is listened to and has nothing to do: a record in place of an actor, which takes
//! some twenty times as much. The next event starts an actor out of it.

use std::sync::Arc;

use super::{mailbox::MailboxHost, mailbox_handle::MailboxHandle};
use crate::{
    ShardHandle,
    machine::{Resting, SubscriptionId},
};

/// How far the deliveries of a subscription are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Numbered {
    pub(crate) generation: u32,
    pub(crate) delivery_no: u64,
}

/// See the module.
pub(crate) struct MailboxRest {
    pub(crate) shard: ShardHandle,
    pub(crate) host: Arc<dyn MailboxHost>,
    pub(super) delivery: Resting,
    pub(super) subscriptions: Box<[(SubscriptionId, Numbered)]>,
}

impl MailboxRest {
    /// Has an actor started that goes on with this.
    pub(super) fn wake(self: Box<Self>, handle: &Arc<MailboxHandle>) {
        let host = Arc::clone(&self.host);
        host.wake(handle, self);
    }
}
