//! Tests of the leader's side over a shard without Raft.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use heliograph_storage::{self as storage, MemoryRows, RowsRead};
use heliograph_transport::{BoxFuture, SimFabric};

use super::*;
use crate::{
    Leadership, Placement, Settings, ShardObserver, Window,
    actors::mailbox_handle::PUT_OFF_MAX,
    delivery::wire::{Deliver, Parcel, SubscribeEntry, SubscribeResult},
    machine::{CommandBatch, Effect, Enqueue, Limits, Register, Removal, ShardMachine},
    model::{DeviceId, MessageId, Priority},
    shard_handle::ShardPort,
};

const LOCAL: NodeId = NodeId(1);
const SHARD: ShardId = ShardId(0);
const KEY_ID: u64 = 5;

/// A shard on one replica: what is proposed is applied at once.
struct Shard {
    state: Mutex<(ShardMachine, MemoryRows)>,
    leadership: watch::Sender<Leadership>,
    has_quorum: AtomicBool,
    is_readable: AtomicBool,
    observer: OnceLock<Weak<Service>>,
    applied: AtomicU64,
}

struct Unreadable;

impl RowsRead for Unreadable {
    fn get(&self, _key: &[u8]) -> Result<Option<Bytes>, storage::Error> {
        Err(storage::Error::Closed)
    }

    fn scan(
        &self,
        _from: &[u8],
        _to: &[u8],
        _limit: usize,
    ) -> Result<Vec<(Bytes, Bytes)>, storage::Error> {
        Err(storage::Error::Closed)
    }
}

impl Shard {
    fn new() -> Arc<Self> {
        let rows = MemoryRows::default();
        let machine = ShardMachine::load(&rows, Limits::default()).unwrap();
        let acting = Leadership { term: 1, leader: Some(LOCAL), role: Role::Acting };
        Arc::new(Self {
            state: Mutex::new((machine, rows)),
            leadership: watch::Sender::new(acting),
            has_quorum: true.into(),
            is_readable: true.into(),
            observer: OnceLock::new(),
            applied: 0.into(),
        })
    }

    fn apply(&self, command: Command) -> (Outcome, Vec<Effect>) {
        let (machine, rows) = &mut *self.state.lock();
        let time_ms = 1000 + self.applied.fetch_add(1, Ordering::Relaxed);
        let batch = CommandBatch { time_ms, commands: vec![command] };
        let mut applied = machine.apply(rows, &batch).unwrap();
        (applied.outcomes.remove(0), applied.effects)
    }

    fn lead(&self, service: &Service, term: u64, role: Role) {
        let leadership = Leadership { term, leader: Some(LOCAL), role };
        self.leadership.send_replace(leadership);
        service.leadership(SHARD, &leadership);
    }
}

impl ShardPort for Shard {
    fn id(&self) -> ShardId {
        SHARD
    }

    fn propose(
        &self,
        command: Command,
        _deadline: Instant,
    ) -> BoxFuture<'static, Result<Outcome, ProposeError>> {
        let (outcome, effects) = self.apply(command);
        if let Some(observer) = self.observer.get().and_then(Weak::upgrade) {
            observer.applied(SHARD, self.leadership.borrow().term, effects);
        }
        Box::pin(std::future::ready(Ok(outcome)))
    }

    fn leadership(&self) -> watch::Receiver<Leadership> {
        self.leadership.subscribe()
    }

    fn fence(&self) -> Option<Fence> {
        let Leadership { term, role, .. } = *self.leadership.borrow();
        let acts = role == Role::Acting && self.has_quorum.load(Ordering::Relaxed);
        acts.then_some(Fence { shard: SHARD, term })
    }

    fn rows(&self, reader: &mut dyn FnMut(&dyn RowsRead)) {
        if self.is_readable.load(Ordering::Relaxed) {
            let (machine, rows) = &*self.state.lock();
            reader(&machine.over(rows));
        } else {
            reader(&Unreadable);
        }
    }

    fn time_ms(&self) -> u64 {
        self.state.lock().0.time_ms()
    }

    fn applied_index(&self) -> u64 {
        self.applied.load(Ordering::Relaxed)
    }
}

