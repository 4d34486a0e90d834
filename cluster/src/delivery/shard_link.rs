//! The sessions of one shard on this node: one task that subscribes them at the leader, tells it
//! what they wrote and acknowledged, and begins anew when what the leader granted is void.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Weak},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{sync::Notify, time::Instant};

use super::{
    links::Grant,
    router::{Kind, Routed},
    sessions::{SessionEntry, Sessions},
    wire::{RelayAnswer, RelayRequest, SubscribeEntry, SubscribeResult, UpdateEntry, UpdateResult},
};
use crate::{CloseReason, metrics, model::ShardId};

/// What was written or acknowledged waits this long for company (design: 5 to 20 ms).
const LINGER: Duration = Duration::from_millis(5);
/// Sessions in one request to subscribe.
const SUBSCRIBE_MAX: usize = 256;
/// Remembered messages presented in one request: some 12 bytes each, so 400 KiB.
const PRESENT_MAX: usize = 32_768;
/// Sessions in one update.
const UPDATE_MAX: usize = 1024;
/// Updates of a shard under way. An acknowledgement takes a commit, so a few must overlap.
const UPDATES_IN_FLIGHT_MAX: usize = 8;
/// Ended sessions to be told of; as many as a node has sessions.
const ENDED_MAX: usize = 65_536;
/// How long a request to subscribe asks on before it is made anew from what is known then.
const SUBSCRIBE_PATIENCE: Duration = Duration::from_secs(2);
/// How long an update may take before its sessions subscribe anew.
const UPDATE_PATIENCE: Duration = Duration::from_secs(3);
/// Between a failed request to subscribe and the next.
const RESUBSCRIBE_PAUSE: Duration = Duration::from_millis(50);
/// Between an unconfirmed acknowledgement and its repetition.
const REPEAT_PAUSE: Duration = Duration::from_millis(100);

#[derive(Default)]
struct State {
    sessions: BTreeMap<u64, Arc<SessionEntry>>,
    /// To be subscribed.
    detached: BTreeSet<u64>,
    /// Something was written or acknowledged.
    dirty: BTreeSet<u64>,
    /// Gone; the leader is to be told.
    ended: BTreeSet<u64>,
    /// Got deliveries since the last renewal.
    received: BTreeSet<u64>,
    grant: Option<Grant>,
    updates: usize,
}

/// See the module.
pub(crate) struct ShardLink {
    pub(crate) shard: ShardId,
    state: Mutex<State>,
    wake: Notify,
}

impl ShardLink {
    pub(crate) fn new(shard: ShardId) -> Self {
        Self { shard, state: Mutex::default(), wake: Notify::new() }
    }

    /// Adds a session, to be subscribed.
    pub(crate) fn add(&self, session: Arc<SessionEntry>) {
        let mut state = self.state.lock();
        state.detached.insert(session.number);
        state.sessions.insert(session.number, session);
        drop(state);
        self.wake.notify_one();
    }

    /// Removes a session; the leader is told.
    pub(crate) fn remove(&self, number: u64) {
        let mut state = self.state.lock();
        state.sessions.remove(&number);
        state.dirty.remove(&number);
        state.received.remove(&number);
        state.detached.remove(&number);
        state.ended.insert(number);
        if state.ended.len() > ENDED_MAX {
            // The leader learns of it when it pushes to one, or when the lease ends.
            state.ended.pop_first();
        }
        drop(state);
        self.wake.notify_one();
    }

    /// A session has something to tell the leader.
    pub(crate) fn mark_dirty(&self, number: u64) {
        self.state.lock().dirty.insert(number);
        self.wake.notify_one();
    }

    /// A session got a delivery.
    pub(crate) fn mark_received(&self, number: u64) {
        self.state.lock().received.insert(number);
    }

    /// A session's subscription is void.
    pub(crate) fn detach(&self, number: u64) {
        let mut state = self.state.lock();
        state.detach(number);
        drop(state);
        self.wake.notify_one();
    }

    /// All subscriptions that were granted under another grant than `grant` are void.
    pub(crate) fn detach_all(&self) {
        let mut state = self.state.lock();
        state.grant = None;
        let numbers: Vec<_> = state.sessions.keys().copied().collect();
        for number in numbers {
            state.detach(number);
        }
        drop(state);
        self.wake.notify_one();
    }

