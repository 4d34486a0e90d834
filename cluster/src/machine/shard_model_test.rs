//! Random commands against a plain model, on replicas that flush and load at different times.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::{
    CONTESTS_MAX, Command, CommandBatch, Effect, Enqueue, Gap, Limits, Outcome, Removal,
    ShardMachine, queries,
    test_support::{Bench, mailbox, message},
};
use crate::model::Priority;

const WINDOW_MS: u64 = 200;
const MESSAGES_MAX: u32 = 12;
const TTL_MAX_MS: u64 = 150;

fn limits() -> Limits {
    Limits {
        mailbox_messages_max: MESSAGES_MAX,
        dedup_window_ms: WINDOW_MS,
        ttl_max_ms: TTL_MAX_MS,
        ..Limits::default()
    }
}

#[derive(Clone, Debug)]
enum Step {
    Enqueue { to: u8, sender: u8, id: u8, content: u8, priority: Priority, ttl_ms: u64 },
    Acknowledge { to: u8, items: Vec<(Priority, u64)> },
    Expire { limit: u32 },
}

#[derive(Clone, Debug)]
struct Round {
    elapsed_ms: u64,
    steps: Vec<Step>,
    reload: bool,
}

fn priority() -> impl Strategy<Value = Priority> {
    (0..4u8).prop_map(|level| Priority::try_from(level).unwrap())
}

fn step() -> impl Strategy<Value = Step> {
    let place = (priority(), 1..15u64);
    prop_oneof![
        6 => (1..4u8, 0..12u8, 0..9u8, 0..8u8, priority(), 1..300u64).prop_map(
            |(to, sender, id, content, priority, ttl_ms)| Step::Enqueue {
                to, sender, id, content: content / 7, priority, ttl_ms
            }
        ),
        3 => (1..4u8, prop::collection::vec(place, 1..8))
            .prop_map(|(to, items)| Step::Acknowledge { to, items }),
        1 => (0..6u32).prop_map(|limit| Step::Expire { limit }),
    ]
}

fn round() -> impl Strategy<Value = Round> {
    (0..40u64, prop::collection::vec(step(), 0..8), prop::bool::weighted(0.2))
        .prop_map(|(elapsed_ms, steps, reload)| Round { elapsed_ms, steps, reload })
}

/// A message as the model keeps it, for ever.
#[derive(Clone, Debug)]
struct Kept {
    sender: u8,
    id: u8,
    content: u8,
    accepted_ms: u64,
    expires_ms: u64,
    gone: Option<Removal>,
}

type Place = (u8, Priority, u64);

#[derive(Default)]
struct Model {
    now_ms: u64,
    messages: BTreeMap<Place, Kept>,
    order: Vec<Place>,
    /// By (mailbox, priority): skipped numbers up to here are known to the recipient.
    past: BTreeMap<(u8, Priority), u64>,
}

impl Model {
    fn given(&self, to: u8, priority: Priority) -> u64 {
        self.messages.range((to, priority, 0)..=(to, priority, u64::MAX)).count() as u64
    }

    fn pending(&self, to: u8) -> Vec<(Priority, u64)> {
        let pending = self.messages.iter().filter(|(one, kept)| one.0 == to && kept.gone.is_none());
        let mut places: Vec<_> = pending.map(|(one, _)| (one.1, one.2)).collect();
        places.sort_by_key(|(priority, seq)| (std::cmp::Reverse(*priority), *seq));
        places
    }

