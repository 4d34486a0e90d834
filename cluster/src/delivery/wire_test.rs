//! The bytes of the wire: a change here is a change of protocol.

use super::*;
use crate::model::MessageId;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn mailbox() -> MailboxKey {
    MailboxKey([0xab; 16])
}

fn message() -> Arc<Message> {
    Arc::new(Message {
        seq: 300,
        priority: Priority::High,
        sender: DeviceId::new("s").unwrap(),
        message_id: MessageId::new("m").unwrap(),
        accepted_ms: 1,
        expires_ms: 2,
        content: Bytes::from_static(&[0xc0, 0x01]),
    })
}

pub(crate) fn enqueue() -> Enqueue {
    Enqueue {
        mailbox: mailbox(),
        sender: DeviceId::new("s").unwrap(),
        message_id: MessageId::new("m").unwrap(),
        priority: Priority::Normal,
        ttl_ms: 5,
        fingerprint: 6,
        sender_fingerprint: 7,
        content_fingerprint: 8,
        content: Bytes::from_static(&[0xc0, 0x01]),
    }
}

pub(crate) fn register() -> Register {
    Register {
        mailbox: mailbox(),
        device: DeviceId::new("d").unwrap(),
        public_key: [1; 32],
        signed: true,
        key_id: 2,
        key_hash: [3; 32],
    }
}

pub(crate) fn requests() -> Vec<RelayRequest> {
    let subscribe = SubscribeEntry {
        number: 1,
        generation: 2,
        mailbox: mailbox(),
        key_id: 3,
        connected_ms: 4,
        window: Window { messages: 5, bytes: 6 },
        in_flight: vec![(Priority::Low, 7, 8)],
        delivered: vec![(Priority::Normal, 9)],
        unconfirmed: vec![(Priority::Urgent, 10)],
    };
    let update = UpdateEntry {
        number: 1,
        generation: 2,
        written: vec![(Priority::Low, 3)],
        acked: vec![(Priority::Low, 4)],
    };
    let id = AckItem::Id(MessageId::new("m").unwrap());
    let register = register();
    vec![
        RelayRequest::Enqueue(enqueue()),
        RelayRequest::Acknowledge {
            mailbox: mailbox(),
            items: vec![id, AckItem::Seq(Priority::High, 2)],
        },
        RelayRequest::Receive { mailbox: mailbox(), limit: 1, wait_ms: 2, after: None },
        RelayRequest::Register(register),
        RelayRequest::Authenticate { boot: 1, slot: Slot(2), key_id: 3 },
        RelayRequest::Revoke { mailbox: mailbox(), key_id: Some(1) },
        RelayRequest::Locate { mailbox: mailbox() },
        RelayRequest::Subscribe { boot: 1, shard: ShardId(2), entries: vec![subscribe] },
        RelayRequest::Update { shard: ShardId(1), entries: vec![update], ended: vec![2] },
        RelayRequest::Renew { lease: 1, shards: vec![(ShardId(2), 3)], received: vec![(4, 5)] },
        RelayRequest::DropKeys { mailbox: mailbox(), key_id: None },
    ]
}

pub(crate) fn answers() -> Vec<RelayAnswer> {
    let key = KeyRecord { device: DeviceId::new("d").unwrap(), mailbox: mailbox(), hash: [1; 32] };
    vec![
        RelayAnswer::Failed(Failure::NotLeader { leader: Some((NodeId(1), 2)) }),
        RelayAnswer::Failed(Failure::NotActing),
        RelayAnswer::Done(Outcome::Enqueued { seq: 1, accepted_ms: 2, duplicate: false }),
        RelayAnswer::Messages(vec![message()]),
        RelayAnswer::Key { lease: Some(1), term: 2, key: Some(key) },
        RelayAnswer::Revoked,
        RelayAnswer::Nodes(vec![NodeId(1)]),
        RelayAnswer::Subscribed {
            lease: 1,
            term: 2,
            results: vec![SubscribeResult::Subscribed, SubscribeResult::Revoked],
        },
        RelayAnswer::Updated(vec![UpdateResult::Confirmed, UpdateResult::Unknown]),
        RelayAnswer::Renewed { gone: vec![ShardId(1)], behind: vec![(2, 3)] },
        RelayAnswer::UnknownLease,
    ]
}

pub(crate) fn notices() -> Vec<RelayNotice> {
    let fence = Fence { shard: ShardId(1), term: 2 };
    let deliver = |parcel| {
        let (number, generation, delivery_no) = (3, 4, 5);
        RelayNotice::Deliver(Deliver { number, generation, delivery_no, fence, parcel })
    };
    let skipped =
        Parcel::Skipped { priority: Priority::Low, from: 1, to: 2, reason: Removal::Expired };
    vec![
        deliver(Parcel::Messages(vec![message()])),
        deliver(skipped),
        RelayNotice::Gone { subscriptions: vec![(1, 2)] },
        RelayNotice::Dropped { number: 1, generation: 2 },
        RelayNotice::Live { mailbox: mailbox(), payload: Bytes::from_static(&[1]) },
        RelayNotice::LiveGone { mailbox: mailbox() },
        RelayNotice::Orphaned { number: 1 },
    ]
}

/// All of the protocol, a line each.
fn spelled() -> String {
    let mut lines = Vec::new();
    lines.extend(requests().iter().map(|one| hex(&encode_outgoing(one, 0))));
    lines.extend(answers().iter().map(|one| hex(&encode_answer(one))));
    lines.extend(notices().iter().map(|one| hex(&encode_outgoing(one, 0))));
    lines.join("\n") + "\n"
}

#[test]
fn the_wire_keeps_its_bytes() {
    let kept = include_str!("wire_test.hex");
    for (number, (now, then)) in spelled().lines().zip(kept.lines()).enumerate() {
        assert_eq!(now, then, "line {} of wire_test.hex", number + 1);
    }
    assert_eq!(spelled().lines().count(), kept.lines().count());
}

#[test]
fn everything_reads_back() {
    for request in requests() {
        let bytes = encode_outgoing(&request, 0);
        assert_eq!(bytes[0], 2, "the envelope");
        assert_eq!(decode(&bytes[1..]), Some(request));
    }
    for answer in answers() {
        assert_eq!(decode(&encode_answer(&answer)), Some(answer));
    }
    for notice in notices() {
        assert_eq!(decode(&encode_outgoing(&notice, 0)[1..]), Some(notice));
    }
}

#[test]
fn bytes_of_another_version_and_broken_ones_are_not_read() {
    let mut bytes = encode_outgoing(&RelayRequest::Locate { mailbox: mailbox() }, 0)[1..].to_vec();
    assert_eq!(decode::<RelayRequest>(&[]), None);
    for end in 1..bytes.len() {
        assert_eq!(decode::<RelayRequest>(&bytes[..end]), None);
    }
    bytes[0] = 2;
    assert_eq!(decode::<RelayRequest>(&bytes), None);
}

#[test]
fn a_large_content_costs_no_more_than_its_bytes() {
    let content = Bytes::from(vec![0xff; 60_000]);
    let request = RelayRequest::Enqueue(Enqueue { content, ..enqueue() });
    assert!(encode_outgoing(&request, 60_000).len() < 60_100);
}