/// What this node's connections are told.
#[derive(Default)]
struct Told(Mutex<Vec<RelayNotice>>);

impl NoticeSink for Told {
    fn notice(&self, _from: NodeId, notice: RelayNotice) {
        self.0.lock().push(notice);
    }

    fn drop_keys(&self, _mailbox: &MailboxKey, _key_id: Option<u64>) {}
}

impl Told {
    /// The numbers of delivered messages, and how many subscriptions are gone.
    fn take(&self) -> (Vec<u64>, usize) {
        let (mut seqs, mut gone) = (Vec::new(), 0);
        for notice in self.0.lock().drain(..) {
            match notice {
                RelayNotice::Deliver(Deliver { parcel: Parcel::Messages(messages), .. }) => {
                    seqs.extend(messages.iter().map(|message| message.seq));
                }
                RelayNotice::Gone { subscriptions } => gone += subscriptions.len(),
                other => panic!("{other:?}"),
            }
        }
        (seqs, gone)
    }
}

struct Bench {
    shard: Arc<Shard>,
    service: Arc<Service>,
    told: Arc<Told>,
    mailbox: MailboxKey,
    sent: AtomicU64,
}

impl Bench {
    /// A leader with one registered device.
    async fn new() -> Self {
        let topology = Topology {
            version: 1,
            members: Vec::new(),
            meta: Placement::formed(&[LOCAL]),
            shards: vec![Placement::formed(&[LOCAL])],
            settings: Settings::default(),
            features: 0,
        };
        let device = DeviceId::new("phone").unwrap();
        let mailbox = topology.key_hasher().mailbox(&device);
        let shard = Shard::new();
        let shards = Arc::new(LocalShards::default());
        shards.insert(ShardHandle::new(shard.clone()));
        let service = Service::new(ServiceParts {
            local: LOCAL,
            shards,
            leaders: Arc::default(),
            topology: watch::Sender::new(Some(Arc::new(topology))).subscribe(),
            peers: PeerClient::new(SimFabric::new(1).node(LOCAL)),
            surroundings: Surroundings::system(),
        });
        let told = Arc::new(Told::default());
        let sink: Weak<Told> = Arc::downgrade(&told);
        service.set_local_sink(sink);
        shard.observer.set(Arc::downgrade(&service)).unwrap();
        let bench = Self { shard, service, told, mailbox, sent: 0.into() };
        let register = Register {
            mailbox,
            device,
            public_key: [1; 32],
            signed: true,
            key_id: KEY_ID,
            key_hash: [2; 32],
        };
        let answer = bench.ask(RelayRequest::Register(register)).await;
        assert_eq!(answer, RelayAnswer::Done(Outcome::Registered));
        bench
    }

    async fn ask(&self, request: RelayRequest) -> RelayAnswer {
        self.service.serve(LOCAL, request, Instant::now() + Duration::from_secs(1)).await
    }

    fn message(&self) -> Enqueue {
        let number = self.sent.fetch_add(1, Ordering::Relaxed);
        Enqueue {
            mailbox: self.mailbox,
            sender: DeviceId::new("sender").unwrap(),
            message_id: MessageId::new(&format!("m{number}")).unwrap(),
            priority: Priority::Normal,
            ttl_ms: 1_000_000,
            fingerprint: number.into(),
            sender_fingerprint: 1,
            content_fingerprint: 1,
            content: Bytes::from_static(b"sealed"),
        }
    }

    async fn send(&self) {
        let answer = self.ask(RelayRequest::Enqueue(self.message())).await;
        assert!(matches!(answer, RelayAnswer::Done(Outcome::Enqueued { .. })), "{answer:?}");
    }

    async fn subscribe(&self, generation: u32, key_id: u64) -> SubscribeResult {
        let entry = SubscribeEntry {
            number: 1,
            generation,
            mailbox: self.mailbox,
            key_id,
            connected_ms: 1,
            window: Window { messages: 100, bytes: 100_000 },
            in_flight: Vec::new(),
            delivered: Vec::new(),
            unconfirmed: Vec::new(),
        };
        let request = RelayRequest::Subscribe { boot: 1, shard: SHARD, entries: vec![entry] };
        match self.ask(request).await {
            RelayAnswer::Subscribed { results, .. } => results[0],
            other => panic!("{other:?}"),
        }
    }

