use std::sync::Arc;

use bytes::Bytes;

use super::*;
use crate::{
    machine::{Gap, LaneCounts},
    model::{DeviceId, MessageId},
};

const NORMAL: Priority = Priority::Normal;
const WIDE: Window = Window { messages: 100, bytes: 1_000_000 };
const NEVER: u64 = u64::MAX;

fn id(number: u64) -> SubscriptionId {
    SubscriptionId { node: 1, number }
}

fn item(priority: Priority, seq: u64) -> Pending {
    let message = Message {
        seq,
        priority,
        sender: DeviceId::new("sender").unwrap(),
        message_id: MessageId::new(&format!("{}-{seq}", priority.name())).unwrap(),
        accepted_ms: 10,
        expires_ms: NEVER,
        content: Bytes::from_static(&[0; 100]),
    };
    Pending { message: Arc::new(message), contests: Box::default() }
}

fn contested(priority: Priority, seq: u64, by: (Priority, u64)) -> Pending {
    Pending { contests: Box::new([by]), ..item(priority, seq) }
}

fn holding(next_seq: u64) -> MailboxCounts {
    let mut counts = MailboxCounts::default();
    counts.lanes[1] = LaneCounts { next_seq, count: next_seq as u32 - 1, gaps: 0 };
    counts
}

fn subscribe(number: u64, window: Window) -> Input {
    let resume = Resume::default();
    Input::Subscribe { id: id(number), connected_ms: number, window, resume }
}

fn removed(items: &[(Priority, u64)], reason: Removal) -> Input {
    Input::Removed { items: items.to_vec(), reason }
}

fn push(number: u64, seqs: &[(Priority, u64)]) -> Output {
    let messages = seqs.iter().map(|&(priority, seq)| item(priority, seq).message).collect();
    Output::Push { id: id(number), messages }
}

/// The ticket of the only output, a read of the normal lane from `from`.
fn ticket(outputs: &[Output], from: u64) -> u64 {
    match outputs {
        [Output::Read { ticket, priority: Priority::Normal, from: asked, .. }] => {
            assert_eq!(*asked, from);
            *ticket
        }
        other => panic!("not one read: {other:?}"),
    }
}

fn rows(ticket: u64, from: u64, end: u64, items: Vec<Pending>, gaps: Vec<Gap>) -> Input {
    Input::Rows { ticket, priority: NORMAL, read: LaneRead { from, end, items, gaps } }
}

fn empty() -> Delivery {
    Delivery::new(DeliveryLimits::default(), &MailboxCounts::default(), 0)
}

#[test]
fn arrivals_go_straight_to_the_subscription() {
    let mut delivery = empty();
    assert_eq!(delivery.handle(subscribe(1, WIDE), 0), []);
    let outputs = delivery.handle(Input::Arrived(item(NORMAL, 1)), 0);
    assert_eq!(outputs, [push(1, &[(NORMAL, 1)])]);
    assert_eq!(delivery.load(id(1)), Some((1, 1)));
    delivery.handle(Input::Written { id: id(1), items: vec![(NORMAL, 1)] }, 0);
    assert_eq!(delivery.load(id(1)), Some((1, 0)));
    let outputs = delivery.handle(Input::Acked { id: id(1), items: vec![(NORMAL, 1)] }, 0);
    assert_eq!(outputs, [Output::Acknowledge { id: id(1), items: vec![(NORMAL, 1)] }]);
    delivery.handle(removed(&[(NORMAL, 1)], Removal::Acknowledged), 0);
    assert_eq!(delivery.load(id(1)), Some((0, 0)));
}

#[test]
fn backlog_is_read_then_arrivals_follow_in_order() {
    let mut delivery = Delivery::new(DeliveryLimits::default(), &holding(3), 0);
    let ticket = ticket(&delivery.handle(subscribe(1, WIDE), 0), 1);
    // What arrives while the read is under way waits for it.
    assert_eq!(delivery.handle(Input::Arrived(item(NORMAL, 3)), 0), []);
    let outputs = delivery.handle(
        rows(ticket, 1, 4, vec![item(NORMAL, 1), item(NORMAL, 2), item(NORMAL, 3)], vec![]),
        0,
    );
    assert_eq!(outputs, [push(1, &[(NORMAL, 1), (NORMAL, 2), (NORMAL, 3)])]);
}

