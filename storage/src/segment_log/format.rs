//! The bytes of a segment: its header and the frame around each record.
//!
//! Pure functions over byte slices; `docs/reference/log-format.md` is the same in prose. A reader
//! never trusts a length before it has checked it against the bytes at hand.

use crate::GroupId;

/// The first bytes of every segment file.
pub(super) const SEGMENT_MAGIC: [u8; 8] = *b"HGSEGLOG";
/// The version this build writes: entries may be sealed.
pub(super) const FORMAT_VERSION: u32 = 2;
/// The version before: nothing is sealed. Read for ever.
const FORMAT_VERSION_UNSEALED: u32 = 1;
/// A segment header: one field list, a multiple of [`ALIGN`].
pub(super) const SEGMENT_HEADER_BYTES: usize = 64;
/// With the segment's seed, the first bytes of every record: a search for records behind damage is
/// quick, and no payload can be made to look like a place worth a checksum.
pub(super) const RECORD_MAGIC: u32 = 0x3152_4748;
/// A record's frame before its body.
pub(super) const RECORD_HEADER_BYTES: usize = 40;
/// Records start at multiples of this, so that a search behind damage looks at few places.
pub(super) const ALIGN: usize = 8;
/// The group of records about the log itself.
pub(super) const LOG_GROUP: GroupId = GroupId(u32::MAX);

/// What a segment says of itself and of the one before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SegmentHeader {
    /// The format's version.
    pub(super) version: u32,
    /// Its place in the sequence of files; also its name.
    pub(super) sequence: u64,
    /// Counts the opens of the log.
    pub(super) epoch: u64,
    /// Unpredictable bytes that enter each record's checksum, so that no payload can pose as one.
    pub(super) salt: u64,
    /// How many bytes of the segment before count; 0 where there is none.
    pub(super) previous_bytes: u64,
    /// The checksum of the last record that counts there.
    pub(super) previous_chain: u32,
    /// How many bytes of this file were durable before it got its name.
    pub(super) created_bytes: u32,
}

impl SegmentHeader {
    /// The header's bytes.
    pub(super) fn encode(&self) -> [u8; SEGMENT_HEADER_BYTES] {
        let mut bytes = [0; SEGMENT_HEADER_BYTES];
        bytes[..8].copy_from_slice(&SEGMENT_MAGIC);
        bytes[8..12].copy_from_slice(&self.version.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.sequence.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.epoch.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.salt.to_le_bytes());
        bytes[40..48].copy_from_slice(&self.previous_bytes.to_le_bytes());
        bytes[48..52].copy_from_slice(&self.previous_chain.to_le_bytes());
        bytes[52..56].copy_from_slice(&self.created_bytes.to_le_bytes());
        let crc = crc32c::crc32c(&bytes[..60]);
        bytes[60..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Reads a header, checksum first.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, HeaderError> {
        let bytes = bytes.get(..SEGMENT_HEADER_BYTES).ok_or(HeaderError::Invalid)?;
        if bytes[..8] != SEGMENT_MAGIC || crc32c::crc32c(&bytes[..60]) != u32_at(bytes, 60) {
            return Err(HeaderError::Invalid);
        }
        match u32_at(bytes, 8) {
            version @ (FORMAT_VERSION_UNSEALED | FORMAT_VERSION) => Ok(SegmentHeader {
                version,
                sequence: u64_at(bytes, 16),
                epoch: u64_at(bytes, 24),
                salt: u64_at(bytes, 32),
                previous_bytes: u64_at(bytes, 40),
                previous_chain: u32_at(bytes, 48),
                created_bytes: u32_at(bytes, 52),
            }),
            version => Err(HeaderError::Version(version)),
        }
    }

    /// What every record checksum of this segment starts from, and the chain of its first record.
    pub(super) fn seed(&self) -> u32 {
        let bytes = self.encode();
        match self.version {
            // A checksum over itself is the same number for all: version 1 took that.
            FORMAT_VERSION_UNSEALED => crc32c::crc32c(&bytes),
            _ => u32_at(&bytes, 60),
        }
    }
}

/// Why a header does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HeaderError {
    /// Not a header, or a damaged one.
    Invalid,
    /// A sound header of another build.
    Version(u32),
}

/// What a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Entries that follow the group's last one.
    Entries,
    /// Entries that already are in the log, moved here from a mostly dead segment.
    Moved,
    /// The group's vote.
    Vote,
    /// Every entry after an index is gone.
    Truncate,
    /// Every entry up to a position is forgotten.
    Purge,
    /// The group is forgotten.
    Drop,
    /// All groups as they stand at the start of a segment.
    State,
    /// Segments before a sequence are no longer part of the log.
    Head,
    /// Nothing but its `synced` field: all before it is durable.
    Mark,
}

impl Kind {
    /// As it is written.
    pub(super) fn byte(self) -> u8 {
        match self {
            Kind::Entries => 1,
            Kind::Moved => 2,
            Kind::Vote => 3,
            Kind::Truncate => 4,
            Kind::Purge => 5,
            Kind::Drop => 6,
            Kind::State => 7,
            Kind::Head => 8,
            Kind::Mark => 9,
        }
    }

