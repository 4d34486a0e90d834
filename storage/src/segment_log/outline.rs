//! What the records of a sealed segment tell, without the entries' payloads: all that an open needs
//! of it, in a small file beside it. `docs/reference/log-format.md` tells the layout.
//!
//! An outline is taken from the segment's bytes after all of them were found sound. Nothing is in it
//! that the segment does not hold, so it is not synced: one that is missing, damaged or of another
//! segment costs the time to read the segment.

use std::path::{Path, PathBuf};

use super::{
    body::{self, ENTRIES_HEADER_BYTES, ENTRY_HEADER_BYTES, EntryAt},
    format::{Kind, RECORD_HEADER_BYTES, Record, RecordHeader, SegmentHeader, u32_at, u64_at},
};
use crate::{GroupId, Position};

/// The first bytes of every outline.
const MAGIC: [u8; 8] = *b"HGOUTLIN";
/// The version this build writes. Others are passed over: the segment tells the same.
const VERSION: u32 = 1;
/// Before the records.
const HEADER_BYTES: usize = 40;
/// Before what a record tells.
const RECORD_BYTES: usize = 28;
/// Before the entries of a record: the first index and their count.
const ENTRIES_BYTES: usize = 12;
/// An entry: term and stored bytes.
const ENTRY_BYTES: usize = 12;
/// The checksum at the end.
const CHECKSUM_BYTES: usize = 4;

pub(super) const OUTLINE_SUFFIX: &str = ".outline";

/// The file of a segment's outline.
pub(super) fn outline_path(dir: &Path, sequence: u64) -> PathBuf {
    dir.join(format!("{sequence:016x}{OUTLINE_SUFFIX}"))
}

/// Which bytes an outline is of: a segment up to where it counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Outlined {
    /// The segment.
    pub(super) sequence: u64,
    /// What its checksums start from: it was drawn with the segment.
    pub(super) seed: u32,
    /// How many of its bytes count.
    pub(super) bytes: u64,
    /// The checksum of the last record there.
    pub(super) chain: u32,
}

/// An outline being written.
pub(super) struct OutlineWriter {
    out: Vec<u8>,
    sequence: u64,
    seed: u32,
    records: u32,
}

impl OutlineWriter {
    /// An outline of the segment with this header, without a record yet.
    pub(super) fn new(header: &SegmentHeader) -> OutlineWriter {
        let out = vec![0; HEADER_BYTES];
        OutlineWriter { out, sequence: header.sequence, seed: header.seed(), records: 0 }
    }

    /// Adds the record at `at` of the segment. `None` where it is one of entries and does not hold them.
    pub(super) fn record(&mut self, at: u32, record: &Record<'_>) -> Option<()> {
        let header = &record.header;
        let out = &mut self.out;
        let start = out.len();
        out.extend_from_slice(&at.to_le_bytes());
        out.extend_from_slice(&[header.kind.byte(), 0, 0, 0]);
        out.extend_from_slice(&header.group.0.to_le_bytes());
        out.extend_from_slice(&header.number.to_le_bytes());
        out.extend_from_slice(&header.key.to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        match header.kind {
            Kind::Entries | Kind::Moved => put_entries(out, record.body, header.key)?,
            _ => out.extend_from_slice(record.body),
        }
        let told = u32::try_from(out.len() - start - RECORD_BYTES).ok()?;
        out[start + RECORD_BYTES - 4..start + RECORD_BYTES].copy_from_slice(&told.to_le_bytes());
        self.records += 1;
        Some(())
    }

    /// The outline's bytes, where the segment counts up to `bytes` and its last record has the
    /// checksum `chain`.
    pub(super) fn finish(mut self, bytes: u64, chain: u32) -> Vec<u8> {
        let out = &mut self.out;
        out[..8].copy_from_slice(&MAGIC);
        out[8..12].copy_from_slice(&VERSION.to_le_bytes());
        out[12..16].copy_from_slice(&self.seed.to_le_bytes());
        out[16..24].copy_from_slice(&self.sequence.to_le_bytes());
        out[24..32].copy_from_slice(&bytes.to_le_bytes());
        out[32..36].copy_from_slice(&chain.to_le_bytes());
        out[36..40].copy_from_slice(&self.records.to_le_bytes());
        let crc = crc32c::crc32c(out);
        out.extend_from_slice(&crc.to_le_bytes());
        self.out
    }
}

/// The entries of a record's body, without their payloads. `None` where it holds something else, or an
/// entry that is sealed with another key than the record's.
fn put_entries(out: &mut Vec<u8>, record_body: &[u8], key: u32) -> Option<()> {
    let entries = body::entries_at(record_body)?;
    out.extend_from_slice(&record_body[..ENTRIES_BYTES]);
    for entry in entries {
        out.extend_from_slice(&entry.position.term.to_le_bytes());
        out.extend_from_slice(&u32::try_from(entry.payload).ok()?.to_le_bytes());
        (entry.key == key).then_some(())?;
    }
    Some(())
}

/// A sound outline.
#[derive(Debug)]
pub(super) struct Outline<'a> {
    /// Which bytes it is of.
    pub(super) of: Outlined,
    records: &'a [u8],
}