#[test]
fn higher_priority_goes_first() {
    let mut delivery = empty();
    delivery.handle(subscribe(1, Window { messages: 1, bytes: 1_000 }), 0);
    for (priority, seq) in [(NORMAL, 1), (Priority::Low, 1), (NORMAL, 2), (Priority::Urgent, 1)] {
        delivery.handle(Input::Arrived(item(priority, seq)), 0);
    }
    let mut order = Vec::new();
    let mut last = (NORMAL, 1);
    for _ in 0..3 {
        let outputs = delivery.handle(Input::Written { id: id(1), items: vec![last] }, 0);
        let [Output::Push { messages, .. }] = outputs.as_slice() else { panic!("{outputs:?}") };
        last = (messages[0].priority, messages[0].seq);
        order.push(last);
    }
    assert_eq!(order, [(Priority::Urgent, 1), (NORMAL, 2), (Priority::Low, 1)]);
}

#[test]
fn window_bounds_messages_and_bytes() {
    let mut delivery = empty();
    delivery.handle(subscribe(1, Window { messages: 9, bytes: 250 }), 0);
    for seq in 1..=3 {
        delivery.handle(Input::Arrived(item(NORMAL, seq)), 0);
    }
    assert_eq!(delivery.load(id(1)), Some((2, 2)));
    let outputs = delivery.handle(Input::Written { id: id(1), items: vec![(NORMAL, 1)] }, 0);
    assert_eq!(outputs, [push(1, &[(NORMAL, 3)])]);
    // Written twice or never pushed: nothing is freed twice.
    let items = vec![(NORMAL, 1), (NORMAL, 9)];
    delivery.handle(Input::Written { id: id(1), items }, 0);
    assert_eq!(delivery.load(id(1)), Some((3, 2)));
}

#[test]
fn message_larger_than_the_window_goes_alone() {
    let mut delivery = empty();
    delivery.handle(subscribe(1, Window { messages: 9, bytes: 10 }), 0);
    delivery.handle(Input::Arrived(item(NORMAL, 1)), 0);
    delivery.handle(Input::Arrived(item(NORMAL, 2)), 0);
    assert_eq!(delivery.load(id(1)), Some((1, 1)));
}

#[test]
fn unacknowledged_messages_are_bounded() {
    let limits = DeliveryLimits { unacknowledged_max: 2, ..DeliveryLimits::default() };
    let mut delivery = Delivery::new(limits, &MailboxCounts::default(), 0);
    delivery.handle(subscribe(1, WIDE), 0);
    for seq in 1..=3 {
        delivery.handle(Input::Arrived(item(NORMAL, seq)), 0);
        delivery.handle(Input::Written { id: id(1), items: vec![(NORMAL, seq)] }, 0);
    }
    assert_eq!(delivery.load(id(1)), Some((2, 0)));
    let outputs = delivery.handle(removed(&[(NORMAL, 1)], Removal::Acknowledged), 0);
    assert_eq!(outputs, [push(1, &[(NORMAL, 3)])]);
}

#[test]
fn newer_connection_takes_over_and_gives_back() {
    let mut delivery = empty();
    delivery.handle(subscribe(1, WIDE), 0);
    delivery.handle(Input::Arrived(item(NORMAL, 1)), 0);
    let read = ticket(&delivery.handle(subscribe(2, WIDE), 0), 1);
    assert_eq!(delivery.active(), Some(id(2)));
    let outputs = delivery.handle(rows(read, 1, 2, vec![item(NORMAL, 1)], vec![]), 0);
    assert_eq!(outputs, [push(2, &[(NORMAL, 1)])]);
    assert_eq!(delivery.handle(Input::Arrived(item(NORMAL, 2)), 0), [push(2, &[(NORMAL, 2)])]);
    // An older one that comes late does not take over.
    let resume = Resume::default();
    let older = Input::Subscribe { id: id(9), connected_ms: 0, window: WIDE, resume };
    delivery.handle(older, 0);
    assert_eq!(delivery.active(), Some(id(2)));
    // The first goes on behind what it has.
    let read = ticket(&delivery.handle(Input::Unsubscribe(id(2)), 0), 2);
    let outputs = delivery.handle(rows(read, 2, 3, vec![item(NORMAL, 2)], vec![]), 0);
    assert_eq!(outputs, [push(1, &[(NORMAL, 2)])]);
}

