//! Tests of the leader's leases.

use super::*;
use crate::model::{DeviceId, KeyHasher};

const A: NodeId = NodeId(1);
const B: NodeId = NodeId(2);
const S: ShardId = ShardId(0);

fn mailbox(name: &str) -> MailboxKey {
    KeyHasher::new([0; 32]).mailbox(&DeviceId::new(name).unwrap())
}

fn id(node: NodeId, number: u64) -> SubscriptionId {
    SubscriptionId { node: node.0, number }
}

fn numbers(held: &[Held]) -> Vec<(u16, u64)> {
    held.iter().map(|held| (held.id.node, held.id.number)).collect()
}

#[tokio::test(start_paused = true)]
async fn a_lapsed_lease_ends_all_that_it_covered() {
    let now = Instant::now();
    let (mut leases, phone) = (Leases::default(), mailbox("phone"));
    assert_eq!(leases.grant(A, 5, 77, now).0, 77);
    assert_eq!(leases.hold(id(A, 1), 1, phone, S), Holding::New);
    assert_eq!(leases.hold_key(A, phone.slot(), 9, phone), Some(77));
    assert_eq!(leases.nodes_of(&phone), BTreeSet::from([A]));
    assert_eq!(leases.holders(&phone, Some(9)), BTreeMap::from([(A, 77)]));
    let lapse = now + LEASE;
    assert!(leases.sweep(lapse - Duration::from_millis(1)).is_empty());
    assert_eq!(numbers(&leases.sweep(lapse)), [(1, 1)]);
    assert!(leases.nodes_of(&phone).is_empty());
    assert!(leases.holders(&phone, None).is_empty());
    assert_eq!(leases.renew(A, 77, &[], lapse), None);
}

#[tokio::test(start_paused = true)]
async fn a_renewed_lease_lives_on_under_its_id_alone() {
    let now = Instant::now();
    let mut leases = Leases::default();
    leases.grant(A, 5, 77, now);
    let later = now + LEASE - Duration::from_millis(1);
    assert_eq!(leases.renew(A, 78, &[], later), None);
    assert_eq!(leases.renew(A, 77, &[], later), Some(vec![]));
    assert_eq!(leases.grant(A, 5, 99, later).0, 77, "the same process keeps its lease");
    assert!(leases.sweep(now + LEASE).is_empty());
    assert_eq!(leases.renew(A, 77, &[], later + LEASE), None);
}

#[tokio::test(start_paused = true)]
async fn another_process_of_a_node_ends_what_the_former_held() {
    let now = Instant::now();
    let (mut leases, phone) = (Leases::default(), mailbox("phone"));
    leases.grant(A, 5, 77, now);
    leases.hold(id(A, 1), 1, phone, S);
    let (lease, ended) = leases.grant(A, 6, 78, now);
    assert_eq!((lease, numbers(&ended)), (78, vec![(1, 1)]));
    assert!(leases.nodes_of(&phone).is_empty());
}

#[tokio::test(start_paused = true)]
async fn subscriptions_follow_their_generation() {
    let now = Instant::now();
    let (mut leases, phone) = (Leases::default(), mailbox("phone"));
    assert_eq!(leases.hold(id(A, 1), 1, phone, S), Holding::Full, "without a lease");
    leases.grant(A, 5, 77, now);
    assert_eq!(leases.hold(id(A, 1), 2, phone, S), Holding::New);
    assert_eq!(leases.hold(id(A, 1), 2, phone, S), Holding::Known);
    assert_eq!(leases.hold(id(A, 1), 1, phone, S), Holding::Outdated);
    assert_eq!(leases.holds(id(A, 1), 2), Some(phone));
    assert_eq!(leases.holds(id(A, 1), 1), None);
    assert_eq!(leases.hold(id(A, 1), 3, phone, S), Holding::New);
    assert_eq!(leases.release(id(A, 1)).map(|held| held.generation), Some(3));
    assert_eq!(leases.release(id(A, 1)), None);
}

