//! The connections of this node: found by number and by mailbox; what leaders push to them, and
//! what keeps their subscriptions alive.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use heliograph_transport::NodeId;
use parking_lot::{Mutex, RwLock};
use tokio::time::Instant;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    keys::KeyCache,
    leases::LEASE,
    links::{Grant, Links, Renewal},
    router::{Kind, Router},
    service::{ACK_ITEMS_MAX, NoticeSink},
    session_core::{Receipt, SessionCore},
    shard_link::ShardLink,
    wire::{Deliver, RelayAnswer, RelayNotice, RelayRequest, SubscribeEntry},
};
use crate::{
    AckItem, CloseReason, LeaderTable, Principal, Push, PushSink, Session, Window, metrics,
    model::{MailboxKey, Priority, ShardId},
};

/// How often leases are renewed: three times in their life.
const RENEW: Duration = Duration::from_millis(300);
/// How long a connection that is gone goes on to have its acknowledgements confirmed.
const LAST_WORDS_PATIENCE: Duration = Duration::from_secs(10);
/// Connections that may wait for room in their queue to be told to close.
const CLOSING_MAX: usize = 65_536;

/// A connection.
pub(crate) struct SessionEntry {
    pub(crate) number: u64,
    pub(crate) mailbox: MailboxKey,
    key_id: u64,
    window: Window,
    connected_ms: u64,
    sink: Arc<dyn PushSink>,
    link: Arc<ShardLink>,
    pub(crate) core: Mutex<SessionCore>,
    /// It was told to close, or is gone: nothing is pushed to it.
    is_closed: AtomicBool,
}

impl SessionEntry {
    /// Begins a request to subscribe; the core fills in the rest.
    pub(crate) fn subscribe_entry(&self) -> SubscribeEntry {
        SubscribeEntry {
            number: self.number,
            generation: 0,
            mailbox: self.mailbox,
            key_id: self.key_id,
            connected_ms: self.connected_ms,
            window: self.window,
            in_flight: Vec::new(),
            delivered: Vec::new(),
            unconfirmed: Vec::new(),
        }
    }
}

#[derive(Default)]
struct Registry {
    by_number: BTreeMap<u64, Arc<SessionEntry>>,
    /// Flat: nearly every mailbox has one connection.
    by_mailbox: BTreeSet<(MailboxKey, u64)>,
}

/// What sessions work with.
pub(crate) struct SessionParts {
    pub(crate) router: Arc<Router>,
    pub(crate) tasks: TaskTracker,
    pub(crate) stopping: CancellationToken,
    /// A random number of this process.
    pub(crate) boot: u64,
}

/// See the module.
pub(crate) struct Sessions {
    parts: SessionParts,
    registry: RwLock<Registry>,
    shards: RwLock<BTreeMap<ShardId, Arc<ShardLink>>>,
    links: Mutex<Links>,
    renewing: Mutex<BTreeSet<NodeId>>,
    closing: Mutex<Vec<(Arc<SessionEntry>, CloseReason)>>,
    /// Connections that are gone, with acknowledgements that are not confirmed yet.
    last_words: TaskTracker,
    pub(crate) keys: KeyCache,
    next_number: AtomicU64,
    myself: Weak<Self>,
}

impl Sessions {
    pub(crate) fn new(parts: SessionParts) -> Arc<Self> {
        Arc::new_cyclic(|myself| Self {
            // Numbers of an earlier process must not come again.
            next_number: AtomicU64::new(parts.boot << 32),
            parts,
            registry: RwLock::default(),
            shards: RwLock::default(),
            links: Mutex::default(),
            renewing: Mutex::default(),
            closing: Mutex::default(),
            last_words: TaskTracker::new(),
            keys: KeyCache::default(),
            myself: Weak::clone(myself),
        })
    }

    pub(crate) fn boot(&self) -> u64 {
        self.parts.boot
    }

    pub(crate) fn router(&self) -> &Arc<Router> {
        &self.parts.router
    }

