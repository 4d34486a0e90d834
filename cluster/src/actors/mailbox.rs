//! The mailbox actor: runs a [`Delivery`] on the shard's leader while something happens to a mailbox
//! that is listened to; in between the mailbox rests ([`super::mailbox_rest`]). Owned by
//! [`crate::delivery`]'s registry, supervised by its supervisor.
//!
//! Everything reaches it through a bounded inbox; its ractor mailbox holds at most one
//! [`MailboxMessage::Wake`], one [`MailboxMessage::Idle`] and one [`MailboxMessage::Retry`]. It
//! acts only under its leader's licence ([`crate::Fence`]): without one the inbox waits, and when the
//! term is over the actor stops. What it knew its connections present to the next leader.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use heliograph_storage as storage;
use ractor::{Actor, ActorProcessingErr, ActorRef};

use super::{
    mailbox_handle::{Fetching, MailboxEvent, MailboxHandle, OnRemoval, Waits},
    mailbox_rest::{MailboxRest, Numbered},
};
use crate::{
    AckItem, Role, ShardHandle,
    delivery::wire::{Deliver, Parcel, Place, UpdateResult},
    machine::{Delivery, DeliveryLimits, Found, Input, Output, SubscriptionId, queries},
    metrics,
    model::{MailboxKey, Message},
    raft::offload::offload,
};

/// An actor ends after this long without an event, if nothing is under way: a REST client reads and
/// acknowledges within it, and whoever gets a message every few seconds keeps the actor.
const IDLE: Duration = Duration::from_secs(10);
/// How often an actor without a licence looks whether it has one again.
const RETRY: Duration = Duration::from_millis(50);
/// Bytes of content in one delivery: a quarter of a frame.
const PARCEL_BYTES_MAX: usize = 1024 * 1024;
/// Long polls of one mailbox; a further one ends the oldest, which answers empty.
const WAITERS_MAX: usize = 16;

/// What a mailbox actor does to the world.
pub(crate) trait MailboxHost: Send + Sync + 'static {
    /// Sends a delivery to the connection's node.
    fn deliver(&self, id: SubscriptionId, deliver: Deliver);
    /// The device has too many connections: this one is to be closed.
    fn dropped(&self, id: SubscriptionId, generation: u32);
    /// The actor ends by itself: nobody listens, or its licence is over.
    fn passivated(&self, handle: &Arc<MailboxHandle>);
    /// Something happens to a mailbox at rest: starts an actor for it.
    fn wake(&self, handle: &Arc<MailboxHandle>, rest: Box<MailboxRest>);
}

/// What a mailbox actor is told.
pub(crate) enum MailboxMessage {
    /// There is something in the inbox.
    Wake,
    /// Look whether anything happened lately.
    Idle,
    /// Look whether there is a licence to act.
    Retry,
}

/// The mailbox actor.
pub(crate) struct MailboxActor;

/// What a mailbox actor starts with.
pub(crate) struct MailboxArguments {
    pub(crate) handle: Arc<MailboxHandle>,
    pub(crate) shard: ShardHandle,
    pub(crate) host: Arc<dyn MailboxHost>,
    /// What the mailbox was, where it rested before.
    pub(crate) rest: Option<Box<MailboxRest>>,
}

pub(crate) struct MailboxState {
    handle: Arc<MailboxHandle>,
    shard: ShardHandle,
    host: Arc<dyn MailboxHost>,
    /// Made with the first event, from rows of the leader's own term.
    delivery: Option<Delivery>,
    subscriptions: BTreeMap<SubscriptionId, Numbered>,
    waiters: VecDeque<Fetching>,
    /// Whether [`MailboxMessage::Idle`] is under way.
    idles: bool,
    /// Whether anything happened since it was sent.
    is_used: bool,
    /// Whether anything happened but comings and goings of connections. One that only greeted
    /// does not wait for more: most of those that connect have nothing to get.
    has_worked: bool,
}

/// Why a mailbox actor failed: its supervisor ends the mailbox's subscriptions, and their nodes
/// subscribe again.
#[derive(Debug, thiserror::Error)]
enum MailboxFailure {
    #[error("rows of a mailbox cannot be read")]
    Rows(#[from] storage::Error),
}

impl Actor for MailboxActor {
    type Msg = MailboxMessage;
    type State = MailboxState;
    type Arguments = MailboxArguments;

