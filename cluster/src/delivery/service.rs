//! The leader's side: answers what nodes (this one too) ask about the mailboxes led here.
//!
//! It acts only under a licence of the shard ([`crate::ShardHandle::fence`]) and forgets whatever
//! it granted when a leadership ends: the nodes notice by term, renewal or notice, and present
//! themselves to the next leader.

use std::{
    collections::BTreeMap,
    sync::{Arc, OnceLock, Weak},
    time::Duration,
};

use bytes::Bytes;
use heliograph_transport::{BoxFuture, NodeId};
use parking_lot::Mutex;
use tokio::{sync::oneshot, time::Instant};

use super::{
    leases::{Held, Leases},
    mailboxes::Mailboxes,
    wire::{
        self, Failure, KeyRecord, Place, RelayAnswer, RelayNotice, RelayRequest, UpdateEntry,
        UpdateResult,
    },
};
use crate::{
    AckItem, Fence, LeaderTable, LocalShards, ProposeError, Role, ShardHandle, Surroundings,
    Topology,
    actors::{
        mailbox::MailboxHost,
        mailbox_handle::{Fetching, MailboxEvent, MailboxHandle, Refusal, Waits},
    },
    machine::{Command, Outcome, SubscriptionId, queries},
    model::{MailboxKey, ShardId, Slot},
    peer_client::PeerClient,
    watch,
};

/// Bytes of messages in one answer to a read: half a frame.
const RECEIVE_BYTES_MAX: usize = 2 * 1024 * 1024;
/// Messages in one answer to a read; what a front door may ask for.
const RECEIVE_MESSAGES_MAX: usize = 1000;
/// The longest a leader lets a read wait: the asking node asks again, perhaps another leader.
pub(crate) const WAIT_MAX: Duration = Duration::from_secs(10);
/// Names in one acknowledgement.
pub(crate) const ACK_ITEMS_MAX: usize = 1000;
/// Subscriptions to end are looked for this often: a quarter of a lease.
const SWEEP: Duration = Duration::from_millis(250);
/// Subscriptions named in one notice that they are gone: 64 KiB.
const GONE_MAX: usize = 4096;

/// Takes the notices that are for this node itself.
pub(crate) trait NoticeSink: Send + Sync + 'static {
    /// Takes a notice of `from`.
    fn notice(&self, from: NodeId, notice: RelayNotice);
    /// Honours a key no more: see [`RelayRequest::DropKeys`].
    fn drop_keys(&self, mailbox: &MailboxKey, key_id: Option<u64>);
}

/// A shard that this node leads.
#[derive(Clone, Copy)]
pub(super) struct Acting {
    term: u64,
    pub(super) since: Instant,
}

/// What the service works with.
pub(crate) struct ServiceParts {
    pub(crate) local: NodeId,
    pub(crate) shards: Arc<LocalShards>,
    pub(crate) leaders: Arc<LeaderTable>,
    pub(crate) topology: watch::Receiver<Option<Arc<Topology>>>,
    pub(crate) peers: PeerClient,
    pub(crate) surroundings: Surroundings,
}

/// See the module.
pub(crate) struct Service {
    pub(super) parts: ServiceParts,
    pub(super) mailboxes: Mailboxes,
    pub(super) leases: Mutex<Leases>,
    pub(super) acting: Mutex<BTreeMap<ShardId, Acting>>,
    pub(super) local_sink: OnceLock<Weak<dyn NoticeSink>>,
    myself: Weak<Self>,
}

impl Service {
    pub(crate) fn new(parts: ServiceParts) -> Arc<Self> {
        let service = Arc::new_cyclic(|myself| Self {
            parts,
            mailboxes: Mailboxes::default(),
            leases: Mutex::default(),
            acting: Mutex::default(),
            local_sink: OnceLock::new(),
            myself: Weak::clone(myself),
        });
        let watcher: Weak<Self> = Arc::downgrade(&service);
        service.mailboxes.start(watcher);
        service
    }

    /// Where notices for this node go. Set once, before anything is served.
    pub(crate) fn set_local_sink(&self, sink: Weak<dyn NoticeSink>) {
        let _ = self.local_sink.set(sink);
    }

    /// Ends lapsed leases until dropped.
    pub(crate) async fn sweep(self: Arc<Self>) {
        loop {
            tokio::time::sleep(SWEEP).await;
            let lapsed = self.leases.lock().sweep(Instant::now());
            for held in lapsed {
                self.unsubscribe(&held);
            }
        }
    }

    /// Ends all actors.
    pub(crate) fn stop(&self) {
        self.mailboxes.stop();
    }

