//! The cluster as front doors of this node see it.

use std::{sync::Arc, time::Duration};

use heliograph_transport::BoxFuture;
use tokio::time::Instant;

use super::{
    fingerprint::Fingerprints,
    keys::{Kept, KeyParts},
    links::Grant,
    live::Live,
    router::{Kind, Router},
    service::{ACK_ITEMS_MAX, WAIT_MAX},
    sessions::Sessions,
    tickets::Tickets,
    wire::{KeyRecord, RelayAnswer, RelayRequest},
};
use crate::{
    Accepted, AckItem, ApiKey, CloseReason, Condition, Fetch, LiveFrame, LiveOutcome, Outgoing,
    Principal, Push, PushSink, Registration, Relay, RelayError, RelayStatus, ResumeHint,
    ResumeTicket, RevokeScope, Session, Settings, Window,
    context::Context,
    machine::{Enqueue, Outcome, Register},
    metrics,
    model::{CONTENT_BYTES_MAX, DeviceId, Message, Priority, Slot},
};

/// How often a key's id may be taken by another device of the slot: with 64 random bits once is
/// too often already.
const KEY_ID_ATTEMPTS: usize = 3;
/// How often a revocation may come between the question for a key and the answer.
const AUTHENTICATE_ATTEMPTS: usize = 8;
/// The longest long poll (the contract's).
const FETCH_WAIT_MAX: Duration = Duration::from_secs(60);

/// What a front door of this node is given: [`Relay`] over router, sessions, keys and live frames.
pub(crate) struct ClusterHandle {
    pub(super) router: Arc<Router>,
    pub(super) sessions: Arc<Sessions>,
    pub(super) live: Arc<Live>,
    pub(super) tickets: Tickets,
    pub(super) context: Arc<Context>,
}

impl std::fmt::Debug for ClusterHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ClusterHandle")
    }
}

impl ClusterHandle {
    async fn register_device(
        &self,
        request: Registration,
        deadline: Instant,
    ) -> Result<ApiKey, RelayError> {
        let topology = self.router.topology()?;
        let mailbox = topology.key_hasher().mailbox(&request.device);
        for _ in 0..KEY_ID_ATTEMPTS {
            let key = KeyParts::fresh(mailbox.slot(), &self.context.surroundings);
            let register = RelayRequest::Register(Register {
                mailbox,
                device: request.device.clone(),
                public_key: request.public_key,
                signed: request.signed,
                key_id: key.key_id,
                key_hash: key.hash(&topology.settings.secret_key),
            });
            let routed = self.router.ask(&mailbox, Kind::Prompt, &register, deadline).await?;
            match routed.answer {
                RelayAnswer::Done(Outcome::Registered) => return Ok(key.text()),
                RelayAnswer::Done(Outcome::DeviceTaken) => return Err(RelayError::DeviceTaken),
                RelayAnswer::Done(Outcome::KeyIdTaken) => {}
                _ => return Err(RelayError::Unavailable),
            }
        }
        Err(RelayError::Unavailable)
    }

    async fn check_key(&self, key: KeyParts, deadline: Instant) -> Result<Principal, RelayError> {
        let topology = self.router.topology()?;
        let record = self.find_key(key.slot, key.key_id, deadline).await?;
        if !key.is(&record, &topology.settings.secret_key) {
            return Err(RelayError::Unauthenticated);
        }
        Ok(Principal { device: record.device, key_id: key.key_id })
    }

    /// What the shard keeps of a key, from the cache or from the shard.
    pub(super) async fn find_key(
        &self,
        slot: Slot,
        key_id: u64,
        deadline: Instant,
    ) -> Result<KeyRecord, RelayError> {
        let topology = self.router.topology()?;
        let keys = &self.sessions.keys;
        if let Some((record, shard, grant)) = keys.get(slot, key_id)
            && self.sessions.counts(shard, grant)
        {
            ::metrics::counter!(metrics::KEY_HITS_TOTAL).increment(1);
            return Ok(record);
        }
        ::metrics::counter!(metrics::KEY_MISSES_TOTAL).increment(1);
        let shard = topology.shard_of(slot);
        for _ in 0..AUTHENTICATE_ATTEMPTS {
            let revocations = keys.revocations();
            let boot = self.sessions.boot();
            let request = RelayRequest::Authenticate { boot, slot, key_id };
            let routed = self.router.ask_shard(shard, Kind::Prompt, &request, deadline).await?;
            let RelayAnswer::Key { lease, term, key: record } = routed.answer else {
                return Err(RelayError::Unavailable);
            };
            let Some(record) = record else { return Err(RelayError::Unauthenticated) };
            let Some(lease) = lease else { return Ok(record) };
            let grant = Grant { node: routed.node, lease, term };
            if !self.sessions.granted(shard, grant, routed.asked) {
                continue;
            }
            let counts = |shard, grant| self.sessions.counts(shard, grant);
            let under = (shard, grant);
            let kept = keys.keep((slot, key_id), record.clone(), under, revocations, counts);
            if kept == Kept::Yes {
                return Ok(record);
            }
        }
        Err(RelayError::Unavailable)
    }