    async fn pre_start(
        &self,
        _myself: ActorRef<MailboxMessage>,
        arguments: MailboxArguments,
    ) -> Result<MailboxState, ActorProcessingErr> {
        Ok(MailboxState::new(arguments))
    }

    async fn handle(
        &self,
        myself: ActorRef<MailboxMessage>,
        message: MailboxMessage,
        state: &mut MailboxState,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            MailboxMessage::Wake | MailboxMessage::Retry => match state.licence() {
                Licence::Given => {
                    state.work().await?;
                    if !state.has_worked && state.ends() {
                        myself.stop(None);
                        return Ok(());
                    }
                }
                Licence::Awaited => {
                    myself.send_after(RETRY, || MailboxMessage::Retry);
                    return Ok(());
                }
                Licence::Over => {
                    myself.stop(None);
                    return Ok(());
                }
            },
            MailboxMessage::Idle => {
                state.idles = false;
                // What left meanwhile may wait in the inbox.
                if matches!(state.licence(), Licence::Given) {
                    state.work().await?;
                }
                if !state.is_used && state.ends() {
                    myself.stop(None);
                    return Ok(());
                }
            }
        }
        if !state.idles {
            state.idles = true;
            state.is_used = false;
            myself.send_after(IDLE, || MailboxMessage::Idle);
        }
        Ok(())
    }
}

enum Licence {
    Given,
    Awaited,
    Over,
}

impl MailboxState {
    fn new(arguments: MailboxArguments) -> Self {
        ::metrics::gauge!(metrics::MAILBOX_ACTORS).increment(1.0);
        let wake = |rest: &MailboxRest| Delivery::wake(DeliveryLimits::default(), &rest.delivery);
        let rest = arguments.rest.as_deref();
        Self {
            delivery: rest.map(wake),
            subscriptions: rest.into_iter().flat_map(|rest| rest.subscriptions.to_vec()).collect(),
            handle: arguments.handle,
            shard: arguments.shard,
            host: arguments.host,
            waiters: VecDeque::new(),
            idles: false,
            is_used: false,
            has_worked: false,
        }
    }

    fn licence(&self) -> Licence {
        let fence = self.handle.fence;
        if self.shard.fence() == Some(fence) {
            return Licence::Given;
        }
        let leadership = *self.shard.leadership().borrow();
        if leadership.term == fence.term && leadership.role == Role::Acting {
            return Licence::Awaited;
        }
        Licence::Over
    }

    fn is_idle(&mut self) -> bool {
        self.waiters.retain(|waiter| !waiter.answer.is_closed());
        self.subscriptions.is_empty() && self.waiters.is_empty()
    }

    /// Puts the mailbox to rest where nothing is under way, and forgets it where nobody listens.
    /// Answers whether the actor is to end.
    fn ends(&mut self) -> bool {
        if self.is_idle() {
            let ends = self.handle.close_if_empty();
            if ends {
                self.host.passivated(&self.handle);
            }
            return ends;
        }
        let delivery = self.delivery.as_ref().and_then(Delivery::rest);
        let Some(delivery) = delivery.filter(|_| self.waiters.is_empty()) else { return false };
        self.handle.rest(MailboxRest {
            shard: self.shard.clone(),
            host: Arc::clone(&self.host),
            delivery,
            subscriptions: self.subscriptions.iter().map(|(id, known)| (*id, *known)).collect(),
        })
    }

    async fn work(&mut self) -> Result<(), MailboxFailure> {
        for event in self.handle.take() {
            self.is_used |= !matches!(event, MailboxEvent::Removed { .. });
            self.has_worked |=
                !matches!(event, MailboxEvent::Subscribe { .. } | MailboxEvent::Unsubscribe(_));
            self.event(event).await?;
        }
        self.handle.batch_done(self.on_removal());
        Ok(())
    }

    fn on_removal(&self) -> OnRemoval {
        let has_waiting = self.delivery.as_ref().is_some_and(Delivery::has_waiting);
        if has_waiting || !self.waiters.is_empty() {
            return OnRemoval::Wakes;
        }
        OnRemoval::NotesLater
    }

