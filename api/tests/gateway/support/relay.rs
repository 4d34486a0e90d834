//! A relay in memory: one mailbox a device, one session a connection, faults on demand.

use std::{
    collections::{HashMap, VecDeque},
    future::ready,
    pin::Pin,
    sync::{
        Arc, Weak,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use heliograph_cluster::{
    Accepted, AckItem, ApiKey, CloseReason, Condition, Fetch, LiveFrame, LiveOutcome, Outgoing,
    Principal, Push, PushSink, Registration, Relay, RelayError, RelayStatus, ResumeHint,
    ResumeTicket, RevokeScope, Session, Window,
    model::{DeviceId, Message, MessageId, PRIORITIES, Priority},
};
use parking_lot::Mutex;
use tokio::{sync::Notify, time::Instant};

type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

#[derive(Default)]
struct State {
    devices: HashMap<DeviceId, [u8; 32]>,
    keys: HashMap<String, Principal>,
    next_key: u64,
    mailboxes: HashMap<DeviceId, Mailbox>,
    seen: HashMap<(DeviceId, DeviceId, MessageId), (Bytes, Accepted)>,
    sessions: Vec<(Principal, Weak<Subscription>)>,
    fail_next: VecDeque<RelayError>,
    not_ready: Option<&'static str>,
    next_home: Option<String>,
    /// Each is taken once.
    tickets: HashMap<String, Option<Principal>>,
    sent_order: Vec<MessageId>,
}

#[derive(Default)]
struct Mailbox {
    next: [u64; PRIORITIES],
    pending: Vec<Message>,
}

#[derive(Default)]
pub struct FakeRelay {
    state: Arc<Mutex<State>>,
    changed: Arc<Notify>,
    /// While set, sends wait: for tests with several in flight.
    pub hold: Arc<tokio::sync::RwLock<()>>,
    /// While set, keys behind tickets are not confirmed.
    pub hold_keys: Arc<tokio::sync::RwLock<()>>,
    pub sends_begun: AtomicUsize,
    pub polls_begun: AtomicUsize,
}

/// A connection's subscription.
pub struct Subscription {
    device: DeviceId,
    sink: Arc<dyn PushSink>,
    state: Arc<Mutex<State>>,
    changed: Arc<Notify>,
    offered: Mutex<Vec<(Priority, u64)>>,
    pub written: Mutex<Vec<(Priority, u64)>>,
}

impl Session for Subscription {
    fn written(&self, items: &[(Priority, u64)]) {
        self.written.lock().extend_from_slice(items);
        self.changed.notify_waiters();
    }

    fn acknowledge(&self, items: &[AckItem]) -> u32 {
        let offered = self.offered.lock().clone();
        let mut state = self.state.lock();
        let mailbox = state.mailboxes.entry(self.device.clone()).or_default();
        let before = mailbox.pending.len();
        mailbox.pending.retain(|message| {
            !(offered.contains(&(message.priority, message.seq)) && names(items, message))
        });
        let taken = before - mailbox.pending.len();
        drop(state);
        self.changed.notify_waiters();
        taken as u32
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.changed.notify_waiters();
    }
}

fn names(items: &[AckItem], message: &Message) -> bool {
    items.iter().any(|item| match item {
        AckItem::Id(id) => *id == message.message_id,
        AckItem::Seq(priority, seq) => (*priority, *seq) == (message.priority, message.seq),
    })
}

impl FakeRelay {
    /// The next calls fail with these.
    pub fn fail_next(&self, errors: impl IntoIterator<Item = RelayError>) {
        self.state.lock().fail_next.extend(errors);
    }

    pub fn set_not_ready(&self, reason: Option<&'static str>) {
        self.state.lock().not_ready = reason;
    }

    /// Where connections are told to go on.
    pub fn set_next_home(&self, url: &str) {
        self.state.lock().next_home = Some(url.to_owned());
    }

    /// Makes a device with a key, without registering.
    pub fn device(&self, name: &str) -> ApiKey {
        let device = DeviceId::new(name).unwrap();
        let mut state = self.state.lock();
        state.devices.entry(device.clone()).or_insert([0; 32]);
        state.issue(&device)
    }

    pub fn pending(&self, name: &str) -> usize {
        let device = DeviceId::new(name).unwrap();
        self.state.lock().mailboxes.get(&device).map_or(0, |mailbox| mailbox.pending.len())
    }

    /// Message ids in the order in which sends were begun.
    pub fn sent_order(&self) -> Vec<String> {
        self.state.lock().sent_order.iter().map(|id| id.as_str().to_owned()).collect()
    }

    /// The live subscriptions of a device.
    pub fn sessions(&self, name: &str) -> Vec<Arc<Subscription>> {
        self.state.lock().live(name)
    }

    /// Pushes to all connections of a device; answers how many took it.
    pub fn push(&self, name: &str, push: &Push) -> usize {
        let sessions = self.sessions(name);
        sessions.iter().filter(|session| session.sink.push(push.clone()).is_ok()).count()
    }

    /// Waits until `done` holds; woken by each change.
    pub async fn until(&self, mut done: impl FnMut(&Self) -> bool) {
        let wait = async {
            loop {
                let changed = self.changed.notified();
                tokio::pin!(changed);
                changed.as_mut().enable();
                if done(self) {
                    return;
                }
                changed.await;
            }
        };
        tokio::time::timeout(super::PATIENCE, wait).await.expect("the relay gets there");
    }

    fn fault(&self) -> Result<(), RelayError> {
        self.state.lock().fail_next.pop_front().map_or(Ok(()), Err)
    }

    fn store(&self, message: Outgoing) -> Result<Accepted, RelayError> {
        let mut state = self.state.lock();
        let id = (message.sender.clone(), message.recipient.clone(), message.message_id.clone());
        if let Some((content, accepted)) = state.seen.get(&id) {
            let same = *content == message.content;
            let accepted = Accepted { duplicate: true, ..*accepted };
            return if same { Ok(accepted) } else { Err(RelayError::MessageConflict) };
        }
        let mailbox = state.mailboxes.entry(message.recipient.clone()).or_default();
        let next = &mut mailbox.next[usize::from(message.priority.level())];
        *next += 1;
        let accepted =
            Accepted { seq: *next, accepted_ms: super::unix_seconds() * 1000, duplicate: false };
        let stored = Message {
            seq: accepted.seq,
            priority: message.priority,
            sender: message.sender,
            message_id: message.message_id,
            accepted_ms: accepted.accepted_ms,
            expires_ms: accepted.accepted_ms + 1_000_000,
            content: message.content.clone(),
        };
        mailbox.pending.push(stored.clone());
        state.seen.insert(id, (message.content, accepted));
        let sessions = state.live(message.recipient.as_str());
        drop(state);
        for session in sessions {
            session.offer(vec![Arc::new(stored.clone())]);
        }
        self.changed.notify_waiters();
        Ok(accepted)
    }
}

impl Subscription {
    fn offer(&self, messages: Vec<Arc<Message>>) {
        self.offered.lock().extend(messages.iter().map(|m| (m.priority, m.seq)));
        assert!(self.sink.push(Push::Messages(messages)).is_ok(), "within the window");
    }
}

impl State {
    fn issue(&mut self, device: &DeviceId) -> ApiKey {
        self.next_key += 1;
        let text = format!("hg1_{:056}", self.next_key);
        let principal = Principal { device: device.clone(), key_id: self.next_key };
        self.keys.insert(text.clone(), principal);
        ApiKey::from_text(&text)
    }

    fn live(&mut self, name: &str) -> Vec<Arc<Subscription>> {
        self.sessions.retain(|(_, session)| session.strong_count() > 0);
        let of_device = self.sessions.iter().filter(|(who, _)| who.device.as_str() == name);
        of_device.filter_map(|(_, session)| session.upgrade()).collect()
    }
}

impl Relay for FakeRelay {
    fn register(
        &self,
        request: Registration,
        _: Instant,
    ) -> BoxFuture<'_, Result<ApiKey, RelayError>> {
        let result = self.fault().and_then(|()| {
            let mut state = self.state.lock();
            let known = state.devices.get(&request.device);
            if known.is_some_and(|key| *key != request.public_key || !request.signed) {
                return Err(RelayError::DeviceTaken);
            }
            state.devices.insert(request.device.clone(), request.public_key);
            Ok(state.issue(&request.device))
        });
        Box::pin(ready(result))
    }

    fn authenticate(
        &self,
        key: &ApiKey,
        _: Instant,
    ) -> BoxFuture<'_, Result<Principal, RelayError>> {
        let state = self.state.lock();
        let principal = state.keys.get(key.expose()).cloned();
        Box::pin(ready(principal.ok_or(RelayError::Unauthenticated)))
    }

    fn revoke(
        &self,
        principal: &Principal,
        scope: RevokeScope,
        _: Instant,
    ) -> BoxFuture<'_, Result<(), RelayError>> {
        let result = self.fault().map(|()| {
            let falls = |who: &Principal| {
                who.device == principal.device
                    && (scope == RevokeScope::EveryKey || who.key_id == principal.key_id)
            };
            let mut state = self.state.lock();
            state.keys.retain(|_, who| !falls(who));
            for (who, session) in &state.sessions {
                if let Some(session) = session.upgrade().filter(|_| falls(who)) {
                    let _ = session.sink.push(Push::Close(CloseReason::KeyRevoked));
                }
            }
        });
        Box::pin(ready(result))
    }

    fn send(&self, message: Outgoing, _: Instant) -> BoxFuture<'_, Result<Accepted, RelayError>> {
        Box::pin(async move {
            self.state.lock().sent_order.push(message.message_id.clone());
            self.sends_begun.fetch_add(1, Ordering::SeqCst);
            self.changed.notify_waiters();
            let _held = self.hold.read().await;
            self.fault()?;
            self.store(message)
        })
    }

    fn receive(
        &self,
        device: &DeviceId,
        fetch: Fetch,
        _: Instant,
    ) -> BoxFuture<'_, Result<Vec<Message>, RelayError>> {
        let device = device.clone();
        Box::pin(async move {
            self.fault()?;
            self.polls_begun.fetch_add(1, Ordering::SeqCst);
            self.changed.notify_waiters();
            let until = Instant::now() + fetch.wait;
            loop {
                let changed = self.changed.notified();
                tokio::pin!(changed);
                changed.as_mut().enable();
                let found = self.read(&device, fetch);
                if !found.is_empty() {
                    return Ok(found);
                }
                if tokio::time::timeout_at(until, changed).await.is_err() {
                    return Ok(Vec::new());
                }
            }
        })
    }

    fn acknowledge(
        &self,
        device: &DeviceId,
        items: Vec<AckItem>,
        _: Instant,
    ) -> BoxFuture<'_, Result<u32, RelayError>> {
        let result = self.fault().map(|()| {
            let mut state = self.state.lock();
            let mailbox = state.mailboxes.entry(device.clone()).or_default();
            let before = mailbox.pending.len();
            mailbox.pending.retain(|message| !names(&items, message));
            (before - mailbox.pending.len()) as u32
        });
        Box::pin(ready(result))
    }

    fn farewell(&self, principal: &Principal) -> Option<ResumeHint> {
        let mut state = self.state.lock();
        let url = state.next_home.clone()?;
        let ticket = format!("ticket-{}", state.tickets.len());
        state.tickets.insert(ticket.clone(), Some(principal.clone()));
        let ticket = ResumeTicket::from_text(&ticket);
        Some(ResumeHint { url, ticket, expires_in: Duration::from_secs(30) })
    }

    fn resume(&self, ticket: &ResumeTicket) -> Result<Principal, RelayError> {
        let mut state = self.state.lock();
        let bearer = state.tickets.get_mut(ticket.expose()).and_then(Option::take);
        bearer.ok_or(RelayError::Unauthenticated)
    }

    fn confirm(&self, principal: &Principal, _: Instant) -> BoxFuture<'_, Result<(), RelayError>> {
        let principal = principal.clone();
        Box::pin(async move {
            let _held = self.hold_keys.read().await;
            let is_valid = self.state.lock().keys.values().any(|who| *who == principal);
            if is_valid { Ok(()) } else { Err(RelayError::Unauthenticated) }
        })
    }

    fn connect(
        &self,
        principal: &Principal,
        received: &[(Priority, u64)],
        _: Window,
        sink: Arc<dyn PushSink>,
    ) -> Arc<dyn Session> {
        let session = Arc::new(Subscription {
            device: principal.device.clone(),
            sink,
            state: Arc::clone(&self.state),
            changed: Arc::clone(&self.changed),
            offered: Mutex::new(received.to_vec()),
            written: Mutex::default(),
        });
        self.state.lock().sessions.push((principal.clone(), Arc::downgrade(&session)));
        let fetch = Fetch { limit: 1_000, wait: Duration::ZERO, after: None };
        let mut backlog = self.read(&principal.device, fetch);
        backlog.retain(|message| !received.contains(&(message.priority, message.seq)));
        if !backlog.is_empty() {
            session.offer(backlog.into_iter().map(Arc::new).collect());
        }
        self.changed.notify_waiters();
        session
    }

    fn live(&self, frame: LiveFrame, _: Instant) -> BoxFuture<'_, Result<LiveOutcome, RelayError>> {
        let result = self.fault().map(|()| {
            let taken = self.push(frame.recipient.as_str(), &Push::Live(frame.payload.clone()));
            if taken > 0 { LiveOutcome::Forwarded } else { LiveOutcome::Unavailable }
        });
        Box::pin(ready(result))
    }

    fn status(&self) -> RelayStatus {
        let not_ready = self.state.lock().not_ready;
        RelayStatus {
            condition: if not_ready.is_some() { Condition::Degraded } else { Condition::Online },
            shards_without_leader: 0,
            not_ready,
            dedup_window: Duration::from_secs(3600),
            ttl_default: Duration::from_secs(30 * 86_400),
            ttl_max: Duration::from_secs(90 * 86_400),
        }
    }
}

impl FakeRelay {
    fn read(&self, device: &DeviceId, fetch: Fetch) -> Vec<Message> {
        let state = self.state.lock();
        let Some(mailbox) = state.mailboxes.get(device) else { return Vec::new() };
        let mut found: Vec<_> = mailbox.pending.clone();
        found.sort_by_key(|message| (std::cmp::Reverse(message.priority), message.seq));
        let place = |priority: Priority, seq: u64| (std::cmp::Reverse(priority), seq);
        if let Some((priority, seq)) = fetch.after {
            found.retain(|m| place(m.priority, m.seq) > place(priority, seq));
        }
        found.truncate(fetch.limit);
        found
    }
}