    /// The connection writes and acknowledges messages.
    async fn update(&self, generation: u32, seqs: &[u64]) -> UpdateResult {
        let places: Vec<_> = seqs.iter().map(|seq| (Priority::Normal, *seq)).collect();
        let entry = UpdateEntry { number: 1, generation, written: places.clone(), acked: places };
        let request =
            RelayRequest::Update { shard: SHARD, entries: vec![entry], ended: Vec::new() };
        match self.ask(request).await {
            RelayAnswer::Updated(results) => results[0],
            other => panic!("{other:?}"),
        }
    }

    fn rests(&self) -> bool {
        self.service.mailboxes.find(&self.mailbox).is_some_and(|handle| handle.is_at_rest())
    }

    /// The numbers of deliveries and of the messages in them.
    async fn settled_deliveries(&self) -> Vec<(u64, Vec<u64>)> {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let deliveries = self.told.0.lock().split_off(0).into_iter().map(|notice| match notice {
            RelayNotice::Deliver(Deliver { delivery_no, parcel, .. }) => match parcel {
                Parcel::Messages(messages) => {
                    (delivery_no, messages.iter().map(|message| message.seq).collect())
                }
                other => panic!("{other:?}"),
            },
            other => panic!("{other:?}"),
        });
        deliveries.collect()
    }

    /// What connections are told once the actors have done what there is to do.
    async fn settled(&self) -> (Vec<u64>, usize) {
        tokio::time::sleep(Duration::from_millis(200)).await;
        self.told.take()
    }
}

#[tokio::test(start_paused = true)]
async fn a_subscription_gets_the_backlog_and_what_comes() {
    let bench = Bench::new().await;
    bench.send().await;
    assert_eq!(bench.subscribe(1, KEY_ID).await, SubscribeResult::Subscribed);
    bench.send().await;
    assert_eq!(bench.settled().await, (vec![1, 2], 0));
    assert_eq!(bench.subscribe(1, KEY_ID).await, SubscribeResult::Subscribed, "it came twice");
    assert_eq!(bench.settled().await, (vec![], 0));
}

#[tokio::test(start_paused = true)]
async fn a_subscription_without_a_valid_key_is_refused() {
    let bench = Bench::new().await;
    assert_eq!(bench.subscribe(1, KEY_ID + 1).await, SubscribeResult::Revoked);
    bench.send().await;
    assert_eq!(bench.settled().await, (vec![], 0));
    assert!(bench.service.leases.lock().nodes_of(&bench.mailbox).is_empty());
}

#[tokio::test(start_paused = true)]
async fn nothing_is_delivered_without_a_licence() {
    let bench = Bench::new().await;
    bench.subscribe(1, KEY_ID).await;
    bench.settled().await;
    bench.shard.has_quorum.store(false, Ordering::Relaxed);
    bench.send().await;
    assert_eq!(bench.settled().await, (vec![], 0));
    let answer = bench.ask(RelayRequest::Locate { mailbox: bench.mailbox }).await;
    assert_eq!(answer, RelayAnswer::Failed(Failure::NotActing));
    bench.shard.has_quorum.store(true, Ordering::Relaxed);
    assert_eq!(bench.settled().await, (vec![1], 0));
}

#[tokio::test(start_paused = true)]
async fn the_end_of_a_leadership_ends_actors_and_grants() {
    let bench = Bench::new().await;
    bench.subscribe(1, KEY_ID).await;
    bench.settled().await;
    bench.shard.lead(&bench.service, 2, Role::Follower);
    bench.send().await;
    assert_eq!(bench.settled().await, (vec![], 1));
    assert!(bench.service.mailboxes.find(&bench.mailbox).is_none());
    bench.shard.lead(&bench.service, 3, Role::Acting);
    assert_eq!(bench.subscribe(2, KEY_ID).await, SubscribeResult::Subscribed);
    assert_eq!(bench.settled().await, (vec![1], 0));
    // Led again at once, without a moment between the terms that anybody saw.
    bench.shard.lead(&bench.service, 5, Role::Acting);
    assert_eq!(bench.settled().await, (vec![], 1));
}

