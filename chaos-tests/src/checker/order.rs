//! Order and gaps, per mailbox and priority.

use std::collections::{BTreeMap, HashMap};

use super::verdict::{Check, Finding};
use crate::history::{Event, History, MailboxNumber, MessageNumber, Operation, Phase};

/// A queue: a mailbox and a priority.
type Queue = (MailboxNumber, u8);

/// Checks, for each mailbox and priority, that
/// * numbers are first seen in rising order from 1, each following the one before or a skipped
///   range (a number may be seen again later: that is at-least-once, and counted as repeated),
/// * a message whose sending began after another was accepted has the higher number.
///
/// Counts numbers seen for the first time.
pub fn check(history: &History) -> Check {
    let mut check = Check::new("order");
    let mut queues: HashMap<Queue, Sight> = HashMap::new();
    for event in &history.events {
        match &event.operation {
            Operation::Deliver { mailbox, priority, seq, .. } => {
                let sight = queues.entry((*mailbox, *priority)).or_default();
                sight.deliver(&mut check, (*mailbox, *priority), *seq);
            }
            Operation::Skipped { mailbox, priority, from, to, .. } => {
                queues.entry((*mailbox, *priority)).or_default().skip(*from, *to);
            }
            _ => {}
        }
    }
    accepted_in_order(history, &mut check);
    check
}

/// What was seen of a queue.
#[derive(Debug, Default)]
struct Sight {
    /// Everything up to here was seen or skipped, or reported as missing.
    highest: u64,
    /// Skipped ranges beyond `highest`, by first number.
    skipped: BTreeMap<u64, u64>,
    /// Numbers that were reported as missing.
    missing: BTreeMap<u64, u64>,
}

impl Sight {
    fn deliver(&mut self, check: &mut Check, (mailbox, priority): Queue, seq: u64) {
        if seq <= self.highest {
            let late = self.missing.range(..=seq).next_back().is_some_and(|(_, to)| *to >= seq);
            if late {
                let highest = self.highest;
                check.find(Finding::OutOfOrder { mailbox, priority, highest, seq });
            } else {
                check.repeated += 1;
            }
            return;
        }
        check.counted += 1;
        let expected = self.highest + 1;
        if seq > expected {
            check.find(Finding::Gap { mailbox, priority, expected, seq });
            self.missing.insert(expected, seq - 1);
        }
        self.highest = seq;
        self.pass_skipped();
    }

    fn skip(&mut self, from: u64, to: u64) {
        self.skipped.insert(from, to);
        self.pass_skipped();
    }

    fn pass_skipped(&mut self) {
        while let Some((from, to)) = self.skipped.first_key_value().map(|(from, to)| (*from, *to)) {
            if from > self.highest + 1 {
                break;
            }
            self.skipped.pop_first();
            self.highest = self.highest.max(to);
        }
    }
}

fn accepted_in_order(history: &History, check: &mut Check) {
    let numbers: HashMap<MessageNumber, u64> = history
        .events
        .iter()
        .filter_map(|event| match &event.operation {
            Operation::Deliver { seq, message: Some(message), .. } => Some((*message, *seq)),
            _ => None,
        })
        .collect();
    let mut accepted: HashMap<Queue, u64> = HashMap::new();
    for Event { phase, operation, .. } in &history.events {
        let Operation::Send { mailbox, priority, message } = operation else { continue };
        let Some(seq) = numbers.get(message).copied() else { continue };
        let highest = accepted.entry((*mailbox, *priority)).or_default();
        match phase {
            // `highest` is of messages that were accepted before this one's sending began.
            Phase::Invoke if seq <= *highest => check.find(Finding::AcceptedOutOfOrder {
                mailbox: *mailbox,
                message: *message,
                seq,
                accepted_before: *highest,
            }),
            Phase::Ok => *highest = (*highest).max(seq),
            _ => {}
        }
    }
}

#[cfg(test)]
#[path = "order_test.rs"]
mod tests;
