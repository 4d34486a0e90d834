//! What is inside a record, for each kind that has a body.

use std::ops::Range;

use bytes::Bytes;

use super::format::{u32_at, u64_at};
use crate::{
    GroupId, LogEntry, Position,
    seal::{KEY_NONE, KeyView, SEALED_AT, Sealer},
};

/// Before the entries of a record: the first index and how many there are.
pub(super) const ENTRIES_HEADER_BYTES: usize = 16;
/// Before an entry's payload: its term, length, storage key and checksum.
pub(super) const ENTRY_HEADER_BYTES: usize = 20;

const FLAG_VOTE: u32 = 1;
const FLAG_PURGED: u32 = 2;
const FLAG_LAST: u32 = 4;
const FLAG_DAMAGED: u32 = 8;
/// The fixed part of a group in a state record.
const STATE_GROUP_BYTES: usize = 4 + 4 + 8 + 16 + 16 + 8 + 8 + 4;

/// Where an entry of a record lies, relative to the record's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct EntryAt {
    pub(super) position: Position,
    /// Of the entry's header.
    pub(super) offset: usize,
    /// Of the payload alone, as it is stored.
    pub(super) payload: usize,
    /// The storage key it is sealed with.
    pub(super) key: u32,
}

/// A group as a state record tells it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct GroupRow {
    pub(super) group: u32,
    /// The number of the group's last record.
    pub(super) number: u64,
    pub(super) vote: Option<Bytes>,
    pub(super) purged: Option<Position>,
    pub(super) last: Option<Position>,
    /// The first entry's index; 0 where there is no entry.
    pub(super) first: u64,
    /// How many entries it has.
    pub(super) entries: u64,
    /// It was found damaged and not dropped since.
    pub(super) damaged: bool,
}

/// The bytes an entries record of these entries has in its body, where sealing adds `overhead`.
pub(super) fn entries_bytes(entries: &[LogEntry], overhead: usize) -> usize {
    let bytes = |entry: &LogEntry| ENTRY_HEADER_BYTES + overhead + entry.payload.len();
    ENTRIES_HEADER_BYTES + entries.iter().map(bytes).sum::<usize>()
}

