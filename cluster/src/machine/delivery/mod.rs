//! The pure core of a mailbox actor: who gets which message when.
//!
//! The mailbox actor on the shard's leader owns a [`Delivery`] while somebody listens. It feeds
//! what happens ([`Input`]) and does what comes back ([`Output`]). Promises:
//!
//! - Only the newest subscription is served. When a newer one appears it starts at the oldest
//!   pending message and so takes over what the older has in flight; when it goes, the older goes
//!   on where it was. Nothing is lost with a subscription, since what it had stays pending.
//! - A subscription gets ascending numbers within a priority, a higher priority first, no number
//!   twice, and for numbers that will never come a [`Output::Skipped`] in their place.
//! - A message with `contests` waits, and the later ones of its priority wait behind it, until
//!   the earlier copies are gone.
//! - At most the window is pushed and not written, at most
//!   [`DeliveryLimits::unacknowledged_max`] pushed and not acknowledged.
//! - An acknowledgement passes only for what was offered.

mod lane;
mod offers;
mod resting;
mod subscription;

use std::{collections::BTreeMap, sync::Arc};

use lane::{Lane, Next};
use offers::Offers;
pub use resting::Resting;
use subscription::Subscription;

use super::{Found, LaneRead, MailboxCounts, Pending, Removal};
use crate::{
    AckItem, Window,
    model::{Message, PRIORITIES, Priority},
};

/// A connection's subscription, unique in the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SubscriptionId {
    /// The node of the connection.
    pub node: u16,
    /// The connection's number on that node.
    pub number: u64,
}

/// The bounds of a [`Delivery`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeliveryLimits {
    /// Messages pushed to a subscription and not acknowledged. 2,048 at some 50 ms from push to
    /// committed acknowledgement is 40,000 messages a second, more than a shard takes in.
    pub unacknowledged_max: usize,
    /// Messages a read asks for. 128 small ones fill a window at once; larger ones meet
    /// `read_bytes_max` first.
    pub read_messages_max: usize,
    /// Bytes a read asks for, and a lane buffers: 1 MiB holds at least 16 of the largest.
    pub read_bytes_max: usize,
    /// Subscriptions of one mailbox; past it the oldest is dropped. 16: a device has one, or a
    /// few half-dead ones while it moves between networks.
    pub subscriptions_max: usize,
    /// Offered numbers remembered for acknowledgements by id. Never reached while it exceeds the
    /// mailbox's limit of pending messages.
    pub offers_max: usize,
}

impl Default for DeliveryLimits {
    fn default() -> Self {
        Self {
            unacknowledged_max: 2048,
            read_messages_max: 128,
            read_bytes_max: 1024 * 1024,
            subscriptions_max: 16,
            offers_max: 16_384,
        }
    }
}

/// What a connection already has when it subscribes again after a leader change. Empty for a new
/// connection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resume {
    /// Pushed to it and not yet written: (priority, number, bytes of content).
    pub in_flight: Vec<(Priority, u64, u32)>,
    /// Written and not acknowledged.
    pub delivered: Vec<(Priority, u64)>,
    /// Acknowledged by the device, not yet confirmed by the shard.
    pub unconfirmed: Vec<(Priority, u64)>,
}

/// What happened.
#[derive(Clone, Debug)]
pub enum Input {
    /// A message was accepted (`Effect::Arrived`).
    Arrived(Pending),
    /// Messages left the mailbox (`Effect::Removed`).
    Removed {
        /// Which.
        items: Vec<(Priority, u64)>,
        /// Why.
        reason: Removal,
    },
    /// The answer to [`Output::Read`]: `queries::read_lane`, done after the output was received.
    Rows {
        /// From the output.
        ticket: u64,
        /// From the output.
        priority: Priority,
        /// The rows.
        read: LaneRead,
    },
    /// A connection subscribes, or subscribes again (which replaces what was known of it).
    Subscribe {
        /// Who.
        id: SubscriptionId,
        /// When it connected, milliseconds since the Unix epoch: the greatest is the newest.
        connected_ms: u64,
        /// Its window.
        window: Window,
        /// What it already has.
        resume: Resume,
    },
    /// A connection is gone.
    Unsubscribe(SubscriptionId),
    /// A connection wrote messages to its socket: frees its window.
    Written {
        /// Who.
        id: SubscriptionId,
        /// Which.
        items: Vec<(Priority, u64)>,
    },
    /// A connection's device has messages.
    Acked {
        /// Who.
        id: SubscriptionId,
        /// Which.
        items: Vec<(Priority, u64)>,
    },
    /// Time passed; nothing else happened.
    Tick,
}

