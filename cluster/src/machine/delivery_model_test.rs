//! Random histories of a mailbox, its machine, its delivery and its connections.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use proptest::prelude::*;

use super::{
    Command, Delivery, DeliveryLimits, Effect, Enqueue, Input, Limits, Output, Pending, Removal,
    Resume, SubscriptionId, queries,
    test_support::{Bench, mailbox, message},
};
use crate::{
    Window,
    model::{PRIORITIES, Priority},
};

const LIMITS: DeliveryLimits = DeliveryLimits {
    unacknowledged_max: 6,
    read_messages_max: 3,
    read_bytes_max: 4_000,
    subscriptions_max: 3,
    offers_max: 100,
};
const WINDOW: Window = Window { messages: 3, bytes: 2_500 };

#[derive(Clone, Debug)]
enum Action {
    Enqueue {
        sender: u8,
        id: u8,
        priority: u8,
        ttl_ms: u64,
        bytes: usize,
    },
    Subscribe,
    Unsubscribe(usize),
    Write {
        connection: usize,
        count: usize,
    },
    Acknowledge {
        connection: usize,
        skip: usize,
        count: usize,
    },
    /// A proposal is applied, or lost with its connection none the wiser.
    Propose {
        lost: bool,
    },
    Confirm(usize),
    /// Rows are read; the answer comes later.
    PerformRead,
    AnswerRead,
    AcknowledgeElsewhere(usize),
    Pass {
        ms: u64,
    },
    Expire {
        limit: u32,
    },
    ChangeLeader {
        lost_pushes: usize,
    },
    /// Where nothing is under way, the delivery goes and comes back out of its resting form.
    Rest,
}

fn action() -> impl Strategy<Value = Action> {
    let enqueue =
        (0..3u8, 0..12u8, 0..4u8, prop_oneof![3 => Just(100_000u64), 1 => 1..60u64], 0..1_800usize);
    prop_oneof![
        8 => enqueue.prop_map(|(sender, id, priority, ttl_ms, bytes)| Action::Enqueue {
            sender, id, priority, ttl_ms, bytes
        }),
        2 => Just(Action::Subscribe),
        1 => (0..4usize).prop_map(Action::Unsubscribe),
        4 => (0..4usize, 1..4usize)
            .prop_map(|(connection, count)| Action::Write { connection, count }),
        5 => (0..4usize, 0..3usize, 1..4usize)
            .prop_map(|(connection, skip, count)| Action::Acknowledge { connection, skip, count }),
        6 => any::<u8>().prop_map(|chance| Action::Propose { lost: chance < 40 }),
        2 => (0..4usize).prop_map(Action::Confirm),
        4 => Just(Action::PerformRead),
        6 => Just(Action::AnswerRead),
        1 => (0..8usize).prop_map(Action::AcknowledgeElsewhere),
        2 => (1..40u64).prop_map(|ms| Action::Pass { ms }),
        2 => (1..4u32).prop_map(|limit| Action::Expire { limit }),
        1 => (0..4usize).prop_map(|lost_pushes| Action::ChangeLeader { lost_pushes }),
        3 => Just(Action::Rest),
    ]
}

/// What a connection heard, in order: (priority, first, last, pushed).
type Heard = (Priority, u64, u64, bool);

#[derive(Default)]
struct Connection {
    heard: Vec<Heard>,
    /// Pushed, with its bytes, and not written.
    in_flight: BTreeMap<(Priority, u64), u32>,
    delivered: BTreeSet<(Priority, u64)>,
    unconfirmed: BTreeSet<(Priority, u64)>,
}

impl Connection {
    fn last(&self, priority: Priority) -> u64 {
        let of_lane = self.heard.iter().filter(|(one, ..)| *one == priority);
        of_lane.map(|(_, _, last, _)| *last).max().unwrap_or(0)
    }

    fn has(&self, place: (Priority, u64)) -> bool {
        self.in_flight.contains_key(&place)
            || self.delivered.contains(&place)
            || self.unconfirmed.contains(&place)
    }
}

struct World {
    bench: Bench,
    delivery: Delivery,
    connections: BTreeMap<SubscriptionId, Connection>,
    next_connection: u64,
    /// Reads asked for, with their answers once performed.
    reads: VecDeque<(Output, Option<Input>)>,
    proposals: VecDeque<Vec<(Priority, u64)>>,
    acknowledged: BTreeSet<(Priority, u64)>,
    /// What was named in acknowledgements, even where it had expired before.
    named: BTreeSet<(Priority, u64)>,
    skipped: BTreeSet<(Priority, u64)>,
    accepted: BTreeSet<(Priority, u64)>,
}

