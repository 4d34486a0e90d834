//! The checkpoint journal: the last batch of the sled store, so that it is applied whole or not at
//! all.
//!
//! A batch is written here and synced before its first row goes to sled, and is applied again
//! when the store is opened. Only the last batch is kept: by the time the next one is written, this
//! one is in sled and synced. sled's own batches are not used, since one holds every other access
//! of the process off and every page it touches in memory until it is done (see the ADR).
//!
//! Layout, integers big-endian: magic `HELIOJNL`, version u32 = 3, sequence u64, digest of all
//! group rows (24), rows u64, length of the rows u64, the rows, CRC-32C u32 over all before. A row:
//! put u8 (1 or 0 = delete), key length u16, value length u32, key, value as sled is to store it:
//! sealed and with its checksum, so that the journal needs no key. Earlier versions, which had no
//! digest, stood beside databases that are rebuilt. What follows is left over from a longer batch.

use std::{
    fs::{self, File, OpenOptions},
    io,
    path::{Path, PathBuf},
};

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::{
    digest::Digest,
    disk_file::DiskFile,
    row_seal::STORED_EXTRA_BYTES,
    store::{BATCH_BYTES_MAX, KEY_BYTES_MAX, VALUE_BYTES_MAX},
};
use crate::{Error, error::io_error};

pub(super) const JOURNAL_FILE: &str = "checkpoint.journal";

const MAGIC: [u8; 8] = *b"HELIOJNL";
const VERSION: u32 = 3;
const HEADER_BYTES: usize = 8 + 4 + 8 + Digest::BYTES + 2 * 8;
const ROW_HEADER_BYTES: usize = 1 + 2 + 4;
const CRC_BYTES: usize = 4;

/// Written at once: large enough that system calls do not count.
const WRITE_BYTES: usize = 1024 * 1024;

/// Up to this the file keeps its length when a shorter batch follows, so that a sync has no new
/// length to write; checkpoints stay below it.
const KEPT_BYTES: u64 = 64 * 1024 * 1024;

/// A change of one row.
pub(super) type Change = (Bytes, Option<Bytes>);

/// The last batch that was written.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) sequence: u64,
    /// Of all groups' rows as the batch leaves them.
    pub(super) groups: Digest,
    /// Their values are as sled stores them.
    pub(super) changes: Vec<Change>,
}

/// The journal's file.
pub(super) struct Journal {
    pub(super) file: Box<dyn DiskFile>,
    path: PathBuf,
    /// The length of the file.
    bytes: u64,
}

impl Journal {
    /// Opens or creates the journal in `dir`, makes what is in it durable, and reads it. An entry
    /// that is not complete was never applied, or is damaged: the caller knows which.
    pub(super) fn open(dir: &Path) -> Result<(Self, Option<Entry>), Error> {
        let path = dir.join(JOURNAL_FILE);
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(false).open(&path);
        let file = file.map_err(|error| io_error("open", &path, error))?;
        file.sync_all().map_err(|error| io_error("fsync", &path, error))?;
        let content = read(&path).map_err(|error| io_error("read", &path, error))?;
        let bytes = content.len() as u64;
        let entry = decode(content, &path)?;
        Ok((Self { file: Box::new(file), path, bytes }, entry))
    }

    /// Writes a batch over the last one and syncs it.
    pub(super) fn write(
        &mut self,
        sequence: u64,
        groups: &Digest,
        changes: &[Change],
    ) -> Result<(), Error> {
        let bytes = self.write_changes(sequence, groups, changes);
        let bytes = bytes.map_err(|error| io_error("write", &self.path, error))?;
        self.bytes = self.bytes.max(bytes);
        let kept_bytes = bytes.max(KEPT_BYTES);
        if self.bytes > kept_bytes {
            let cut = self.file.set_len(kept_bytes);
            cut.map_err(|error| io_error("truncate", &self.path, error))?;
            self.bytes = kept_bytes;
        }
        self.file.sync_data().map_err(|error| io_error("fdatasync", &self.path, error))
    }

    fn write_changes(&self, sequence: u64, groups: &Digest, changes: &[Change]) -> io::Result<u64> {
        let mut buffer = BytesMut::with_capacity(WRITE_BYTES + VALUE_BYTES_MAX);
        put_header(sequence, groups, changes, &mut buffer);
        let mut crc = 0;
        let mut offset = 0;
        for change in changes {
            put_change(change, &mut buffer);
            if buffer.len() >= WRITE_BYTES {
                crc = crc32c::crc32c_append(crc, &buffer);
                self.file.write_all_at(&buffer, offset)?;
                offset += buffer.len() as u64;
                buffer.clear();
            }
        }
        crc = crc32c::crc32c_append(crc, &buffer);
        buffer.put_u32(crc);
        self.file.write_all_at(&buffer, offset)?;
        Ok(offset + buffer.len() as u64)
    }
}

