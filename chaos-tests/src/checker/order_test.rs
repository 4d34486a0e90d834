use super::*;
use crate::{
    checker::histories::{A, B, Writer, delivery, good, replaced, then, without},
    history::Reading,
};

fn findings(history: &History) -> Vec<Finding> {
    check(history).findings
}

#[test]
fn a_good_history_passes_and_counts_first_sights() {
    let check = check(&good());
    assert!(check.passed(), "{check:?}");
    assert_eq!((check.counted, check.repeated), (6, 1));
}

#[test]
fn a_gap_is_found() {
    let gap = Finding::Gap { mailbox: A, priority: 1, expected: 3, seq: 4 };
    assert_eq!(findings(&then(good(), Phase::Ok, delivery(A, 102, 1, 4, 30))), [gap]);
}

#[test]
fn a_gap_at_the_beginning_is_found() {
    let history = without(good(), |op| *op == delivery(B, 200, 1, 1, 20));
    let gap = Finding::Gap { mailbox: B, priority: 1, expected: 1, seq: 2 };
    assert_eq!(findings(&history), [gap]);
}

#[test]
fn numbers_that_were_not_announced_as_skipped_are_a_gap() {
    let history = without(good(), |op| matches!(op, Operation::Skipped { .. }));
    let gap = Finding::Gap { mailbox: B, priority: 1, expected: 3, seq: 5 };
    assert_eq!(findings(&history), [gap]);
    let short =
        Operation::Skipped { mailbox: B, reading: Reading(200), priority: 1, from: 3, to: 3 };
    let whole =
        Operation::Skipped { mailbox: B, reading: Reading(200), priority: 1, from: 3, to: 4 };
    let gap = Finding::Gap { mailbox: B, priority: 1, expected: 4, seq: 5 };
    assert_eq!(findings(&replaced(good(), &whole, short)), [gap]);
}

#[test]
fn a_later_number_seen_first_is_a_gap_and_the_earlier_one_out_of_order() {
    let mut writer = Writer::default();
    writer.sent(A, 1, 1).sent(A, 1, 2).read(A, 100);
    writer.delivered(A, 100, 1, 2, 2).delivered(A, 100, 1, 1, 1);
    let gap = Finding::Gap { mailbox: A, priority: 1, expected: 1, seq: 2 };
    let order = Finding::OutOfOrder { mailbox: A, priority: 1, highest: 2, seq: 1 };
    assert_eq!(findings(&writer.done()), [gap, order]);
}

#[test]
fn a_repeated_number_is_no_finding() {
    let history = then(good(), Phase::Ok, delivery(B, 201, 1, 1, 20));
    let check = check(&history);
    assert!(check.passed());
    assert_eq!(check.repeated, 2);
}

#[test]
fn priorities_and_mailboxes_count_for_themselves() {
    let mut writer = Writer::default();
    writer.sent(A, 1, 1).sent(A, 2, 2).sent(B, 1, 3);
    writer.delivered(A, 1, 2, 1, 2).delivered(B, 2, 1, 1, 3).delivered(A, 1, 1, 1, 1);
    assert_eq!(findings(&writer.done()), []);
}

#[test]
fn numbers_against_the_order_of_acceptance_are_found() {
    let mut writer = Writer::default();
    writer.sent(A, 1, 1).sent(A, 1, 2).read(A, 100);
    writer.delivered(A, 100, 1, 1, 2).delivered(A, 100, 1, 2, 1);
    let found = Finding::AcceptedOutOfOrder {
        mailbox: A,
        message: MessageNumber(2),
        seq: 1,
        accepted_before: 2,
    };
    assert_eq!(findings(&writer.done()), [found]);
}

#[test]
fn sendings_that_overlap_may_take_either_order() {
    let mut writer = Writer::default();
    writer.send(Phase::Invoke, A, 1, 1).send(Phase::Invoke, A, 1, 2);
    writer.send(Phase::Ok, A, 1, 1).send(Phase::Ok, A, 1, 2).read(A, 100);
    writer.delivered(A, 100, 1, 1, 2).delivered(A, 100, 1, 2, 1);
    assert_eq!(findings(&writer.done()), []);
}

#[test]
fn a_run_that_saw_nothing_is_no_pass() {
    assert!(!check(&History::default()).passed());
}