    async fn event(&mut self, event: MailboxEvent) -> Result<(), MailboxFailure> {
        match event {
            MailboxEvent::Arrived(pending) => {
                self.feed(Input::Arrived(pending))?;
                self.answer_waiters()
            }
            MailboxEvent::Removed { items, reason } => {
                self.feed(Input::Removed { items, reason })?;
                // A copy that was held back may be free now.
                self.answer_waiters()
            }
            MailboxEvent::Subscribe { id, generation, connected_ms, window, resume } => {
                self.subscriptions.insert(id, Numbered { generation, delivery_no: 0 });
                // What the connection acknowledged before comes again as an update.
                self.feed(Input::Subscribe { id, connected_ms, window, resume }).map(drop)
            }
            MailboxEvent::Unsubscribe(id) => {
                self.subscriptions.remove(&id);
                self.feed(Input::Unsubscribe(id)).map(drop)
            }
            MailboxEvent::Update { id, generation, written, acked, answer } => {
                let known = self.subscriptions.get(&id);
                if known.is_none_or(|known| known.generation != generation) {
                    // Who asked may have given up.
                    let _ = answer.send(Err(UpdateResult::Unknown));
                    return Ok(());
                }
                let mut passed = Vec::new();
                if !written.is_empty() {
                    passed.extend(self.feed(Input::Written { id, items: written })?);
                }
                if !acked.is_empty() {
                    passed.extend(self.feed(Input::Acked { id, items: acked })?);
                }
                let _ = answer.send(Ok(passed));
                Ok(())
            }
            MailboxEvent::Fetch(fetching) => self.fetch(fetching),
            MailboxEvent::Resolve { items, answer } => {
                let places = self.resolve(&items).await?;
                let _ = answer.send(places);
                Ok(())
            }
        }
    }

    /// The mailbox's delivery; made when first needed.
    fn delivery(&mut self) -> Result<&mut Delivery, MailboxFailure> {
        let mailbox = self.handle.mailbox;
        if self.delivery.is_none() {
            let counts = self.shard.read(|rows| queries::mailbox_counts(rows, &mailbox))?;
            // Whatever was accepted until now may have been offered by an earlier actor.
            let since_ms = self.shard.time_ms() + 1;
            self.delivery = Some(Delivery::new(DeliveryLimits::default(), &counts, since_ms));
        }
        Ok(self.delivery.as_mut().expect("it was made above"))
    }

    /// Feeds the core and does what it says; answers which acknowledgements pass.
    fn feed(&mut self, input: Input) -> Result<Vec<Place>, MailboxFailure> {
        let mailbox = self.handle.mailbox;
        let now_ms = self.shard.time_ms();
        let mut outputs: VecDeque<_> = self.delivery()?.handle(input, now_ms).into();
        let mut passed = Vec::new();
        while let Some(output) = outputs.pop_front() {
            match output {
                Output::Push { id, messages } => self.push(id, messages),
                Output::Skipped { id, priority, from, to, reason } => {
                    self.deliver(id, Parcel::Skipped { priority, from, to, reason });
                }
                Output::Read { ticket, priority, from, limit, bytes_max } => {
                    let read = self.shard.read(|rows| {
                        queries::read_lane(rows, &mailbox, priority, from, limit, bytes_max)
                    })?;
                    let input = Input::Rows { ticket, priority, read };
                    outputs.extend(self.delivery()?.handle(input, now_ms));
                }
                Output::Acknowledge { items, .. } => passed.extend(items),
                Output::Dropped(id) => {
                    if let Some(known) = self.subscriptions.remove(&id) {
                        self.host.dropped(id, known.generation);
                    }
                }
            }
        }
        Ok(passed)
    }

    fn push(&mut self, id: SubscriptionId, messages: Vec<Arc<Message>>) {
        let mut bytes = 0;
        let mut parcel = Vec::new();
        for message in messages {
            bytes += message.content.len();
            if bytes > PARCEL_BYTES_MAX && !parcel.is_empty() {
                bytes = message.content.len();
                self.deliver(id, Parcel::Messages(std::mem::take(&mut parcel)));
            }
            parcel.push(message);
        }
        if !parcel.is_empty() {
            self.deliver(id, Parcel::Messages(parcel));
        }
    }