#[tokio::test(start_paused = true)]
async fn a_delivery_that_does_not_arrive_shows_at_the_second_renewal() {
    let now = Instant::now();
    let (mut leases, phone) = (Leases::default(), mailbox("phone"));
    leases.grant(A, 5, 77, now);
    leases.hold(id(A, 1), 1, phone, S);
    leases.sent(id(A, 1), 1, 4);
    let mut renew = |received: &[(u64, u64)]| leases.renew(A, 77, received, now).unwrap();
    assert_eq!(renew(&[(1, 3)]), [], "it may be on its way");
    assert_eq!(renew(&[]), [(1, 4)]);
    assert_eq!(renew(&[(1, 4)]), []);
    assert_eq!(renew(&[]), []);
    leases.sent(id(A, 1), 2, 9);
    assert_eq!(leases.renew(A, 77, &[], now), Some(vec![]), "of another generation");
}

#[tokio::test(start_paused = true)]
async fn holders_of_an_ended_mailbox_are_told_until_they_subscribe_again() {
    let now = Instant::now();
    let (mut leases, phone) = (Leases::default(), mailbox("phone"));
    leases.grant(A, 5, 77, now);
    leases.hold(id(A, 1), 1, phone, S);
    assert_eq!(numbers(&leases.mailbox_ended(&phone)), [(1, 1)]);
    assert_eq!(leases.holds(id(A, 1), 1), None);
    for _ in 0..2 {
        assert_eq!(leases.renew(A, 77, &[], now), Some(vec![(1, u64::MAX)]));
    }
    assert_eq!(leases.hold(id(A, 1), 1, phone, S), Holding::New);
    assert_eq!(leases.renew(A, 77, &[], now), Some(vec![]));
}

#[tokio::test(start_paused = true)]
async fn the_end_of_a_leadership_ends_the_grants_of_its_shard_alone() {
    let now = Instant::now();
    let mut leases = Leases::default();
    let (phone, tablet) = (mailbox("phone"), mailbox("tablet"));
    assert_ne!(phone.slot(), tablet.slot());
    leases.grant(A, 5, 77, now);
    leases.grant(B, 6, 78, now);
    leases.hold(id(A, 1), 1, phone, S);
    leases.hold(id(B, 1), 1, tablet, ShardId(1));
    leases.hold_key(A, phone.slot(), 9, phone);
    leases.hold_key(A, tablet.slot(), 9, tablet);
    let ended = leases.shard_ended(S, |slot| slot == phone.slot());
    assert_eq!(numbers(&ended), [(1, 1)]);
    assert!(leases.holders(&phone, None).is_empty());
    assert_eq!(leases.holders(&tablet, None), BTreeMap::from([(A, 77), (B, 78)]));
}

#[tokio::test(start_paused = true)]
async fn holders_of_a_key_are_those_who_may_honour_it() {
    let now = Instant::now();
    let (mut leases, phone) = (Leases::default(), mailbox("phone"));
    leases.grant(A, 5, 77, now);
    leases.grant(B, 6, 78, now);
    leases.hold_key(A, phone.slot(), 9, phone);
    leases.hold_key(B, phone.slot(), 10, phone);
    let stranger = MailboxKey([phone.0[0]; 16]);
    leases.hold_key(B, phone.slot(), 11, stranger);
    assert_eq!(leases.holders(&phone, Some(9)), BTreeMap::from([(A, 77)]));
    assert_eq!(leases.holders(&phone, Some(11)), BTreeMap::new(), "it is another's");
    assert_eq!(leases.holders(&phone, None), BTreeMap::from([(A, 77), (B, 78)]));
    leases.release_keys(A, &phone, Some(9));
    assert_eq!(leases.holders(&phone, None), BTreeMap::from([(B, 78)]));
    leases.hold(id(A, 3), 1, phone, S);
    assert_eq!(leases.holders(&phone, Some(9)), BTreeMap::from([(A, 77)]), "a live connection");
    assert!(leases.lives(A, 77, now).is_some());
    assert!(leases.lives(A, 76, now).is_none());
    assert!(leases.lives(A, 77, now + LEASE).is_none());
}