    /// Under what the sessions are subscribed.
    pub(crate) fn grant(&self) -> Option<Grant> {
        self.state.lock().grant
    }

    /// Which sessions got deliveries, and the last one's number; for a renewal.
    pub(crate) fn take_received(&self) -> Vec<(u64, u64)> {
        let mut state = self.state.lock();
        let numbers = std::mem::take(&mut state.received);
        let sessions = numbers.iter().filter_map(|number| state.sessions.get(number));
        sessions.map(|session| (session.number, session.core.lock().received())).collect()
    }

    /// A renewal that carried these was lost: the next one carries them again.
    pub(crate) fn received_again(&self, received: &[(u64, u64)]) {
        let mut state = self.state.lock();
        for (number, _) in received {
            if state.sessions.contains_key(number) {
                state.received.insert(*number);
            }
        }
    }

    /// The leader sent these sessions more than arrived: those it did not arrive at by now begin
    /// anew.
    pub(crate) fn catch_up(&self, behind: &[(u64, u64)]) {
        let mut state = self.state.lock();
        for (number, delivery_no) in behind {
            let session = state.sessions.get(number);
            if session.is_some_and(|session| session.core.lock().received() < *delivery_no) {
                state.detach(*number);
            }
        }
        drop(state);
        self.wake.notify_one();
    }

    /// Works until dropped.
    pub(crate) async fn run(self: Arc<Self>, sessions: Weak<Sessions>) {
        loop {
            let Some(owner) = sessions.upgrade() else { return };
            let has_updates = self.has_updates();
            if has_updates {
                tokio::time::sleep(LINGER).await;
                self.send_update(&owner);
            }
            let entries = self.next_to_subscribe();
            if !entries.is_empty() {
                self.subscribe(&owner, entries).await;
            } else if !has_updates {
                drop(owner);
                self.wake.notified().await;
            }
        }
    }

    fn next_to_subscribe(&self) -> Vec<(Arc<SessionEntry>, SubscribeEntry)> {
        let state = self.state.lock();
        let mut presented = 0;
        let mut entries = Vec::new();
        for number in &state.detached {
            let Some(session) = state.sessions.get(number) else { continue };
            let mut core = session.core.lock();
            presented += core.remembered();
            if entries.len() >= SUBSCRIBE_MAX || (presented > PRESENT_MAX && !entries.is_empty()) {
                break;
            }
            let mut entry = session.subscribe_entry();
            core.subscribe(&mut entry);
            entries.push((Arc::clone(session), entry));
        }
        entries
    }

    async fn subscribe(
        &self,
        owner: &Arc<Sessions>,
        entries: Vec<(Arc<SessionEntry>, SubscribeEntry)>,
    ) {
        let (sessions, entries): (Vec<_>, Vec<_>) = entries.into_iter().unzip();
        let generations: Vec<_> = entries.iter().map(|entry| entry.generation).collect();
        ::metrics::counter!(metrics::SUBSCRIPTIONS_TOTAL).increment(sessions.len() as u64);
        let request = RelayRequest::Subscribe { boot: owner.boot(), shard: self.shard, entries };
        let deadline = Instant::now() + SUBSCRIBE_PATIENCE;
        let routed = owner.router().ask_shard(self.shard, Kind::Internal, &request, deadline).await;
        let Ok(Routed { answer: RelayAnswer::Subscribed { lease, term, results }, node, asked }) =
            routed
        else {
            // They stay detached.
            tokio::time::sleep(RESUBSCRIBE_PAUSE).await;
            return;
        };
        let grant = Grant { node, lease, term };
        if !owner.granted(self.shard, grant, asked) {
            return;
        }
        self.set_grant(grant);
        let mut is_refused = false;
        for ((session, generation), result) in sessions.iter().zip(generations).zip(results) {
            match result {
                SubscribeResult::Subscribed => self.subscribed(session, generation),
                SubscribeResult::Revoked => owner.close(session, CloseReason::KeyRevoked),
                SubscribeResult::Refused => is_refused = true,
            }
        }
        if is_refused {
            tokio::time::sleep(RESUBSCRIBE_PAUSE).await;
        }
    }

    fn subscribed(&self, session: &Arc<SessionEntry>, generation: u32) {
        let mut state = self.state.lock();
        let mut core = session.core.lock();
        if core.generation() != generation {
            return;
        }
        if !state.sessions.contains_key(&session.number) {
            // It ended meanwhile.
            state.ended.insert(session.number);
            return;
        }
        state.detached.remove(&session.number);
        if core.subscribed(generation) {
            state.dirty.insert(session.number);
        }
    }