#[tokio::test(start_paused = true)]
async fn an_actor_that_fails_has_its_connections_subscribe_again() {
    let bench = Bench::new().await;
    for _ in 0..3 {
        bench.send().await;
    }
    bench.shard.is_readable.store(false, Ordering::Relaxed);
    let receive =
        RelayRequest::Receive { mailbox: bench.mailbox, limit: 1, wait_ms: 0, after: None };
    assert_eq!(bench.ask(receive.clone()).await, RelayAnswer::Failed(Failure::NotActing));
    bench.shard.is_readable.store(true, Ordering::Relaxed);
    bench.subscribe(1, KEY_ID).await;
    assert_eq!(bench.settled().await, (vec![1, 2, 3], 0));
    bench.shard.is_readable.store(false, Ordering::Relaxed);
    assert_eq!(bench.ask(receive).await, RelayAnswer::Failed(Failure::NotActing));
    assert_eq!(bench.settled().await, (vec![], 1));
    bench.shard.is_readable.store(true, Ordering::Relaxed);
    bench.subscribe(2, KEY_ID).await;
    assert_eq!(bench.settled().await, (vec![1, 2, 3], 0));
}

#[tokio::test(start_paused = true)]
async fn an_actor_that_cannot_keep_up_starts_anew() {
    let bench = Bench::new().await;
    bench.subscribe(1, KEY_ID).await;
    bench.settled().await;
    // All at once: the actor gets no turn in between.
    for _ in 0..9000 {
        let (_, effects) = bench.shard.apply(Command::Enqueue(bench.message()));
        bench.service.applied(SHARD, 1, effects);
    }
    assert_eq!(bench.settled().await, (vec![], 1));
    bench.subscribe(2, KEY_ID).await;
    assert_eq!(bench.settled().await, ((1..=100).collect(), 0), "a window's worth");
}

/// Longer than an actor waits for more.
const QUIET: Duration = Duration::from_secs(30);

#[tokio::test(start_paused = true)]
async fn a_mailbox_that_only_listens_has_no_actor_and_misses_nothing() {
    let bench = Bench::new().await;
    bench.subscribe(1, KEY_ID).await;
    assert_eq!(bench.settled().await, (vec![], 0));
    assert!(bench.rests(), "nothing came: at once");
    for seq in 1..=3 {
        bench.send().await;
        assert!(!bench.rests(), "woken by what came");
        let sent = bench.settled_deliveries().await;
        assert_eq!(sent, [(seq, vec![seq])], "deliveries are numbered on");
        tokio::time::sleep(QUIET).await;
        assert!(!bench.rests(), "something is not acknowledged");
        assert_eq!(bench.update(1, &[seq]).await, UpdateResult::Confirmed);
        bench.settled().await;
        assert!(!bench.rests(), "more may come soon");
        tokio::time::sleep(QUIET).await;
        assert!(bench.rests());
    }
    // A connection of before the rest is known, another is not.
    assert_eq!(bench.update(1, &[]).await, UpdateResult::Confirmed);
    assert_eq!(bench.update(2, &[]).await, UpdateResult::Unknown);
    tokio::time::sleep(QUIET).await;
    assert!(bench.rests());
    bench.service.orphaned(LOCAL, 1);
    bench.settled().await;
    assert!(bench.service.mailboxes.find(&bench.mailbox).is_none(), "nobody listens any more");
}

