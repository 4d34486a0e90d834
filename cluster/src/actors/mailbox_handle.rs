//! A mailbox actor's address: what may happen to it, and the bounded inbox through which it does.

use std::{collections::VecDeque, sync::Arc};

use parking_lot::Mutex;
use ractor::ActorRef;
use tokio::sync::oneshot;

use super::{mailbox::MailboxMessage, mailbox_rest::MailboxRest};
use crate::{
    AckItem, Fence, Window,
    delivery::wire::{Place, UpdateResult},
    machine::{Pending, Removal, Resume, SubscriptionId},
    model::{MailboxKey, Message},
};

/// Events that may wait for the actor. Two full entries of a shard, all for one mailbox; past it
/// the actor ends and its connections subscribe again, which reads the rows anew.
const INBOX_MAX: usize = 8192;
/// Events handled before others get the thread.
const BATCH_MAX: usize = 128;
/// Events that wait for the next one that matters, or for the actor's look at whether it is idle.
pub(crate) const PUT_OFF_MAX: usize = 32;

/// What happens to a mailbox.
pub(crate) enum MailboxEvent {
    /// A message was accepted.
    Arrived(Pending),
    /// Messages left.
    Removed {
        /// Which.
        items: Vec<Place>,
        /// Why.
        reason: Removal,
    },
    /// A connection subscribes.
    Subscribe {
        /// Who.
        id: SubscriptionId,
        /// Which of its subscriptions.
        generation: u32,
        /// When it connected.
        connected_ms: u64,
        /// Its window.
        window: Window,
        /// What it has.
        resume: Resume,
    },
    /// A connection is gone.
    Unsubscribe(SubscriptionId),
    /// A connection wrote and acknowledged messages. The answer is what to acknowledge.
    Update {
        /// Who.
        id: SubscriptionId,
        /// Which of its subscriptions.
        generation: u32,
        /// Written.
        written: Vec<Place>,
        /// Acknowledged.
        acked: Vec<Place>,
        /// What of it may be proposed, or [`UpdateResult::Unknown`].
        answer: oneshot::Sender<Result<Vec<Place>, UpdateResult>>,
    },
    /// A REST client reads.
    Fetch(Fetching),
    /// A REST client acknowledges. The answer is what that means.
    Resolve {
        /// What it named.
        items: Vec<AckItem>,
        /// What may be proposed.
        answer: oneshot::Sender<Vec<Place>>,
    },
}

/// A read over REST.
pub(crate) struct Fetching {
    /// At most so many messages.
    pub(crate) limit: usize,
    /// At most so many bytes, but at least one message.
    pub(crate) bytes_max: usize,
    /// Only what comes after this.
    pub(crate) after: Option<Place>,
    /// Whether to answer only when there is something.
    pub(crate) waits: Waits,
    /// The answer.
    pub(crate) answer: oneshot::Sender<Vec<Arc<Message>>>,
}

/// Whether a read waits for a first message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Waits {
    /// It answers at once.
    No,
    /// It answers when there is something.
    UntilThereIsSomething,
}

/// Why an event was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The actor has ended or is ending: there may be a new one.
    Closed,
    /// The inbox is full.
    Full,
}

/// What a mailbox actor does about messages that leave its mailbox.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum OnRemoval {
    /// It may have something to push then.
    #[default]
    Wakes,
    /// It only has to forget them: that can be done with the next event. Nearly every message leaves
    /// so, and would wake an actor for nothing.
    NotesLater,
}

#[derive(Default)]
struct Inbox {
    events: VecDeque<MailboxEvent>,
    is_closed: bool,
    /// A wake is under way, or the actor works.
    is_awake: bool,
    /// What the actor does about messages that leave.
    on_removal: OnRemoval,
    actor: Option<ActorRef<MailboxMessage>>,
    /// What the mailbox is while it has no actor; the next event starts one.
    rest: Option<Box<MailboxRest>>,
}

/// A mailbox actor's address.
pub(crate) struct MailboxHandle {
    pub(crate) mailbox: MailboxKey,
    /// The licence it was started under.
    pub(crate) fence: Fence,
    inbox: Mutex<Inbox>,
}

