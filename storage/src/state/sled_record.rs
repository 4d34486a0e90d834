//! The record of which of sled's segments stands where, as the last commit left them.
//!
//! It only says whether a start may do without reading all rows: one that is missing, torn or of
//! another time than the database costs that reading, nothing else.
//!
//! Layout of `segments.record`, integers big-endian: magic `HELIOSEG`, version u32 = 1, sequence of
//! the last commit u64, lsn of the log's end u64, number of places u32, for each the lsn of its
//! segment u64 or `u64::MAX` for none, CRC-32C u32 over all before. What follows is left over.

use std::{
    fs::{self, OpenOptions},
    io,
    path::{Path, PathBuf},
};

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::{
    disk_file::DiskFile,
    sled_log::{Slot, Survey},
};
use crate::{Error, error::io_error};

pub(super) const RECORD_FILE: &str = "segments.record";

const MAGIC: [u8; 8] = *b"HELIOSEG";
const VERSION: u32 = 1;
const HEADER_BYTES: usize = 8 + 4 + 8 + 8 + 4;
const CRC_BYTES: usize = 4;
const NONE: u64 = u64::MAX;

/// What the last commit left.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Record {
    /// The sequence of the last commit.
    pub(super) sequence: u64,
    /// The lsn after the last message.
    pub(super) end: u64,
    pub(super) slots: Vec<Slot>,
}

impl Record {
    pub(super) fn new(sequence: u64, survey: Survey) -> Self {
        Self { sequence, end: survey.end, slots: survey.slots }
    }

    /// The record in `dir`; `None` where there is none that is whole.
    pub(super) fn read(dir: &Path) -> Result<Option<Self>, Error> {
        let path = dir.join(RECORD_FILE);
        match fs::read(&path) {
            Ok(content) => Ok(Self::decode(content.into())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(io_error("read", &path, error)),
        }
    }

    fn encode(&self) -> BytesMut {
        let mut out = BytesMut::with_capacity(HEADER_BYTES + 8 * self.slots.len() + CRC_BYTES);
        out.put_slice(&MAGIC);
        out.put_u32(VERSION);
        out.put_u64(self.sequence);
        out.put_u64(self.end);
        out.put_u32(self.slots.len() as u32);
        for slot in &self.slots {
            out.put_u64(if let Slot::Lsn(lsn) = slot { *lsn } else { NONE });
        }
        let crc = crc32c::crc32c(&out);
        out.put_u32(crc);
        out
    }

    fn decode(content: Bytes) -> Option<Self> {
        let mut rest = content.clone();
        if rest.len() < HEADER_BYTES || rest.split_to(MAGIC.len())[..] != MAGIC {
            return None;
        }
        if rest.get_u32() != VERSION {
            return None;
        }
        let (sequence, end) = (rest.get_u64(), rest.get_u64());
        let count = rest.get_u32() as usize;
        let crc_at = HEADER_BYTES.checked_add(count.checked_mul(8)?)?;
        let crc = content.get(crc_at..crc_at.checked_add(CRC_BYTES)?)?;
        if crc != crc32c::crc32c(&content[..crc_at]).to_be_bytes() {
            return None;
        }
        let slot = |lsn| if lsn == NONE { Slot::Blank } else { Slot::Lsn(lsn) };
        let slots = (0..count).map(|_| slot(rest.get_u64())).collect();
        Some(Self { sequence, end, slots })
    }
}

/// The record's file.
pub(super) struct RecordFile {
    pub(super) file: Box<dyn DiskFile>,
    path: PathBuf,
}

impl RecordFile {
    /// Opens or creates the record in `dir`; the name is durable once the directory is synced.
    pub(super) fn open(dir: &Path) -> Result<Self, Error> {
        let path = dir.join(RECORD_FILE);
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(false).open(&path);
        let file = file.map_err(|error| io_error("open", &path, error))?;
        Ok(Self { file: Box::new(file), path })
    }

    /// Writes a record over the last one and syncs it.
    pub(super) fn write(&self, record: &Record) -> Result<(), Error> {
        let written = self.file.write_all_at(&record.encode(), 0);
        written.map_err(|error| io_error("write", &self.path, error))?;
        self.file.sync_data().map_err(|error| io_error("fdatasync", &self.path, error))
    }

    /// The next start reads all rows.
    pub(super) fn forget(&self) -> Result<(), Error> {
        let cut = self.file.set_len(0).and_then(|()| self.file.sync_data());
        cut.map_err(|error| io_error("truncate", &self.path, error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> Record {
        let slots = vec![Slot::Lsn(8 << 20), Slot::Blank, Slot::Lsn(0)];
        Record { sequence: 7, end: (8 << 20) + 99, slots }
    }

    #[test]
    fn last_record_is_read_back_and_a_torn_one_is_none() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Record::read(dir.path()).unwrap(), None);
        let file = RecordFile::open(dir.path()).unwrap();
        assert_eq!(Record::read(dir.path()).unwrap(), None);
        let shorter = Record { slots: vec![], ..record() };
        for expected in [record(), shorter] {
            file.write(&expected).unwrap();
            assert_eq!(Record::read(dir.path()).unwrap(), Some(expected));
        }
        let whole = record().encode().freeze();
        for at in 0..whole.len() {
            assert_eq!(Record::decode(whole.slice(..at)), None);
            let mut flipped = whole.to_vec();
            flipped[at] ^= 0x10;
            assert_eq!(Record::decode(flipped.into()), None, "byte {at}");
        }
        file.write(&record()).unwrap();
        file.forget().unwrap();
        assert_eq!(Record::read(dir.path()).unwrap(), None);
    }

    #[test]
    fn layout_stays() {
        let expected = [
            &b"HELIOSEG"[..],
            &[0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0x80, 0, 99, 0, 0, 0, 3],
            &[0, 0, 0, 0, 0, 0x80, 0, 0],
            &[0xff; 8],
            &[0; 8],
        ];
        let encoded = record().encode();
        let (body, crc) = encoded.split_at(encoded.len() - CRC_BYTES);
        assert_eq!(body, expected.concat());
        assert_eq!(crc, crc32c::crc32c(body).to_be_bytes());
    }
}