    fn deliver(&mut self, id: SubscriptionId, parcel: Parcel) {
        let Some(known) = self.subscriptions.get_mut(&id) else { return };
        known.delivery_no += 1;
        let deliver = Deliver {
            number: id.number,
            generation: known.generation,
            delivery_no: known.delivery_no,
            fence: self.handle.fence,
            parcel,
        };
        self.host.deliver(id, deliver);
    }

    fn fetch(&mut self, fetching: Fetching) -> Result<(), MailboxFailure> {
        let offered = self.offer(&fetching)?;
        if !offered.is_empty() || fetching.waits == Waits::No {
            // Who asked may have given up; the offer stands all the same.
            let _ = fetching.answer.send(offered);
            return Ok(());
        }
        self.waiters.retain(|waiter| !waiter.answer.is_closed());
        if self.waiters.len() >= WAITERS_MAX
            && let Some(oldest) = self.waiters.pop_front()
        {
            let _ = oldest.answer.send(Vec::new());
        }
        self.waiters.push_back(fetching);
        Ok(())
    }

    fn offer(&mut self, fetching: &Fetching) -> Result<Vec<Arc<Message>>, MailboxFailure> {
        let (mailbox, now_ms) = (self.handle.mailbox, self.shard.time_ms());
        let Fetching { limit, bytes_max, after, .. } = *fetching;
        // The offers must know of this mailbox from before the read on.
        self.delivery()?;
        let pending = self.shard.read(|rows| {
            queries::mailbox_pending(rows, &mailbox, after, limit, bytes_max, now_ms)
        })?;
        Ok(self.delivery()?.offer(pending))
    }

    fn answer_waiters(&mut self) -> Result<(), MailboxFailure> {
        for _ in 0..self.waiters.len() {
            let Some(waiter) = self.waiters.pop_front() else { break };
            if waiter.answer.is_closed() {
                continue;
            }
            let offered = self.offer(&waiter)?;
            if offered.is_empty() {
                self.waiters.push_back(waiter);
            } else {
                let _ = waiter.answer.send(offered);
            }
        }
        Ok(())
    }

    /// What the names of an acknowledgement over REST mean.
    async fn resolve(&mut self, items: &[AckItem]) -> Result<Vec<Place>, MailboxFailure> {
        let mailbox = self.handle.mailbox;
        let (mut places, unknown) = self.delivery()?.resolve(items);
        let ids = unknown.iter().filter_map(|item| match item {
            AckItem::Id(id) => Some(id.as_str().to_owned()),
            AckItem::Seq(..) => None,
        });
        let mut by_id = search(&self.shard, mailbox, ids.collect()).await?;
        for item in unknown {
            let found = match &item {
                AckItem::Id(id) => by_id.remove(id.as_str()).unwrap_or_default(),
                AckItem::Seq(priority, seq) => {
                    let found =
                        self.shard.read(|rows| queries::find(rows, &mailbox, *priority, *seq))?;
                    found.into_iter().collect()
                }
            };
            places.extend(self.delivery()?.settle(&item, &found));
        }
        places.sort_unstable();
        places.dedup();
        Ok(places)
    }
}

impl Drop for MailboxState {
    fn drop(&mut self) {
        ::metrics::gauge!(metrics::MAILBOX_ACTORS).decrement(1.0);
    }
}

/// Looks through the mailbox for ids, page by page, off the async threads: it may be large.
async fn search(
    shard: &ShardHandle,
    mailbox: MailboxKey,
    ids: BTreeSet<String>,
) -> Result<BTreeMap<String, Vec<Found>>, storage::Error> {
    if ids.is_empty() {
        return Ok(BTreeMap::new());
    }
    let shard = shard.clone();
    let found = offload(move || {
        let (mut found, mut after) = (Vec::new(), None);
        loop {
            let page = shard.read(|rows| queries::search_page(rows, &mailbox, &ids, after))?;
            found.extend(page.found);
            after = page.next;
            if after.is_none() {
                return Ok::<_, storage::Error>(found);
            }
        }
    });
    let mut found = found.await?;
    found.sort_unstable_by_key(|(ordinal, ..)| *ordinal);
    let mut by_id: BTreeMap<String, Vec<Found>> = BTreeMap::new();
    for (_, id, found) in found {
        by_id.entry(id).or_default().push(found);
    }
    Ok(by_id)
}