    /// Notes a grant; what was subscribed under another one is void.
    fn set_grant(&self, grant: Grant) {
        let mut state = self.state.lock();
        if state.grant == Some(grant) {
            return;
        }
        let numbers: Vec<_> = state.sessions.keys().copied().collect();
        for number in numbers {
            state.detach(number);
        }
        state.grant = Some(grant);
    }

    fn has_updates(&self) -> bool {
        let state = self.state.lock();
        let has_news = !state.dirty.is_empty() || !state.ended.is_empty();
        has_news && state.grant.is_some() && state.updates < UPDATES_IN_FLIGHT_MAX
    }

    fn send_update(self: &Arc<Self>, owner: &Arc<Sessions>) {
        let mut state = self.state.lock();
        let Some(grant) = state.grant else { return };
        let mut updates = Vec::new();
        while updates.len() < UPDATE_MAX
            && let Some(number) = state.dirty.pop_first()
        {
            let Some(session) = state.sessions.get(&number) else { continue };
            let Some(update) = session.core.lock().take_update(number) else { continue };
            updates.push((Arc::clone(session), update));
        }
        let ended: Vec<_> = std::mem::take(&mut state.ended).into_iter().collect();
        if updates.is_empty() && ended.is_empty() {
            return;
        }
        state.updates += 1;
        drop(state);
        let (link, owner_too) = (Arc::clone(self), Arc::clone(owner));
        owner.spawn(async move { link.update(&owner_too, grant, updates, ended).await });
    }

    async fn update(
        &self,
        owner: &Arc<Sessions>,
        grant: Grant,
        updates: Vec<(Arc<SessionEntry>, UpdateEntry)>,
        ended: Vec<u64>,
    ) {
        let entries = updates.iter().map(|(_, update)| update.clone()).collect();
        let request = RelayRequest::Update { shard: self.shard, entries, ended: ended.clone() };
        let deadline = Instant::now() + UPDATE_PATIENCE;
        let answer = owner.router().ask_node(grant.node, self.shard, request, deadline).await;
        let results = match answer {
            Ok(RelayAnswer::Updated(results)) if results.len() == updates.len() => results,
            _ => {
                self.update_failed(grant, updates, ended).await;
                return;
            }
        };
        let again = self.note_results(updates, results);
        if !again.is_empty() {
            tokio::time::sleep(REPEAT_PAUSE).await;
        }
        let mut state = self.state.lock();
        state.dirty.extend(again);
        state.updates -= 1;
        drop(state);
        self.wake.notify_one();
    }

    /// Answers whose acknowledgements are to be repeated after a pause.
    fn note_results(
        &self,
        updates: Vec<(Arc<SessionEntry>, UpdateEntry)>,
        results: Vec<UpdateResult>,
    ) -> BTreeSet<u64> {
        let mut again = BTreeSet::new();
        let mut state = self.state.lock();
        for ((session, update), result) in updates.into_iter().zip(results) {
            let (is_void, is_dirty) = session.core.lock().updated(update, result);
            if is_void {
                state.detach(session.number);
            } else if is_dirty && result == UpdateResult::Unconfirmed {
                again.insert(session.number);
            } else if is_dirty {
                state.dirty.insert(session.number);
            }
        }
        again
    }

    /// Nobody knows what arrived: the sessions present it all with a new subscription.
    async fn update_failed(
        &self,
        grant: Grant,
        updates: Vec<(Arc<SessionEntry>, UpdateEntry)>,
        ended: Vec<u64>,
    ) {
        tokio::time::sleep(RESUBSCRIBE_PAUSE).await;
        let mut state = self.state.lock();
        state.updates -= 1;
        if state.grant == Some(grant) {
            for (session, update) in updates {
                if session.core.lock().generation() == update.generation {
                    state.detach(session.number);
                }
            }
        }
        state.ended.extend(ended);
        drop(state);
        self.wake.notify_one();
    }
}

impl State {
    fn detach(&mut self, number: u64) {
        let Some(session) = self.sessions.get(&number) else { return };
        session.core.lock().detach();
        self.dirty.remove(&number);
        self.received.remove(&number);
        self.detached.insert(number);
    }
}
