//! How many messages a second the shard state machine takes in and lets go: decoding the batch,
//! applying 128 enqueues, applying their acknowledgements, over rows as a replica holds them between two
//! checkpoints, on one core.
//!
//! `cargo bench -p heliograph-cluster --bench machine`; figures are in `docs/benchmarks.md`.

use std::{hint::black_box, sync::Arc};

use bytes::Bytes;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use heliograph_cluster::{
    machine::{Command, CommandBatch, Effect, Enqueue, Limits, ShardMachine},
    model::{DeviceId, MailboxKey, MessageId, Priority},
};
use heliograph_storage::{GroupId, GroupState, MemoryStateDisk, MemoryStore};

/// Commands of a batch: what gathers in some 8 ms at 15,000 a second.
const BATCH: usize = 128;
/// Bytes of content: a short sealed text.
const CONTENT_BYTES: usize = 512;
/// Pending messages behind which the measured ones come.
const BACKLOG: usize = 10_000;

struct Source {
    mailboxes: Vec<MailboxKey>,
    content: Bytes,
    made: u64,
}

impl Source {
    fn new(mailboxes: usize) -> Self {
        let key = |index: usize| {
            let hash = blake3::hash(&index.to_be_bytes());
            let mut key = [0; 16];
            key.copy_from_slice(&hash.as_bytes()[..16]);
            MailboxKey(key)
        };
        let mailboxes = (0..mailboxes).map(key).collect();
        Self { mailboxes, content: Bytes::from(vec![7; CONTENT_BYTES]), made: 0 }
    }

    fn batch(&mut self) -> Bytes {
        let commands = (0..BATCH).map(|_| Command::Enqueue(self.message())).collect();
        CommandBatch { time_ms: 1_000_000 + self.made / 15, commands }.encode()
    }

    fn message(&mut self) -> Enqueue {
        self.made += 1;
        let hash = blake3::hash(&self.made.to_be_bytes());
        let mut fingerprint = [0; 16];
        fingerprint.copy_from_slice(&hash.as_bytes()[..16]);
        let index = self.made as usize * 7919 % self.mailboxes.len();
        let id = format!("{:032x}", u128::from_be_bytes(fingerprint));
        Enqueue {
            mailbox: self.mailboxes[index],
            sender: DeviceId::new("device-0123456789").expect("a valid id"),
            message_id: MessageId::new(&id).expect("a valid id"),
            priority: Priority::Normal,
            ttl_ms: 30 * 24 * 3_600_000,
            fingerprint: u128::from_be_bytes(fingerprint),
            sender_fingerprint: 1,
            content_fingerprint: self.made,
            content: self.content.clone(),
        }
    }
}

fn apply(machine: &mut ShardMachine, rows: &GroupState, batch: &Bytes) -> Vec<Effect> {
    let batch = CommandBatch::decode(batch).expect("what was encoded");
    machine.apply(&mut rows.write(), &batch).expect("memory does not fail").effects
}

/// One acknowledgement for each message, as its device sends it.
fn acknowledge(effects: &[Effect]) -> Bytes {
    let command = |effect: &Effect| match effect {
        Effect::Arrived { mailbox, pending } => {
            Command::Acknowledge { mailbox: *mailbox, items: vec![pending.place()] }
        }
        other => panic!("not an arrival: {other:?}"),
    };
    CommandBatch { time_ms: 0, commands: effects.iter().map(command).collect() }.encode()
}

fn round_trip(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("machine");
    group.throughput(Throughput::Elements(BATCH as u64));
    for mailboxes in [100, 10_000] {
        let mut source = Source::new(mailboxes);
        let store = Arc::new(MemoryStore::open(&MemoryStateDisk::new()));
        let rows = GroupState::open(store, GroupId(1)).expect("an empty store");
        let limits = Limits::default();
        let mut machine = ShardMachine::load(&rows.read(), limits).expect("empty rows");
        for _ in 0..BACKLOG / BATCH {
            apply(&mut machine, &rows, &source.batch());
        }
        group.bench_function(format!("enqueue+acknowledge/{mailboxes}-mailboxes"), |bencher| {
            bencher.iter_batched(
                || source.batch(),
                |batch| {
                    let effects = apply(&mut machine, &rows, &batch);
                    let acknowledgements = acknowledge(&effects);
                    black_box(apply(&mut machine, &rows, &acknowledgements));
                },
                BatchSize::SmallInput,
            );
        });
        group.bench_function(format!("decode/{mailboxes}-mailboxes"), |bencher| {
            let batch = source.batch();
            bencher.iter(|| black_box(CommandBatch::decode(&batch).expect("what was encoded")));
        });
    }
    group.finish();
}

criterion_group!(benches, round_trip);
criterion_main!(benches);