    /// Answers `request` of `from`, which may be this node.
    pub(crate) async fn serve(
        self: &Arc<Self>,
        from: NodeId,
        request: RelayRequest,
        deadline: Instant,
    ) -> RelayAnswer {
        // Boxed: what most requests are, a message to be stored, shall not carry their size.
        let answered = match request {
            RelayRequest::Enqueue(enqueue) => {
                let slot = enqueue.mailbox.slot();
                self.propose(slot, Command::Enqueue(enqueue), deadline).await
            }
            RelayRequest::Register(register) => {
                let slot = register.mailbox.slot();
                self.propose(slot, Command::Register(register), deadline).await
            }
            RelayRequest::Acknowledge { mailbox, items } => {
                Box::pin(self.acknowledge(mailbox, items, deadline)).await
            }
            RelayRequest::Receive { mailbox, limit, wait_ms, after } => {
                let wait = Duration::from_millis(wait_ms.into());
                Box::pin(self.receive(mailbox, limit, wait, after, deadline)).await
            }
            RelayRequest::Authenticate { boot, slot, key_id } => {
                self.authenticate(from, boot, slot, key_id)
            }
            RelayRequest::Revoke { mailbox, key_id } => {
                Box::pin(self.revoke(mailbox, key_id, deadline)).await
            }
            RelayRequest::Locate { mailbox } => self.locate(mailbox),
            RelayRequest::Subscribe { boot, shard, entries } => {
                self.subscribe(from, boot, shard, entries)
            }
            RelayRequest::Update { shard, entries, ended } => {
                Box::pin(self.update(from, shard, entries, ended, deadline)).await
            }
            RelayRequest::Renew { lease, shards, received } => {
                Ok(self.renew(from, lease, &shards, &received))
            }
            RelayRequest::DropKeys { mailbox, key_id } => {
                if let Some(sink) = self.local_sink() {
                    sink.drop_keys(&mailbox, key_id);
                }
                Ok(RelayAnswer::Revoked)
            }
        };
        answered.unwrap_or_else(RelayAnswer::Failed)
    }

    /// Takes a notice that is for a leader.
    pub(crate) fn orphaned(&self, from: NodeId, number: u64) {
        let held = self.leases.lock().release(SubscriptionId { node: from.0, number });
        if let Some(held) = held {
            self.unsubscribe(&held);
        }
    }

    /// The shard of `slot`, with the licence to act for it.
    pub(super) fn acting_for(&self, slot: Slot) -> Result<(ShardHandle, Fence), Failure> {
        self.acting_in(self.shard_of(slot)?)
    }

    pub(super) fn acting_in(&self, shard: ShardId) -> Result<(ShardHandle, Fence), Failure> {
        let Some(handle) = self.parts.shards.get(shard) else {
            return Err(Failure::NotLeader { leader: self.parts.leaders.leader(shard) });
        };
        if let Some(fence) = handle.fence() {
            return Ok((handle, fence));
        }
        Err(not_leader(&handle))
    }

    pub(super) fn shard_of(&self, slot: Slot) -> Result<ShardId, Failure> {
        let topology = self.parts.topology.borrow();
        topology.as_ref().map(|topology| topology.shard_of(slot)).ok_or(Failure::NotActing)
    }

    /// Since when this node acts under `fence`. The first to ask voids what was granted under an
    /// earlier one.
    pub(super) fn enter(&self, fence: Fence) -> Instant {
        let mut acting = self.acting.lock();
        if let Some(known) = acting.get(&fence.shard)
            && known.term == fence.term
        {
            return known.since;
        }
        let since = Instant::now();
        acting.insert(fence.shard, Acting { term: fence.term, since });
        let ended = self.end_grants(fence.shard);
        drop(acting);
        self.tell_gone(ended);
        since
    }

    pub(super) fn end_grants(&self, shard: ShardId) -> Vec<Held> {
        let topology = self.parts.topology.borrow().clone();
        let Some(topology) = topology else { return Vec::new() };
        self.leases.lock().shard_ended(shard, |slot| topology.shard_of(slot) == shard)
    }

    pub(super) fn local_sink(&self) -> Option<Arc<dyn NoticeSink>> {
        self.local_sink.get().and_then(Weak::upgrade)
    }

    async fn propose(
        &self,
        slot: Slot,
        command: Command,
        deadline: Instant,
    ) -> Result<RelayAnswer, Failure> {
        let shard = self.shard_of(slot)?;
        let Some(handle) = self.parts.shards.get(shard) else {
            return Err(Failure::NotLeader { leader: self.parts.leaders.leader(shard) });
        };
        let outcome = self.propose_in(&handle, command, deadline).await?;
        Ok(RelayAnswer::Done(outcome))
    }

    pub(super) async fn propose_in(
        &self,
        handle: &ShardHandle,
        command: Command,
        deadline: Instant,
    ) -> Result<Outcome, Failure> {
        handle.propose(command, deadline).await.map_err(|error| match error {
            ProposeError::NotLeader { .. } => not_leader(handle),
            ProposeError::Overloaded => Failure::Overloaded,
            ProposeError::Storage => Failure::Storage,
            ProposeError::Unknown => Failure::Unknown,
        })
    }

