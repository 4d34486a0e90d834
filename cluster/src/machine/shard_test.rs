use std::collections::BTreeSet;

use bytes::Bytes;
use heliograph_storage::{RowsRead, RowsWrite};

use super::super::{
    Command, Effect, Enqueue, Limits, Outcome, Removal, ShardMachine, queries,
    test_support::{Bench, mailbox, message, register},
};
use crate::{
    machine::{CONTESTS_MAX, Gap},
    model::{CONTENT_BYTES_MAX, Priority},
};

const NORMAL: Priority = Priority::Normal;

fn enqueue(bench: &mut Bench, message: Enqueue) -> Outcome {
    bench.one(Command::Enqueue(message))
}

fn accepted(outcome: &Outcome) -> (u64, bool) {
    match outcome {
        Outcome::Enqueued { seq, duplicate, .. } => (*seq, *duplicate),
        other => panic!("not accepted: {other:?}"),
    }
}

fn acknowledge(bench: &mut Bench, to: u8, items: &[(Priority, u64)]) -> u32 {
    let mailbox = mailbox(to);
    match bench.one(Command::Acknowledge { mailbox, items: items.to_vec() }) {
        Outcome::Acknowledged { count } => count,
        other => panic!("{other:?}"),
    }
}

fn pending(bench: &Bench, to: u8) -> Vec<(Priority, u64)> {
    let now_ms = bench.machine.time_ms();
    let found =
        queries::mailbox_pending(&bench.current(), &mailbox(to), None, 1000, usize::MAX, now_ms);
    found.unwrap().iter().map(|one| one.place()).collect()
}

#[test]
fn numbers_count_per_mailbox_and_priority() {
    let mut bench = Bench::new(Limits::default());
    let urgent = |id: &str| Enqueue { priority: Priority::Urgent, ..message(1, "a", id, id) };
    assert_eq!(accepted(&enqueue(&mut bench, message(1, "a", "1", "x"))), (1, false));
    assert_eq!(accepted(&enqueue(&mut bench, message(1, "a", "2", "x"))), (2, false));
    assert_eq!(accepted(&enqueue(&mut bench, urgent("3"))), (1, false));
    assert_eq!(accepted(&enqueue(&mut bench, message(2, "a", "1", "x"))), (1, false));
    assert_eq!(acknowledge(&mut bench, 1, &[(NORMAL, 1), (NORMAL, 2)]), 2);
    bench.reload();
    assert_eq!(accepted(&enqueue(&mut bench, message(1, "b", "4", "x"))), (3, false));
    assert_eq!(pending(&bench, 1), [(Priority::Urgent, 1), (NORMAL, 3)]);
}

#[test]
fn a_restored_shard_gives_no_number_again() {
    const STEP: u64 = 1 << 32;
    let mut bench = Bench::new(Limits::default());
    enqueue(&mut bench, message(1, "a", "1", "x"));
    let restore = |bench: &mut Bench| {
        bench.machine.flush(&mut bench.rows).unwrap();
        ShardMachine::renumber(&mut bench.rows).unwrap();
        bench.reload();
    };
    restore(&mut bench);
    assert_eq!(pending(&bench, 1), [(NORMAL, 1)], "what waited keeps its number");
    assert_eq!(accepted(&enqueue(&mut bench, message(1, "a", "2", "x"))), (STEP + 1, false));
    assert_eq!(accepted(&enqueue(&mut bench, message(1, "a", "3", "x"))), (STEP + 2, false));
    assert_eq!(accepted(&enqueue(&mut bench, message(2, "a", "1", "x"))), (STEP + 1, false));
    restore(&mut bench);
    assert_eq!(accepted(&enqueue(&mut bench, message(1, "a", "4", "x"))), (2 * STEP + 1, false));
    let waiting = [1, STEP + 1, STEP + 2, 2 * STEP + 1].map(|seq| (NORMAL, seq));
    assert_eq!(pending(&bench, 1), waiting);
    assert_eq!(acknowledge(&mut bench, 1, &waiting), 4);
}

