//! sled's file seen from outside: whether a start may believe what sled will make of it.
//!
//! sled 0.34 writes pages into segments of its file, and at a start reads those that were written
//! since it last wrote down where each page is (`snap.*`). A message among them that it cannot read
//! it passes over in silence, and goes on with what the page was before. So a start either compares all
//! rows with their digests, or makes sure that nothing is missing: that is what this does. Pages that
//! were written earlier are read from the place written down, where anything but the page is an error.
//!
//! After each commit the store writes a [`Record`] of which segment stands where. What is found at
//! the next start must follow from it: each segment is the one that was there or a later one, and
//! those sled will read are without a gap to where the log ended at least.
//!
//! Segments (`pagecache/logger.rs` of sled), integers little-endian: CRC-32 inverted u32, log sequence
//! number (*lsn*) of its start, and of what was stable, each i64 XOR `i64::MAX`; then messages: CRC-32
//! inverted u32 (of the body and then of the rest of the header), kind u8, length of the body, number
//! of the segment, page, these three as varints, body. The last is a *cap*, or less room is left than
//! a header takes.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::FileExt,
    path::Path,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
};

use super::{sled_database::SEGMENT_BYTES, sled_record::Record};

const SEGMENT: u64 = SEGMENT_BYTES as u64;
const HEADER_BYTES: usize = 20;
/// A message's header is at most this long; where less is left of a segment nothing follows.
const MESSAGE_HEADER_BYTES_MAX: usize = 32;
const CRC_BYTES: usize = 4;

/// Kinds of messages.
const CORRUPTED: u8 = 0;
const CANCELED: u8 = 1;
const CAP: u8 = 2;
const FREE: u8 = 4;
const COUNTER: u8 = 5;
const INLINE_META: u8 = 6;
const INLINE_NODE: u8 = 8;
const INLINE_LINK: u8 = 10;

/// What is read at a time of a segment whose messages are looked at from somewhere on.
const PIECE_BYTES: usize = 256 * 1024;

/// Segments read at the same time: more would only compete for the disk.
const THREADS_MAX: usize = 4;

/// What stands in a segment's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Slot {
    /// Zeros: sled set it aside, or has cleared it.
    Blank,
    /// The segment whose first byte has this lsn.
    Lsn(u64),
    /// Neither.
    Unsound,
}

/// The file's segments, and where its log ends.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Survey {
    pub(super) slots: Vec<Slot>,
    /// The lsn after the last message.
    pub(super) end: u64,
}

impl Survey {
    /// Reads the segments' headers, and the last segment.
    pub(super) fn of(file: &File) -> io::Result<Self> {
        Self::since(file, 0)
    }

    /// The same of a log that was found to end at `known` before: what lies before that is not read
    /// again, nor much behind the end.
    pub(super) fn since(file: &File, known: u64) -> io::Result<Self> {
        let slots = slots(file)?;
        let end = match last(&slots) {
            Some((at, lsn)) => lsn + end_since(file, (at, lsn), known)? as u64,
            None => 0,
        };
        Ok(Self { slots, end })
    }

    /// Whether nothing that sled will read of the file is missing: it follows from `record`, and from
    /// `replay` on, which is where sled will begin, it has no gap.
    pub(super) fn is_whole(&self, file: &File, record: &Record, replay: u64) -> io::Result<bool> {
        if !self.follows(record, replay) {
            return Ok(false);
        }
        let segments = (0..self.slots.len()).filter_map(|at| match self.slots[at] {
            Slot::Lsn(lsn) if lsn + SEGMENT > replay => Some((at, lsn)),
            _ => None,
        });
        let segments: Vec<_> = segments.collect();
        let last = last(&self.slots).map_or(0, |(_, lsn)| lsn);
        let (next, is_whole) = (AtomicUsize::new(0), AtomicBool::new(true));
        let work = || -> io::Result<()> {
            while let Some((at, lsn)) = segments.get(next.fetch_add(1, Ordering::Relaxed)) {
                let (_, is_full) = walk(&read(file, *at)?, *lsn);
                if !is_full && *lsn != last {
                    is_whole.store(false, Ordering::Relaxed);
                }
            }
            Ok(())
        };
        let threads = std::thread::available_parallelism().map_or(1, usize::from).min(THREADS_MAX);
        std::thread::scope(|scope| {
            let spawn = |_| {
                std::thread::Builder::new().name("state-survey".into()).spawn_scoped(scope, work)
            };
            // Where no thread can be had this one does all.
            let helpers: Vec<_> =
                (1..threads.min(segments.len())).map_while(|at| spawn(at).ok()).collect();
            let mut result = work();
            for helper in helpers {
                let helped = helper.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
                result = result.and(helped);
            }
            result
        })?;
        Ok(is_whole.into_inner())
    }