/// What the actor has to do, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Send messages to a connection.
    Push {
        /// Who.
        id: SubscriptionId,
        /// In the order of delivery.
        messages: Vec<Arc<Message>>,
    },
    /// Tell a connection that numbers will never come.
    Skipped {
        /// Who.
        id: SubscriptionId,
        /// The priority.
        priority: Priority,
        /// First number.
        from: u64,
        /// Last number.
        to: u64,
        /// Expired or cancelled.
        reason: Removal,
    },
    /// Read rows and answer with [`Input::Rows`].
    Read {
        /// For the answer.
        ticket: u64,
        /// Which priority.
        priority: Priority,
        /// From which number.
        from: u64,
        /// At most so many messages.
        limit: usize,
        /// At most so many bytes, but at least one message.
        bytes_max: usize,
    },
    /// Propose `Command::Acknowledge`. The connection's acknowledgement is confirmed once that is
    /// applied.
    Acknowledge {
        /// Who.
        id: SubscriptionId,
        /// Which; all were offered to it.
        items: Vec<(Priority, u64)>,
    },
    /// Too many subscriptions: this one, the oldest, is forgotten; close its connection.
    Dropped(SubscriptionId),
}

/// See the module.
#[derive(Debug)]
pub struct Delivery {
    limits: DeliveryLimits,
    /// Offers of messages accepted at or after this shard time are all in `offers`.
    complete_since_ms: u64,
    /// By priority level; what they buffer is for the active subscription.
    lanes: [Lane; PRIORITIES],
    subscriptions: BTreeMap<SubscriptionId, Subscription>,
    active: Option<SubscriptionId>,
    offers: Offers,
    ticket: u64,
}

impl Delivery {
    /// For a mailbox that holds `counts`, read after this leader's term began. From
    /// `complete_since_ms` on (shard time) every offer to the device went through this value:
    /// messages accepted before may have been offered by someone else.
    pub fn new(limits: DeliveryLimits, counts: &MailboxCounts, complete_since_ms: u64) -> Self {
        Self {
            limits,
            complete_since_ms,
            lanes: std::array::from_fn(|level| Lane::new(counts.lanes[level].next_seq)),
            subscriptions: BTreeMap::new(),
            active: None,
            offers: Offers::new(limits.offers_max),
            ticket: 0,
        }
    }

    /// Takes what happened at shard time `now_ms`; answers what to do.
    pub fn handle(&mut self, input: Input, now_ms: u64) -> Vec<Output> {
        let mut outputs = Vec::new();
        match input {
            Input::Arrived(pending) => {
                let limits = self.limits;
                self.lane_mut(pending.message.priority).arrived(pending, &limits);
            }
            Input::Removed { items, reason } => self.removed(&items, reason),
            Input::Rows { ticket, priority, read } => self.rows(ticket, priority, read),
            Input::Subscribe { id, connected_ms, window, resume } => {
                self.subscribe(id, connected_ms, window, resume, &mut outputs);
            }
            Input::Unsubscribe(id) => {
                self.subscriptions.remove(&id);
                self.choose_active();
            }
            Input::Written { id, items } => {
                if let Some(subscription) = self.subscriptions.get_mut(&id) {
                    subscription.written(&items);
                }
            }
            Input::Acked { id, items } => {
                if let Some(subscription) = self.subscriptions.get_mut(&id) {
                    let items = subscription.acked(&items);
                    if !items.is_empty() {
                        outputs.push(Output::Acknowledge { id, items });
                    }
                }
            }
            Input::Tick => {}
        }
        self.pump(now_ms, &mut outputs);
        outputs
    }