impl World {
    fn new() -> Self {
        let bench = Bench::new(Limits::default());
        let counts = queries::mailbox_counts(&bench.current(), &mailbox(1)).unwrap();
        Self {
            bench,
            delivery: Delivery::new(LIMITS, &counts, 0),
            connections: BTreeMap::new(),
            next_connection: 0,
            reads: VecDeque::new(),
            proposals: VecDeque::new(),
            acknowledged: BTreeSet::new(),
            named: BTreeSet::new(),
            skipped: BTreeSet::new(),
            accepted: BTreeSet::new(),
        }
    }

    fn pending(&self) -> Vec<Pending> {
        queries::mailbox_pending(&self.bench.current(), &mailbox(1), None, 9_999, usize::MAX, 0)
            .unwrap()
    }

    fn feed(&mut self, input: Input) {
        for output in self.delivery.handle(input, self.bench.machine.time_ms()) {
            match output {
                Output::Push { id, messages } => {
                    assert!(!messages.is_empty());
                    for message in messages {
                        let bytes = message.content.len() as u32;
                        self.pushed(id, (message.priority, message.seq), bytes);
                    }
                }
                Output::Skipped { id, priority, from, to, reason } => {
                    assert_eq!(reason, Removal::Expired);
                    for seq in from..=to {
                        assert!(self.skipped.contains(&(priority, seq)), "{seq} was not skipped");
                    }
                    self.heard(id, priority, from, to, false);
                }
                read @ Output::Read { .. } => self.reads.push_back((read, None)),
                Output::Acknowledge { items, .. } => self.proposals.push_back(items),
                Output::Dropped(id) => {
                    self.connections.remove(&id).expect("a connection is dropped once");
                }
            }
        }
    }

    fn heard(&mut self, id: SubscriptionId, priority: Priority, from: u64, to: u64, push: bool) {
        let connection = self.connections.get(&id).expect("outputs are for those who subscribe");
        let last = connection.last(priority);
        for seq in last + 1..from {
            let place = (priority, seq);
            let known = self.acknowledged.contains(&place) || self.skipped.contains(&place);
            assert!(known, "{id:?} was not told of {place:?}");
            // A skipped number may go untold only where the device was past it.
            let untold = self.skipped.contains(&place) && !self.acknowledged.contains(&place);
            let passed = self.named.range(place..=(priority, u64::MAX)).next().is_some();
            assert!(!untold || passed, "{id:?} was not told that {place:?} was skipped");
        }
        let connection = self.connections.get_mut(&id).unwrap();
        connection.heard.push((priority, from, to, push));
    }

    fn pushed(&mut self, id: SubscriptionId, place: (Priority, u64), bytes: u32) {
        assert_eq!(self.delivery.active(), Some(id), "only the newest is served");
        let newest = self.connections.keys().next_back().copied();
        assert_eq!(newest, Some(id));
        let pending = self.pending();
        let item = pending.iter().find(|one| one.place() == place);
        let item = item.unwrap_or_else(|| panic!("{place:?} is not pending any more"));
        let now_ms = self.bench.machine.time_ms();
        assert!(item.message.expires_ms > now_ms, "{place:?} is due");
        assert!(item.contests.is_empty(), "{place:?} waits for another copy");
        let connection = &self.connections[&id];
        assert!(!connection.has(place), "{place:?} was pushed twice");
        assert!(connection.last(place.0) < place.1, "{place:?} came out of order");
        let blocked = |lane: Priority| {
            let oldest = pending.iter().find(|one| {
                let newer = one.message.seq > connection.last(lane);
                one.message.priority == lane && newer && !connection.has(one.place())
            });
            oldest.is_none_or(|one| one.message.expires_ms <= now_ms || !one.contests.is_empty())
        };
        let higher = Priority::ALL.into_iter().take_while(|one| *one > place.0);
        for lane in higher {
            assert!(blocked(lane), "{place:?} overtook {lane:?}");
        }
        self.heard(id, place.0, place.1, place.1, true);
        let connection = self.connections.get_mut(&id).unwrap();
        let bytes_before: u32 = connection.in_flight.values().sum();
        connection.in_flight.insert(place, bytes);
        assert!(connection.in_flight.len() <= WINDOW.messages as usize);
        assert!(
            bytes_before == 0 && connection.in_flight.len() == 1
                || bytes_before + bytes <= WINDOW.bytes
        );
        let unacknowledged = connection.in_flight.len() + connection.delivered.len();
        assert!(unacknowledged <= LIMITS.unacknowledged_max);
    }