    /// Whether each segment is the one that was recorded or a later one, and of the later none is
    /// missing: only what is older may have been freed.
    fn follows(&self, record: &Record, replay: u64) -> bool {
        let recorded = record.slots.iter().filter_map(|slot| match slot {
            Slot::Lsn(lsn) => Some(*lsn),
            _ => None,
        });
        let newest = recorded.max().unwrap_or(0);
        let is_later = |slot: &Slot| matches!(slot, Slot::Lsn(lsn) if *lsn > newest);
        let is_kept = |at: usize, slot: &Slot| record.slots.get(at) == Some(slot);
        let mut slots = self.slots.iter().enumerate();
        let is_known = slots
            .all(|(at, slot)| is_later(slot) || is_kept(at, slot) || is_grown(at, slot, record));
        let later = self.slots.iter().filter(|slot| is_later(slot)).count() as u64;
        let last = last(&self.slots).map_or(0, |(_, lsn)| lsn);
        // sled cuts free segments off the file. What sled does not replay may be missing: reading a
        // page there is an error.
        let cut = record.slots.get(self.slots.len()..).unwrap_or_default();
        let may_go = |slot: &Slot| !matches!(slot, Slot::Lsn(lsn) if *lsn + SEGMENT > replay);
        is_known
            && cut.iter().all(may_go)
            && !self.slots.contains(&Slot::Unsound)
            && last == newest + later * SEGMENT
            && self.end >= record.end
    }
}

/// A place past the recorded end of the file may be set aside.
fn is_grown(at: usize, slot: &Slot, record: &Record) -> bool {
    at >= record.slots.len() && *slot == Slot::Blank
}

/// The last segment: where it stands, and its lsn.
fn last(slots: &[Slot]) -> Option<(usize, u64)> {
    let lsns = slots.iter().enumerate().filter_map(|(at, slot)| match slot {
        Slot::Lsn(lsn) => Some((at, *lsn)),
        _ => None,
    });
    lsns.max_by_key(|(_, lsn)| *lsn)
}

/// Where sled begins to read: what its newest page table covers. 0 without one.
pub(super) fn replay_start(dir: &Path) -> io::Result<u64> {
    let mut start = 0;
    for entry in fs::read_dir(dir)? {
        let name = entry?.file_name();
        let lsn = name.to_str().and_then(|name| name.strip_prefix("snap."));
        let lsn = lsn.and_then(|lsn| u64::from_str_radix(lsn, 16).ok());
        start = start.max(lsn.unwrap_or(0));
    }
    Ok(start)
}

fn slots(file: &File) -> io::Result<Vec<Slot>> {
    let count = file.metadata()?.len().div_ceil(SEGMENT);
    (0..count).map(|at| slot(file, at * SEGMENT)).collect()
}

fn slot(file: &File, at: u64) -> io::Result<Slot> {
    let mut header = [0; HEADER_BYTES];
    match file.read_exact_at(&mut header, at) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(Slot::Unsound),
        Err(error) => return Err(error),
    }
    if header == [0; HEADER_BYTES] {
        return Ok(Slot::Blank);
    }
    let (crc, rest) = header.split_at(CRC_BYTES);
    let lsn = le_u64(&rest[..8]) ^ i64::MAX as u64;
    let is_sound = le_u32(crc) == !crc32fast::hash(rest) && lsn.is_multiple_of(SEGMENT);
    Ok(if is_sound { Slot::Lsn(lsn) } else { Slot::Unsound })
}

/// Where the messages of the segment of this lsn, in this place, end.
fn end_since(file: &File, (place, lsn): (usize, u64), known: u64) -> io::Result<usize> {
    let known = known.checked_sub(lsn).and_then(|known| usize::try_from(known).ok());
    let known = known.filter(|known| (HEADER_BYTES..=SEGMENT_BYTES).contains(known));
    let mut at = known.unwrap_or(HEADER_BYTES);
    let mut bytes = PIECE_BYTES;
    loop {
        let wanted = bytes.min(SEGMENT_BYTES - at);
        let content = read_part(file, place as u64 * SEGMENT + at as u64, wanted)?;
        let (walked, stop) = walk_from(&content, at, lsn);
        // Segment or file may end here.
        let is_all = content.len() < wanted || at + wanted == SEGMENT_BYTES;
        if stop != Stop::Cut || is_all {
            return Ok(walked);
        }
        // A message that is larger than a piece is read in one go.
        bytes = if walked == at { SEGMENT_BYTES } else { PIECE_BYTES };
        at = walked;
    }
}

