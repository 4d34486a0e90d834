//! Tests of what a node knows of a connection.

use std::sync::Arc;

use bytes::Bytes;

use super::*;
use crate::{
    Fence, Window,
    machine::Removal,
    model::{DeviceId, MailboxKey, Message, Priority, ShardId},
};

const NORMAL: Priority = Priority::Normal;

fn message(seq: u64) -> Arc<Message> {
    Arc::new(Message {
        seq,
        priority: NORMAL,
        sender: DeviceId::new("sender").unwrap(),
        message_id: MessageId::new(&format!("m{seq}")).unwrap(),
        accepted_ms: 1,
        expires_ms: 2,
        content: Bytes::from_static(b"sealed"),
    })
}

fn entry() -> SubscribeEntry {
    SubscribeEntry {
        number: 1,
        generation: 0,
        mailbox: MailboxKey([0; 16]),
        key_id: 1,
        connected_ms: 1,
        window: Window { messages: 10, bytes: 1000 },
        in_flight: Vec::new(),
        delivered: Vec::new(),
        unconfirmed: Vec::new(),
    }
}

fn subscribed() -> SessionCore {
    let mut core = SessionCore::default();
    let mut entry = entry();
    core.subscribe(&mut entry);
    assert!(!core.subscribed(entry.generation), "a new connection has nothing to tell");
    core
}

fn parcel(core: &SessionCore, term: u64, delivery_no: u64, parcel: Parcel) -> Deliver {
    let fence = Fence { shard: ShardId(0), term };
    Deliver { number: 1, generation: core.generation(), delivery_no, fence, parcel }
}

/// Delivers messages in term 1; answers which were pushed.
fn deliver(core: &mut SessionCore, delivery_no: u64, seqs: &[u64]) -> (Receipt, Vec<u64>) {
    let messages = Parcel::Messages(seqs.iter().map(|seq| message(*seq)).collect());
    let (receipt, push) = core.deliver(parcel(core, 1, delivery_no, messages));
    let pushed = match push {
        Some(Push::Messages(messages)) => messages.iter().map(|one| one.seq).collect(),
        None => Vec::new(),
        Some(other) => panic!("{other:?} is not messages"),
    };
    (receipt, pushed)
}

fn skip(core: &mut SessionCore, delivery_no: u64, from: u64, to: u64) -> Option<(u64, u64)> {
    let skipped = Parcel::Skipped { priority: NORMAL, from, to, reason: Removal::Expired };
    let (receipt, push) = core.deliver(parcel(core, 1, delivery_no, skipped));
    assert_eq!(receipt, Receipt::Next);
    push.map(|push| match push {
        Push::Skipped { from, to, reason: "expired", .. } => (from, to),
        other => panic!("{other:?} is not a range"),
    })
}

#[test]
fn deliveries_are_taken_in_order_and_a_gap_shows() {
    let mut core = subscribed();
    assert_eq!(deliver(&mut core, 1, &[1, 2]), (Receipt::Next, vec![1, 2]));
    assert_eq!(deliver(&mut core, 1, &[1, 2]), (Receipt::Stale, vec![]));
    assert_eq!(deliver(&mut core, 3, &[4]), (Receipt::Gap, vec![]));
    assert_eq!(deliver(&mut core, 2, &[3]), (Receipt::Next, vec![3]));
    assert_eq!(core.received(), 2);
}

#[test]
fn what_an_older_leader_or_subscription_sends_is_dropped() {
    let mut core = subscribed();
    let old = parcel(&core, 1, 1, Parcel::Messages(vec![message(1)]));
    core.subscribe(&mut entry());
    assert_eq!(core.deliver(old).0, Receipt::Stale, "an older subscription");
    let newer = parcel(&core, 3, 1, Parcel::Messages(vec![message(1)]));
    assert_eq!(core.deliver(newer).0, Receipt::Next);
    let older = parcel(&core, 2, 2, Parcel::Messages(vec![message(2)]));
    assert_eq!(core.deliver(older).0, Receipt::Stale, "an older term");
    let newest = parcel(&core, 4, 1, Parcel::Messages(vec![message(2)]));
    assert_eq!(core.deliver(newest).0, Receipt::Next, "a newer term counts from one");
}

#[test]
fn a_new_subscription_presents_all_and_nothing_is_pushed_twice() {
    let mut core = subscribed();
    deliver(&mut core, 1, &[1, 2, 3, 4]);
    assert!(core.written(&[(NORMAL, 1), (NORMAL, 2), (NORMAL, 3)]));
    assert_eq!(core.acknowledge(&[AckItem::Seq(NORMAL, 1)]), (1, true));
    let mut again = entry();
    core.subscribe(&mut again);
    assert_eq!(again.in_flight, [(NORMAL, 4, 6)]);
    assert_eq!(again.delivered, [(NORMAL, 2), (NORMAL, 3)]);
    assert_eq!(again.unconfirmed, [(NORMAL, 1)]);
    assert_eq!(core.take_update(1), None, "nothing is told before it is taken");
    assert!(core.subscribed(again.generation));
    let update = core.take_update(1).unwrap();
    assert_eq!((update.written.len(), update.acked.as_slice()), (0, &[(NORMAL, 1)][..]));
    // A leader that forgot everything pushes everything.
    assert_eq!(deliver(&mut core, 1, &[1, 2, 3, 4, 5]), (Receipt::Next, vec![5]));
}

