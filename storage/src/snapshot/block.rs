//! Blocks: a file is cut into blocks of 64 KiB, the last one shorter; each ends in a CRC-32C over
//! its number in the file and its payload. So any range can be read and verified on its own, and a
//! block in the wrong place is found. On disk each block is sealed (see `cover`); lengths and offsets
//! here are those of the blocks as a peer receives them.

use std::{io::ErrorKind, path::PathBuf, sync::Arc};

use bytes::Bytes;

use super::{
    cover::{Cover, CoverError, HEADER_BYTES},
    medium::{Part, ReadAt},
};
use crate::{
    Error, Keyring,
    error::io_error,
    metrics,
    seal::{KEY_NONE, KeyView, SEAL_BYTES, Sealer},
};

/// A block with its checksum: large enough for the overhead not to matter, small enough that a
/// chunk's margins cost little to verify.
pub(super) const BLOCK_BYTES: usize = 64 * 1024;
pub(super) const CRC_BYTES: usize = 4;
pub(super) const PAYLOAD_BYTES: usize = BLOCK_BYTES - CRC_BYTES;

const NO_KEY: &str = "block cannot be opened: its storage key is missing";

pub(super) fn block_crc(number: u64, payload: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&number.to_be_bytes()), payload)
}

/// Whether an unsealed block's checksum matches.
pub(super) fn is_sound(number: u64, block: &[u8]) -> bool {
    let Some((payload, crc)) = block.split_last_chunk::<CRC_BYTES>() else { return false };
    !payload.is_empty() && block_crc(number, payload).to_be_bytes() == *crc
}

/// Cuts a stream of bytes into blocks.
pub(super) struct BlockWriter {
    part: Box<dyn Part>,
    path: PathBuf,
    block: Vec<u8>,
    sealed: Vec<u8>,
    number: u64,
    bytes: u64,
    sealer: Sealer,
    cover: Option<Cover>,
}

/// A part that is written to its end.
pub(super) struct Written {
    pub(super) part: Box<dyn Part>,
    /// The length of its blocks.
    pub(super) bytes: u64,
    /// Held until the file is in the books.
    pub(super) sealer: Sealer,
}

impl BlockWriter {
    pub(super) fn new(
        mut part: Box<dyn Part>,
        path: PathBuf,
        sealer: Sealer,
    ) -> Result<Self, Error> {
        let cover = Cover::new(&sealer);
        if let Some(cover) = &cover {
            let written = part.write_all(&cover.encode());
            written.map_err(|error| io_error("write", &path, error))?;
        }
        let (block, sealed) = (Vec::with_capacity(BLOCK_BYTES), Vec::new());
        Ok(Self { part, path, block, sealed, number: 0, bytes: 0, sealer, cover })
    }

    pub(super) fn write(&mut self, mut bytes: &[u8]) -> Result<(), Error> {
        while !bytes.is_empty() {
            if self.block.len() == PAYLOAD_BYTES {
                self.seal()?;
            }
            let (now, later) = bytes.split_at(bytes.len().min(PAYLOAD_BYTES - self.block.len()));
            self.block.extend_from_slice(now);
            bytes = later;
        }
        Ok(())
    }

    /// Until [`BlockWriter::resume`] nobody relies on what is written being finished.
    pub(super) fn pause(&mut self) {
        self.sealer.pause();
    }

    /// Whether what was written may be finished: its key is not on its way out.
    pub(super) fn resume(&mut self, keys: &Keyring) -> bool {
        keys.resume(&mut self.sealer)
    }

    /// Tells that block `number` was not what its checksum says.
    pub(super) fn damage(&self, number: u64) -> Error {
        metrics::state_damaged();
        let offset = number * BLOCK_BYTES as u64;
        Error::Damage { path: self.path.clone(), offset, reason: "received block checksum" }
    }

    /// Writes the last block.
    pub(super) fn finish(mut self) -> Result<Written, Error> {
        self.seal()?;
        Ok(Written { part: self.part, bytes: self.bytes, sealer: self.sealer })
    }

    fn seal(&mut self) -> Result<(), Error> {
        self.bytes += (self.block.len() + CRC_BYTES) as u64;
        let stored = match &self.cover {
            Some(cover) => {
                self.sealed.clear();
                cover.seal(&self.sealer, self.number, &self.block, &mut self.sealed);
                &self.sealed
            }
            None => {
                let crc = block_crc(self.number, &self.block);
                self.block.extend_from_slice(&crc.to_be_bytes());
                &self.block
            }
        };
        let written = self.part.write_all(stored);
        written.map_err(|error| io_error("write", &self.path, error))?;
        self.number += 1;
        self.block.clear();
        Ok(())
    }
}

