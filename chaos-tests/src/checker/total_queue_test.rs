use super::*;
use crate::checker::histories::{A, B, Writer, delivery, good, replaced, send, then, without};

fn findings(history: &History) -> Vec<Finding> {
    let check = check(history);
    assert_eq!(check.broken, check.findings.len() as u64);
    check.findings
}

#[test]
fn a_good_history_passes_and_counts_what_was_accepted() {
    let check = check(&good());
    assert!(check.passed(), "{check:?}");
    assert_eq!((check.counted, check.repeated), (5, 1));
}

#[test]
fn an_accepted_message_never_seen_is_lost() {
    let history = without(good(), |op| *op == delivery(A, 101, 1, 2, 11));
    assert_eq!(findings(&history), [Finding::Lost { mailbox: A, message: MessageNumber(11) }]);
}

#[test]
fn the_last_accepted_message_is_missed_too() {
    let history = without(good(), |op| *op == delivery(B, 200, 1, 5, 24));
    assert_eq!(findings(&history), [Finding::Lost { mailbox: B, message: MessageNumber(24) }]);
}

#[test]
fn an_unknown_sending_may_arrive_or_not_but_an_accepted_one_must() {
    let mut history = good();
    for event in &mut history.events {
        if event.operation == send(B, 1, 22) && event.phase == Phase::Unknown {
            event.phase = Phase::Ok;
        }
    }
    assert_eq!(findings(&history), [Finding::Lost { mailbox: B, message: MessageNumber(22) }]);
}

#[test]
fn a_message_back_after_the_answer_to_its_acknowledgement_is_found() {
    let history = then(good(), Phase::Ok, delivery(A, 102, 1, 2, 11));
    let back = Finding::BackAfterAcknowledgement { mailbox: A, message: MessageNumber(11) };
    assert_eq!(findings(&history), [back]);
}

#[test]
fn a_frame_that_was_under_way_before_the_answer_is_no_finding() {
    let history = then(good(), Phase::Ok, delivery(A, 101, 1, 2, 11));
    assert_eq!(findings(&history), []);
}

#[test]
fn what_nobody_sent_is_unexpected() {
    let unexpected = Finding::Unexpected { mailbox: A, priority: 1, seq: 3 };
    let history = then(good(), Phase::Ok, delivery(A, 101, 1, 3, 99));
    assert_eq!(findings(&history), *std::slice::from_ref(&unexpected));
    let foreign = Operation::Deliver {
        mailbox: A,
        reading: Reading(101),
        priority: 1,
        seq: 3,
        message: None,
        intact: Intact::Yes,
    };
    assert_eq!(findings(&then(good(), Phase::Ok, foreign)), [unexpected]);
}

#[test]
fn what_was_certainly_refused_is_unexpected() {
    let history = then(good(), Phase::Ok, delivery(B, 200, 1, 6, 23));
    assert_eq!(findings(&history), [Finding::Unexpected { mailbox: B, priority: 1, seq: 6 }]);
}

#[test]
fn a_message_in_another_mailbox_or_priority_is_misdelivered() {
    let misdelivered = |mailbox| Finding::Misdelivered { mailbox, message: MessageNumber(20) };
    let history = then(good(), Phase::Ok, delivery(A, 101, 1, 3, 20));
    assert_eq!(findings(&history), [misdelivered(A)]);
    let history = then(good(), Phase::Ok, delivery(B, 200, 2, 1, 20));
    assert_eq!(findings(&history), [misdelivered(B)]);
}

#[test]
fn changed_content_is_found() {
    let Operation::Deliver { mailbox, reading, priority, seq, message, .. } =
        delivery(A, 100, 3, 1, 12)
    else {
        unreachable!("a delivery");
    };
    let changed =
        Operation::Deliver { mailbox, reading, priority, seq, message, intact: Intact::No };
    let history = replaced(good(), &delivery(A, 100, 3, 1, 12), changed);
    let corrupted = Finding::Corrupted { mailbox: A, message: MessageNumber(12) };
    assert_eq!(findings(&history), [corrupted]);
}

#[test]
fn a_message_stored_twice_is_found() {
    let history = then(good(), Phase::Ok, delivery(B, 200, 1, 6, 24));
    let twice = Finding::StoredTwice { mailbox: B, message: MessageNumber(24), seqs: [5, 6] };
    assert_eq!(findings(&history), [twice]);
}

#[test]
fn a_number_for_two_messages_is_found() {
    let history = replaced(good(), &delivery(B, 200, 1, 2, 21), delivery(B, 200, 1, 1, 21));
    let reused = Finding::NumberReused { mailbox: B, priority: 1, seq: 1 };
    assert_eq!(findings(&history), [reused]);
}

#[test]
fn what_stays_pending_is_found() {
    let history = then(good(), Phase::Ok, Operation::Residue { mailbox: A, pending: 2 });
    assert_eq!(findings(&history), [Finding::Residue { mailbox: A, pending: 2 }]);
}

#[test]
fn a_run_without_a_last_look_or_without_accepted_messages_is_no_pass() {
    let blind = without(good(), |op| *op == Operation::Residue { mailbox: B, pending: 0 });
    assert!(!check(&blind).passed());
    assert!(!check(&History::default()).passed());
    let mut idle = Writer::default();
    idle.send(Phase::Invoke, A, 1, 1).send(Phase::Unknown, A, 1, 1).residue(A, 0);
    assert!(!check(&idle.done()).passed());
}

#[test]
fn a_history_that_goes_on_is_broken_only_by_what_cannot_be_mended() {
    use crate::checker::is_broken_so_far;
    assert!(!is_broken_so_far(&good()));
    let lost = without(good(), |operation| {
        matches!(operation, Operation::Deliver { message: Some(MessageNumber(24)), .. })
    });
    assert!(!check(&lost).passed() && !is_broken_so_far(&lost), "it may still come");
    let twice = replaced(good(), &delivery(A, 101, 1, 1, 10), delivery(A, 101, 1, 7, 10));
    assert!(is_broken_so_far(&twice));
}
