//! Every operation is answered.

use std::collections::BTreeMap;

use super::verdict::{Check, Finding};
use crate::history::{History, MailboxNumber, MessageNumber, Operation, Phase};

/// Checks that each message was accepted or certainly refused before its sender gave it up. Senders
/// repeat a message for longer than any fault lasts. Counts answered messages.
pub fn check(history: &History) -> Check {
    let mut check = Check::new("answered");
    let mut open: BTreeMap<MessageNumber, MailboxNumber> = BTreeMap::new();
    for event in &history.events {
        let Operation::Send { mailbox, message, .. } = &event.operation else { continue };
        match event.phase {
            Phase::Invoke => drop(open.insert(*message, *mailbox)),
            Phase::Ok | Phase::Fail => check.counted += u64::from(open.remove(message).is_some()),
            // It stays open.
            Phase::Unknown => {}
        }
    }
    for (message, mailbox) in open {
        check.find(Finding::Unanswered { mailbox, message });
    }
    check
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checker::{
        Outcome,
        histories::{A, Writer, then},
    };

    #[test]
    fn a_message_without_an_answer_is_found() {
        let good = Writer::default().sent(A, 1, 1).sent(A, 1, 2).done();
        assert!(check(&good).passed());
        let send = Operation::Send { mailbox: A, priority: 1, message: MessageNumber(3) };
        let begun = then(good, Phase::Invoke, send.clone());
        let unanswered = Finding::Unanswered { mailbox: A, message: MessageNumber(3) };
        assert_eq!(check(&begun).findings, [unanswered]);
        assert!(!check(&then(begun.clone(), Phase::Unknown, send.clone())).passed());
        assert!(check(&then(begun, Phase::Ok, send)).passed());
        assert_eq!(check(&History::default()).outcome(), Outcome::Unknown);
    }
}
