//! Everything that goes in comes out: lost, back after acknowledgement, unexpected.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    time::Duration,
};

use super::verdict::{Check, Finding};
use crate::history::{
    Event, History, Intact, MailboxNumber, MessageNumber, Operation, Phase, Reading,
};

/// What became of a sending.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Sending {
    mailbox: MailboxNumber,
    priority: u8,
    outcome: Phase,
}

/// Checks that
/// * each accepted message was seen by its recipient,
/// * what was seen had been sent, to that mailbox, with that priority, content and sender, and had
///   not certainly been refused,
/// * a message has one number and a number one message,
/// * no reading that began after the answer to a message's acknowledgement showed it,
/// * nothing is pending at the end.
///
/// Counts accepted messages.
pub fn check(history: &History) -> Check {
    let mut pass = Pass::new();
    for event in &history.events {
        pass.event(event);
    }
    pass.end(history)
}

struct Pass {
    check: Check,
    sendings: BTreeMap<MessageNumber, Sending>,
    seen: HashMap<MessageNumber, u64>,
    numbers: HashMap<(MailboxNumber, u8, u64), Option<MessageNumber>>,
    acknowledged_at: HashMap<(MailboxNumber, MessageNumber), Duration>,
    reading_began: HashMap<Reading, Duration>,
    settled: HashSet<MailboxNumber>,
}

impl Pass {
    fn new() -> Self {
        Self {
            check: Check::new("total-queue"),
            sendings: BTreeMap::new(),
            seen: HashMap::new(),
            numbers: HashMap::new(),
            acknowledged_at: HashMap::new(),
            reading_began: HashMap::new(),
            settled: HashSet::new(),
        }
    }

    fn event(&mut self, event: &Event) {
        match (&event.operation, event.phase) {
            (Operation::Send { mailbox, priority, message }, phase) => {
                let sending = Sending { mailbox: *mailbox, priority: *priority, outcome: phase };
                self.sendings.insert(*message, sending);
            }
            (Operation::Read { reading, .. }, Phase::Invoke) => {
                self.reading_began.insert(*reading, event.at);
            }
            (Operation::Acknowledge { mailbox, messages }, Phase::Ok) => {
                for message in messages {
                    self.acknowledged_at.entry((*mailbox, *message)).or_insert(event.at);
                }
            }
            (Operation::Deliver { .. }, _) => self.delivery(&event.operation),
            (Operation::Residue { mailbox, pending }, _) => {
                self.settled.insert(*mailbox);
                if *pending > 0 {
                    self.check.find(Finding::Residue { mailbox: *mailbox, pending: *pending });
                }
            }
            _ => {}
        }
    }

    fn delivery(&mut self, delivery: &Operation) {
        let Operation::Deliver { mailbox, reading, priority, seq, message, intact } = delivery
        else {
            return;
        };
        let (mailbox, priority, seq) = (*mailbox, *priority, *seq);
        let number = self.numbers.entry((mailbox, priority, seq)).or_insert(*message);
        if *number != *message {
            self.check.find(Finding::NumberReused { mailbox, priority, seq });
        }
        // A refusal that is recorded later than the delivery is found at the end.
        let known = message.and_then(|message| Some((message, *self.sendings.get(&message)?)));
        let Some((message, sending)) = known else {
            self.check.find(Finding::Unexpected { mailbox, priority, seq });
            return;
        };
        if sending.mailbox != mailbox || sending.priority != priority {
            self.check.find(Finding::Misdelivered { mailbox, message });
            return;
        }
        if *intact == Intact::No {
            self.check.find(Finding::Corrupted { mailbox, message });
        }
        match self.seen.insert(message, seq) {
            Some(first) if first != seq => {
                self.check.find(Finding::StoredTwice { mailbox, message, seqs: [first, seq] });
            }
            Some(_) => self.check.repeated += 1,
            None => {}
        }
        let began = self.reading_began.get(reading);
        if let (Some(acknowledged), Some(began)) =
            (self.acknowledged_at.get(&(mailbox, message)), began)
            && began > acknowledged
        {
            self.check.find(Finding::BackAfterAcknowledgement { mailbox, message });
        }
    }

    fn end(mut self, history: &History) -> Check {
        for (message, sending) in &self.sendings {
            let seq = self.seen.get(message);
            match (sending.outcome, seq) {
                (Phase::Ok, None) => {
                    let mailbox = sending.mailbox;
                    self.check.find(Finding::Lost { mailbox, message: *message });
                }
                (Phase::Fail, Some(seq)) => self.check.find(Finding::Unexpected {
                    mailbox: sending.mailbox,
                    priority: sending.priority,
                    seq: *seq,
                }),
                _ => {}
            }
            self.check.counted += u64::from(sending.outcome == Phase::Ok);
        }
        // A run that never looked into its mailboxes at the end has not shown that they are empty.
        let unsettled = history.events.iter().any(|event| match &event.operation {
            Operation::Send { mailbox, .. } => !self.settled.contains(mailbox),
            _ => false,
        });
        if unsettled {
            self.check.counted = 0;
        }
        self.check
    }
}

#[cfg(test)]
#[path = "total_queue_test.rs"]
mod tests;