#[tokio::test(start_paused = true)]
async fn what_leaves_wakes_an_actor_only_where_something_waits_for_it() {
    let bench = Bench::new().await;
    bench.subscribe(1, KEY_ID).await;
    bench.settled().await;
    bench.send().await;
    assert_eq!(bench.settled().await, (vec![1], 0));
    let handle = bench.service.mailboxes.find(&bench.mailbox).unwrap();
    assert_eq!(bench.update(1, &[1]).await, UpdateResult::Confirmed);
    assert_eq!(bench.settled().await, (vec![], 0));
    assert_eq!(handle.waiting(), 1, "it is noted with the next event");
    bench.send().await;
    assert_eq!(bench.settled().await, (vec![2], 0));
    assert_eq!(handle.waiting(), 0);
    // A copy of another sender waits until the first one is gone, and what comes after it waits, too.
    let copy = Enqueue { fingerprint: 1, sender_fingerprint: 2, ..bench.message() };
    let answer = bench.ask(RelayRequest::Enqueue(copy)).await;
    assert!(matches!(answer, RelayAnswer::Done(Outcome::Enqueued { .. })), "{answer:?}");
    bench.send().await;
    assert_eq!(bench.settled().await, (vec![], 0));
    assert_eq!(bench.update(1, &[2]).await, UpdateResult::Confirmed);
    assert_eq!(bench.settled().await, (vec![3, 4], 0));
    assert_eq!(bench.update(1, &[3, 4]).await, UpdateResult::Confirmed);
    tokio::time::sleep(QUIET).await;
    assert!(bench.rests(), "what was put off keeps no actor");
}

#[tokio::test(start_paused = true)]
async fn what_leaves_is_put_off_within_bounds() {
    let bench = Bench::new().await;
    bench.subscribe(1, KEY_ID).await;
    bench.send().await;
    bench.settled().await;
    let handle = bench.service.mailboxes.find(&bench.mailbox).unwrap();
    for count in 1..=PUT_OFF_MAX + 1 {
        let items = vec![(Priority::Normal, 100)];
        let event = MailboxEvent::Removed { items, reason: Removal::Expired };
        assert!(handle.push(event).is_ok());
        bench.settled().await;
        assert_eq!(handle.waiting(), if count > PUT_OFF_MAX { 0 } else { count });
    }
}

#[tokio::test(start_paused = true)]
async fn a_burst_finds_a_resting_mailbox_once() {
    let bench = Bench::new().await;
    bench.subscribe(1, KEY_ID).await;
    bench.settled().await;
    assert!(bench.rests());
    // All before the new actor has its first turn.
    for _ in 0..50 {
        let (_, effects) = bench.shard.apply(Command::Enqueue(bench.message()));
        bench.service.applied(SHARD, 1, effects);
    }
    assert_eq!(bench.settled().await, ((1..=50).collect(), 0));
}

#[tokio::test(start_paused = true)]
async fn a_resting_mailbox_ends_with_the_leadership() {
    let bench = Bench::new().await;
    bench.subscribe(1, KEY_ID).await;
    bench.settled().await;
    let handle = bench.service.mailboxes.find(&bench.mailbox).unwrap();
    assert!(handle.is_at_rest());
    bench.shard.lead(&bench.service, 3, Role::Acting);
    assert_eq!(bench.settled().await, (vec![], 1));
    assert!(!handle.is_at_rest(), "what it was is gone");
    assert!(handle.push(MailboxEvent::Unsubscribe(SubscriptionId { node: 1, number: 1 })).is_err());
    bench.send().await;
    assert_eq!(bench.subscribe(2, KEY_ID).await, SubscribeResult::Subscribed);
    assert_eq!(bench.settled().await, (vec![1], 0), "from the rows of the new term");
}

#[tokio::test(start_paused = true)]
async fn a_mailbox_nobody_listens_to_is_put_to_rest() {
    let bench = Bench::new().await;
    bench.subscribe(1, KEY_ID).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(bench.service.mailboxes.find(&bench.mailbox).is_some());
    bench.service.orphaned(LOCAL, 1);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(bench.service.mailboxes.find(&bench.mailbox).is_none());
    bench.send().await;
    let receive =
        RelayRequest::Receive { mailbox: bench.mailbox, limit: 9, wait_ms: 0, after: None };
    let answer = bench.ask(receive).await;
    assert!(matches!(answer, RelayAnswer::Messages(messages) if messages.len() == 1));
}