#[test]
fn an_acknowledgement_is_repeated_until_it_is_confirmed() {
    let mut core = subscribed();
    deliver(&mut core, 1, &[1]);
    core.written(&[(NORMAL, 1)]);
    core.acknowledge(&[AckItem::Id(MessageId::new("m1").unwrap())]);
    let update = core.take_update(1).unwrap();
    assert_eq!(core.take_update(1), None);
    assert_eq!(core.updated(update, UpdateResult::Unconfirmed), (false, true));
    let update = core.take_update(1).unwrap();
    assert_eq!(update.acked, [(NORMAL, 1)]);
    assert_eq!(core.updated(update, UpdateResult::Confirmed), (false, false));
    assert_eq!(core.remembered(), 0);
    assert!(core.unconfirmed().is_empty());
}

#[test]
fn what_is_acknowledged_is_not_told_as_written_too() {
    let mut core = subscribed();
    deliver(&mut core, 1, &[1, 2, 3]);
    core.written(&[(NORMAL, 1), (NORMAL, 2), (NORMAL, 3)]);
    core.acknowledge(&[AckItem::Seq(NORMAL, 1), AckItem::Seq(NORMAL, 3)]);
    let update = core.take_update(1).unwrap();
    assert_eq!(update.written, [(NORMAL, 2)]);
    assert_eq!(update.acked, [(NORMAL, 1), (NORMAL, 3)]);
    assert_eq!(core.take_update(1), None);
}

#[test]
fn an_unknown_subscription_is_made_again() {
    let mut core = subscribed();
    deliver(&mut core, 1, &[1]);
    core.acknowledge(&[AckItem::Seq(NORMAL, 1)]);
    let update = core.take_update(1).unwrap();
    assert_eq!(core.updated(update, UpdateResult::Unknown), (true, false));
    assert_eq!(core.unconfirmed(), [(NORMAL, 1)], "it is presented with the next one");
}

#[test]
fn an_answer_to_an_older_subscription_confirms_but_does_not_disturb() {
    let mut core = subscribed();
    deliver(&mut core, 1, &[1, 2]);
    core.acknowledge(&[AckItem::Seq(NORMAL, 1)]);
    let first = core.take_update(1).unwrap();
    core.acknowledge(&[AckItem::Seq(NORMAL, 2)]);
    let second = core.take_update(1).unwrap();
    core.subscribe(&mut entry());
    assert_eq!(core.updated(first, UpdateResult::Confirmed), (false, false));
    assert_eq!(core.updated(second, UpdateResult::Unknown), (false, false));
    assert_eq!(core.unconfirmed(), [(NORMAL, 2)]);
}

#[test]
fn only_what_was_offered_is_acknowledged_and_only_once() {
    let mut core = subscribed();
    deliver(&mut core, 1, &[1]);
    let strange = [AckItem::Seq(NORMAL, 2), AckItem::Id(MessageId::new("m2").unwrap())];
    assert_eq!(core.acknowledge(&strange), (0, false));
    assert_eq!(core.acknowledge(&[AckItem::Seq(NORMAL, 1)]), (1, true));
    assert_eq!(core.acknowledge(&[AckItem::Id(MessageId::new("m1").unwrap())]).0, 0);
}

#[test]
fn a_skipped_range_is_told_once() {
    let mut core = subscribed();
    deliver(&mut core, 1, &[1]);
    assert_eq!(skip(&mut core, 2, 2, 5), Some((2, 5)));
    assert_eq!(skip(&mut core, 3, 4, 7), Some((6, 7)));
    core.subscribe(&mut entry());
    assert_eq!(skip(&mut core, 1, 2, 7), None);
    assert_eq!(skip(&mut core, 2, 8, 8), Some((8, 8)));
}

#[test]
fn memory_is_bounded_and_keeps_what_is_not_settled() {
    let mut core = subscribed();
    for seq in 1..=REMEMBERED_MAX as u64 {
        deliver(&mut core, seq, &[seq]);
        core.written(&[(NORMAL, seq)]);
    }
    core.acknowledge(&[AckItem::Seq(NORMAL, 1)]);
    let next = REMEMBERED_MAX as u64 + 1;
    assert_eq!(deliver(&mut core, next, &[next]).1, [next]);
    assert_eq!(core.remembered(), REMEMBERED_MAX);
    assert_eq!(core.unconfirmed(), [(NORMAL, 1)]);
    assert_eq!(core.acknowledge(&[AckItem::Seq(NORMAL, 2)]).0, 0, "the oldest settled one went");
    assert_eq!(core.acknowledge(&[AckItem::Seq(NORMAL, 3)]).0, 1);
}