#[test]
fn answer_to_an_older_read_is_ignored() {
    let mut delivery = Delivery::new(DeliveryLimits::default(), &holding(2), 0);
    let old = ticket(&delivery.handle(subscribe(1, WIDE), 0), 1);
    let new = ticket(&delivery.handle(subscribe(2, WIDE), 0), 1);
    assert_eq!(delivery.handle(rows(old, 1, 2, vec![item(NORMAL, 1)], vec![]), 0), []);
    let outputs = delivery.handle(rows(new, 1, 2, vec![item(NORMAL, 1)], vec![]), 0);
    assert_eq!(outputs, [push(2, &[(NORMAL, 1)])]);
}

#[test]
fn what_left_while_rows_were_read_is_not_pushed() {
    let mut delivery = Delivery::new(DeliveryLimits::default(), &holding(4), 0);
    let read = ticket(&delivery.handle(subscribe(1, WIDE), 0), 1);
    delivery.handle(removed(&[(NORMAL, 1)], Removal::Acknowledged), 0);
    delivery.handle(removed(&[(NORMAL, 2)], Removal::Expired), 0);
    let items = vec![item(NORMAL, 1), item(NORMAL, 2), contested(NORMAL, 3, (NORMAL, 1))];
    let outputs = delivery.handle(rows(read, 1, 4, items, vec![]), 0);
    let reason = Removal::Expired;
    let skipped = Output::Skipped { id: id(1), priority: NORMAL, from: 2, to: 2, reason };
    assert_eq!(outputs, [skipped, push(1, &[(NORMAL, 3)])]);
}

#[test]
fn too_many_removals_during_a_read_ask_again() {
    let mut delivery = Delivery::new(DeliveryLimits::default(), &holding(2_002), 0);
    let read = ticket(&delivery.handle(subscribe(1, WIDE), 0), 1);
    let items: Vec<_> = (1..=2_000).map(|seq| (NORMAL, seq)).collect();
    let again = ticket(&delivery.handle(removed(&items, Removal::Acknowledged), 0), 1);
    assert_ne!(read, again);
    assert_eq!(delivery.handle(rows(read, 1, 2_002, vec![item(NORMAL, 1)], vec![]), 0), []);
    let outputs = delivery.handle(rows(again, 1, 2_002, vec![item(NORMAL, 2_001)], vec![]), 0);
    assert_eq!(outputs, [push(1, &[(NORMAL, 2_001)])]);
}

#[test]
fn gaps_are_told_in_their_place() {
    let mut delivery = Delivery::new(DeliveryLimits::default(), &holding(7), 0);
    let read = ticket(&delivery.handle(subscribe(1, WIDE), 0), 1);
    let gaps = vec![
        Gap { from: 1, to: 2, reason: Removal::Expired },
        Gap { from: 4, to: 4, reason: Removal::Cancelled },
        Gap { from: 6, to: 6, reason: Removal::Expired },
    ];
    let items = vec![item(NORMAL, 3), item(NORMAL, 5)];
    let outputs = delivery.handle(rows(read, 1, 7, items, gaps), 0);
    let skipped =
        |from, to, reason| Output::Skipped { id: id(1), priority: NORMAL, from, to, reason };
    let expected = [
        skipped(1, 2, Removal::Expired),
        push(1, &[(NORMAL, 3)]),
        skipped(4, 4, Removal::Cancelled),
        push(1, &[(NORMAL, 5)]),
        skipped(6, 6, Removal::Expired),
    ];
    assert_eq!(outputs, expected);
}

#[test]
fn buffered_messages_that_expire_become_one_range() {
    let mut delivery = empty();
    delivery.handle(subscribe(1, Window { messages: 1, bytes: 1_000 }), 0);
    for seq in 1..=5 {
        delivery.handle(Input::Arrived(item(NORMAL, seq)), 0);
    }
    for seq in [2, 4, 3] {
        delivery.handle(removed(&[(NORMAL, seq)], Removal::Expired), 0);
    }
    let outputs = delivery.handle(removed(&[(NORMAL, 1)], Removal::Acknowledged), 0);
    let reason = Removal::Expired;
    let skipped = Output::Skipped { id: id(1), priority: NORMAL, from: 2, to: 4, reason };
    assert_eq!(outputs, [skipped, push(1, &[(NORMAL, 5)])]);
}