    fn apply(&mut self, command: Command) {
        let applied = self.bench.apply(0, vec![command]);
        for effect in applied.effects {
            match effect {
                Effect::Arrived { pending, .. } => {
                    self.accepted.insert(pending.place());
                    self.feed(Input::Arrived(pending));
                }
                Effect::Removed { items, reason, .. } => {
                    let gone = match reason {
                        Removal::Acknowledged => &mut self.acknowledged,
                        _ => &mut self.skipped,
                    };
                    gone.extend(items.iter().copied());
                    for connection in self.connections.values_mut() {
                        for place in &items {
                            connection.in_flight.remove(place);
                            connection.delivered.remove(place);
                        }
                    }
                    self.feed(Input::Removed { items, reason });
                }
                other => panic!("{other:?}"),
            }
        }
    }

    fn acknowledge(&mut self, items: Vec<(Priority, u64)>) {
        self.named.extend(&items);
        self.apply(Command::Acknowledge { mailbox: mailbox(1), items });
    }

    fn subscribe(&mut self, id: SubscriptionId) {
        let connection = self.connections.entry(id).or_default();
        let resume = Resume {
            in_flight: connection
                .in_flight
                .iter()
                .map(|(one, bytes)| (one.0, one.1, *bytes))
                .collect(),
            delivered: connection.delivered.iter().copied().collect(),
            unconfirmed: connection.unconfirmed.iter().copied().collect(),
        };
        let connected_ms = id.number;
        self.feed(Input::Subscribe { id, connected_ms, window: WINDOW, resume });
    }

    fn connection(&mut self, index: usize) -> Option<SubscriptionId> {
        self.connections.keys().rev().nth(index).copied()
    }

    fn perform_read(&mut self) {
        let asked = self.reads.iter_mut().find(|(_, answer)| answer.is_none());
        let Some((Output::Read { ticket, priority, from, limit, bytes_max }, answer)) = asked
        else {
            return;
        };
        let (ticket, priority) = (*ticket, *priority);
        let (rows, mailbox) = (&self.bench.current(), mailbox(1));
        let read = queries::read_lane(rows, &mailbox, priority, *from, *limit, *bytes_max);
        let read = read.unwrap();
        assert!(read.items.len() <= *limit);
        *answer = Some(Input::Rows { ticket, priority, read });
    }

    fn answer_read(&mut self) {
        if self.reads.front().is_some_and(|(_, answer)| answer.is_none()) {
            self.perform_read();
        }
        if let Some((_, Some(answer))) = self.reads.pop_front() {
            self.feed(answer);
        }
    }

    fn change_leader(&mut self, lost_pushes: usize) {
        self.reads.clear();
        self.proposals.clear();
        self.bench.reload();
        let counts = queries::mailbox_counts(&self.bench.current(), &mailbox(1)).unwrap();
        self.delivery = Delivery::new(LIMITS, &counts, self.bench.machine.time_ms() + 1);
        for connection in self.connections.values_mut() {
            for _ in 0..lost_pushes {
                let place = connection.heard.last().map(|one| (one.0, one.1));
                // Only what was neither written nor settled can have been lost on the way.
                let Some(place) = place.filter(|one| connection.in_flight.contains_key(one)) else {
                    break;
                };
                connection.heard.pop();
                connection.in_flight.remove(&place);
            }
        }
        let ids: Vec<_> = self.connections.keys().rev().copied().collect();
        for id in ids {
            self.subscribe(id);
        }
    }