    /// What a byte stands for, if anything.
    pub(super) fn from_byte(byte: u8) -> Option<Kind> {
        Some(match byte {
            1 => Kind::Entries,
            2 => Kind::Moved,
            3 => Kind::Vote,
            4 => Kind::Truncate,
            5 => Kind::Purge,
            6 => Kind::Drop,
            7 => Kind::State,
            8 => Kind::Head,
            9 => Kind::Mark,
            _ => return None,
        })
    }
}

/// A record's frame, without what the checksums add.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RecordHeader {
    /// What it is.
    pub(super) kind: Kind,
    /// Whose it is; [`LOG_GROUP`] for the log's own.
    pub(super) group: GroupId,
    /// Counts the group's records, so that a lost one is missed by its group and by no other.
    pub(super) number: u64,
    /// The storage key the body is sealed with, 0 for none.
    pub(super) key: u32,
    /// Up to where this file was durable before this record was written.
    pub(super) synced: u32,
}

/// A record whose checksum holds, in the bytes it was read from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Record<'a> {
    /// Its frame.
    pub(super) header: RecordHeader,
    /// The checksum of the record before it.
    pub(super) chain: u32,
    /// Its own.
    pub(super) crc: u32,
    /// What it holds.
    pub(super) body: &'a [u8],
    /// Where the next record starts.
    pub(super) next: usize,
}

/// Appends records to one segment's bytes, keeping the chain.
#[derive(Clone, Copy, Debug)]
pub(super) struct Chain {
    /// What every checksum of the segment starts from.
    pub(super) seed: u32,
    /// The checksum of the last record, or the seed.
    pub(super) last: u32,
}

impl Chain {
    /// The chain of a segment without records.
    pub(super) fn new(header: &SegmentHeader) -> Chain {
        let seed = header.seed();
        Chain { seed, last: seed }
    }

    /// Appends a record whose body `write` appends. `out` must stand at a multiple of [`ALIGN`] of
    /// the file.
    pub(super) fn record(
        &mut self,
        out: &mut Vec<u8>,
        header: RecordHeader,
        write: impl FnOnce(&mut Vec<u8>),
    ) {
        let start = out.len();
        out.extend_from_slice(&[0; RECORD_HEADER_BYTES]);
        write(out);
        let body = out.len() - start - RECORD_HEADER_BYTES;
        let body = u32::try_from(body).expect("bodies are bounded far below 4 GiB");
        let frame = &mut out[start..start + RECORD_HEADER_BYTES];
        frame[..4].copy_from_slice(&(RECORD_MAGIC ^ self.seed).to_le_bytes());
        frame[4..8].copy_from_slice(&body.to_le_bytes());
        frame[8] = header.kind.byte();
        frame[12..16].copy_from_slice(&header.group.0.to_le_bytes());
        frame[16..24].copy_from_slice(&header.number.to_le_bytes());
        frame[24..28].copy_from_slice(&header.key.to_le_bytes());
        frame[28..32].copy_from_slice(&header.synced.to_le_bytes());
        frame[32..36].copy_from_slice(&self.last.to_le_bytes());
        let crc = record_crc(self.seed, &out[start..]);
        out[start + 36..start + 40].copy_from_slice(&crc.to_le_bytes());
        out.resize(start + padded(out.len() - start), 0);
        self.last = crc;
    }
}

/// Reads the record at `at`, whatever its chain. `None` where no sound record starts.
pub(super) fn record_at(bytes: &[u8], at: usize, seed: u32) -> Option<Record<'_>> {
    let rest = bytes.get(at..)?;
    if rest.len() < RECORD_HEADER_BYTES || u32_at(rest, 0) != RECORD_MAGIC ^ seed {
        return None;
    }
    let body = usize::try_from(u32_at(rest, 4)).ok()?;
    let end = RECORD_HEADER_BYTES.checked_add(body)?;
    let whole = rest.get(..end)?;
    let padding = rest.get(end..padded(end))?;
    let crc = u32_at(rest, 36);
    if record_crc(seed, whole) != crc || padding.iter().any(|&byte| byte != 0) {
        return None;
    }
    Some(Record {
        header: RecordHeader {
            kind: Kind::from_byte(rest[8])?,
            group: GroupId(u32_at(rest, 12)),
            number: u64_at(rest, 16),
            key: u32_at(rest, 24),
            synced: u32_at(rest, 28),
        },
        chain: u32_at(rest, 32),
        crc,
        body: &whole[RECORD_HEADER_BYTES..],
        next: at + padded(end),
    })
}

/// What the record at `at` says it takes; none where its frame is not all there.
pub(super) fn record_len_at(bytes: &[u8], at: usize) -> Option<usize> {
    let frame = bytes.get(at..at.checked_add(RECORD_HEADER_BYTES)?)?;
    let body = usize::try_from(u32_at(frame, 4)).ok()?;
    RECORD_HEADER_BYTES.checked_add(body).map(padded)
}

/// `bytes` rounded up to where a record may start.
pub(super) fn padded(bytes: usize) -> usize {
    bytes.next_multiple_of(ALIGN)
}

/// The little-endian `u32` at `at`, which must lie inside.
pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

/// The little-endian `u64` at `at`, which must lie inside.
pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

fn record_crc(seed: u32, record: &[u8]) -> u32 {
    let crc = crc32c::crc32c_append(seed, &record[..36]);
    crc32c::crc32c_append(crc, &record[RECORD_HEADER_BYTES..])
}