    fn enqueue(&mut self, step: &Step) -> Outcome {
        let Step::Enqueue { to, sender, id, content, priority, ttl_ms } = *step else {
            unreachable!()
        };
        let known: Vec<_> = self
            .order
            .iter()
            .map(|place| (place, &self.messages[place]))
            .filter(|(place, kept)| {
                place.0 == to && kept.id == id && self.now_ms < kept.accepted_ms + WINDOW_MS
            })
            .collect();
        if let Some((place, own)) = known.iter().find(|(_, kept)| kept.sender == sender) {
            if own.content != content {
                return Outcome::Conflict;
            }
            let (seq, accepted_ms) = (place.2, own.accepted_ms);
            return Outcome::Enqueued { seq, accepted_ms, duplicate: true };
        }
        let contests = known.iter().filter(|(_, kept)| kept.gone.is_none()).count();
        if contests >= CONTESTS_MAX || self.pending(to).len() >= MESSAGES_MAX as usize {
            return Outcome::MailboxFull;
        }
        let place = (to, priority, self.given(to, priority) + 1);
        let expires_ms = self.now_ms + ttl_ms.min(TTL_MAX_MS);
        let accepted_ms = self.now_ms;
        let kept = Kept { sender, id, content, accepted_ms, expires_ms, gone: None };
        self.messages.insert(place, kept);
        self.order.push(place);
        Outcome::Enqueued { seq: place.2, accepted_ms, duplicate: false }
    }

    fn acknowledge(&mut self, to: u8, items: &[(Priority, u64)]) -> Outcome {
        let mut count = 0;
        for &(priority, seq) in items {
            if seq <= self.given(to, priority) {
                let past = self.past.entry((to, priority)).or_default();
                *past = (*past).max(seq);
            }
            if let Some(kept) = self.messages.get_mut(&(to, priority, seq))
                && kept.gone.is_none()
            {
                kept.gone = Some(Removal::Acknowledged);
                count += 1;
            }
        }
        Outcome::Acknowledged { count }
    }

    fn expire(&mut self, limit: u32) -> Outcome {
        let due = self
            .messages
            .iter()
            .filter(|(_, kept)| kept.gone.is_none() && kept.expires_ms <= self.now_ms);
        let mut due: Vec<_> = due
            .map(|(place, kept)| (kept.expires_ms, place.0, std::cmp::Reverse(place.1), place.2))
            .collect();
        due.sort_unstable();
        let more = due.len() > limit as usize;
        due.truncate(limit as usize);
        for (_, to, priority, seq) in &due {
            let place = (*to, priority.0, *seq);
            self.messages.get_mut(&place).unwrap().gone = Some(Removal::Expired);
        }
        Outcome::Expired { count: due.len() as u32, more }
    }
}

fn command(step: &Step) -> Command {
    match step {
        Step::Enqueue { to, sender, id, content, priority, ttl_ms } => {
            let plain = message(*to, &sender.to_string(), &id.to_string(), &content.to_string());
            Command::Enqueue(Enqueue { priority: *priority, ttl_ms: *ttl_ms, ..plain })
        }
        Step::Acknowledge { to, items } => {
            Command::Acknowledge { mailbox: mailbox(*to), items: items.clone() }
        }
        Step::Expire { limit } => Command::Expire { limit: *limit },
    }
}

fn check_mailbox(bench: &Bench, model: &Model, to: u8) {
    let (rows, mailbox) = (&bench.current(), mailbox(to));
    let found = queries::mailbox_pending(rows, &mailbox, None, 999, usize::MAX, 0).unwrap();
    let places: Vec<_> = found.iter().map(|one| one.place()).collect();
    assert_eq!(places, model.pending(to));
    for one in &found {
        let (priority, seq) = one.place();
        let kept = &model.messages[&(to, priority, seq)];
        assert_eq!(one.message.sender.as_str(), kept.sender.to_string());
        assert_eq!(one.message.message_id.as_str(), kept.id.to_string());
        assert_eq!(one.message.content.as_ref(), kept.content.to_string().as_bytes());
        let times = (one.message.accepted_ms, one.message.expires_ms);
        assert_eq!(times, (kept.accepted_ms, kept.expires_ms));
    }
    let counts = queries::mailbox_counts(rows, &mailbox).unwrap();
    assert_eq!(counts.bytes == 0, found.is_empty());
    for priority in Priority::ALL {
        let given = model.given(to, priority);
        let lane = counts.lanes[usize::from(priority.level())];
        assert_eq!(lane.next_seq, given + 1);
        let read = queries::read_lane(rows, &mailbox, priority, 1, 999, usize::MAX).unwrap();
        assert_eq!((read.items.len(), read.end), (lane.count as usize, given + 1));
        let first = read.items.first().map(|one| one.message.seq);
        assert_eq!(queries::first_pending(rows, &mailbox, priority).unwrap(), first);
        check_gaps(&read.gaps, model, (to, priority));
    }
}