    async fn revoke_keys(
        &self,
        device: DeviceId,
        key_id: Option<u64>,
        deadline: Instant,
    ) -> Result<(), RelayError> {
        let mailbox = self.router.topology()?.key_hasher().mailbox(&device);
        let request = RelayRequest::Revoke { mailbox, key_id };
        match self.router.ask(&mailbox, Kind::Prompt, &request, deadline).await?.answer {
            RelayAnswer::Revoked => Ok(()),
            _ => Err(RelayError::Unavailable),
        }
    }

    async fn store(&self, message: Outgoing, deadline: Instant) -> Result<Accepted, RelayError> {
        if message.content.len() > CONTENT_BYTES_MAX {
            return Err(RelayError::TooLarge);
        }
        let topology = self.router.topology()?;
        let mailbox = topology.key_hasher().mailbox(&message.recipient);
        let fingerprints = Fingerprints::of(&message, &topology.settings.secret_key);
        let request = RelayRequest::Enqueue(Enqueue {
            mailbox,
            ttl_ms: ttl_ms(message.ttl, &topology.settings),
            sender: message.sender,
            message_id: message.message_id,
            priority: message.priority,
            fingerprint: fingerprints.message,
            sender_fingerprint: fingerprints.sender,
            content_fingerprint: fingerprints.content,
            content: message.content,
        });
        match self.router.ask(&mailbox, Kind::Prompt, &request, deadline).await?.answer {
            RelayAnswer::Done(Outcome::Enqueued { seq, accepted_ms, duplicate }) => {
                Ok(Accepted { seq, accepted_ms, duplicate })
            }
            RelayAnswer::Done(Outcome::Conflict) => Err(RelayError::MessageConflict),
            RelayAnswer::Done(Outcome::MailboxFull) => Err(RelayError::MailboxFull),
            RelayAnswer::Done(Outcome::TooLarge) => Err(RelayError::TooLarge),
            _ => Err(RelayError::Unavailable),
        }
    }

    async fn fetch(
        &self,
        device: DeviceId,
        fetch: Fetch,
        deadline: Instant,
    ) -> Result<Vec<Message>, RelayError> {
        let mailbox = self.router.topology()?.key_hasher().mailbox(&device);
        let until = Instant::now() + fetch.wait.min(FETCH_WAIT_MAX);
        loop {
            let wait = until.saturating_duration_since(Instant::now()).min(WAIT_MAX);
            let kind = if wait.is_zero() { Kind::Prompt } else { Kind::Waiting };
            let request = RelayRequest::Receive {
                mailbox,
                limit: u32::try_from(fetch.limit).unwrap_or(u32::MAX),
                // Rounded up: what is left of a millisecond must not become no wait at all.
                wait_ms: u32::try_from(wait.as_micros().div_ceil(1000)).unwrap_or(u32::MAX),
                after: fetch.after,
            };
            let routed = self.router.ask(&mailbox, kind, &request, deadline).await;
            match routed.map(|routed| routed.answer) {
                Ok(RelayAnswer::Messages(messages)) if !messages.is_empty() => {
                    return Ok(messages.into_iter().map(Arc::unwrap_or_clone).collect());
                }
                Ok(RelayAnswer::Messages(_)) if Instant::now() >= until => return Ok(Vec::new()),
                Ok(RelayAnswer::Messages(_)) => {}
                Ok(_) => return Err(RelayError::Unavailable),
                Err(error) => return Err(error),
            }
        }
    }

    async fn forget(
        &self,
        device: DeviceId,
        items: Vec<AckItem>,
        deadline: Instant,
    ) -> Result<u32, RelayError> {
        let mailbox = self.router.topology()?.key_hasher().mailbox(&device);
        let mut total = 0;
        for items in items.chunks(ACK_ITEMS_MAX) {
            let request = RelayRequest::Acknowledge { mailbox, items: items.to_vec() };
            match self.router.ask(&mailbox, Kind::Prompt, &request, deadline).await?.answer {
                RelayAnswer::Done(Outcome::Acknowledged { count }) => total += count,
                _ => return Err(RelayError::Unavailable),
            }
        }
        Ok(total)
    }
}