    /// Offers messages to a REST reader (from `queries::mailbox_pending`): holds back contested
    /// copies and what follows them in their priority, and remembers the rest as offered.
    pub fn offer(&mut self, items: Vec<Pending>) -> Vec<Arc<Message>> {
        let mut blocked = [false; PRIORITIES];
        let mut offered = Vec::with_capacity(items.len());
        for item in items {
            let blocked = &mut blocked[usize::from(item.message.priority.level())];
            *blocked |= !item.contests.is_empty() || !self.offers.admits(&item);
            if !*blocked {
                self.offers.note(&item);
                offered.push(item.message);
            }
        }
        offered
    }

    /// Finds what an acknowledgement over REST means among the offers. The second list is what is
    /// not known here: look each up (`queries::search_page`, `queries::find`) and ask
    /// [`Delivery::settle`].
    pub fn resolve(&self, items: &[AckItem]) -> (Vec<(Priority, u64)>, Vec<AckItem>) {
        let mut places = Vec::with_capacity(items.len());
        let mut unknown = Vec::new();
        for item in items {
            let place = match item {
                AckItem::Id(id) => self.offers.by_id(id),
                AckItem::Seq(priority, seq) => {
                    let place = (*priority, *seq);
                    let offered = self.offers.contains(place)
                        || self.subscriptions.values().any(|one| one.has(place));
                    offered.then_some(place)
                }
            };
            match place {
                Some(place) => places.push(place),
                None => unknown.push(item.clone()),
            }
        }
        (places, unknown)
    }

    /// Which of the messages found for one [`AckItem`] (in order of acceptance) an acknowledgement
    /// means that is not in the offers: the first, if an earlier leader may have offered it, and
    /// if no later acknowledgement of an earlier copy could be mistaken for it.
    pub fn settle(&self, item: &AckItem, found: &[Found]) -> Option<(Priority, u64)> {
        let first = found.first()?;
        let exact = matches!(item, AckItem::Seq(..));
        let known = first.accepted_ms < self.complete_since_ms && (exact || !first.contested);
        known.then_some((first.priority, first.seq))
    }

    /// Whether there is something that may be pushed once other messages leave, or places in the
    /// window become free.
    pub fn has_waiting(&self) -> bool {
        !self.lanes.iter().all(Lane::is_at_rest)
    }

    /// Whether nobody subscribes and nothing is remembered as offered.
    pub fn is_idle(&self) -> bool {
        self.subscriptions.is_empty() && self.offers.is_empty()
    }

    /// Whether anybody subscribes.
    pub fn has_subscriptions(&self) -> bool {
        !self.subscriptions.is_empty()
    }

    /// The subscription that is served.
    pub fn active(&self) -> Option<SubscriptionId> {
        self.active
    }

    /// How many messages `id` has and did not acknowledge, and how many of them it did not write.
    pub fn load(&self, id: SubscriptionId) -> Option<(usize, usize)> {
        self.subscriptions.get(&id).map(Subscription::load)
    }

    fn lane_mut(&mut self, priority: Priority) -> &mut Lane {
        &mut self.lanes[usize::from(priority.level())]
    }

    fn removed(&mut self, items: &[(Priority, u64)], reason: Removal) {
        for &place in items {
            self.offers.forget(place);
            for subscription in self.subscriptions.values_mut() {
                subscription.removed(place);
            }
            self.lane_mut(place.0).removed(place.1, reason);
            for lane in &mut self.lanes {
                lane.settled(place, reason);
            }
        }
    }

    fn rows(&mut self, ticket: u64, priority: Priority, read: LaneRead) {
        let Some(active) = self.active.and_then(|id| self.subscriptions.get_mut(&id)) else {
            return;
        };
        let lane = &mut self.lanes[usize::from(priority.level())];
        if lane.is_awaited(ticket) {
            active.retain_pending(priority, &read);
            lane.rows(priority, read);
        }
    }

