//! Where a shard's rows are: `docs/reference/rows.md`.
//!
//! Every key is slot (u16, big endian) | kind (u8) | what names the row within the kind. All
//! numbers are big endian, so that keys sort as numbers do.

use crate::model::{MailboxKey, Priority, Slot};

/// The slot of rows that belong to the shard as a whole: past the last slot.
const SHARD_WIDE: u16 = u16::MAX;

const DEVICE: u8 = 1;
const KEY: u8 = 2;
const MAILBOX: u8 = 3;
const MESSAGE: u8 = 4;
const GAPS: u8 = 5;

const EXPIRY: u8 = 1;
const DEDUP: u8 = 2;
const CLOCK: u8 = 3;
const NUMBERS: u8 = 4;

fn fixed<const N: usize>(parts: &[&[u8]]) -> [u8; N] {
    let mut key = [0; N];
    let mut at = 0;
    for part in parts {
        key[at..at + part.len()].copy_from_slice(part);
        at += part.len();
    }
    assert_eq!(at, N, "the parts make up the key");
    key
}

fn of_mailbox(kind: u8, mailbox: &MailboxKey) -> [u8; 19] {
    fixed(&[&mailbox.slot().0.to_be_bytes(), &[kind], &mailbox.0])
}

/// A device.
pub(super) fn device(mailbox: &MailboxKey) -> [u8; 19] {
    of_mailbox(DEVICE, mailbox)
}

/// An API key.
pub(super) fn key(slot: Slot, key_id: u64) -> [u8; 11] {
    fixed(&[&slot.0.to_be_bytes(), &[KEY], &key_id.to_be_bytes()])
}

/// A mailbox.
pub(super) fn mailbox(mailbox: &MailboxKey) -> [u8; 19] {
    of_mailbox(MAILBOX, mailbox)
}

/// Whose mailbox row a key names.
pub(super) fn mailbox_of(key: &[u8]) -> Option<MailboxKey> {
    let (head, mailbox) = key.split_at_checked(3)?;
    if head[2] != MAILBOX || head[..2] == SHARD_WIDE.to_be_bytes() {
        return None;
    }
    mailbox.try_into().ok().map(MailboxKey)
}

/// Whether there may be rows of mailboxes at `from <= key < to`. True for all ranges but those within
/// one slot and another kind, and those behind all slots.
pub(super) fn may_hold_mailboxes(from: &[u8], to: &[u8]) -> bool {
    let is_shard_wide = from >= &SHARD_WIDE.to_be_bytes()[..];
    let is_of_another_kind =
        from.get(2).is_some_and(|kind| *kind != MAILBOX) && from.get(..3) == to.get(..3);
    !is_shard_wide && !is_of_another_kind
}

/// A message. The priority is turned round: keys sort in the order of delivery.
pub(super) fn message(mailbox: &MailboxKey, priority: Priority, seq: u64) -> [u8; 28] {
    let lane = 255 - priority.level();
    fixed(&[&of_mailbox(MESSAGE, mailbox), &[lane], &seq.to_be_bytes()])
}

/// The first key after every message of a mailbox.
pub(super) fn messages_end(mailbox: &MailboxKey) -> [u8; 29] {
    fixed(&[&message(mailbox, Priority::Low, u64::MAX), &[0]])
}

/// The place of a message by its key.
pub(super) fn message_place(key: &[u8]) -> Option<(Priority, u64)> {
    let (lane, seq) = key.get(19..28)?.split_first()?;
    place(*lane, seq)
}

/// The skipped ranges of one priority of a mailbox.
pub(super) fn gaps(mailbox: &MailboxKey, priority: Priority) -> [u8; 20] {
    fixed(&[&of_mailbox(GAPS, mailbox), &[255 - priority.level()]])
}

/// An entry of the expiry index.
pub(super) fn expiry(
    expires_ms: u64,
    mailbox: &MailboxKey,
    priority: Priority,
    seq: u64,
) -> [u8; 36] {
    fixed(&[
        &SHARD_WIDE.to_be_bytes(),
        &[EXPIRY],
        &expires_ms.to_be_bytes(),
        &mailbox.0,
        &[255 - priority.level()],
        &seq.to_be_bytes(),
    ])
}

/// The first key of the expiry index at or after `expires_ms`.
pub(super) fn expiry_from(expires_ms: u64) -> [u8; 11] {
    fixed(&[&SHARD_WIDE.to_be_bytes(), &[EXPIRY], &expires_ms.to_be_bytes()])
}

/// The first key after the expiry index.
pub(super) fn expiry_end() -> [u8; 3] {
    fixed(&[&SHARD_WIDE.to_be_bytes(), &[EXPIRY + 1]])
}

/// What an entry of the expiry index names: when, and which message.
pub(super) fn expiry_entry(key: &[u8]) -> Option<(u64, MailboxKey, Priority, u64)> {
    let expires_ms = u64::from_be_bytes(key.get(3..11)?.try_into().ok()?);
    let mailbox = MailboxKey(key.get(11..27)?.try_into().ok()?);
    let (lane, seq) = key.get(27..36)?.split_first()?;
    let (priority, seq) = place(*lane, seq)?;
    Some((expires_ms, mailbox, priority, seq))
}

/// A part of the deduplication table.
pub(super) fn dedup(part: u64) -> [u8; 11] {
    fixed(&[&SHARD_WIDE.to_be_bytes(), &[DEDUP], &part.to_be_bytes()])
}

/// The first key after the deduplication table.
pub(super) fn dedup_end() -> [u8; 3] {
    fixed(&[&SHARD_WIDE.to_be_bytes(), &[DEDUP + 1]])
}

/// Which part of the deduplication table a key names.
pub(super) fn dedup_part(key: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(key.get(3..11)?.try_into().ok()?))
}