fn ttl_ms(wish: Option<Duration>, settings: &Settings) -> u64 {
    let Some(wish) = wish else { return settings.ttl_default_ms };
    u64::try_from(wish.as_millis()).unwrap_or(u64::MAX).min(settings.limits.ttl_max_ms)
}

impl Relay for ClusterHandle {
    fn register(
        &self,
        request: Registration,
        deadline: Instant,
    ) -> BoxFuture<'_, Result<ApiKey, RelayError>> {
        Box::pin(self.register_device(request, deadline))
    }

    fn authenticate(
        &self,
        key: &ApiKey,
        deadline: Instant,
    ) -> BoxFuture<'_, Result<Principal, RelayError>> {
        match KeyParts::parse(key) {
            Some(key) => Box::pin(self.check_key(key, deadline)),
            None => Box::pin(std::future::ready(Err(RelayError::Unauthenticated))),
        }
    }

    fn farewell(&self, principal: &Principal) -> Option<ResumeHint> {
        self.hint(principal)
    }

    fn resume(&self, ticket: &ResumeTicket) -> Result<Principal, RelayError> {
        self.take_ticket(ticket)
    }

    fn confirm(
        &self,
        principal: &Principal,
        deadline: Instant,
    ) -> BoxFuture<'_, Result<(), RelayError>> {
        Box::pin(self.confirm_key(principal.clone(), deadline))
    }

    fn revoke(
        &self,
        principal: &Principal,
        scope: RevokeScope,
        deadline: Instant,
    ) -> BoxFuture<'_, Result<(), RelayError>> {
        let key_id = match scope {
            RevokeScope::ThisKey => Some(principal.key_id),
            RevokeScope::EveryKey => None,
        };
        Box::pin(self.revoke_keys(principal.device.clone(), key_id, deadline))
    }

    fn send(
        &self,
        message: Outgoing,
        deadline: Instant,
    ) -> BoxFuture<'_, Result<Accepted, RelayError>> {
        Box::pin(self.store(message, deadline))
    }

    fn receive(
        &self,
        device: &DeviceId,
        fetch: Fetch,
        deadline: Instant,
    ) -> BoxFuture<'_, Result<Vec<Message>, RelayError>> {
        Box::pin(self.fetch(device.clone(), fetch, deadline))
    }

    fn acknowledge(
        &self,
        device: &DeviceId,
        items: Vec<AckItem>,
        deadline: Instant,
    ) -> BoxFuture<'_, Result<u32, RelayError>> {
        Box::pin(self.forget(device.clone(), items, deadline))
    }

    fn connect(
        &self,
        principal: &Principal,
        received: &[(Priority, u64)],
        window: Window,
        sink: Arc<dyn PushSink>,
    ) -> Arc<dyn Session> {
        let refusal = if self.context.is_draining() {
            CloseReason::NodeRestarts
        } else {
            let connected_ms = self.context.surroundings.clock.wall_ms();
            let sink = Arc::clone(&sink);
            let session = self.sessions.connect(principal, received, window, sink, connected_ms);
            match session {
                Some(session) => return session,
                None => CloseReason::TryAgainLater,
            }
        };
        // A queue that is full already has no connection behind it.
        let _ = sink.push(Push::Close(refusal));
        Arc::new(Refused)
    }

    fn live(
        &self,
        frame: LiveFrame,
        deadline: Instant,
    ) -> BoxFuture<'_, Result<LiveOutcome, RelayError>> {
        Box::pin(self.live.forward(frame, deadline))
    }

    fn status(&self) -> RelayStatus {
        let shards_without_leader =
            u32::try_from(self.context.shards_without_leader()).unwrap_or(u32::MAX);
        let settings =
            self.router.topology().map(|topology| topology.settings.clone()).unwrap_or_default();
        let is_degraded = shards_without_leader > 0
            || !self.context.storage_is_sound()
            || self.router.topology().is_err();
        let condition = if self.context.is_draining() {
            Condition::Draining
        } else if is_degraded {
            Condition::Degraded
        } else {
            Condition::Online
        };
        RelayStatus {
            condition,
            shards_without_leader,
            not_ready: self.context.not_ready_reason(),
            dedup_window: Duration::from_millis(settings.limits.dedup_window_ms),
            ttl_default: Duration::from_millis(settings.ttl_default_ms),
            ttl_max: Duration::from_millis(settings.limits.ttl_max_ms),
        }
    }
}

/// The session of a connection that was told to close at once.
struct Refused;

impl Session for Refused {
    fn written(&self, _items: &[(Priority, u64)]) {}

    fn acknowledge(&self, _items: &[AckItem]) -> u32 {
        0
    }
}
