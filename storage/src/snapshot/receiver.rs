//! A snapshot on its way in: a peer's blocks are checked as they come, and sealed anew.

use std::sync::Arc;

use bytes::Bytes;

use super::{
    block::{BLOCK_BYTES, BlockWriter, CRC_BYTES, is_sound},
    engine::{Engine, Wanted, check_header},
    store::{SnapshotInfo, SnapshotReceiver},
};
use crate::{Error, GroupId};

/// What arrived of a snapshot.
pub(super) struct Receiver {
    engine: Arc<Engine>,
    group: GroupId,
    applied: Bytes,
    bytes: u64,
    offset: u64,
    writer: BlockWriter,
    /// The block that is arriving.
    block: Vec<u8>,
    number: u64,
    /// A block was damaged on its way: the rest is not written.
    is_damaged: bool,
}

impl Receiver {
    pub(super) fn new(
        engine: Arc<Engine>,
        group: GroupId,
        applied: Bytes,
        bytes: u64,
        mut writer: BlockWriter,
    ) -> Receiver {
        // A peer may stop in the middle: that must not keep keys alive.
        writer.pause();
        let block = Vec::with_capacity(BLOCK_BYTES);
        let (offset, number, is_damaged) = (0, 0, false);
        Receiver { engine, group, applied, bytes, offset, writer, block, number, is_damaged }
    }

    fn take(&mut self, mut bytes: &[u8]) -> Result<(), Error> {
        while !bytes.is_empty() {
            let room = BLOCK_BYTES - self.block.len();
            let (now, later) = bytes.split_at(bytes.len().min(room));
            self.block.extend_from_slice(now);
            bytes = later;
            if self.block.len() == BLOCK_BYTES {
                self.end_block()?;
            }
        }
        Ok(())
    }

    fn end_block(&mut self) -> Result<(), Error> {
        self.is_damaged |= !is_sound(self.number, &self.block);
        if !self.is_damaged {
            self.writer.write(&self.block[..self.block.len() - CRC_BYTES])?;
        }
        self.number += 1;
        self.block.clear();
        Ok(())
    }
}

impl SnapshotReceiver for Receiver {
    fn offset(&self) -> u64 {
        self.offset
    }

    fn append(&mut self, offset: u64, chunk: Bytes) -> Result<(), Error> {
        if offset != self.offset {
            return Err(Error::OutOfOrder { expected: self.offset, offered: offset });
        }
        let end = offset + chunk.len() as u64;
        if end > self.bytes {
            return Err(Error::TooLarge { bytes: end as usize, bytes_max: self.bytes as usize });
        }
        self.take(&chunk)?;
        self.offset = end;
        Ok(())
    }

    fn finish(mut self: Box<Self>) -> Result<SnapshotInfo, Error> {
        if self.offset != self.bytes {
            return Err(Error::OutOfOrder { expected: self.bytes, offered: self.offset });
        }
        if !self.block.is_empty() {
            self.end_block()?;
        }
        if self.is_damaged {
            return Err(self.writer.damage(self.number.saturating_sub(1)));
        }
        if !self.writer.resume(self.engine.keys()) {
            return Err(Error::SnapshotGone);
        }
        let written = self.writer.finish()?;
        let reader = self.engine.reader(&written)?;
        check_header(&reader, self.group, &self.applied)?.verify()?;
        self.engine.publish(written, self.group, self.applied, Wanted::ByInstall)
    }
}