#[test]
fn same_message_again_answers_the_first_result() {
    let mut bench = Bench::new(Limits::default());
    bench.at(5_000);
    enqueue(&mut bench, message(1, "a", "1", "x"));
    bench.at(6_000);
    bench.reload();
    let urgent = Enqueue { priority: Priority::Urgent, ..message(1, "a", "1", "x") };
    let again = Outcome::Enqueued { seq: 1, accepted_ms: 5_000, duplicate: true };
    assert_eq!(enqueue(&mut bench, urgent), again);
    assert_eq!(acknowledge(&mut bench, 1, &[(NORMAL, 1)]), 1);
    assert_eq!(enqueue(&mut bench, message(1, "a", "1", "x")), again);
    assert_eq!(pending(&bench, 1), []);
    assert_eq!(enqueue(&mut bench, message(1, "a", "1", "y")), Outcome::Conflict);
}

#[test]
fn window_forgets_by_time_and_by_count() {
    let limits = Limits { dedup_window_ms: 1_000, dedup_entries_max: 64, ..Limits::default() };
    let mut bench = Bench::new(limits);
    enqueue(&mut bench, message(1, "a", "1", "x"));
    bench.at(999);
    assert!(accepted(&enqueue(&mut bench, message(1, "a", "1", "x"))).1);
    bench.at(1_000);
    assert_eq!(accepted(&enqueue(&mut bench, message(1, "a", "1", "x"))), (2, false));
    for id in 0..64 {
        enqueue(&mut bench, message(1, "a", &format!("n{id}"), "x"));
    }
    assert_eq!(bench.machine.remembered(), 64);
    assert_eq!(accepted(&enqueue(&mut bench, message(1, "a", "1", "x"))), (67, false));
    assert!(accepted(&enqueue(&mut bench, message(1, "a", "n63", "x"))).1);
}

#[test]
fn copies_of_other_senders_wait_for_each_other() {
    let mut bench = Bench::new(Limits::default());
    for sender in ["a", "b", "c"] {
        enqueue(&mut bench, message(1, sender, "same", sender));
    }
    let waits = |bench: &Bench| {
        let found = queries::mailbox_pending(&bench.current(), &mailbox(1), None, 9, usize::MAX, 0)
            .unwrap();
        found.iter().map(|one| one.contests.len()).collect::<Vec<_>>()
    };
    assert_eq!(waits(&bench), [0, 1, 2]);
    let ids = BTreeSet::from(["same".to_owned()]);
    let page = queries::search_page(&bench.current(), &mailbox(1), &ids, None).unwrap();
    let found: Vec<_> = page.found.iter().map(|one| (one.0, one.2.seq, one.2.contested)).collect();
    assert_eq!(found, [(0, 1, false), (1, 2, true), (2, 3, true)]);
    assert_eq!(page.next, None);
    acknowledge(&mut bench, 1, &[(NORMAL, 1)]);
    assert_eq!(waits(&bench), [0, 1]);
    // A copy that comes when the others are gone is contested, but waits for nobody.
    acknowledge(&mut bench, 1, &[(NORMAL, 2), (NORMAL, 3)]);
    enqueue(&mut bench, message(1, "d", "same", "d"));
    assert_eq!(waits(&bench), [0]);
    assert!(queries::find(&bench.current(), &mailbox(1), NORMAL, 4).unwrap().unwrap().contested);
}

