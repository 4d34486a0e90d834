//! Blocks: a file is cut into blocks of 64 KiB, the last one shorter; each ends in a CRC-32C over
//! its number in the file and its payload. So any range can be read and verified on its own, and a
//! block in the wrong place is found.

use std::{path::PathBuf, sync::Arc};

use bytes::Bytes;

use super::medium::{Part, ReadAt, io_error};
use crate::{Error, metrics};

/// A block with its checksum: large enough for the overhead not to matter, small enough that a
/// chunk's margins cost little to verify.
pub(super) const BLOCK_BYTES: usize = 64 * 1024;
const CRC_BYTES: usize = 4;
const PAYLOAD_BYTES: usize = BLOCK_BYTES - CRC_BYTES;

fn block_crc(number: u64, payload: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&number.to_be_bytes()), payload)
}

/// Cuts a stream of bytes into blocks.
pub(super) struct BlockWriter {
    part: Box<dyn Part>,
    path: PathBuf,
    block: Vec<u8>,
    number: u64,
    bytes: u64,
}

impl BlockWriter {
    pub(super) fn new(part: Box<dyn Part>, path: PathBuf) -> Self {
        Self { part, path, block: Vec::with_capacity(BLOCK_BYTES), number: 0, bytes: 0 }
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

    /// Writes the last block; answers the part and the length of the file.
    pub(super) fn finish(mut self) -> Result<(Box<dyn Part>, u64), Error> {
        self.seal()?;
        Ok((self.part, self.bytes))
    }

    fn seal(&mut self) -> Result<(), Error> {
        let crc = block_crc(self.number, &self.block);
        self.block.extend_from_slice(&crc.to_be_bytes());
        let written = self.part.write_all(&self.block);
        written.map_err(|error| io_error("write", &self.path, error))?;
        self.bytes += self.block.len() as u64;
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
}

impl BlockReader {
    pub(super) fn new(source: Arc<dyn ReadAt>, path: PathBuf) -> Self {
        Self { source, path }
    }

    /// The length of the file.
    pub(super) fn bytes(&self) -> u64 {
        self.source.bytes()
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
        let start = number * BLOCK_BYTES as u64;
        let len = self.bytes().saturating_sub(start).min(BLOCK_BYTES as u64) as usize;
        if len == 0 {
            return Ok(None);
        }
        if len <= CRC_BYTES {
            return Err(self.damage(start, "block without payload"));
        }
        let mut block = vec![0; len];
        let read = self.source.read_exact_at(&mut block, start);
        read.map_err(|error| io_error("read", &self.path, error))?;
        let (payload, crc) = block.split_at(len - CRC_BYTES);
        if block_crc(number, payload).to_be_bytes() != crc {
            return Err(self.damage(start, "block checksum"));
        }
        Ok(Some(Bytes::from(block)))
    }
}
