use super::{
    super::test_support::{Bench, message, register},
    *,
};
use crate::machine::{Command, Enqueue, Limits};

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn rows_keep_their_bytes() {
    let mut bench = Bench::new(Limits::default());
    let first = Enqueue {
        fingerprint: 0x0102,
        sender_fingerprint: 3,
        content_fingerprint: 4,
        ttl_ms: 10,
        ..message(0xab, "s", "m", "content")
    };
    let due = Enqueue { fingerprint: 0x0506, ttl_ms: 1, ..first.clone() };
    let copy = Enqueue { sender_fingerprint: 5, ttl_ms: 10, ..first.clone() };
    let commands = vec![
        Command::Register(register(0xab, 7, 9)),
        Command::Enqueue(first),
        Command::Enqueue(copy),
        Command::Enqueue(due),
    ];
    bench.apply(1_000, commands);
    bench.apply(1_001, vec![Command::Expire { limit: 9 }]);
    bench.machine.flush(&mut bench.rows).unwrap();
    let rows: Vec<_> =
        bench.rows.iter().map(|(key, value)| format!("{} {}", hex(key), hex(value))).collect();
    let (hash, nines) = ("ab".repeat(16), "09".repeat(32));
    let expected = [
        // device: [device, public key, registered, key ids]
        format!(
            "0aba01{hash} 0194aa6465766963652d313731c420{sevens}cd03e89109",
            sevens = "07".repeat(32)
        ),
        // key: [mailbox, device, hash]
        format!("0aba020000000000000009 0193c410{hash}aa6465766963652d313731c420{nines}"),
        // mailbox: [[last number, count, ranges] by level, bytes, accepted]
        format!("0aba03{hash} 01939493000000930302019300000093000000 5703"),
        // message: [fingerprint, ordinal, accepted, expires, contested, contests, sender, id,
        // content]
        format!(
            "0aba04{hash}fe0000000000000001 \
             0199c4100000000000000000000000000000010200cd03e8cd03f2c290a173a16dc407636f6e74656e74"
        ),
        format!(
            "0aba04{hash}fe0000000000000002 \
             0199c4100000000000000000000000000000010201cd03e8cd03f2c391920101a173a16d\
             c407636f6e74656e74"
        ),
        // gaps: [[[first, last, reason]]]
        format!("0aba05{hash}fe 01919193030302"),
        // expiry
        format!("ffff0100000000000003f2{hash}fe0000000000000001 01"),
        format!("ffff0100000000000003f2{hash}fe0000000000000002 01"),
        // dedup: [from, [[fingerprint, sender, content, number, offset, priority, status]]]
        "ffff020000000000000000 \
         0192cd03e89397c4100000000000000000000000000000010203040100010097c41000000000000000000000\
         00000000010205040200010097c41000000000000000000000000000000506030403000102"
            .to_owned(),
        // clock: [time, next part]
        "ffff03 0192cd03e901".to_owned(),
    ];
    for (row, expected) in rows.iter().zip(&expected) {
        let (key, value) = expected.split_once(' ').expect("a key and a value");
        assert_eq!(*row, format!("{key} {}", value.replace(' ', "")));
    }
    assert_eq!(rows.len(), expected.len());
}

#[test]
fn written_rows_are_still_read() {
    let row: MailboxRow = decode(&bytes("01939493000000930302019300000093000000 5703")).unwrap();
    let lane = LaneRow { last_seq: 3, count: 2, gaps: 1 };
    assert_eq!((row.lanes[1], row.bytes, row.accepted), (lane, 0x57, 3));
    let value = bytes(
        "0199c4100000000000000000000000000000010201cd03e8cd03f2c391920101a173a16d\
         c407636f6e74656e74",
    );
    let row: MessageRow<'_> = decode(&value).unwrap();
    let expected = MessageRow {
        fingerprint: 0x0102,
        ordinal: 1,
        accepted_ms: 1_000,
        expires_ms: 1_010,
        contested: true,
        contests: vec![(Priority::Normal, 1)],
        sender: "s",
        message_id: "m",
        content: b"content",
    };
    assert_eq!(row, expected);
    let value = Bytes::from(value);
    let pending = decode::<MessageRow<'_>>(&value).unwrap();
    let pending = pending.pending((Priority::Normal, 2), &value).unwrap();
    let shared = value.slice_ref(&pending.message.content);
    assert_eq!(shared.as_ptr(), pending.message.content.as_ptr(), "the content is not copied");
}

#[test]
fn ranges_join_and_are_forgotten() {
    let mut row = GapsRow::default();
    for seq in [5, 3, 9, 4] {
        row.add(seq, Removal::Expired, 9);
    }
    row.add(6, Removal::Cancelled, 9);
    row.add(7, Removal::Cancelled, 9);
    let (expired, cancelled) = (Removal::Expired, Removal::Cancelled);
    assert_eq!(row.ranges, [(3, 5, expired), (6, 7, cancelled), (9, 9, expired)]);
    let clipped = Gap { from: 4, to: 5, reason: expired };
    assert_eq!(row.within(4, 6), [clipped]);
    assert_eq!(row.within(1, 3), []);
    assert_eq!(row.within(8, 9), []);
    row.forget(5);
    assert_eq!(row.ranges.len(), 2);
    row.forget(9);
    assert!(row.ranges.is_empty());
}

fn bytes(text: &str) -> Vec<u8> {
    let text = text.replace(' ', "");
    let byte = |at: usize| u8::from_str_radix(&text[at..at + 2], 16).unwrap();
    (0..text.len()).step_by(2).map(byte).collect()
}