#[test]
fn a_search_by_id_goes_through_the_whole_mailbox() {
    let mut bench = Bench::new(Limits::default());
    for number in 0..40 {
        enqueue(&mut bench, message(1, "a", &format!("m{number}"), "x"));
    }
    let ids = BTreeSet::from(["m3".to_owned(), "m39".to_owned(), "absent".to_owned()]);
    let (mut found, mut after, mut pages) = (Vec::new(), None, 0);
    loop {
        let page = queries::search_page(&bench.current(), &mailbox(1), &ids, after).unwrap();
        found.extend(page.found.into_iter().map(|(_, id, found)| (id, found.seq)));
        pages += 1;
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!(found, [("m3".to_owned(), 4), ("m39".to_owned(), 40)]);
    assert_eq!(pages, 3);
}

#[test]
fn copies_of_one_id_are_bounded() {
    let mut bench = Bench::new(Limits::default());
    for sender in 0..CONTESTS_MAX {
        accepted(&enqueue(&mut bench, message(1, &format!("s{sender}"), "same", "x")));
    }
    let refused = enqueue(&mut bench, message(1, "one more", "same", "x"));
    assert_eq!(refused, Outcome::MailboxFull);
    acknowledge(&mut bench, 1, &[(NORMAL, 1)]);
    accepted(&enqueue(&mut bench, message(1, "one more", "same", "x")));
}

#[test]
fn acknowledging_takes_exactly_what_is_named() {
    let mut bench = Bench::new(Limits::default());
    for id in ["1", "2", "3"] {
        enqueue(&mut bench, message(1, "a", id, id));
    }
    let items = [(NORMAL, 2), (NORMAL, 2), (NORMAL, 9), (Priority::Urgent, 1)];
    assert_eq!(acknowledge(&mut bench, 1, &items), 1);
    assert_eq!(acknowledge(&mut bench, 1, &items), 0);
    assert_eq!(acknowledge(&mut bench, 2, &[(NORMAL, 1)]), 0);
    assert_eq!(pending(&bench, 1), [(NORMAL, 1), (NORMAL, 3)]);
    assert_eq!(acknowledge(&mut bench, 1, &[(NORMAL, 3), (NORMAL, 1)]), 2);
    let counts = queries::mailbox_counts(&bench.current(), &mailbox(1)).unwrap();
    assert_eq!((counts.bytes, counts.lanes[1].count, counts.lanes[1].next_seq), (0, 0, 4));
    assert_eq!(ShardMachine::next_expiry(&bench.rows).unwrap(), None);
}

#[test]
fn full_mailbox_refuses_until_there_is_room() {
    let limits = Limits { mailbox_messages_max: 2, ..Limits::default() };
    let mut bench = Bench::new(limits);
    enqueue(&mut bench, message(1, "a", "1", "x"));
    enqueue(&mut bench, message(1, "a", "2", "x"));
    assert_eq!(enqueue(&mut bench, message(1, "a", "3", "x")), Outcome::MailboxFull);
    accepted(&enqueue(&mut bench, message(2, "a", "3", "x")));
    acknowledge(&mut bench, 1, &[(NORMAL, 1)]);
    assert_eq!(accepted(&enqueue(&mut bench, message(1, "a", "3", "x"))), (3, false));

    let mut bench = Bench::new(Limits { mailbox_bytes_max: 4_096, ..Limits::default() });
    let large = "x".repeat(3_000);
    accepted(&enqueue(&mut bench, message(1, "a", "1", &large)));
    assert_eq!(enqueue(&mut bench, message(1, "a", "2", &large)), Outcome::MailboxFull);
    accepted(&enqueue(&mut bench, message(1, "a", "3", "x")));
}

#[test]
fn oversized_content_is_refused() {
    let mut bench = Bench::new(Limits::default());
    let content = Bytes::from(vec![0; CONTENT_BYTES_MAX + 1]);
    let large = Enqueue { content, ..message(1, "a", "1", "x") };
    assert_eq!(enqueue(&mut bench, large), Outcome::TooLarge);
}

#[test]
fn largest_message_fits_a_row() {
    let mut bench = Bench::new(Limits::default());
    let content = Bytes::from(vec![7; CONTENT_BYTES_MAX]);
    let (sender, id) = ("s".repeat(128), "m".repeat(128));
    for number in 0..CONTESTS_MAX {
        let sender = format!("{number}{}", &sender[1..]);
        let large = Enqueue { content: content.clone(), ..message(1, &sender, &id, "x") };
        accepted(&enqueue(&mut bench, large));
    }
    let largest = bench.rows.iter().map(|(_, value)| value.len()).max().unwrap();
    assert!(largest > CONTENT_BYTES_MAX && largest <= 64 * 1024, "{largest}");
}

#[test]
fn flushed_rows_stay_small() {
    let mut bench = Bench::new(Limits::default());
    bench.at(u64::from(u32::MAX) * 1000);
    for id in 0..3_000 {
        enqueue(&mut bench, message(1, "a", &id.to_string(), "x"));
    }
    bench.machine.flush(&mut bench.rows).unwrap();
    let parts: Vec<_> =
        bench.rows.iter().filter(|(key, _)| key.starts_with(&[255, 255, 2])).collect();
    assert_eq!(parts.len(), 3);
    assert!(parts.iter().all(|(_, value)| value.len() <= 64 * 1024));
}

#[test]
fn due_messages_expire_in_order_and_leave_gaps() {
    let mut bench = Bench::new(Limits::default());
    for (id, ttl_ms) in [("1", 30), ("2", 10), ("3", 20), ("4", 500)] {
        enqueue(&mut bench, Enqueue { ttl_ms, ..message(1, "a", id, id) });
    }
    assert_eq!(ShardMachine::next_expiry(&bench.rows).unwrap(), Some(10));
    let nothing = bench.apply(9, vec![Command::Expire { limit: 10 }]);
    assert_eq!(nothing.outcomes, [Outcome::Expired { count: 0, more: false }]);
    let some = bench.apply(30, vec![Command::Expire { limit: 2 }]);
    assert_eq!(some.outcomes, [Outcome::Expired { count: 2, more: true }]);
    let items = vec![(NORMAL, 2), (NORMAL, 3)];
    let reason = Removal::Expired;
    assert_eq!(some.effects, [Effect::Removed { mailbox: mailbox(1), items, reason }]);
    // The last one is due: readers do not see it any more, the lane still does.
    assert_eq!(pending(&bench, 1), [(NORMAL, 4)]);
    let lane = queries::read_lane(&bench.current(), &mailbox(1), NORMAL, 1, 9, usize::MAX).unwrap();
    let seqs: Vec<_> = lane.items.iter().map(|one| one.message.seq).collect();
    assert_eq!((seqs, lane.end), (vec![1, 4], 5));
    assert_eq!(lane.gaps, [Gap { from: 2, to: 3, reason }]);
    bench.one(Command::Expire { limit: 9 });
    bench.reload();
    let lane = queries::read_lane(&bench.current(), &mailbox(1), NORMAL, 2, 9, usize::MAX).unwrap();
    assert_eq!(lane.gaps, [Gap { from: 2, to: 3, reason }]);
    // Past the gap the recipient knows of it.
    acknowledge(&mut bench, 1, &[(NORMAL, 4)]);
    let lane = queries::read_lane(&bench.current(), &mailbox(1), NORMAL, 1, 9, usize::MAX).unwrap();
    assert_eq!((lane.gaps, lane.end), (vec![], 5));
}

#[test]
fn expired_message_id_is_still_a_duplicate() {
    let mut bench = Bench::new(Limits::default());
    enqueue(&mut bench, Enqueue { ttl_ms: 10, ..message(1, "a", "1", "x") });
    bench.apply(10, vec![Command::Expire { limit: 9 }]);
    assert!(accepted(&enqueue(&mut bench, message(1, "a", "1", "x"))).1);
    // Another sender's copy does not wait for what is gone.
    enqueue(&mut bench, message(1, "b", "1", "x"));
    let found = queries::mailbox_pending(&bench.current(), &mailbox(1), None, 9, 9, 0).unwrap();
    assert!(found[0].contests.is_empty());
}

#[test]
fn gaps_are_bounded() {
    let mut bench = Bench::new(Limits { gaps_max: 3, ..Limits::default() });
    for id in 0..10 {
        let ttl_ms = if id % 2 == 0 { 10 } else { 1_000 };
        enqueue(&mut bench, Enqueue { ttl_ms, ..message(1, "a", &id.to_string(), "x") });
    }
    bench.apply(10, vec![Command::Expire { limit: 99 }]);
    let lane =
        queries::read_lane(&bench.current(), &mailbox(1), NORMAL, 1, 99, usize::MAX).unwrap();
    assert_eq!(lane.gaps.iter().map(|gap| gap.from).collect::<Vec<_>>(), [5, 7, 9]);
}

#[test]
fn wish_to_wait_is_cut_to_the_limit() {
    let mut bench = Bench::new(Limits { ttl_max_ms: 100, ..Limits::default() });
    enqueue(&mut bench, Enqueue { ttl_ms: u64::MAX, ..message(1, "a", "1", "x") });
    assert_eq!(ShardMachine::next_expiry(&bench.rows).unwrap(), Some(100));
}

#[test]
fn shard_time_never_goes_back() {
    let mut bench = Bench::new(Limits::default());
    bench.at(100);
    bench.at(50);
    assert_eq!(bench.machine.time_ms(), 100);
    bench.reload();
    assert_eq!(bench.machine.time_ms(), 100);
}

#[test]
fn reads_are_paged_by_count_and_bytes() {
    let mut bench = Bench::new(Limits::default());
    for id in 0..40 {
        enqueue(&mut bench, message(1, "a", &id.to_string(), &"x".repeat(1_000)));
    }
    let read = |after, limit, bytes_max| {
        let found =
            queries::mailbox_pending(&bench.current(), &mailbox(1), after, limit, bytes_max, 0)
                .unwrap();
        found.iter().map(|one| one.message.seq).collect::<Vec<_>>()
    };
    assert_eq!(read(None, 3, usize::MAX), [1, 2, 3]);
    assert_eq!(read(Some((NORMAL, 3)), 2, usize::MAX), [4, 5]);
    assert_eq!(read(None, 99, 0), [1]);
    assert_eq!(read(None, 99, 2_200), [1, 2]);
    assert_eq!(read(None, 99, usize::MAX).len(), 40);
    assert_eq!(read(Some((Priority::Low, 1)), 9, usize::MAX), [] as [u64; 0]);
    let lane = |from, limit, bytes_max| {
        let read =
            queries::read_lane(&bench.current(), &mailbox(1), NORMAL, from, limit, bytes_max)
                .unwrap();
        (read.items.len(), read.end)
    };
    assert_eq!(lane(1, 3, usize::MAX), (3, 4));
    assert_eq!(lane(1, 99, 2_200), (2, 3));
    assert_eq!(lane(30, 99, usize::MAX), (11, 41));
    assert_eq!(lane(41, 99, usize::MAX), (0, 41));
}

#[test]
fn register_keeps_the_first_public_key() {
    let mut bench = Bench::new(Limits::default());
    assert_eq!(bench.one(Command::Register(register(1, 7, 100))), Outcome::Registered);
    assert_eq!(bench.one(Command::Register(register(1, 7, 100))), Outcome::Registered);
    assert_eq!(bench.one(Command::Register(register(1, 8, 101))), Outcome::DeviceTaken);
    let unsigned = super::super::Register { signed: false, ..register(1, 7, 102) };
    assert_eq!(bench.one(Command::Register(unsigned)), Outcome::DeviceTaken);
    assert_eq!(bench.one(Command::Register(register(1, 7, 103))), Outcome::Registered);
    let device = queries::device(&bench.current(), &mailbox(1)).unwrap().unwrap();
    assert_eq!(device.key_ids, [100, 103]);
    let key = queries::key(&bench.current(), mailbox(1).slot(), 103).unwrap().unwrap();
    assert_eq!((key.mailbox, key.device), (mailbox(1), device.device));
}

#[test]
fn key_id_of_another_device_is_not_overwritten() {
    let mut bench = Bench::new(Limits::default());
    bench.one(Command::Register(register(1, 7, 100)));
    let mut other = register(2, 7, 100);
    // The same slot, another mailbox.
    other.mailbox = mailbox(1);
    other.mailbox.0[15] = 0;
    assert_eq!(bench.one(Command::Register(other)), Outcome::KeyIdTaken);
    let key = queries::key(&bench.current(), mailbox(1).slot(), 100).unwrap().unwrap();
    assert_eq!(key.mailbox, mailbox(1));
}

#[test]
fn ninth_key_drops_the_oldest() {
    let mut bench = Bench::new(Limits::default());
    for key_id in 1..=8 {
        bench.one(Command::Register(register(1, 7, key_id)));
    }
    let applied = bench.apply(0, vec![Command::Register(register(1, 7, 9))]);
    let dropped = Effect::KeysRevoked { mailbox: mailbox(1), key_ids: vec![1] };
    assert_eq!(applied.effects, [dropped]);
    let slot = mailbox(1).slot();
    let stands = |id: &u64| queries::key(&bench.current(), slot, *id).unwrap().is_some();
    assert_eq!((1..=9).filter(stands).collect::<Vec<_>>(), (2..=9).collect::<Vec<_>>());
}

#[test]
fn revoked_keys_are_gone() {
    let mut bench = Bench::new(Limits::default());
    for key_id in 1..=3 {
        bench.one(Command::Register(register(1, 7, key_id)));
    }
    let mailbox = mailbox(1);
    let revoke = |bench: &mut Bench, key_id| bench.one(Command::RevokeKey { mailbox, key_id });
    let revoked = |ids: &[u64]| Outcome::KeysRevoked { key_ids: ids.to_vec() };
    assert_eq!(revoke(&mut bench, Some(2)), revoked(&[2]));
    assert_eq!(revoke(&mut bench, Some(2)), revoked(&[]));
    assert_eq!(revoke(&mut bench, None), revoked(&[1, 3]));
    assert_eq!(queries::key(&bench.current(), mailbox.slot(), 1).unwrap(), None);
    assert_eq!(
        queries::device(&bench.current(), &mailbox).unwrap().unwrap().key_ids,
        [] as [u64; 0]
    );
}

#[test]
fn unknown_row_version_is_refused() {
    let mut bench = Bench::new(Limits::default());
    enqueue(&mut bench, message(1, "a", "1", "x"));
    bench.reload();
    let key = &super::super::layout::mailbox(&mailbox(1));
    let mut value = bench.rows.get(key).unwrap().unwrap().to_vec();
    value[0] = 9;
    bench.rows.put(key, Bytes::from(value));
    let error = queries::mailbox_counts(&bench.current(), &mailbox(1)).unwrap_err();
    assert!(matches!(error, heliograph_storage::Error::Version { version: 9, .. }), "{error}");
    bench.rows.put(key, Bytes::from_static(&[1, 0xc1]));
    let error = queries::mailbox_counts(&bench.current(), &mailbox(1)).unwrap_err();
    assert!(matches!(error, heliograph_storage::Error::Damage { .. }), "{error}");
}

#[test]
fn machine_writes_nothing_that_is_not_needed() {
    let mut bench = Bench::new(Limits::default());
    enqueue(&mut bench, message(1, "a", "1", "x"));
    let kinds: BTreeSet<_> = bench.rows.iter().map(|(key, _)| (key[0], key[2])).collect();
    assert_eq!(bench.rows.len(), 2, "message and expiry: {kinds:?}");
    acknowledge(&mut bench, 1, &[(NORMAL, 1)]);
    acknowledge(&mut bench, 5, &[(NORMAL, 1)]);
    assert!(bench.rows.is_empty(), "the mailbox waits, and one that never was has nothing");
    bench.reload();
    let kinds: BTreeSet<_> = bench.rows.iter().map(|(key, _)| (key[0], key[2])).collect();
    assert_eq!(bench.rows.len(), 3, "mailbox, clock and deduplication: {kinds:?}");
}
