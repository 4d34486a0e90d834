//! Histories made by hand, to be judged right and, mutated, wrong.

use std::time::Duration;

use crate::history::{
    Event, Fault, History, Intact, MailboxNumber, MessageNumber, Operation, Phase, Reading,
};

/// The first mailbox.
pub(crate) const A: MailboxNumber = MailboxNumber(1);
/// The second mailbox.
pub(crate) const B: MailboxNumber = MailboxNumber(2);

/// Writes a history, 10 ms an event.
#[derive(Default)]
pub(crate) struct Writer {
    history: History,
    at: Duration,
}

impl Writer {
    pub(crate) fn push(&mut self, phase: Phase, operation: Operation) -> &mut Self {
        self.at += Duration::from_millis(10);
        self.history.events.push(Event { at: self.at, process: 1, phase, operation });
        self
    }

    /// Lets time pass.
    pub(crate) fn wait(&mut self, time: Duration) -> &mut Self {
        self.at += time;
        self
    }

    pub(crate) fn send(
        &mut self,
        phase: Phase,
        mailbox: MailboxNumber,
        priority: u8,
        message: u64,
    ) -> &mut Self {
        self.push(phase, send(mailbox, priority, message))
    }

    /// Invoke and acceptance.
    pub(crate) fn sent(&mut self, mailbox: MailboxNumber, priority: u8, message: u64) -> &mut Self {
        self.send(Phase::Invoke, mailbox, priority, message);
        self.send(Phase::Ok, mailbox, priority, message)
    }

    pub(crate) fn read(&mut self, mailbox: MailboxNumber, reading: u64) -> &mut Self {
        self.push(Phase::Invoke, Operation::Read { mailbox, reading: Reading(reading) })
    }

    pub(crate) fn delivered(
        &mut self,
        mailbox: MailboxNumber,
        reading: u64,
        priority: u8,
        seq: u64,
        message: u64,
    ) -> &mut Self {
        self.push(Phase::Ok, delivery(mailbox, reading, priority, seq, message))
    }

    /// Invoke and answer.
    pub(crate) fn acknowledged(&mut self, mailbox: MailboxNumber, messages: &[u64]) -> &mut Self {
        let messages: Vec<_> = messages.iter().copied().map(MessageNumber).collect();
        let operation = Operation::Acknowledge { mailbox, messages };
        self.push(Phase::Invoke, operation.clone());
        self.push(Phase::Ok, operation)
    }

    pub(crate) fn residue(&mut self, mailbox: MailboxNumber, pending: u64) -> &mut Self {
        self.push(Phase::Ok, Operation::Residue { mailbox, pending })
    }

    pub(crate) fn fault(&mut self, fault: Fault) -> &mut Self {
        let operation = Operation::Fault { fault, hit: Vec::new(), why: None };
        self.push(Phase::Invoke, operation.clone());
        self.push(Phase::Ok, operation)
    }

    pub(crate) fn done(&mut self) -> History {
        std::mem::take(&mut self.history)
    }
}

pub(crate) fn send(mailbox: MailboxNumber, priority: u8, message: u64) -> Operation {
    Operation::Send { mailbox, priority, message: MessageNumber(message) }
}

pub(crate) fn delivery(
    mailbox: MailboxNumber,
    reading: u64,
    priority: u8,
    seq: u64,
    message: u64,
) -> Operation {
    Operation::Deliver {
        mailbox,
        reading: Reading(reading),
        priority,
        seq,
        message: Some(MessageNumber(message)),
        intact: Intact::Yes,
    }
}

/// A run in which everything is as promised: two mailboxes, two priorities, an unknown sending
/// that arrives and one that does not, a repeated delivery, a skipped range.
pub(crate) fn good() -> History {
    let mut writer = Writer::default();
    writer.sent(A, 1, 10).sent(A, 1, 11).sent(A, 3, 12).sent(B, 1, 20);
    writer.send(Phase::Invoke, B, 1, 21).send(Phase::Unknown, B, 1, 21);
    writer.send(Phase::Invoke, B, 1, 22).send(Phase::Unknown, B, 1, 22);
    writer.send(Phase::Invoke, B, 1, 23).send(Phase::Fail, B, 1, 23);
    writer.read(A, 100).delivered(A, 100, 3, 1, 12).delivered(A, 100, 1, 1, 10);
    writer.read(A, 101).delivered(A, 101, 1, 1, 10).delivered(A, 101, 1, 2, 11);
    writer.acknowledged(A, &[10, 11, 12]);
    writer.read(B, 200).delivered(B, 200, 1, 1, 20).delivered(B, 200, 1, 2, 21);
    let reading = Reading(200);
    writer.push(Phase::Ok, Operation::Skipped { mailbox: B, reading, priority: 1, from: 3, to: 4 });
    writer.sent(B, 1, 24).delivered(B, 200, 1, 5, 24).acknowledged(B, &[20, 21, 24]);
    writer.read(A, 102).residue(A, 0).residue(B, 0).done()
}

/// `history` without the first event that `matches`.
pub(crate) fn without(mut history: History, matches: impl Fn(&Operation) -> bool) -> History {
    let at = history.events.iter().position(|event| matches(&event.operation));
    history.events.remove(at.expect("the event is there"));
    history
}

/// `history` with the first operation that `matches` replaced.
pub(crate) fn replaced(mut history: History, from: &Operation, to: Operation) -> History {
    let event = history.events.iter_mut().find(|event| event.operation == *from);
    event.expect("the event is there").operation = to;
    history
}

/// `history` with `operation` seen at the end.
pub(crate) fn then(mut history: History, phase: Phase, operation: Operation) -> History {
    let at = history.events.last().map_or(Duration::ZERO, |event| event.at);
    let at = at + Duration::from_millis(10);
    history.events.push(Event { at, process: 1, phase, operation });
    history
}