impl MailboxHandle {
    pub(crate) fn new(mailbox: MailboxKey, fence: Fence) -> Self {
        Self { mailbox, fence, inbox: Mutex::default() }
    }

    /// Gives the handle its actor, right after that was started.
    pub(crate) fn attach(&self, actor: ActorRef<MailboxMessage>) {
        let mut inbox = self.inbox.lock();
        if inbox.is_closed {
            actor.stop(None);
            return;
        }
        inbox.is_awake = true;
        inbox.actor = Some(actor);
        inbox.wake();
    }

    /// Puts an event into the inbox, and hands it back when it cannot. A mailbox at rest is woken.
    pub(crate) fn push(
        self: &Arc<Self>,
        event: MailboxEvent,
    ) -> Result<(), (Refusal, Box<MailboxEvent>)> {
        let mut inbox = self.inbox.lock();
        if inbox.is_closed {
            return Err((Refusal::Closed, Box::new(event)));
        }
        if inbox.events.len() >= INBOX_MAX {
            return Err((Refusal::Full, Box::new(event)));
        }
        let is_put_off = matches!(event, MailboxEvent::Removed { .. })
            && inbox.on_removal == OnRemoval::NotesLater
            && inbox.rest.is_none()
            && inbox.events.len() < PUT_OFF_MAX;
        inbox.events.push_back(event);
        if !inbox.is_awake && !is_put_off {
            inbox.is_awake = true;
            inbox.wake();
        }
        // What comes until the new actor is attached waits in the inbox.
        let rest = inbox.rest.take();
        drop(inbox);
        if let Some(rest) = rest {
            rest.wake(self);
        }
        Ok(())
    }

    /// Takes no more events and ends the actor; those who wait for an answer get none.
    pub(crate) fn close(&self) {
        let mut inbox = self.inbox.lock();
        inbox.is_closed = true;
        inbox.events.clear();
        inbox.rest = None;
        if let Some(actor) = inbox.actor.take() {
            actor.stop(None);
        }
    }

    /// Whether it has no actor and needs none until something happens.
    #[cfg(test)]
    pub(crate) fn is_at_rest(&self) -> bool {
        self.inbox.lock().rest.is_some()
    }

    /// How many events wait in the inbox.
    #[cfg(test)]
    pub(crate) fn waiting(&self) -> usize {
        self.inbox.lock().events.len()
    }

    /// The actor's id, while it runs.
    pub(crate) fn actor_id(&self) -> Option<ractor::ActorId> {
        self.inbox.lock().actor.as_ref().map(|actor| actor.get_id())
    }

    /// The next batch.
    pub(super) fn take(&self) -> VecDeque<MailboxEvent> {
        let mut inbox = self.inbox.lock();
        let taken = inbox.events.len().min(BATCH_MAX);
        let rest = inbox.events.split_off(taken);
        std::mem::replace(&mut inbox.events, rest)
    }

    /// After a batch: wakes again if there is more.
    pub(super) fn batch_done(&self, on_removal: OnRemoval) {
        let mut inbox = self.inbox.lock();
        inbox.on_removal = on_removal;
        if inbox.events.is_empty() {
            inbox.is_awake = false;
        } else {
            inbox.wake();
        }
    }

    /// Takes what the mailbox is from its actor, which then ends, unless something came meanwhile.
    pub(super) fn rest(&self, rest: MailboxRest) -> bool {
        let mut inbox = self.inbox.lock();
        if inbox.is_closed || inbox.is_awake || !inbox.events.is_empty() {
            return false;
        }
        inbox.rest = Some(Box::new(rest));
        inbox.actor = None;
        true
    }

    /// Closes the inbox, unless something came meanwhile.
    pub(super) fn close_if_empty(&self) -> bool {
        let mut inbox = self.inbox.lock();
        inbox.is_closed |= inbox.events.is_empty();
        inbox.is_closed
    }
}

impl Inbox {
    fn wake(&self) {
        if let Some(actor) = &self.actor {
            // An actor that has ended takes nothing; its supervisor tells the registry.
            let _ = actor.cast(MailboxMessage::Wake);
        }
    }
}