    fn subscribe(
        &mut self,
        id: SubscriptionId,
        connected_ms: u64,
        window: Window,
        resume: Resume,
        outputs: &mut Vec<Output>,
    ) {
        if !resume.unconfirmed.is_empty() {
            outputs.push(Output::Acknowledge { id, items: resume.unconfirmed.clone() });
        }
        self.subscriptions.insert(id, Subscription::new(connected_ms, window, resume));
        if self.subscriptions.len() > self.limits.subscriptions_max {
            let oldest = self.subscriptions.iter().map(|(id, one)| (one.connected_ms, *id)).min();
            if let Some((_, oldest)) = oldest {
                self.subscriptions.remove(&oldest);
                outputs.push(Output::Dropped(oldest));
            }
        }
        // Even where the same one stays active: its cursors start anew.
        self.active = None;
        self.choose_active();
    }

    fn newest(&self) -> Option<SubscriptionId> {
        let newest = self.subscriptions.iter().map(|(id, one)| (one.connected_ms, *id)).max();
        newest.map(|(_, id)| id)
    }

    fn choose_active(&mut self) {
        let newest = self.newest();
        if newest == self.active {
            return;
        }
        self.active = newest;
        let next = newest.and_then(|id| self.subscriptions.get(&id)).map(|one| one.next);
        for (level, lane) in self.lanes.iter_mut().enumerate() {
            lane.restart(next.map(|next| next[level]));
        }
    }

    /// Pushes what may be pushed to the active subscription; asks for the rows it lacks.
    fn pump(&mut self, now_ms: u64, outputs: &mut Vec<Output>) {
        let Some(id) = self.active else { return };
        let Some(subscription) = self.subscriptions.get_mut(&id) else { return };
        let mut batch = Vec::new();
        'lanes: for priority in Priority::ALL {
            let level = usize::from(priority.level());
            let lane = &mut self.lanes[level];
            loop {
                if let Some(place) = lane.front().filter(|place| subscription.has(*place)) {
                    lane.pop();
                    subscription.next[level] = place.1 + 1;
                    continue;
                }
                if subscription.is_full(self.limits.unacknowledged_max) {
                    break 'lanes;
                }
                match lane.next(now_ms) {
                    Next::Nothing => break,
                    // What is on its way may be of this priority: the lower ones wait.
                    Next::Awaited => break 'lanes,
                    Next::Unread => {
                        self.ticket += 1;
                        let from = lane.ask(self.ticket);
                        outputs.extend(flush(id, &mut batch));
                        outputs.push(Output::Read {
                            ticket: self.ticket,
                            priority,
                            from,
                            limit: self.limits.read_messages_max,
                            bytes_max: self.limits.read_bytes_max,
                        });
                        break 'lanes;
                    }
                    Next::Skip(gap) => {
                        lane.pop();
                        subscription.next[level] = gap.to + 1;
                        outputs.extend(flush(id, &mut batch));
                        let (from, to, reason) = (gap.from, gap.to, gap.reason);
                        outputs.push(Output::Skipped { id, priority, from, to, reason });
                    }
                    Next::Message(pending) => {
                        let place = pending.place();
                        let bytes = pending.message.content.len();
                        if !subscription.admits(bytes) {
                            break 'lanes;
                        }
                        subscription.pushed(place, bytes);
                        self.offers.note(pending);
                        batch.push(pending.message.clone());
                        lane.pop();
                        subscription.next[level] = place.1 + 1;
                    }
                }
            }
        }
        outputs.extend(flush(id, &mut batch));
    }
}

fn flush(id: SubscriptionId, batch: &mut Vec<Arc<Message>>) -> Option<Output> {
    let messages = std::mem::take(batch);
    (!messages.is_empty()).then_some(Output::Push { id, messages })
}

#[cfg(test)]
#[path = "delivery_test.rs"]
mod tests;