/// Shard time and what else counts shard-wide.
pub(super) fn clock() -> [u8; 3] {
    fixed(&[&SHARD_WIDE.to_be_bytes(), &[CLOCK]])
}

/// From where mailboxes are numbered.
pub(super) fn numbers() -> [u8; 3] {
    fixed(&[&SHARD_WIDE.to_be_bytes(), &[NUMBERS]])
}

/// What a row is about, for those who count rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowKind {
    /// A device.
    Device,
    /// An API key.
    ApiKey,
    /// A message.
    Message,
    /// When a message expires, milliseconds since the Unix epoch.
    Expiry {
        /// When.
        at_ms: u64,
    },
}

/// What the row of this key is about; none for those that nobody counts.
pub fn row_kind(key: &[u8]) -> Option<RowKind> {
    let (slot, rest) = key.split_first_chunk()?;
    match (u16::from_be_bytes(*slot), *rest.first()?) {
        (SHARD_WIDE, EXPIRY) => expiry_entry(key).map(|(at_ms, ..)| RowKind::Expiry { at_ms }),
        (SHARD_WIDE, _) => None,
        (_, DEVICE) => Some(RowKind::Device),
        (_, KEY) => Some(RowKind::ApiKey),
        (_, MESSAGE) => Some(RowKind::Message),
        _ => None,
    }
}

fn place(lane: u8, seq: &[u8]) -> Option<(Priority, u64)> {
    let priority = Priority::try_from(255 - lane).ok()?;
    Some((priority, u64::from_be_bytes(seq.try_into().ok()?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAILBOX_KEY: MailboxKey = MailboxKey([0xab; 16]);
    const HASH: &str = "abababababababababababababababab";

    #[test]
    fn keys_keep_their_bytes() {
        // Slot 0xaba: the first 12 bits of the hash.
        assert_eq!(hex(&device(&MAILBOX_KEY)), format!("0aba01{HASH}"));
        assert_eq!(hex(&key(Slot(0x0aba), 7)), "0aba020000000000000007");
        assert_eq!(hex(&mailbox(&MAILBOX_KEY)), format!("0aba03{HASH}"));
        let urgent = message(&MAILBOX_KEY, Priority::Urgent, 258);
        assert_eq!(hex(&urgent), format!("0aba04{HASH}fc0000000000000102"));
        assert_eq!(hex(&gaps(&MAILBOX_KEY, Priority::Low)), format!("0aba05{HASH}ff"));
        let due = expiry(1, &MAILBOX_KEY, Priority::Normal, 2);
        assert_eq!(hex(&due), format!("ffff010000000000000001{HASH}fe0000000000000002"));
        assert_eq!(hex(&dedup(3)), "ffff020000000000000003");
        assert_eq!(hex(&clock()), "ffff03");
        assert_eq!(hex(&numbers()), "ffff04");
    }

    #[test]
    fn rows_that_count_are_told_apart() {
        let due = expiry(9, &MAILBOX_KEY, Priority::Low, 5);
        assert_eq!(row_kind(&due), Some(RowKind::Expiry { at_ms: 9 }));
        assert_eq!(row_kind(&device(&MAILBOX_KEY)), Some(RowKind::Device));
        assert_eq!(row_kind(&key(Slot(1), 7)), Some(RowKind::ApiKey));
        let message = message(&MAILBOX_KEY, Priority::Low, 1);
        assert_eq!(row_kind(&message), Some(RowKind::Message));
        for other in [&mailbox(&MAILBOX_KEY)[..], &dedup(1), &clock(), &numbers(), b"\0", b""] {
            assert_eq!(row_kind(other), None);
        }
    }

    #[test]
    fn mailbox_rows_are_told_from_others() {
        let row = mailbox(&MAILBOX_KEY);
        assert_eq!(mailbox_of(&row), Some(MAILBOX_KEY));
        for other in [
            &device(&MAILBOX_KEY)[..],
            &gaps(&MAILBOX_KEY, Priority::Low),
            &row[..18],
            &clock(),
            b"\0",
            b"",
        ] {
            assert_eq!(mailbox_of(other), None, "{other:?}");
        }
        let message = message(&MAILBOX_KEY, Priority::Urgent, 0);
        assert!(!may_hold_mailboxes(&message, &messages_end(&MAILBOX_KEY)));
        assert!(!may_hold_mailboxes(&expiry_from(0), &expiry_end()));
        assert!(may_hold_mailboxes(&device(&MAILBOX_KEY), &message));
        assert!(may_hold_mailboxes(b"", &dedup(0)));
        assert!(may_hold_mailboxes(&row, &[&row[..], &[0]].concat()));
    }

    #[test]
    fn keys_sort_in_the_order_of_delivery() {
        let urgent = message(&MAILBOX_KEY, Priority::Urgent, 900);
        let normal = message(&MAILBOX_KEY, Priority::Normal, 1);
        let later = message(&MAILBOX_KEY, Priority::Normal, 256);
        let low = message(&MAILBOX_KEY, Priority::Low, u64::MAX);
        assert!(urgent < normal && normal < later && later < low);
        assert!(low[..] < messages_end(&MAILBOX_KEY)[..]);
    }

    #[test]
    fn places_are_read_back() {
        let key = message(&MAILBOX_KEY, Priority::High, 77);
        assert_eq!(message_place(&key), Some((Priority::High, 77)));
        let due = expiry(9, &MAILBOX_KEY, Priority::Low, 5);
        assert_eq!(expiry_entry(&due), Some((9, MAILBOX_KEY, Priority::Low, 5)));
        assert_eq!(dedup_part(&dedup(12)), Some(12));
        assert_eq!(message_place(&key[..27]), None);
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}
