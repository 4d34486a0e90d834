//! Read-only functions over a shard's rows.
//!
//! Each reads little more than it returns: rows are scanned in pages sized by what was found so
//! far.

use std::collections::BTreeSet;

use bytes::Bytes;
use heliograph_storage::{self as storage, RowsRead};

use super::{
    Found, LaneRead, MailboxCounts, Pending, devices, layout, mailboxes,
    rows::{self, DeviceRow, KeyRow, MessageRow},
};
use crate::model::{MailboxKey, Priority, Slot};

/// Rows of the first page: unread, a row may have 64 KiB, so a page has half a MiB at most.
const FIRST_PAGE: usize = 8;
/// Rows of the largest page.
const PAGE_MAX: usize = 128;

/// Pending messages in the order of delivery (highest priority first, then the oldest) after
/// `after`: at most `limit`, at most `bytes_max` bytes of rows but at least one message. What is
/// due at `now_ms` is hidden.
///
/// # Errors
/// When rows cannot be read or are damaged.
pub fn mailbox_pending(
    rows: &(impl RowsRead + ?Sized),
    mailbox: &MailboxKey,
    after: Option<(Priority, u64)>,
    limit: usize,
    bytes_max: usize,
    now_ms: u64,
) -> Result<Vec<Pending>, storage::Error> {
    let from = match after {
        Some((priority, seq)) => after_key(&layout::message(mailbox, priority, seq)),
        None => layout::message(mailbox, Priority::Urgent, 0).to_vec(),
    };
    let mut pages = Pages { from, end: layout::messages_end(mailbox).to_vec(), average: None };
    let mut found = Vec::new();
    let mut bytes = 0;
    loop {
        let page = pages.read(rows, limit - found.len(), bytes_max.saturating_sub(bytes))?;
        for (key, value) in &page.rows {
            let (place, row) = decode(key, value)?;
            if row.expires_ms <= now_ms {
                continue;
            }
            if !found.is_empty() && bytes + value.len() > bytes_max {
                return Ok(found);
            }
            bytes += value.len();
            found.push(pending(rows, mailbox, place, &row, value)?);
        }
        if page.last || found.len() >= limit {
            return Ok(found);
        }
    }
}

/// What there is to tell of one priority from number `from` on: at most `limit` messages, at most
/// `bytes_max` bytes of rows but at least one message. Due messages are shown: they are pending
/// until they are expired.
///
/// # Errors
/// When rows cannot be read or are damaged.
pub fn read_lane(
    rows: &(impl RowsRead + ?Sized),
    mailbox: &MailboxKey,
    priority: Priority,
    from: u64,
    limit: usize,
    bytes_max: usize,
) -> Result<LaneRead, storage::Error> {
    let row = mailboxes::read(rows, mailbox)?;
    let lane = row.lanes[usize::from(priority.level())];
    let tail = (lane.last_seq + 1).max(from);
    let mut items: Vec<Pending> = Vec::new();
    let mut pages = Pages {
        from: layout::message(mailbox, priority, from).to_vec(),
        end: layout::message(mailbox, priority, tail).to_vec(),
        average: None,
    };
    let mut bytes = 0;
    let mut end = if lane.count == 0 { Some(tail) } else { None };
    while end.is_none() {
        let page = pages.read(rows, limit.max(1) - items.len(), bytes_max.saturating_sub(bytes))?;
        for (key, value) in &page.rows {
            let (place, row) = decode(key, value)?;
            if !items.is_empty() && bytes + value.len() > bytes_max {
                end = Some(place.1);
                break;
            }
            bytes += value.len();
            items.push(pending(rows, mailbox, place, &row, value)?);
        }
        if end.is_none() && page.last {
            end = Some(tail);
        } else if end.is_none() && items.len() >= limit.max(1) {
            end = items.last().map(|item| item.message.seq + 1);
        }
    }
    let end = end.unwrap_or(tail);
    let gaps = match lane.gaps {
        0 => Vec::new(),
        _ => mailboxes::read_gaps(rows, mailbox, priority)?.within(from, end),
    };
    Ok(LaneRead { from, end, items, gaps })
}

/// What a mailbox holds.
///
/// # Errors
/// When rows cannot be read or are damaged.
pub fn mailbox_counts(
    rows: &(impl RowsRead + ?Sized),
    mailbox: &MailboxKey,
) -> Result<MailboxCounts, storage::Error> {
    Ok(mailboxes::read(rows, mailbox)?.counts())
}

/// The number of the oldest pending message of a priority.
///
/// # Errors
/// When rows cannot be read or are damaged.
pub fn first_pending(
    rows: &(impl RowsRead + ?Sized),
    mailbox: &MailboxKey,
    priority: Priority,
) -> Result<Option<u64>, storage::Error> {
    let from = layout::message(mailbox, priority, 0);
    let end = layout::message(mailbox, priority, u64::MAX);
    let found = rows.scan(&from, &end, 1)?;
    let place = |key: &[u8]| layout::message_place(key).ok_or(rows::damage("message key"));
    found.first().map(|(key, _)| place(key).map(|(_, seq)| seq)).transpose()
}

/// A part of a mailbox, searched for message ids.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SearchPage {
    /// (place in the order of acceptance, message id, message)
    pub found: Vec<(u64, String, Found)>,
    /// Where to go on; `None` at the end.
    pub next: Option<(Priority, u64)>,
}