    async fn receive(
        &self,
        mailbox: MailboxKey,
        limit: u32,
        wait: Duration,
        after: Option<Place>,
        deadline: Instant,
    ) -> Result<RelayAnswer, Failure> {
        let (answer, answered) = oneshot::channel();
        let waits = if wait.is_zero() { Waits::No } else { Waits::UntilThereIsSomething };
        let fetching = Fetching {
            limit: (limit as usize).clamp(1, RECEIVE_MESSAGES_MAX),
            bytes_max: RECEIVE_BYTES_MAX,
            after,
            waits,
            answer,
        };
        self.send(mailbox, MailboxEvent::Fetch(fetching))?;
        let until = match waits {
            Waits::No => deadline,
            Waits::UntilThereIsSomething => deadline.min(Instant::now() + wait.min(WAIT_MAX)),
        };
        match tokio::time::timeout_at(until, answered).await {
            Ok(Ok(messages)) => Ok(RelayAnswer::Messages(messages)),
            Ok(Err(_)) => Err(Failure::NotActing),
            Err(_) if waits == Waits::No => Err(Failure::NotActing),
            Err(_) => Ok(RelayAnswer::Messages(Vec::new())),
        }
    }

    async fn acknowledge(
        &self,
        mailbox: MailboxKey,
        mut items: Vec<AckItem>,
        deadline: Instant,
    ) -> Result<RelayAnswer, Failure> {
        items.truncate(ACK_ITEMS_MAX);
        let (answer, answered) = oneshot::channel();
        self.send(mailbox, MailboxEvent::Resolve { items, answer })?;
        let places = tokio::time::timeout_at(deadline, answered).await;
        let Ok(Ok(items)) = places else { return Err(Failure::NotActing) };
        if items.is_empty() {
            return Ok(RelayAnswer::Done(Outcome::Acknowledged { count: 0 }));
        }
        self.propose(mailbox.slot(), Command::Acknowledge { mailbox, items }, deadline).await
    }

    fn locate(&self, mailbox: MailboxKey) -> Result<RelayAnswer, Failure> {
        self.acting_for(mailbox.slot())?;
        let nodes = self.leases.lock().nodes_of(&mailbox);
        Ok(RelayAnswer::Nodes(nodes.into_iter().collect()))
    }

    async fn update(
        &self,
        from: NodeId,
        shard: ShardId,
        entries: Vec<UpdateEntry>,
        ended: Vec<u64>,
        deadline: Instant,
    ) -> Result<RelayAnswer, Failure> {
        let (handle, _) = self.acting_in(shard)?;
        for number in ended {
            self.orphaned(from, number);
        }
        let noted: Vec<_> = entries.into_iter().map(|entry| self.note(from, entry)).collect();
        // One after the other: all are under way, and whoever waits for the first is woken once.
        let mut settling = Vec::with_capacity(noted.len());
        for noted in noted {
            settling.push(self.settle(&handle, noted, deadline).await);
        }
        let mut results = Vec::with_capacity(settling.len());
        for settling in settling {
            results.push(settling.result().await);
        }
        Ok(RelayAnswer::Updated(results))
    }

    /// Hands an update to its mailbox's actor.
    fn note(&self, from: NodeId, entry: UpdateEntry) -> Noted {
        let UpdateEntry { number, generation, written, acked } = entry;
        let id = SubscriptionId { node: from.0, number };
        let mailbox = self.leases.lock().holds(id, generation)?;
        let handle = self.mailboxes.find(&mailbox)?;
        let (answer, passed) = oneshot::channel();
        let event = MailboxEvent::Update { id, generation, written, acked, answer };
        handle.push(event).ok()?;
        Some((mailbox, passed))
    }

    /// Proposes the acknowledgements that passed.
    async fn settle(&self, shard: &ShardHandle, noted: Noted, deadline: Instant) -> Settling {
        let Some((mailbox, passed)) = noted else { return Settling::Done(UpdateResult::Unknown) };
        let items = match tokio::time::timeout_at(deadline, passed).await {
            Ok(Ok(Ok(items))) => items,
            Ok(Ok(Err(result))) => return Settling::Done(result),
            Ok(Err(_)) => return Settling::Done(UpdateResult::Unknown),
            Err(_) => return Settling::Done(UpdateResult::Unconfirmed),
        };
        if items.is_empty() {
            return Settling::Done(UpdateResult::Confirmed);
        }
        Settling::Proposed(shard.propose(Command::Acknowledge { mailbox, items }, deadline))
    }