/// The last change of each key, by key: neighbours share a page, which is read and written once.
pub(super) fn in_order(mut batch: Vec<Change>) -> Vec<Change> {
    batch.sort_by(|(one, _), (other, _)| one.cmp(other));
    batch.reverse();
    batch.dedup_by(|(one, _), (other, _)| one == other);
    batch.reverse();
    batch
}

fn put_header(sequence: u64, groups: &Digest, changes: &[Change], out: &mut BytesMut) {
    let change_bytes =
        |(key, value): &Change| ROW_HEADER_BYTES + key.len() + value.as_ref().map_or(0, Bytes::len);
    out.put_slice(&MAGIC);
    out.put_u32(VERSION);
    out.put_u64(sequence);
    groups.encode(out);
    out.put_u64(changes.len() as u64);
    out.put_u64(changes.iter().map(change_bytes).sum::<usize>() as u64);
}

fn put_change((key, value): &Change, out: &mut BytesMut) {
    let bytes = value.as_deref().unwrap_or_default();
    out.put_u8(u8::from(value.is_some()));
    out.put_u16(key.len() as u16);
    out.put_u32(bytes.len() as u32);
    out.put_slice(key);
    out.put_slice(bytes);
}

fn read(path: &Path) -> io::Result<Bytes> {
    use std::io::Read;
    // A journal cannot be longer: what a damaged length says is not believed.
    let bytes_max = (2 * BATCH_BYTES_MAX) as u64;
    let mut content = Vec::with_capacity(fs::metadata(path)?.len().min(bytes_max) as usize);
    File::open(path)?.take(bytes_max).read_to_end(&mut content)?;
    Ok(Bytes::from(content))
}

/// The entry, `None` where it is not complete.
fn decode(mut content: Bytes, path: &Path) -> Result<Option<Entry>, Error> {
    let Some(crc_at) = crc_at(&content) else {
        return Ok(None);
    };
    let stored = content.slice(crc_at..).get_u32();
    if crc32c::crc32c(&content[..crc_at]) != stored {
        return Ok(None);
    }
    content.truncate(crc_at);
    content.advance(MAGIC.len());
    let version = content.get_u32();
    if version < VERSION {
        let reason = "journal of an earlier layout";
        return Err(Error::Damage { path: path.to_path_buf(), offset: 0, reason });
    }
    if version > VERSION {
        return Err(Error::Version { path: path.to_path_buf(), version });
    }
    let sequence = content.get_u64();
    let mut groups = [0; Digest::BYTES];
    content.copy_to_slice(&mut groups);
    let groups = Digest::decode(&groups);
    let rows = content.get_u64();
    content.advance(8);
    let mut changes = Vec::new();
    for _ in 0..rows {
        let Some(change) = take_change(&mut content) else {
            let reason = "journal row";
            return Err(Error::Damage { path: path.to_path_buf(), offset: 0, reason });
        };
        changes.push(change);
    }
    Ok(Some(Entry { sequence, groups, changes }))
}

/// Where the checksum stands, if the content can be a journal at all.
fn crc_at(content: &[u8]) -> Option<usize> {
    let header = content.get(..HEADER_BYTES)?;
    if header[..MAGIC.len()] != MAGIC {
        return None;
    }
    let row_bytes = (&header[HEADER_BYTES - 8..]).get_u64();
    let crc_at = usize::try_from(row_bytes).ok()?.checked_add(HEADER_BYTES)?;
    (crc_at.checked_add(CRC_BYTES)? <= content.len()).then_some(crc_at)
}

fn take_change(content: &mut Bytes) -> Option<Change> {
    if content.len() < ROW_HEADER_BYTES {
        return None;
    }
    let is_put = content.get_u8() == 1;
    let key_bytes = usize::from(content.get_u16());
    let value_bytes = content.get_u32() as usize;
    let fits = key_bytes <= KEY_BYTES_MAX && value_bytes <= VALUE_BYTES_MAX + STORED_EXTRA_BYTES;
    if !fits || content.len() < key_bytes + value_bytes {
        return None;
    }
    let key = content.split_to(key_bytes);
    let value = content.split_to(value_bytes);
    Some((key, is_put.then_some(value)))
}