/// A record as an outline tells it.
#[derive(Debug)]
pub(super) struct OutlinedRecord<'a> {
    /// Where it starts in the segment.
    pub(super) at: u64,
    /// Its frame, without what only its own file needs.
    pub(super) header: RecordHeader,
    /// Its body; for entries what [`entries_at`] reads.
    pub(super) told: &'a [u8],
}

impl OutlinedRecord<'_> {
    /// What the record takes in the segment; `None` where what is told is not of its kind.
    fn bytes(&self) -> Option<u64> {
        let body = match self.header.kind {
            Kind::Entries | Kind::Moved => {
                let list = split_entries(self.told)?.1.chunks_exact(ENTRY_BYTES);
                let entry = |entry| ENTRY_HEADER_BYTES as u64 + u64::from(u32_at(entry, 8));
                ENTRIES_HEADER_BYTES as u64 + list.map(entry).sum::<u64>()
            }
            _ => self.told.len() as u64,
        };
        Some(RECORD_HEADER_BYTES as u64 + body)
    }
}

impl Outline<'_> {
    /// Reads an outline, checksum first. `None` where it is not a whole one of this version, or tells of
    /// more than its segment holds.
    pub(super) fn decode(bytes: &[u8]) -> Option<Outline<'_>> {
        let end = bytes.len().checked_sub(CHECKSUM_BYTES).filter(|end| *end >= HEADER_BYTES)?;
        let (sound, crc) = bytes.split_at(end);
        let is_known = sound[..8] == MAGIC && u32_at(sound, 8) == VERSION;
        if !is_known || crc32c::crc32c(sound) != u32_at(crc, 0) {
            return None;
        }
        let of = Outlined {
            sequence: u64_at(sound, 16),
            seed: u32_at(sound, 12),
            bytes: u64_at(sound, 24),
            chain: u32_at(sound, 32),
        };
        let outline = Outline { of, records: &sound[HEADER_BYTES..] };
        let (mut count, mut rest) = (0, outline.records);
        while !rest.is_empty() {
            let (record, behind) = split_record(rest)?;
            if record.at.checked_add(record.bytes()?)? > of.bytes {
                return None;
            }
            rest = behind;
            count += 1;
        }
        (count == u32_at(sound, 36)).then_some(outline)
    }

    /// The records, in order.
    pub(super) fn records(&self) -> impl Iterator<Item = OutlinedRecord<'_>> {
        let mut rest = self.records;
        std::iter::from_fn(move || {
            let (record, behind) = split_record(rest)?;
            rest = behind;
            Some(record)
        })
    }
}

/// The first record of `bytes` and what is behind it.
fn split_record(bytes: &[u8]) -> Option<(OutlinedRecord<'_>, &[u8])> {
    let (head, rest) = bytes.split_at_checked(RECORD_BYTES)?;
    let told = usize::try_from(u32_at(head, 24)).ok()?;
    let (told, rest) = rest.split_at_checked(told)?;
    let header = RecordHeader {
        kind: Kind::from_byte(head[4])?,
        group: GroupId(u32_at(head, 8)),
        number: u64_at(head, 12),
        key: u32_at(head, 20),
        synced: 0,
    };
    Some((OutlinedRecord { at: u64::from(u32_at(head, 0)), header, told }, rest))
}

/// The first index, and what is told of each entry.
fn split_entries(told: &[u8]) -> Option<(u64, &[u8])> {
    let (head, list) = told.split_at_checked(ENTRIES_BYTES)?;
    let count = usize::try_from(u32_at(head, 8)).ok()?;
    (list.len() == count.checked_mul(ENTRY_BYTES)?).then_some((u64_at(head, 0), list))
}

/// Where the entries of a record lie, by what its outline tells; `key` is the record's. `None` where that
/// is not of entries.
pub(super) fn entries_at(told: &[u8], key: u32) -> Option<Vec<EntryAt>> {
    let (first, list) = split_entries(told)?;
    let mut offset = ENTRIES_HEADER_BYTES;
    let mut entries = Vec::with_capacity(list.len() / ENTRY_BYTES);
    for (step, entry) in (0..).zip(list.chunks_exact(ENTRY_BYTES)) {
        let payload = usize::try_from(u32_at(entry, 8)).ok()?;
        let position = Position { term: u64_at(entry, 0), index: first.checked_add(step)? };
        entries.push(EntryAt { position, offset, payload, key });
        offset = offset.checked_add(ENTRY_HEADER_BYTES)?.checked_add(payload)?;
    }
    Some(entries)
}