    fn renew(
        &self,
        from: NodeId,
        lease: u64,
        shards: &[(ShardId, u64)],
        received: &[(u64, u64)],
    ) -> RelayAnswer {
        let behind = self.leases.lock().renew(from, lease, received, Instant::now());
        let Some(behind) = behind else { return RelayAnswer::UnknownLease };
        let is_gone = |shard: ShardId, term: u64| match self.parts.shards.get(shard) {
            Some(handle) => {
                let leadership = *handle.leadership().borrow();
                leadership.term != term || leadership.role != Role::Acting
            }
            None => true,
        };
        let gone = shards.iter().filter(|(shard, term)| is_gone(*shard, *term));
        RelayAnswer::Renewed { gone: gone.map(|(shard, _)| *shard).collect(), behind }
    }

    /// Puts an event into the actor of a mailbox that this node leads.
    pub(super) fn send(&self, mailbox: MailboxKey, event: MailboxEvent) -> Result<(), Failure> {
        let (shard, fence) = self.acting_for(mailbox.slot())?;
        let host: Arc<dyn MailboxHost> = self.myself.upgrade().ok_or(Failure::NotActing)?;
        self.mailboxes.send(mailbox, &shard, fence, &host, event).map_err(|refusal| match refusal {
            Refusal::Full => Failure::Overloaded,
            Refusal::Closed => Failure::NotActing,
        })
    }

    /// Tells the mailbox's actor that a connection is gone.
    pub(super) fn unsubscribe(&self, held: &Held) {
        if let Some(handle) = self.mailboxes.find(&held.mailbox)
            && let Err((Refusal::Full, _)) = handle.push(MailboxEvent::Unsubscribe(held.id))
        {
            self.end_mailbox(&handle);
        }
    }

    /// Ends an actor that failed or cannot keep up; its connections subscribe again.
    pub(super) fn end_mailbox(&self, handle: &Arc<MailboxHandle>) {
        self.mailboxes.remove(handle);
        handle.close();
        let held = self.leases.lock().mailbox_ended(&handle.mailbox);
        self.tell_gone(held);
    }

    pub(super) fn tell_gone(&self, held: Vec<Held>) {
        let mut nodes: BTreeMap<(u16, ShardId), Vec<(u64, u32)>> = BTreeMap::new();
        for held in held {
            let subscriptions = nodes.entry((held.id.node, held.shard)).or_default();
            subscriptions.push((held.id.number, held.generation));
        }
        for ((node, shard), subscriptions) in nodes {
            for subscriptions in subscriptions.chunks(GONE_MAX) {
                let notice = RelayNotice::Gone { subscriptions: subscriptions.to_vec() };
                self.notify(NodeId(node), shard, notice, 0);
            }
        }
    }

    /// Tells a node. A notice that is lost shows by a gap, or at the next renewal.
    pub(super) fn notify(
        &self,
        to: NodeId,
        shard: ShardId,
        notice: RelayNotice,
        content_bytes: usize,
    ) {
        if to == self.parts.local {
            if let Some(sink) = self.local_sink() {
                sink.notice(to, notice);
            }
            return;
        }
        let payload: Bytes = wire::encode_outgoing(&notice, content_bytes);
        if let Err(error) = self.parts.peers.notify(to, shard, payload) {
            tracing::debug!(peer = %to, %error, "a notice was not sent");
        }
    }
}

/// What becomes of one entry of an update.
enum Settling {
    Done(UpdateResult),
    /// Its acknowledgements are in the shard's queue.
    Proposed(BoxFuture<'static, Result<Outcome, ProposeError>>),
}

impl Settling {
    async fn result(self) -> UpdateResult {
        match self {
            Self::Done(result) => result,
            Self::Proposed(outcome) => match outcome.await {
                Ok(_) => UpdateResult::Confirmed,
                Err(_) => UpdateResult::Unconfirmed,
            },
        }
    }
}

type Noted = Option<(MailboxKey, oneshot::Receiver<Result<Vec<Place>, UpdateResult>>)>;

fn not_leader(handle: &ShardHandle) -> Failure {
    let leadership = *handle.leadership().borrow();
    if leadership.role == Role::Follower {
        let leader = leadership.leader.map(|leader| (leader, leadership.term));
        return Failure::NotLeader { leader };
    }
    Failure::NotActing
}

impl KeyRecord {
    /// What the rows tell of a key.
    pub(super) fn read(
        shard: &ShardHandle,
        slot: Slot,
        key_id: u64,
    ) -> Result<Option<Self>, Failure> {
        let row = shard.read(|rows| queries::key(rows, slot, key_id)).map_err(|error| {
            tracing::error!(%error, "rows of an API key cannot be read");
            Failure::Storage
        })?;
        Ok(row.map(|row| Self { device: row.device, mailbox: row.mailbox, hash: row.hash }))
    }
}

#[cfg(test)]
#[path = "service_test.rs"]
mod tests;