/// Reads `input` with its checksum mostly put right: it gives an entry that is written to the same
/// bytes again, or none.
#[cfg(any(test, fuzzing))]
pub(crate) fn fuzz(input: &[u8]) {
    let mut file = input.to_vec();
    if file.len() >= HEADER_BYTES && file[12] % 8 != 7 {
        file[..MAGIC.len()].copy_from_slice(&MAGIC);
        file[8..12].copy_from_slice(&VERSION.to_be_bytes());
        if let Some(at) = crc_at(&file) {
            let crc = crc32c::crc32c(&file[..at]);
            file[at..at + CRC_BYTES].copy_from_slice(&crc.to_be_bytes());
        }
    }
    let path = Path::new("journal");
    let Ok(Some(entry)) = decode(Bytes::from(file), path) else { return };
    let mut again = BytesMut::new();
    put_header(entry.sequence, &entry.groups, &entry.changes, &mut again);
    for change in &entry.changes {
        put_change(change, &mut again);
    }
    let crc = crc32c::crc32c(&again);
    again.put_u32(crc);
    let read = decode(again.freeze(), path).expect("what was read is written");
    assert_eq!(read, Some(entry));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changes() -> Vec<Change> {
        let long = Bytes::from(vec![9; VALUE_BYTES_MAX]);
        vec![
            (Bytes::from_static(b"a"), Some(Bytes::new())),
            (Bytes::from_static(b"b"), None),
            (Bytes::from_static(b"c"), Some(long)),
        ]
    }

    #[test]
    fn last_entry_is_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let (mut journal, entry) = Journal::open(dir.path()).unwrap();
        assert_eq!(entry, None);
        let many: Vec<_> = (0..40_u32)
            .map(|row| (Bytes::copy_from_slice(&row.to_be_bytes()), changes()[2].1.clone()))
            .collect();
        for (sequence, changes) in [(1, changes()), (2, many), (3, vec![]), (4, changes())] {
            let mut groups = Digest::default();
            groups.add(b"g", &[sequence as u8]);
            journal.write(sequence, &groups, &changes).unwrap();
            let (_, entry) = Journal::open(dir.path()).unwrap();
            assert_eq!(entry, Some(Entry { sequence, groups, changes }));
        }
    }

    #[test]
    fn entry_cut_or_flipped_anywhere_is_not_complete() {
        let dir = tempfile::tempdir().unwrap();
        let (mut journal, _) = Journal::open(dir.path()).unwrap();
        let changes = changes()[..2].to_vec();
        journal.write(7, &Digest::default(), &changes).unwrap();
        let path = dir.path().join(JOURNAL_FILE);
        let whole = fs::read(&path).unwrap();
        for at in 0..whole.len() {
            assert_eq!(decode(Bytes::copy_from_slice(&whole[..at]), &path).unwrap(), None);
            let mut flipped = whole.clone();
            flipped[at] ^= 0x10;
            assert_eq!(decode(flipped.into(), &path).unwrap(), None, "byte {at}");
        }
    }

    #[test]
    fn file_of_a_giant_batch_is_cut_again() {
        let dir = tempfile::tempdir().unwrap();
        let (mut journal, _) = Journal::open(dir.path()).unwrap();
        let value = changes()[2].1.clone();
        let giant = vec![(Bytes::from_static(b"k"), value); 1100];
        let bytes = || fs::metadata(dir.path().join(JOURNAL_FILE)).unwrap().len();
        journal.write(1, &Digest::default(), &giant).unwrap();
        assert!(bytes() > KEPT_BYTES);
        journal.write(2, &Digest::default(), &changes()).unwrap();
        assert_eq!(bytes(), KEPT_BYTES);
        assert_eq!(Journal::open(dir.path()).unwrap().1.unwrap().sequence, 2);
    }

    #[test]
    fn layout_stays() {
        let dir = tempfile::tempdir().unwrap();
        let (mut journal, _) = Journal::open(dir.path()).unwrap();
        let change = (Bytes::from_static(b"k"), Some(Bytes::from_static(b"v")));
        journal.write(5, &Digest::default(), &[change]).unwrap();
        let content = fs::read(dir.path().join(JOURNAL_FILE)).unwrap();
        let (body, crc) = content.split_at(content.len() - CRC_BYTES);
        assert_eq!(&body[..8], b"HELIOJNL");
        let expected = [
            [0, 0, 0, 3].as_slice(),
            &[0, 0, 0, 0, 0, 0, 0, 5],
            &[0; Digest::BYTES],
            &[0, 0, 0, 0, 0, 0, 0, 1],
            &[0, 0, 0, 0, 0, 0, 0, 9],
            &[1, 0, 1, 0, 0, 0, 1, b'k', b'v'],
        ];
        assert_eq!(body[8..], expected.concat());
        assert_eq!(crc, crc32c::crc32c(body).to_be_bytes());
        let mut first = body.to_vec();
        for (version, is_later) in [(2, false), (4, true)] {
            first[11] = version;
            let crc = crc32c::crc32c(&first).to_be_bytes();
            let decoded = decode([&first[..], &crc].concat().into(), dir.path());
            assert_eq!(matches!(decoded, Err(Error::Version { .. })), is_later);
            assert_eq!(matches!(decoded, Err(Error::Damage { .. })), !is_later);
        }
    }
}