/// The segment in a place, as far as the file goes.
fn read(file: &File, at: usize) -> io::Result<Vec<u8>> {
    read_part(file, at as u64 * SEGMENT, SEGMENT_BYTES)
}

/// So many bytes, as far as the file goes.
fn read_part(file: &File, from: u64, bytes: usize) -> io::Result<Vec<u8>> {
    let mut content = vec![0; bytes];
    let mut have = 0;
    while have < content.len() {
        match file.read_at(&mut content[have..], from + have as u64) {
            Ok(0) => break,
            Ok(bytes) => have += bytes,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    content.truncate(have);
    Ok(content)
}

/// Goes through the messages of the segment of this lsn: where they end, and whether the segment is
/// full.
fn walk(content: &[u8], lsn: u64) -> (usize, bool) {
    let messages = content.get(HEADER_BYTES..).unwrap_or_default();
    let (end, stop) = walk_from(messages, HEADER_BYTES.min(content.len()), lsn);
    (end, stop == Stop::Full)
}

/// Why a walk ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stop {
    /// The segment holds no more.
    Full,
    /// No message begins there.
    End,
    /// A message may begin there whose end is not in what was read.
    Cut,
}

/// Goes through `content`, which stands at `at` in the segment of this lsn.
fn walk_from(content: &[u8], mut at: usize, lsn: u64) -> (usize, Stop) {
    let mut rest = content;
    loop {
        if at + MESSAGE_HEADER_BYTES_MAX > SEGMENT_BYTES {
            return (at, Stop::Full);
        }
        match message(rest, lsn / SEGMENT) {
            Ok((CAP, _)) => return (at, Stop::Full),
            Ok((_, bytes)) => {
                at += bytes;
                rest = &rest[bytes..];
            }
            Err(stop) => return (at, stop),
        }
    }
}

/// The kind of the message that `content` begins with, and its length.
fn message(content: &[u8], segment: u64) -> Result<(u8, usize), Stop> {
    let header = content.get(..MESSAGE_HEADER_BYTES_MAX).unwrap_or(content);
    let is_cut = content.len() < MESSAGE_HEADER_BYTES_MAX;
    let none = if is_cut { Stop::Cut } else { Stop::End };
    let (body_at, body_bytes) = header_of(header, segment).ok_or(none)?;
    let bytes = body_at.checked_add(body_bytes).filter(|bytes| *bytes <= SEGMENT_BYTES);
    let bytes = bytes.ok_or(Stop::End)?;
    let body = content.get(body_at..bytes).ok_or(Stop::Cut)?;
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(body);
    hasher.update(&content[CRC_BYTES..body_at]);
    match le_u32(&content[..CRC_BYTES]) == !hasher.finalize() {
        true => Ok((content[CRC_BYTES], bytes)),
        false => Err(Stop::End),
    }
}

/// Where the body of a message begins, and its length; `None` where this is no header of this
/// segment.
fn header_of(content: &[u8], segment: u64) -> Option<(usize, usize)> {
    let (kind, fields) = content.get(CRC_BYTES..)?.split_first()?;
    let is_known =
        matches!(*kind, CANCELED | CAP | FREE | COUNTER | INLINE_META | INLINE_NODE | INLINE_LINK);
    if *kind == CORRUPTED || !is_known {
        return None;
    }
    let (body_bytes, fields) = varint(fields)?;
    let (number, fields) = varint(fields)?;
    let (_page, fields) = varint(fields)?;
    let body_bytes = usize::try_from(body_bytes).ok()?;
    (number == segment).then_some((content.len() - fields.len(), body_bytes))
}

/// sled's integers of 1 to 9 bytes.
fn varint(content: &[u8]) -> Option<(u64, &[u8])> {
    let (first, rest) = content.split_first()?;
    let first = u64::from(*first);
    Some(match first {
        0..=240 => (first, rest),
        241..=248 => (240 + 256 * (first - 241) + u64::from(*rest.first()?), &rest[1..]),
        249 => (2288 + 256 * u64::from(*rest.first()?) + u64::from(*rest.get(1)?), &rest[2..]),
        _ => {
            let (bytes, rest) = rest.split_at_checked(first as usize - 247)?;
            let mut value = [0; 8];
            value[..bytes.len()].copy_from_slice(bytes);
            (u64::from_le_bytes(value), rest)
        }
    })
}

fn le_u64(bytes: &[u8]) -> u64 {
    u64::from_le_bytes(bytes.try_into().expect("eight bytes"))
}

fn le_u32(bytes: &[u8]) -> u32 {
    u32::from_le_bytes(bytes.try_into().expect("four bytes"))
}

#[cfg(test)]
#[path = "sled_log_test.rs"]
mod tests;