    fn rest(&mut self) {
        if let Some(resting) = self.delivery.rest() {
            assert_eq!(self.pending(), [], "what rests has nothing to deliver");
            self.delivery = Delivery::wake(LIMITS, &resting);
        }
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Enqueue { sender, id, priority, ttl_ms, bytes } => {
                let priority = Priority::try_from(priority).unwrap();
                let content = "x".repeat(bytes);
                let message = message(1, &sender.to_string(), &id.to_string(), &content);
                self.apply(Command::Enqueue(Enqueue { priority, ttl_ms, ..message }));
            }
            Action::Subscribe => {
                self.next_connection += 1;
                self.subscribe(SubscriptionId { node: 1, number: self.next_connection });
            }
            Action::Unsubscribe(index) => {
                if let Some(id) = self.connection(index) {
                    self.connections.remove(&id);
                    self.feed(Input::Unsubscribe(id));
                }
            }
            Action::Write { connection, count } => {
                let Some(id) = self.connection(connection) else { return };
                let connection = self.connections.get_mut(&id).unwrap();
                let items: Vec<_> = connection.in_flight.keys().take(count).copied().collect();
                for place in &items {
                    connection.in_flight.remove(place);
                    connection.delivered.insert(*place);
                }
                self.feed(Input::Written { id, items });
            }
            Action::Acknowledge { connection, skip, count } => {
                let Some(id) = self.connection(connection) else { return };
                let connection = self.connections.get_mut(&id).unwrap();
                let delivered = connection.delivered.iter();
                let items: Vec<_> = delivered.skip(skip).take(count).copied().collect();
                connection.unconfirmed.extend(&items);
                self.feed(Input::Acked { id, items });
            }
            Action::Propose { lost } => {
                if let Some(items) = self.proposals.pop_front().filter(|_| !lost) {
                    self.acknowledge(items);
                }
            }
            Action::Confirm(connection) => {
                let Some(id) = self.connection(connection) else { return };
                let gone = &self.acknowledged;
                let connection = self.connections.get_mut(&id).unwrap();
                connection.unconfirmed.retain(|place| !gone.contains(place));
            }
            Action::PerformRead => self.perform_read(),
            Action::AnswerRead => self.answer_read(),
            Action::AcknowledgeElsewhere(index) => {
                if let Some(item) = self.pending().get(index) {
                    self.acknowledge(vec![item.place()]);
                }
            }
            Action::Pass { ms } => {
                let time_ms = self.bench.machine.time_ms() + ms;
                self.bench.at(time_ms);
                self.feed(Input::Tick);
            }
            Action::Expire { limit } => self.apply(Command::Expire { limit }),
            Action::ChangeLeader { lost_pushes } => self.change_leader(lost_pushes),
            Action::Rest => self.rest(),
        }
    }

    /// A fresh connection that reads and acknowledges everything gets everything.
    fn drain(&mut self) {
        self.apply(Command::Expire { limit: 1_000 });
        self.act(Action::Subscribe);
        for _ in 0..2_000 {
            self.act(Action::Write { connection: 0, count: 99 });
            self.act(Action::Acknowledge { connection: 0, skip: 0, count: 99 });
            while !self.proposals.is_empty() {
                self.act(Action::Propose { lost: false });
            }
            while !self.reads.is_empty() {
                self.answer_read();
            }
            if self.pending().is_empty() {
                break;
            }
        }
        assert_eq!(self.pending(), [], "everything is delivered in the end");
        let id = self.delivery.active().expect("the drain is subscribed");
        assert_eq!(self.delivery.load(id), Some((0, 0)));
        let has_all = |id: &SubscriptionId| self.delivery.load(*id) == Some((0, 0));
        // One that is not served may know of messages that went before its leader led.
        let is_done = self.connections.keys().all(has_all);
        assert_eq!(self.delivery.rest().is_some(), is_done, "what is done can rest");
        let gone: BTreeSet<_> = self.acknowledged.union(&self.skipped).copied().collect();
        assert_eq!(gone, self.accepted, "accepted = acknowledged + expired");
        assert!(self.acknowledged.is_disjoint(&self.skipped));
        let counts = queries::mailbox_counts(&self.bench.current(), &mailbox(1)).unwrap();
        for priority in Priority::ALL {
            let lane = counts.lanes[usize::from(priority.level())];
            let given = self.accepted.iter().filter(|(one, _)| *one == priority).count();
            assert_eq!(lane.next_seq, given as u64 + 1, "numbers have no gaps");
        }
        assert_eq!(counts.lanes.len(), PRIORITIES);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn nothing_is_lost_doubled_or_reordered(actions in prop::collection::vec(action(), 1..120)) {
        let mut world = World::new();
        for action in actions {
            world.act(action);
        }
        world.drain();
    }
}
