//! Nothing comes twice in one reading.
//!
//! A reading is a connection, or a REST answer. One of the product's own client goes on over another
//! node when its node goes away, and stays one reading: that is what makes a repetition after a
//! resumption show here.

use std::collections::HashSet;

use super::verdict::{Check, Finding};
use crate::history::{History, Operation, Reading};

/// Checks that within one reading no number of a priority comes twice. Counts deliveries.
pub fn check(history: &History) -> Check {
    let mut check = Check::new("once");
    let mut seen: HashSet<(Reading, u8, u64)> = HashSet::new();
    for event in &history.events {
        let Operation::Deliver { mailbox, reading, priority, seq, .. } = event.operation else {
            continue;
        };
        check.counted += 1;
        if !seen.insert((reading, priority, seq)) {
            check.find(Finding::CameTwice { mailbox, priority, seq });
        }
    }
    check
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::{Event, Intact, MailboxNumber, Phase};

    fn deliver(reading: u64, seq: u64) -> Event {
        let operation = Operation::Deliver {
            mailbox: MailboxNumber(1),
            reading: Reading(reading),
            priority: 1,
            seq,
            message: None,
            intact: Intact::Yes,
        };
        Event { at: std::time::Duration::ZERO, process: 1, phase: Phase::Ok, operation }
    }

    #[test]
    fn a_repetition_in_one_reading_is_found_and_one_in_another_is_none() {
        let events = vec![deliver(1, 1), deliver(1, 2), deliver(2, 1)];
        assert!(check(&History { events: events.clone() }).passed());
        let mut events = events;
        events.push(deliver(1, 1));
        let check = check(&History { events });
        let twice = Finding::CameTwice { mailbox: MailboxNumber(1), priority: 1, seq: 1 };
        assert_eq!((check.broken, check.findings), (1, vec![twice]));
        assert!(!super::check(&History::default()).passed(), "it has shown nothing");
    }
}