#[test]
fn due_message_is_not_pushed() {
    let mut delivery = empty();
    let mut due = item(NORMAL, 1);
    Arc::make_mut(&mut due.message).expires_ms = 50;
    delivery.handle(Input::Arrived(due), 0);
    let read = ticket(&delivery.handle(subscribe(1, WIDE), 60), 1);
    let mut due = item(NORMAL, 1);
    Arc::make_mut(&mut due.message).expires_ms = 50;
    assert_eq!(delivery.handle(rows(read, 1, 2, vec![due], vec![]), 60), []);
    delivery.handle(Input::Arrived(item(NORMAL, 2)), 60);
    let outputs = delivery.handle(removed(&[(NORMAL, 1)], Removal::Expired), 60);
    let reason = Removal::Expired;
    let skipped = Output::Skipped { id: id(1), priority: NORMAL, from: 1, to: 1, reason };
    assert_eq!(outputs, [skipped, push(1, &[(NORMAL, 2)])]);
}

#[test]
fn contested_copy_and_what_follows_it_wait() {
    let mut delivery = empty();
    delivery.handle(subscribe(1, WIDE), 0);
    delivery.handle(Input::Arrived(item(Priority::Low, 1)), 0);
    assert_eq!(delivery.handle(Input::Arrived(contested(NORMAL, 1, (Priority::Low, 1))), 0), []);
    assert_eq!(delivery.handle(Input::Arrived(item(NORMAL, 2)), 0), []);
    // Other priorities go on: the copy it waits for may be among them.
    let outputs = delivery.handle(Input::Arrived(item(Priority::Low, 2)), 0);
    assert_eq!(outputs, [push(1, &[(Priority::Low, 2)])]);
    let outputs = delivery.handle(removed(&[(Priority::Low, 1)], Removal::Acknowledged), 0);
    assert_eq!(outputs, [push(1, &[(NORMAL, 1), (NORMAL, 2)])]);
}

#[test]
fn resumed_connection_is_not_told_twice() {
    let mut delivery = Delivery::new(DeliveryLimits::default(), &holding(6), 0);
    let resume = Resume {
        in_flight: vec![(NORMAL, 3, 100)],
        delivered: vec![(NORMAL, 2), (NORMAL, 1)],
        unconfirmed: vec![(NORMAL, 4)],
    };
    let window = Window { messages: 2, bytes: 1_000 };
    let input = Input::Subscribe { id: id(1), connected_ms: 1, window, resume };
    let outputs = delivery.handle(input, 0);
    let acknowledge = Output::Acknowledge { id: id(1), items: vec![(NORMAL, 4)] };
    assert_eq!(outputs[0], acknowledge);
    assert_eq!(delivery.load(id(1)), Some((4, 1)));
    let read = ticket(&outputs[1..], 1);
    // 1 is gone: its acknowledgement had been committed.
    let items = (2..6).map(|seq| item(NORMAL, seq)).collect();
    let outputs = delivery.handle(rows(read, 1, 6, items, vec![]), 0);
    assert_eq!(outputs, [push(1, &[(NORMAL, 5)])]);
    assert_eq!(delivery.load(id(1)), Some((4, 2)));
}

#[test]
fn acknowledgement_of_what_was_not_offered_is_ignored() {
    let mut delivery = empty();
    delivery.handle(subscribe(1, WIDE), 0);
    delivery.handle(Input::Arrived(item(NORMAL, 1)), 0);
    let acked = |seq| Input::Acked { id: id(1), items: vec![(NORMAL, seq)] };
    assert_eq!(delivery.handle(acked(2), 0), []);
    // Repeated until confirmed.
    for _ in 0..2 {
        let outputs = delivery.handle(acked(1), 0);
        assert_eq!(outputs, [Output::Acknowledge { id: id(1), items: vec![(NORMAL, 1)] }]);
    }
    assert_eq!(delivery.handle(Input::Acked { id: id(7), items: vec![(NORMAL, 1)] }, 0), []);
}