/// Every expired number that the recipient is not past is in a range, and nothing else but the
/// rest of a range that the recipient is in the middle of.
fn check_gaps(gaps: &[Gap], model: &Model, (to, priority): (u8, Priority)) {
    let past = model.past.get(&(to, priority)).copied().unwrap_or(0);
    let told = |seq| gaps.iter().any(|gap| gap.from <= seq && seq <= gap.to);
    for seq in 1..=model.given(to, priority) {
        let expired = model.messages[&(to, priority, seq)].gone == Some(Removal::Expired);
        assert!(!told(seq) || expired, "{seq} did not expire");
        // What expires after the recipient came past it is told of until it acknowledges again.
        assert!(told(seq) || !expired || seq <= past, "{seq} expired and is not told");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn replicas_do_what_the_model_does(rounds in prop::collection::vec(round(), 1..40)) {
        let mut steady = Bench::new(limits());
        let mut restless = Bench::new(limits());
        let mut model = Model::default();
        for Round { elapsed_ms, steps, reload } in rounds {
            model.now_ms += elapsed_ms;
            let batch = CommandBatch {
                time_ms: model.now_ms,
                commands: steps.iter().map(command).collect(),
            };
            let batch = CommandBatch::decode(&batch.encode()).unwrap();
            let applied = steady.machine.apply(&mut steady.rows, &batch).unwrap();
            let other = restless.machine.apply(&mut restless.rows, &batch).unwrap();
            prop_assert_eq!(&applied, &other);
            for (step, outcome) in steps.iter().zip(&applied.outcomes) {
                let expected = match step {
                    Step::Enqueue { .. } => model.enqueue(step),
                    Step::Acknowledge { to, items } => model.acknowledge(*to, items),
                    Step::Expire { limit } => model.expire(*limit),
                };
                prop_assert_eq!(outcome, &expected, "{:?}", step);
            }
            check_effects(&applied.outcomes, &applied.effects);
            for to in 1..4 {
                check_mailbox(&steady, &model, to);
            }
            let pending = model.messages.values().filter(|kept| kept.gone.is_none());
            let next = pending.map(|kept| kept.expires_ms).min();
            prop_assert_eq!(ShardMachine::next_expiry(&steady.rows).unwrap(), next);
            if reload {
                restless.reload();
            }
        }
        steady.machine.flush(&mut steady.rows).unwrap();
        restless.reload();
        restless.machine.flush(&mut restless.rows).unwrap();
        prop_assert_eq!(&steady.rows, &restless.rows);
    }
}

/// Accepted, acknowledged and expired messages each have their effect.
fn check_effects(outcomes: &[Outcome], effects: &[Effect]) {
    let (mut arrived, mut removed) = (0, 0);
    for outcome in outcomes {
        match outcome {
            Outcome::Enqueued { duplicate: false, .. } => arrived += 1,
            Outcome::Acknowledged { count } | Outcome::Expired { count, .. } => removed += count,
            _ => {}
        }
    }
    for effect in effects {
        match effect {
            Effect::Arrived { .. } => arrived -= 1,
            Effect::Removed { items, .. } => removed -= items.len() as u32,
            Effect::KeysRevoked { .. } => panic!("no keys were revoked"),
        }
    }
    assert_eq!((arrived, removed), (0, 0));
}