    /// Runs a task until it or the node ends.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let stopping = self.parts.stopping.clone();
        self.parts.tasks.spawn(async move {
            tokio::select! {
                biased; // a stopping node does nothing more
                () = stopping.cancelled() => {}
                () = task => {}
            }
        });
    }

    /// Subscribes a connection; `None` where the cluster is not formed yet.
    pub(crate) fn connect(
        &self,
        principal: &Principal,
        received: &[(Priority, u64)],
        window: Window,
        sink: Arc<dyn PushSink>,
        connected_ms: u64,
    ) -> Option<Arc<dyn Session>> {
        let topology = self.parts.router.topology().ok()?;
        let owner = self.myself.upgrade()?;
        let mailbox = topology.key_hasher().mailbox(&principal.device);
        let link = self.link(topology.shard_of(mailbox.slot()));
        let entry = Arc::new(SessionEntry {
            number: self.next_number.fetch_add(1, Ordering::Relaxed),
            mailbox,
            key_id: principal.key_id,
            window,
            connected_ms,
            sink,
            link: Arc::clone(&link),
            core: Mutex::new(SessionCore::with(received)),
            is_closed: AtomicBool::new(false),
        });
        let mut registry = self.registry.write();
        registry.by_mailbox.insert((mailbox, entry.number));
        registry.by_number.insert(entry.number, Arc::clone(&entry));
        ::metrics::gauge!(metrics::SESSIONS).set(registry.by_number.len() as f64);
        drop(registry);
        link.add(Arc::clone(&entry));
        Some(Arc::new(LiveSession { entry, owner }))
    }

    /// Tells all connections to close.
    pub(crate) fn close_all(&self, reason: CloseReason) {
        let entries: Vec<_> = self.registry.read().by_number.values().cloned().collect();
        for entry in entries {
            self.close(&entry, reason);
        }
    }

    /// Waits until the acknowledgements of connections that are gone are confirmed; answers whether
    /// that was so within `patience`.
    pub(crate) async fn last_words(&self, patience: Duration) -> bool {
        self.last_words.close();
        tokio::time::timeout(patience, self.last_words.wait()).await.is_ok()
    }

    /// Ends a session and tells its connection to close.
    pub(crate) fn close(&self, entry: &Arc<SessionEntry>, reason: CloseReason) {
        if entry.is_closed.swap(true, Ordering::Relaxed) {
            return;
        }
        self.forget(entry);
        entry.link.remove(entry.number);
        if entry.sink.push(Push::Close(reason)).is_err() {
            // Its queue is full: told as soon as there is room.
            let mut closing = self.closing.lock();
            if closing.len() < CLOSING_MAX {
                closing.push((Arc::clone(entry), reason));
            }
        }
    }

    /// Hands a live frame to the device's connections; answers whether there are any.
    pub(crate) fn push_live(&self, mailbox: &MailboxKey, payload: &Bytes) -> bool {
        let entries = self.of_mailbox(mailbox);
        for entry in &entries {
            if entry.sink.push(Push::Live(payload.clone())).is_err() {
                ::metrics::counter!(metrics::LIVE_DROPPED_TOTAL).increment(1);
            }
        }
        !entries.is_empty()
    }

    /// Notes what a leader granted. Answers whether it counts.
    pub(crate) fn granted(&self, shard: ShardId, grant: Grant, asked: Instant) -> bool {
        let void = self.links.lock().granted(shard, grant, asked);
        let Some(void) = void else { return false };
        for shard in void {
            let link = self.shards.read().get(&shard).cloned();
            if let Some(link) = link
                && link.grant() != Some(grant)
            {
                link.detach_all();
            }
        }
        true
    }

    /// Whether what was granted still counts.
    pub(crate) fn counts(&self, shard: ShardId, grant: Grant) -> bool {
        self.links.lock().counts(shard, grant, Instant::now())
    }

    /// A peer is gone: what it granted is void.
    pub(crate) fn peer_lost(&self, node: NodeId) {
        let void = self.links.lock().lost(node);
        self.detach(void);
    }

    /// Renews leases, and tells connections to close that could not be told; until dropped.
    pub(crate) async fn renew(sessions: Weak<Self>) {
        let mut ticks = tokio::time::interval(RENEW);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let Some(owner) = sessions.upgrade() else { return };
            owner.close_again();
            let due = owner.links.lock().to_renew();
            for Renewal { node, lease, shards } in due {
                if owner.renewing.lock().insert(node) {
                    let renewing = Arc::clone(&owner);
                    owner.spawn(async move {
                        renewing.renew_one(node, lease, shards).await;
                        renewing.renewing.lock().remove(&node);
                    });
                }
            }
        }
    }

    /// Begins anew wherever another leader is heard of; until dropped.
    pub(crate) async fn follow_leaders(sessions: Weak<Self>, leaders: Arc<LeaderTable>) {
        let mut changes = leaders.changes();
        while changes.changed().await.is_ok() {
            let Some(owner) = sessions.upgrade() else { return };
            let shards: Vec<_> = owner.shards.read().keys().copied().collect();
            let mut void = Vec::new();
            for shard in shards {
                if let Some((node, term)) = leaders.leader(shard)
                    && owner.links.lock().superseded(shard, node, term)
                {
                    void.push(shard);
                }
            }
            owner.detach(void);
        }
    }

    async fn renew_one(&self, node: NodeId, lease: u64, shards: Vec<(ShardId, u64)>) {
        let Some((lane, _)) = shards.first().copied() else { return };
        let links: Vec<_> = self
            .shards
            .read()
            .values()
            .filter(|link| link.grant().is_some_and(|grant| grant.node == node))
            .cloned()
            .collect();
        let received: Vec<_> = links.iter().map(|link| link.take_received()).collect();
        let asked = Instant::now();
        let request = RelayRequest::Renew { lease, shards, received: received.concat() };
        let answer = self.parts.router.ask_node(node, lane, request, asked + LEASE).await;
        match answer {
            Ok(RelayAnswer::Renewed { gone, behind }) => {
                self.links.lock().renewed(node, lease, &gone, asked);
                self.detach(gone);
                if !behind.is_empty() {
                    ::metrics::counter!(metrics::GAPS_TOTAL).increment(behind.len() as u64);
                    links.iter().for_each(|link| link.catch_up(&behind));
                }
            }
            Ok(RelayAnswer::UnknownLease) => {
                let void = self.links.lock().unknown(node, lease);
                self.detach(void);
            }
            _ => {
                for (link, received) in links.iter().zip(received) {
                    link.received_again(&received);
                }
            }
        }
    }

    fn detach(&self, shards: Vec<ShardId>) {
        for shard in shards {
            let link = self.shards.read().get(&shard).cloned();
            if let Some(link) = link {
                link.detach_all();
            }
        }
    }

    fn close_again(&self) {
        let closing = std::mem::take(&mut *self.closing.lock());
        let mut left = Vec::new();
        for (entry, reason) in closing {
            // Held here and by nobody else: the connection is gone.
            let is_gone = Arc::strong_count(&entry) == 1;
            if !is_gone && entry.sink.push(Push::Close(reason)).is_err() {
                left.push((entry, reason));
            }
        }
        self.closing.lock().append(&mut left);
    }

    fn link(&self, shard: ShardId) -> Arc<ShardLink> {
        if let Some(link) = self.shards.read().get(&shard) {
            return Arc::clone(link);
        }
        let mut shards = self.shards.write();
        let link = shards.entry(shard).or_insert_with(|| {
            let link = Arc::new(ShardLink::new(shard));
            self.spawn(Arc::clone(&link).run(Weak::clone(&self.myself)));
            link
        });
        Arc::clone(link)
    }

    fn of_mailbox(&self, mailbox: &MailboxKey) -> Vec<Arc<SessionEntry>> {
        let registry = self.registry.read();
        let numbers = registry.by_mailbox.range((*mailbox, 0)..=(*mailbox, u64::MAX));
        numbers.filter_map(|(_, number)| registry.by_number.get(number).cloned()).collect()
    }

    fn forget(&self, entry: &SessionEntry) {
        let mut registry = self.registry.write();
        if registry.by_number.remove(&entry.number).is_none() {
            return;
        }
        registry.by_mailbox.remove(&(entry.mailbox, entry.number));
        ::metrics::gauge!(metrics::SESSIONS).set(registry.by_number.len() as f64);
    }

    fn find(&self, number: u64) -> Option<Arc<SessionEntry>> {
        self.registry.read().by_number.get(&number).cloned()
    }

    fn deliver(&self, entry: &Arc<SessionEntry>, deliver: Deliver) {
        // Pushed under the lock: pushes keep the order of deliveries.
        let mut core = entry.core.lock();
        let (receipt, push) = core.deliver(deliver);
        let pushed = match push {
            Some(push) => {
                if let Push::Messages(messages) = &push {
                    let count = messages.len() as u64;
                    metrics::PUSHED.increment(count);
                }
                entry.sink.push(push)
            }
            None => Ok(()),
        };
        drop(core);
        match receipt {
            Receipt::Next => entry.link.mark_received(entry.number),
            Receipt::Stale => {}
            Receipt::Gap => {
                ::metrics::counter!(metrics::GAPS_TOTAL).increment(1);
                entry.link.detach(entry.number);
            }
        }
        if pushed.is_err() {
            // The window was its own wish: it does not keep up, or is gone.
            ::metrics::counter!(metrics::SLOW_READERS_TOTAL).increment(1);
            self.close(entry, CloseReason::SlowReader);
        }
    }

    /// The connection is gone. What it acknowledged is still brought to its end, and only then its
    /// subscription: an older connection of the device must not get it in between.
    fn end(&self, entry: &Arc<SessionEntry>) {
        self.forget(entry);
        let places = entry.core.lock().unconfirmed();
        if places.is_empty() {
            entry.link.remove(entry.number);
            return;
        }
        let (router, entry) = (Arc::clone(&self.parts.router), Arc::clone(entry));
        let speaking = self.last_words.token();
        self.spawn(async move {
            let _speaking = speaking;
            let (mailbox, deadline) = (entry.mailbox, Instant::now() + LAST_WORDS_PATIENCE);
            for places in places.chunks(ACK_ITEMS_MAX) {
                let items = places.iter().map(|(priority, seq)| AckItem::Seq(*priority, *seq));
                let request = RelayRequest::Acknowledge { mailbox, items: items.collect() };
                // If it fails the messages are offered again, as after any lost acknowledgement.
                let _ = router.ask(&mailbox, Kind::Prompt, &request, deadline).await;
            }
            entry.link.remove(entry.number);
        });
    }
}