/// Appends the body of an entries record, each entry sealed.
pub(super) fn put_entries(
    out: &mut Vec<u8>,
    group: GroupId,
    entries: &[LogEntry],
    sealer: &Sealer,
) {
    let first = entries.first().map_or(0, |entry| entry.position.index);
    let count = u32::try_from(entries.len()).expect("an append is bounded far below 2^32 entries");
    out.extend_from_slice(&first.to_le_bytes());
    out.extend_from_slice(&count.to_le_bytes());
    out.extend_from_slice(&0u32.to_le_bytes());
    for entry in entries {
        let bytes = entry.payload.len() + sealer.overhead();
        let bytes = u32::try_from(bytes).expect("payloads are bounded below 4 GiB");
        let start = out.len();
        out.extend_from_slice(&entry.position.term.to_le_bytes());
        out.extend_from_slice(&bytes.to_le_bytes());
        out.extend_from_slice(&sealer.key().to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        sealer.seal(&place(sealer.key(), group, entry.position), &entry.payload, out);
        let (head, stored) = out[start..].split_at(ENTRY_HEADER_BYTES);
        let crc = entry_crc(entry.position.index, &head[..16], stored);
        out[start + 16..start + 20].copy_from_slice(&crc.to_le_bytes());
    }
}

/// Where the entries of a record's body lie; `None` where the body is not one of entries.
pub(super) fn entries_at(body: &[u8]) -> Option<Vec<EntryAt>> {
    let head = body.get(..ENTRIES_HEADER_BYTES)?;
    let (first, count) = (u64_at(head, 0), u64::from(u32_at(head, 8)));
    let mut offset = ENTRIES_HEADER_BYTES;
    let mut entries = Vec::new();
    for step in 0..count {
        let head = body.get(offset..offset.checked_add(ENTRY_HEADER_BYTES)?)?;
        let payload = usize::try_from(u32_at(head, 8)).ok()?;
        let position = Position { term: u64_at(head, 0), index: first.checked_add(step)? };
        entries.push(EntryAt { position, offset, payload, key: u32_at(head, 12) });
        offset = offset.checked_add(ENTRY_HEADER_BYTES)?.checked_add(payload)?;
    }
    (offset == body.len()).then_some(entries)
}

/// The entry whose header starts at `offset` of `bytes`, opened in place: where its payload lies.
/// `None` where its checksum, index or term is not what was written, or its key is not there.
pub(super) fn open_entry(
    bytes: &mut [u8],
    offset: usize,
    group: GroupId,
    position: Position,
    keys: &KeyView,
) -> Option<Range<usize>> {
    let head = bytes.get(offset..offset.checked_add(ENTRY_HEADER_BYTES)?)?;
    let start = offset + ENTRY_HEADER_BYTES;
    let end = start.checked_add(usize::try_from(u32_at(head, 8)).ok()?)?;
    let stored = bytes.get(start..end)?;
    let sound = u64_at(head, 0) == position.term
        && entry_crc(position.index, &head[..16], stored) == u32_at(head, 16);
    if !sound {
        return None;
    }
    let key = u32_at(head, 12);
    let payload = keys.open(key, &place(key, group, position), &mut bytes[start..end])?.len();
    let start = if key == KEY_NONE { start } else { start + SEALED_AT };
    Some(start..start + payload)
}

/// Which entry of which group a sealed payload is: it opens as no other.
fn place(key: u32, group: GroupId, position: Position) -> [u8; 28] {
    let mut place = [0; 28];
    place[..4].copy_from_slice(b"HGLE");
    place[4..8].copy_from_slice(&key.to_le_bytes());
    place[8..12].copy_from_slice(&group.0.to_le_bytes());
    place[12..20].copy_from_slice(&position.index.to_le_bytes());
    place[20..].copy_from_slice(&position.term.to_le_bytes());
    place
}

/// Appends the body of a truncate record: the position that is the last one from then on, if any.
pub(super) fn put_truncate(out: &mut Vec<u8>, last: Option<Position>) {
    if let Some(last) = last {
        put_position(out, last);
    }
}

/// Reads the body of a truncate record.
pub(super) fn truncate(body: &[u8]) -> Option<Option<Position>> {
    if body.is_empty() { Some(None) } else { position(body).map(Some) }
}

/// Appends the body of a purge record.
pub(super) fn put_position(out: &mut Vec<u8>, position: Position) {
    out.extend_from_slice(&position.term.to_le_bytes());
    out.extend_from_slice(&position.index.to_le_bytes());
}

/// Reads the body of a purge record.
pub(super) fn position(body: &[u8]) -> Option<Position> {
    let body: &[u8; 16] = body.try_into().ok()?;
    Some(Position { term: u64_at(body, 0), index: u64_at(body, 8) })
}

/// Reads the body of a head record: the first segment of the log.
pub(super) fn head(body: &[u8]) -> Option<u64> {
    let body: &[u8; 8] = body.try_into().ok()?;
    Some(u64::from_le_bytes(*body))
}

/// Appends the body of a state record.
pub(super) fn put_state(out: &mut Vec<u8>, first_segment: u64, groups: &[GroupRow]) {
    let count = u32::try_from(groups.len()).expect("groups are numbered by u32");
    out.extend_from_slice(&first_segment.to_le_bytes());
    out.extend_from_slice(&count.to_le_bytes());
    for row in groups {
        let mut flags = 0;
        let none = Position { term: 0, index: 0 };
        flags |= if row.vote.is_some() { FLAG_VOTE } else { 0 };
        flags |= if row.purged.is_some() { FLAG_PURGED } else { 0 };
        flags |= if row.last.is_some() { FLAG_LAST } else { 0 };
        flags |= if row.damaged { FLAG_DAMAGED } else { 0 };
        let vote = row.vote.as_deref().unwrap_or_default();
        out.extend_from_slice(&row.group.to_le_bytes());
        out.extend_from_slice(&flags.to_le_bytes());
        out.extend_from_slice(&row.number.to_le_bytes());
        put_position(out, row.purged.unwrap_or(none));
        put_position(out, row.last.unwrap_or(none));
        out.extend_from_slice(&row.first.to_le_bytes());
        out.extend_from_slice(&row.entries.to_le_bytes());
        let bytes = u32::try_from(vote.len()).expect("votes are bounded");
        out.extend_from_slice(&bytes.to_le_bytes());
        out.extend_from_slice(vote);
    }
}

/// Reads the body of a state record: the log's first segment and its groups.
pub(super) fn state(body: &[u8]) -> Option<(u64, Vec<GroupRow>)> {
    let head = body.get(..12)?;
    let mut at: usize = 12;
    let mut rows = Vec::new();
    for _ in 0..u32_at(head, 8) {
        let row = body.get(at..at.checked_add(STATE_GROUP_BYTES)?)?;
        at += STATE_GROUP_BYTES;
        let flags = u32_at(row, 4);
        let vote = usize::try_from(u32_at(row, 64)).ok()?;
        let vote = body.get(at..at.checked_add(vote)?)?;
        at += vote.len();
        rows.push(GroupRow {
            group: u32_at(row, 0),
            number: u64_at(row, 8),
            vote: (flags & FLAG_VOTE != 0).then(|| Bytes::copy_from_slice(vote)),
            purged: if flags & FLAG_PURGED != 0 { position(&row[16..32]) } else { None },
            last: if flags & FLAG_LAST != 0 { position(&row[32..48]) } else { None },
            first: u64_at(row, 48),
            entries: u64_at(row, 56),
            damaged: flags & FLAG_DAMAGED != 0,
        });
    }
    (at == body.len()).then_some((u64_at(head, 0), rows))
}

impl GroupRow {
    /// Whose row it is.
    pub(super) fn id(&self) -> GroupId {
        GroupId(self.group)
    }
}

fn entry_crc(index: u64, head: &[u8], payload: &[u8]) -> u32 {
    let crc = crc32c::crc32c_append(crc32c::crc32c(&index.to_le_bytes()), head);
    crc32c::crc32c_append(crc, payload)
}