/// Reads blocks, each verified.
#[derive(Clone)]
pub(super) struct BlockReader {
    source: Arc<dyn ReadAt>,
    path: PathBuf,
    cover: Option<Cover>,
    /// The one key it is sealed with.
    keys: KeyView,
}

impl BlockReader {
    /// Reads how the file is sealed.
    pub(super) fn open(
        source: Arc<dyn ReadAt>,
        path: PathBuf,
        keys: &Keyring,
    ) -> Result<Self, Error> {
        let mut reader = Self { source, path, cover: None, keys: KeyView::default() };
        let mut header = [0; HEADER_BYTES];
        if reader.source.bytes() >= HEADER_BYTES as u64 {
            let read = reader.source.read_exact_at(&mut header, 0);
            read.map_err(|error| io_error("read", &reader.path, error))?;
        }
        reader.cover = match Cover::decode(&header) {
            Ok(cover) => cover,
            Err(CoverError::Damaged) => return Err(reader.damage(0, "header checksum")),
            Err(CoverError::Version(version)) => return Err(reader.unknown_version(version)),
        };
        let keys_there = keys.view();
        reader.keys = keys_there.only(reader.key());
        if !keys_there.holds(reader.key()) {
            return Err(match keys.is_new() {
                true => Error::KeysMissing { path: reader.path },
                false => reader.damage(0, NO_KEY),
            });
        }
        Ok(reader)
    }

    /// The storage key the file is sealed with.
    pub(super) fn key(&self) -> u32 {
        self.cover.map_or(KEY_NONE, |cover| cover.key)
    }

    /// The length of the blocks.
    pub(super) fn bytes(&self) -> u64 {
        match self.cover {
            Some(_) => Cover::content_bytes(self.source.bytes()),
            None => self.source.bytes(),
        }
    }

    /// Where a block begins in the file.
    pub(super) fn place(&self, number: u64) -> u64 {
        match self.cover {
            Some(_) => Cover::place(number),
            None => number * BLOCK_BYTES as u64,
        }
    }

    /// Lets the next read come from the disk.
    pub(super) fn forget_cached(&self, offset: u64, bytes: u64) {
        self.source.forget_cached(offset, bytes);
    }

    pub(super) fn damage(&self, offset: u64, reason: &'static str) -> Error {
        metrics::state_damaged();
        Error::Damage { path: self.path.clone(), offset, reason }
    }

    pub(super) fn unknown_version(&self, version: u32) -> Error {
        Error::Version { path: self.path.clone(), version }
    }

    /// The payload of a block; `None` past the last.
    pub(super) fn payload(&self, number: u64) -> Result<Option<Bytes>, Error> {
        let block = self.block(number)?;
        Ok(block.map(|block| block.slice(..block.len() - CRC_BYTES)))
    }

    /// Raw bytes of the file, as a peer receives them: at most `len` from `offset`.
    pub(super) fn chunk(&self, offset: u64, len: usize) -> Result<Bytes, Error> {
        let end = self.bytes().min(offset.saturating_add(len as u64));
        let mut out = Vec::with_capacity(end.saturating_sub(offset) as usize);
        let mut at = offset;
        while at < end {
            let number = at / BLOCK_BYTES as u64;
            let start = number * BLOCK_BYTES as u64;
            let block = self.block(number)?.unwrap_or_default();
            let upto = (end - start).min(block.len() as u64);
            out.extend_from_slice(&block[(at - start) as usize..upto as usize]);
            at = start + upto;
        }
        Ok(Bytes::from(out))
    }

    /// A whole block, verified.
    fn block(&self, number: u64) -> Result<Option<Bytes>, Error> {
        let start = self.place(number);
        let sealing = self.cover.map_or(0, |_| SEAL_BYTES);
        let whole = (BLOCK_BYTES + sealing) as u64;
        let len = self.source.bytes().saturating_sub(start).min(whole) as usize;
        if len == 0 {
            return Ok(None);
        }
        if len <= CRC_BYTES + sealing {
            return Err(self.damage(start, "block without payload"));
        }
        let mut block = vec![0; len];
        match self.source.read_exact_at(&mut block, start) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => {
                return Err(self.damage(start, "file cut short"));
            }
            Err(error) => return Err(io_error("read", &self.path, error)),
        }
        let is_sound = match &self.cover {
            Some(cover) => cover.is_sound(number, &block),
            None => is_sound(number, &block),
        };
        if !is_sound {
            return Err(self.damage(start, "block checksum"));
        }
        match &self.cover {
            Some(cover) => {
                let opened = cover.open(&self.keys, number, block);
                opened.ok_or_else(|| self.damage(start, "block is not what was sealed")).map(Some)
            }
            None => Ok(Some(Bytes::from(block))),
        }
    }
}
