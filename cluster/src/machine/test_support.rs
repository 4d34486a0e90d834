//! What tests of the state machine share.

use bytes::Bytes;
use heliograph_storage::MemoryRows;

use super::{
    Applied, Command, CommandBatch, CurrentRows, Enqueue, Limits, Outcome, Register, ShardMachine,
};
use crate::model::{DeviceId, MailboxKey, MessageId, Priority};

/// A machine with its rows.
pub(super) struct Bench {
    pub(super) rows: MemoryRows,
    pub(super) machine: ShardMachine,
    pub(super) limits: Limits,
}

impl Bench {
    pub(super) fn new(limits: Limits) -> Self {
        let rows = MemoryRows::default();
        let machine = ShardMachine::load(&rows, limits).unwrap();
        Self { rows, machine, limits }
    }

    pub(super) fn apply(&mut self, time_ms: u64, commands: Vec<Command>) -> Applied {
        self.machine.apply(&mut self.rows, &CommandBatch { time_ms, commands }).unwrap()
    }

    /// The outcome of one command at the present shard time.
    pub(super) fn one(&mut self, command: Command) -> Outcome {
        let mut applied = self.apply(0, vec![command]);
        assert_eq!(applied.outcomes.len(), 1);
        applied.outcomes.remove(0)
    }

    pub(super) fn at(&mut self, time_ms: u64) {
        self.apply(time_ms, Vec::new());
    }

    /// The rows as they are.
    pub(super) fn current(&self) -> CurrentRows<'_, MemoryRows> {
        self.machine.over(&self.rows)
    }

    pub(super) fn reload(&mut self) {
        self.machine.flush(&mut self.rows).unwrap();
        self.machine = ShardMachine::load(&self.rows, self.limits).unwrap();
    }
}

pub(crate) fn mailbox(number: u8) -> MailboxKey {
    MailboxKey([number; 16])
}

/// A message whose fingerprints follow from what it is, as in production.
pub(crate) fn message(to: u8, sender: &str, id: &str, content: &str) -> Enqueue {
    let hash = |text: String| {
        let hash = blake3::hash(text.as_bytes());
        u128::from_le_bytes(hash.as_bytes()[..16].try_into().unwrap())
    };
    Enqueue {
        mailbox: mailbox(to),
        sender: DeviceId::new(sender).unwrap(),
        message_id: MessageId::new(id).unwrap(),
        priority: Priority::Normal,
        ttl_ms: 1_000_000,
        fingerprint: hash(format!("{to}/{id}")),
        sender_fingerprint: hash(sender.to_owned()) as u64,
        content_fingerprint: hash(content.to_owned()) as u64,
        content: Bytes::copy_from_slice(content.as_bytes()),
    }
}

pub(super) fn register(number: u8, public_key: u8, key_id: u64) -> Register {
    Register {
        mailbox: mailbox(number),
        device: DeviceId::new(&format!("device-{number}")).unwrap(),
        public_key: [public_key; 32],
        signed: true,
        key_id,
        key_hash: [9; 32],
    }
}