#[test]
fn oldest_of_too_many_subscriptions_is_dropped() {
    let limits = DeliveryLimits { subscriptions_max: 2, ..DeliveryLimits::default() };
    let mut delivery = Delivery::new(limits, &MailboxCounts::default(), 0);
    delivery.handle(subscribe(1, WIDE), 0);
    delivery.handle(subscribe(2, WIDE), 0);
    assert_eq!(delivery.handle(subscribe(3, WIDE), 0), [Output::Dropped(id(1))]);
    assert_eq!(delivery.active(), Some(id(3)));
}

fn by_id(name: &str) -> AckItem {
    AckItem::Id(MessageId::new(name).unwrap())
}

#[test]
fn rest_acknowledges_what_was_offered() {
    let mut delivery = empty();
    let copy = Pending { message: item(NORMAL, 1).message, ..contested(NORMAL, 3, (NORMAL, 1)) };
    let items =
        vec![item(NORMAL, 1), item(NORMAL, 2), copy, item(NORMAL, 4), item(Priority::Low, 1)];
    let offered: Vec<_> = delivery.offer(items).iter().map(|one| (one.priority, one.seq)).collect();
    // The contested copy is held back, and what follows it in its priority.
    assert_eq!(offered, [(NORMAL, 1), (NORMAL, 2), (Priority::Low, 1)]);
    let items = [by_id("normal-2"), by_id("normal-4"), AckItem::Seq(Priority::Low, 1)];
    let (places, unknown) = delivery.resolve(&items);
    assert_eq!(places, [(NORMAL, 2), (Priority::Low, 1)]);
    assert_eq!(unknown, [by_id("normal-4")]);
    assert!(!delivery.is_idle());
    for place in offered {
        delivery.handle(removed(&[place], Removal::Acknowledged), 0);
    }
    assert!(delivery.is_idle());
    assert_eq!(delivery.resolve(&[by_id("normal-2")]).0, []);
}

#[test]
fn rest_acknowledges_what_a_connection_was_pushed() {
    let mut delivery = empty();
    delivery.handle(subscribe(1, WIDE), 0);
    delivery.handle(Input::Arrived(item(NORMAL, 1)), 0);
    delivery.handle(Input::Unsubscribe(id(1)), 0);
    assert_eq!(delivery.resolve(&[by_id("normal-1")]).0, [(NORMAL, 1)]);
}

#[test]
fn second_copy_of_an_offered_id_is_not_offered() {
    let mut delivery = empty();
    let mut copy = item(NORMAL, 2);
    Arc::make_mut(&mut copy.message).message_id = item(NORMAL, 1).message.message_id.clone();
    assert_eq!(delivery.offer(vec![item(NORMAL, 1), copy.clone()]).len(), 1);
    assert_eq!(delivery.offer(vec![item(NORMAL, 1)]).len(), 1);
    delivery.handle(removed(&[(NORMAL, 1)], Removal::Acknowledged), 0);
    assert_eq!(delivery.offer(vec![copy]).len(), 1);
}

#[test]
fn unknown_offers_are_settled_only_where_it_is_safe() {
    let delivery = Delivery::new(DeliveryLimits::default(), &holding(9), 1_000);
    let found = |seq, accepted_ms, contested| crate::machine::Found {
        priority: NORMAL,
        seq,
        sender: DeviceId::new("s").unwrap(),
        accepted_ms,
        contested,
    };
    let name = by_id("x");
    let first = [found(1, 999, false), found(2, 999, true)];
    assert_eq!(delivery.settle(&name, &first), Some((NORMAL, 1)));
    // It would have to be in the offers.
    assert_eq!(delivery.settle(&name, &[found(1, 1_000, false)]), None);
    // The acknowledgement may be a late repetition, meant for the copy that is gone.
    assert_eq!(delivery.settle(&name, &[found(2, 999, true)]), None);
    let exact = AckItem::Seq(NORMAL, 2);
    assert_eq!(delivery.settle(&exact, &[found(2, 999, true)]), Some((NORMAL, 2)));
    assert_eq!(delivery.settle(&name, &[]), None);
}
