//! How many allocations the parts of a message's way cost. The same work gives the same count on every
//! machine: a regression guard, since times on shared machines mean nothing. Where a change lowers a
//! figure, its bound goes down as well.

use allocation_counter::measure;
use bytes::Bytes;
use heliograph_storage::{GroupId, MemoryRows};

use crate::{
    delivery::wire::{self, RelayRequest},
    machine::{Command, CommandBatch, Effect, Enqueue, Limits, ShardMachine},
    model::{DeviceId, MailboxKey, MessageId, Priority},
    raft::allocations_test as raft,
};

/// Commands of a batch: what gathers at 128 in flight.
const BATCH: usize = 128;

/// Asserts that doing `work` for a batch takes no more than so many allocations.
pub(crate) fn at_most(bound: u64, what: &str, work: impl FnOnce()) {
    let counted = measure(work).count_total;
    println!("{what}: {counted} allocations, bound {bound}");
    assert!(counted <= bound, "{what}: {counted} allocations for {BATCH} messages, not {bound}");
}

fn message(number: u64) -> Enqueue {
    Enqueue {
        mailbox: MailboxKey([number as u8 % 100; 16]),
        sender: DeviceId::new("device-0123456789").unwrap(),
        message_id: MessageId::new(&format!("{number:032x}")).unwrap(),
        priority: Priority::Normal,
        ttl_ms: 1_000_000,
        fingerprint: u128::from(number) << 64 | 7,
        sender_fingerprint: 1,
        content_fingerprint: number,
        content: Bytes::from(vec![7; 256]),
    }
}

fn batch(from: u64) -> CommandBatch {
    let commands = (from..from + BATCH as u64).map(|number| Command::Enqueue(message(number)));
    CommandBatch { time_ms: 1_000_000 + from, commands: commands.collect() }
}

fn acknowledgements(effects: &[Effect]) -> CommandBatch {
    let command = |effect: &Effect| match effect {
        Effect::Arrived { mailbox, pending } => {
            Command::Acknowledge { mailbox: *mailbox, items: vec![pending.place()] }
        }
        other => panic!("not an arrival: {other:?}"),
    };
    CommandBatch { time_ms: 0, commands: effects.iter().map(command).collect() }
}

#[test]
fn batches_are_encoded_and_decoded_with_no_more_allocations() {
    let batch = batch(0);
    let mut encoded = Bytes::new();
    at_most(2, "encoding a batch", || encoded = batch.encode());
    let mut decoded = None;
    at_most(385, "decoding a batch", || decoded = CommandBatch::decode(&encoded).ok());
    assert_eq!(decoded, Some(batch));
}

#[test]
fn batches_are_applied_with_no_more_allocations() {
    let mut rows = MemoryRows::default();
    let mut machine = ShardMachine::load(&rows, Limits::default()).unwrap();
    // Tables have their size after a while.
    for round in 0..20 {
        let applied = machine.apply(&mut rows, &batch(round * BATCH as u64)).unwrap();
        machine.apply(&mut rows, &acknowledgements(&applied.effects)).unwrap();
    }
    let sent = batch(20 * BATCH as u64);
    let mut applied = None;
    at_most(1120, "applying 128 messages", || {
        applied = machine.apply(&mut rows, &sent).ok();
    });
    let acknowledged = acknowledgements(&applied.unwrap().effects);
    at_most(440, "applying 128 acknowledgements", || {
        drop(machine.apply(&mut rows, &acknowledged).unwrap());
    });
}

#[test]
fn requests_between_nodes_take_no_more_allocations() {
    let requests: Vec<_> =
        (0..BATCH as u64).map(|number| RelayRequest::Enqueue(message(number))).collect();
    let mut encoded = Vec::with_capacity(BATCH);
    at_most(256, "encoding 128 requests to shards", || {
        encoded.extend(requests.iter().map(|request| wire::encode_outgoing(request, 256)));
    });
    at_most(384, "decoding 128 requests to shards", || {
        for bytes in &encoded {
            assert!(wire::decode::<RelayRequest>(&bytes[1..]).is_some());
        }
    });
}

#[test]
fn entries_take_no_more_allocations_on_their_way_to_followers_and_to_the_log() {
    let payload = batch(0).encode();
    let mut request = Bytes::new();
    at_most(3, "encoding an append", || request = raft::append(GroupId(3), payload.clone()));
    let mut payloads = Vec::new();
    at_most(2, "decoding an append", || payloads = raft::read(request));
    assert_eq!(payloads, [payload]);
    at_most(1, "a payload into the log and out of it", || raft::through_the_log(&payloads[0]));
}
