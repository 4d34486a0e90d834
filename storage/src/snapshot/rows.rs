//! The content of a snapshot: a header, the rows in ascending order, and an end that counts them.

use bytes::{BufMut, Bytes, BytesMut};

use super::block::{BlockReader, BlockWriter};
use crate::{
    Error, GroupId,
    state::{KEY_BYTES_MAX, RowSource, VALUE_BYTES_MAX},
};

/// The first bytes of every snapshot.
const MAGIC: [u8; 8] = *b"HELIOSNP";

/// The version of the layout this build writes and reads.
const VERSION: u32 = 1;

/// The longest applied position: a log id and a membership with addresses; with the header it
/// fits the first block.
pub(super) const APPLIED_BYTES_MAX: usize = 32 * 1024;

const TAG_ROW: u8 = 1;
const TAG_END: u8 = 0;

/// Writes a snapshot's content.
pub(super) struct RowWriter {
    blocks: BlockWriter,
    rows: u64,
}

impl RowWriter {
    pub(super) fn new(
        mut blocks: BlockWriter,
        group: GroupId,
        applied: &[u8],
    ) -> Result<Self, Error> {
        if applied.len() > APPLIED_BYTES_MAX {
            return Err(Error::TooLarge { bytes: applied.len(), bytes_max: APPLIED_BYTES_MAX });
        }
        let mut header = BytesMut::new();
        header.put_slice(&MAGIC);
        header.put_u32(VERSION);
        header.put_u32(group.0);
        header.put_u32(applied.len() as u32);
        header.put_slice(applied);
        blocks.write(&header)?;
        Ok(Self { blocks, rows: 0 })
    }

    pub(super) fn row(&mut self, key: &[u8], value: &[u8]) -> Result<(), Error> {
        self.blocks.write(&[TAG_ROW])?;
        self.blocks.write(&(key.len() as u16).to_be_bytes())?;
        self.blocks.write(&(value.len() as u32).to_be_bytes())?;
        self.blocks.write(key)?;
        self.blocks.write(value)?;
        self.rows += 1;
        Ok(())
    }

    pub(super) fn finish(mut self) -> Result<BlockWriter, Error> {
        self.blocks.write(&[TAG_END])?;
        self.blocks.write(&self.rows.to_be_bytes())?;
        Ok(self.blocks)
    }
}

/// Reads a snapshot's content, in order, and refuses what a writer cannot have written.
pub(super) struct RowReader {
    blocks: BlockReader,
    block: Bytes,
    next_block: u64,
    group: GroupId,
    applied: Bytes,
    last_key: Option<Bytes>,
    rows: u64,
    is_ended: bool,
}

impl RowReader {
    /// Reads the header.
    pub(super) fn open(blocks: BlockReader) -> Result<Self, Error> {
        let mut reader = Self {
            blocks,
            block: Bytes::new(),
            next_block: 0,
            group: GroupId(0),
            applied: Bytes::new(),
            last_key: None,
            rows: 0,
            is_ended: false,
        };
        if reader.take(MAGIC.len())? != MAGIC[..] {
            return Err(reader.damage("not a snapshot"));
        }
        let version = reader.take_u32()?;
        if version != VERSION {
            return Err(reader.blocks.unknown_version(version));
        }
        reader.group = GroupId(reader.take_u32()?);
        let applied_bytes = reader.take_u32()? as usize;
        if applied_bytes > APPLIED_BYTES_MAX {
            return Err(reader.damage("applied position too long"));
        }
        reader.applied = reader.take(applied_bytes)?;
        Ok(reader)
    }

    pub(super) fn group(&self) -> GroupId {
        self.group
    }

    pub(super) fn applied(&self) -> &Bytes {
        &self.applied
    }

    /// Reads on to the end.
    pub(super) fn verify(mut self) -> Result<(), Error> {
        while self.next_row()?.is_some() {}
        Ok(())
    }

    fn row(&mut self) -> Result<(Bytes, Bytes), Error> {
        let key_bytes = usize::from(u16::from_be_bytes(self.take_array()?));
        let value_bytes = self.take_u32()? as usize;
        if key_bytes > KEY_BYTES_MAX || value_bytes > VALUE_BYTES_MAX {
            return Err(self.damage("row too large"));
        }
        let key = self.take(key_bytes)?;
        let value = self.take(value_bytes)?;
        if self.last_key.as_ref().is_some_and(|last| *last >= key) {
            return Err(self.damage("rows out of order"));
        }
        self.last_key = Some(key.clone());
        self.rows += 1;
        Ok((key, value))
    }

    fn end(&mut self) -> Result<(), Error> {
        if u64::from_be_bytes(self.take_array()?) != self.rows {
            return Err(self.damage("rows missing"));
        }
        if !self.block.is_empty() || self.blocks.payload(self.next_block)?.is_some() {
            return Err(self.damage("bytes after the end"));
        }
        self.is_ended = true;
        Ok(())
    }

    fn take_u32(&mut self) -> Result<u32, Error> {
        Ok(u32::from_be_bytes(self.take_array()?))
    }

    fn take_array<const N: usize>(&mut self) -> Result<[u8; N], Error> {
        let mut out = [0; N];
        out.copy_from_slice(&self.take(N)?);
        Ok(out)
    }

    /// The next `len` bytes, copied out so that a row does not keep its block in memory.
    fn take(&mut self, len: usize) -> Result<Bytes, Error> {
        let mut out = Vec::with_capacity(len);
        while out.len() < len {
            if self.block.is_empty() {
                let Some(block) = self.blocks.payload(self.next_block)? else {
                    return Err(self.damage("file ends early"));
                };
                self.next_block += 1;
                self.block = block;
            }
            let now = self.block.split_to(self.block.len().min(len - out.len()));
            out.extend_from_slice(&now);
        }
        Ok(Bytes::from(out))
    }

    fn damage(&self, reason: &'static str) -> Error {
        let block = self.next_block.saturating_sub(1);
        self.blocks.damage(self.blocks.place(block), reason)
    }
}

impl RowSource for RowReader {
    fn next_row(&mut self) -> Result<Option<(Bytes, Bytes)>, Error> {
        if self.is_ended {
            return Ok(None);
        }
        match self.take_array::<1>()? {
            [TAG_ROW] => Ok(Some(self.row()?)),
            [TAG_END] => self.end().map(|()| None),
            _ => Err(self.damage("unknown tag")),
        }
    }
}