/// Looks for pending messages with these ids, from `after` on, in one page. There is no index by
/// id, since what was offered is known where it was offered: this serves only acknowledgements of
/// what an earlier leader offered, and reads the whole mailbox, page by page.
///
/// # Errors
/// When rows cannot be read or are damaged.
pub fn search_page(
    rows: &(impl RowsRead + ?Sized),
    mailbox: &MailboxKey,
    ids: &BTreeSet<String>,
    after: Option<(Priority, u64)>,
) -> Result<SearchPage, storage::Error> {
    let from = match after {
        Some((priority, seq)) => after_key(&layout::message(mailbox, priority, seq)),
        None => layout::message(mailbox, Priority::Urgent, 0).to_vec(),
    };
    let page = rows.scan(&from, &layout::messages_end(mailbox), SEARCH_PAGE)?;
    let mut found = Vec::new();
    let mut last = None;
    for (key, value) in &page {
        let (place, row) = decode(key, value)?;
        last = Some(place);
        if ids.contains(row.message_id) {
            found.push((row.ordinal, row.message_id.to_owned(), row.found(place)?));
        }
    }
    Ok(SearchPage { found, next: last.filter(|_| page.len() == SEARCH_PAGE) })
}

/// Rows of a page where a mailbox is searched through: 1 MiB of the largest.
const SEARCH_PAGE: usize = 16;

/// The pending message with this number.
///
/// # Errors
/// When rows cannot be read or are damaged.
pub fn find(
    rows: &(impl RowsRead + ?Sized),
    mailbox: &MailboxKey,
    priority: Priority,
    seq: u64,
) -> Result<Option<Found>, storage::Error> {
    let value = rows.get(&layout::message(mailbox, priority, seq))?;
    let found = |value: Bytes| rows::decode::<MessageRow<'_>>(&value)?.found((priority, seq));
    value.map(found).transpose()
}

/// The device of a mailbox.
///
/// # Errors
/// When rows cannot be read or are damaged.
pub fn device(
    rows: &(impl RowsRead + ?Sized),
    mailbox: &MailboxKey,
) -> Result<Option<DeviceRow>, storage::Error> {
    devices::read(rows, mailbox)
}

/// An API key, by what its text tells.
///
/// # Errors
/// When rows cannot be read or are damaged.
pub fn key(
    rows: &(impl RowsRead + ?Sized),
    slot: Slot,
    key_id: u64,
) -> Result<Option<KeyRow>, storage::Error> {
    rows.get(&layout::key(slot, key_id))?.map(|value| rows::decode(&value)).transpose()
}

fn decode<'a>(
    key: &[u8],
    value: &'a Bytes,
) -> Result<((Priority, u64), MessageRow<'a>), storage::Error> {
    let place = layout::message_place(key).ok_or(rows::damage("message key"))?;
    Ok((place, rows::decode(value)?))
}

/// The message with those of its `contests` that are still there.
fn pending(
    rows: &(impl RowsRead + ?Sized),
    mailbox: &MailboxKey,
    place: (Priority, u64),
    row: &MessageRow<'_>,
    value: &Bytes,
) -> Result<Pending, storage::Error> {
    let mut pending = row.pending(place, value)?;
    if !row.contests.is_empty() {
        let mut left = Vec::with_capacity(row.contests.len());
        for &(priority, seq) in &row.contests {
            if rows.get(&layout::message(mailbox, priority, seq))?.is_some() {
                left.push((priority, seq));
            }
        }
        pending.contests = left.into();
    }
    Ok(pending)
}

/// A scan in pages, sized so that little is read in vain.
struct Pages {
    from: Vec<u8>,
    end: Vec<u8>,
    /// Bytes of a row, by the last page.
    average: Option<usize>,
}

struct Page {
    rows: Vec<(Bytes, Bytes)>,
    last: bool,
}

impl Pages {
    fn read(
        &mut self,
        source: &(impl RowsRead + ?Sized),
        limit: usize,
        bytes_max: usize,
    ) -> Result<Page, storage::Error> {
        let by_bytes = self.average.map_or(FIRST_PAGE, |average| bytes_max / average.max(1));
        let asked = by_bytes.clamp(1, PAGE_MAX).min(limit);
        let rows = source.scan(&self.from, &self.end, asked)?;
        let last = rows.len() < asked || asked == 0;
        if let Some((key, _)) = rows.last() {
            self.from = after_key(key);
            let bytes: usize = rows.iter().map(|(_, value)| value.len()).sum();
            self.average = Some(bytes / rows.len());
        }
        Ok(Page { rows, last })
    }
}

/// The least key after `key`.
fn after_key(key: &[u8]) -> Vec<u8> {
    [key, &[0]].concat()
}

/// A digest of what the rows say of devices and mailboxes: equal for replicas that have applied the
/// same entries. Leaves out what is written at checkpoints alone.
///
/// # Errors
/// When rows cannot be read.
pub fn digest(rows: &(impl RowsRead + ?Sized)) -> Result<[u8; 32], storage::Error> {
    let mut hasher = blake3::Hasher::new();
    let mut from = Bytes::new();
    loop {
        let page = rows.scan(&from, &layout::dedup(0), PAGE_MAX)?;
        for (key, value) in &page {
            for part in [key, value] {
                hasher.update(&(part.len() as u64).to_be_bytes());
                hasher.update(part);
            }
        }
        let Some((last, _)) = page.last() else { return Ok(*hasher.finalize().as_bytes()) };
        from = [last, &[0][..]].concat().into();
    }
}