impl NoticeSink for Sessions {
    fn notice(&self, from: NodeId, notice: RelayNotice) {
        match notice {
            RelayNotice::Deliver(deliver) => match self.find(deliver.number) {
                Some(entry) => self.deliver(&entry, deliver),
                None => {
                    self.parts.router.orphan(from, deliver.fence.shard, deliver.number);
                }
            },
            RelayNotice::Gone { subscriptions } => {
                for (number, generation) in subscriptions {
                    if let Some(entry) = self.find(number)
                        && entry.core.lock().generation() == generation
                    {
                        entry.link.detach(number);
                    }
                }
            }
            RelayNotice::Dropped { number, generation } => {
                if let Some(entry) = self.find(number)
                    && entry.core.lock().generation() == generation
                {
                    self.close(&entry, CloseReason::TryAgainLater);
                }
            }
            // The others are not for connections.
            _ => {}
        }
    }

    fn drop_keys(&self, mailbox: &MailboxKey, key_id: Option<u64>) {
        self.keys.drop_keys(mailbox, key_id);
        for entry in self.of_mailbox(mailbox) {
            if key_id.is_none_or(|key_id| key_id == entry.key_id) {
                self.close(&entry, CloseReason::KeyRevoked);
            }
        }
    }
}

/// A connection's side; see [`Session`].
struct LiveSession {
    entry: Arc<SessionEntry>,
    owner: Arc<Sessions>,
}

impl Session for LiveSession {
    fn written(&self, items: &[(Priority, u64)]) {
        let has_news = self.entry.core.lock().written(items);
        if has_news {
            self.entry.link.mark_dirty(self.entry.number);
        }
    }

    fn acknowledge(&self, items: &[AckItem]) -> u32 {
        let (count, has_news) = self.entry.core.lock().acknowledge(items);
        if has_news {
            self.entry.link.mark_dirty(self.entry.number);
        }
        count
    }
}

impl Drop for LiveSession {
    fn drop(&mut self) {
        self.entry.is_closed.store(true, Ordering::Relaxed);
        self.owner.end(&self.entry);
    }
}
