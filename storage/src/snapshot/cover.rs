//! How the blocks of a sealed snapshot file lie on disk. A file that begins otherwise is its blocks,
//! as they are.

use bytes::Bytes;

use super::block::{CRC_BYTES, PAYLOAD_BYTES, block_crc};
use crate::seal::{KEY_NONE, KeyView, SEAL_BYTES, SEALED_AT, Sealer};

/// The header of a sealed file.
pub(super) const HEADER_BYTES: usize = 32;
/// A whole sealed block: what is sealed, and a checksum.
pub(super) const SEALED_BLOCK_BYTES: usize = PAYLOAD_BYTES + SEAL_BYTES + CRC_BYTES;

const MAGIC: [u8; 8] = *b"HELIOSEA";
const VERSION: u32 = 1;

/// What the blocks of one file are sealed with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cover {
    pub(super) key: u32,
    /// Differs for each file of a key: a block opens in its own file alone, and passes its
    /// checksum nowhere else.
    file: u64,
}

/// Why a header does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CoverError {
    /// Its checksum does not match.
    Damaged,
    /// A sound header of another build.
    Version(u32),
}

impl Cover {
    /// A cover for a new file; `None` where nothing is sealed.
    pub(super) fn new(sealer: &Sealer) -> Option<Cover> {
        (sealer.key() != KEY_NONE).then(|| Cover { key: sealer.key(), file: sealer.unique() })
    }

    pub(super) fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..12].copy_from_slice(&VERSION.to_be_bytes());
        bytes[12..16].copy_from_slice(&self.key.to_be_bytes());
        bytes[16..24].copy_from_slice(&self.file.to_be_bytes());
        let crc = crc32c::crc32c(&bytes[..28]);
        bytes[28..].copy_from_slice(&crc.to_be_bytes());
        bytes
    }

    /// Reads the first bytes of a file; `None` where it is not sealed.
    pub(super) fn decode(bytes: &[u8; HEADER_BYTES]) -> Result<Option<Cover>, CoverError> {
        if bytes[..8] != MAGIC {
            return Ok(None);
        }
        let u32_at = |at: usize| u32::from_be_bytes(bytes[at..at + 4].try_into().expect("4 bytes"));
        if crc32c::crc32c(&bytes[..28]) != u32_at(28) {
            return Err(CoverError::Damaged);
        }
        match u32_at(8) {
            VERSION => {
                let file = u64::from_be_bytes(bytes[16..24].try_into().expect("eight bytes"));
                Ok(Some(Cover { key: u32_at(12), file }))
            }
            version => Err(CoverError::Version(version)),
        }
    }

    /// The length of the content's blocks in a file of `file_bytes`.
    pub(super) fn content_bytes(file_bytes: u64) -> u64 {
        let sealed = file_bytes.saturating_sub(HEADER_BYTES as u64);
        let blocks = sealed.div_ceil(SEALED_BLOCK_BYTES as u64);
        sealed.saturating_sub(blocks * SEAL_BYTES as u64)
    }

    /// Where block `number` begins in the file.
    pub(super) fn place(number: u64) -> u64 {
        HEADER_BYTES as u64 + number * SEALED_BLOCK_BYTES as u64
    }

    /// Appends block `number`, sealed, to `out`.
    pub(super) fn seal(&self, sealer: &Sealer, number: u64, payload: &[u8], out: &mut Vec<u8>) {
        let start = out.len();
        sealer.seal(&self.aad(number), payload, out);
        let crc = self.crc(number, &out[start..]);
        out.extend_from_slice(&crc.to_be_bytes());
    }

    /// Checks a block as it is stored; the payload without its checksum.
    pub(super) fn is_sound(&self, number: u64, block: &[u8]) -> bool {
        let Some((sealed, crc)) = block.split_last_chunk::<CRC_BYTES>() else { return false };
        sealed.len() > SEAL_BYTES && self.crc(number, sealed).to_be_bytes() == *crc
    }

    /// Opens a sound block: payload and checksum as an unsealed file has them. `None` where the
    /// key is missing, or it is not what was sealed.
    pub(super) fn open(&self, keys: &KeyView, number: u64, mut block: Vec<u8>) -> Option<Bytes> {
        let sealed = block.len().checked_sub(CRC_BYTES)?;
        let payload = keys.open(self.key, &self.aad(number), &mut block[..sealed])?.len();
        let end = SEALED_AT + payload;
        let crc = block_crc(number, &block[SEALED_AT..end]);
        // Where the tag was.
        block[end..end + CRC_BYTES].copy_from_slice(&crc.to_be_bytes());
        Some(Bytes::from(block).slice(SEALED_AT..end + CRC_BYTES))
    }

    fn aad(&self, number: u64) -> [u8; 24] {
        let mut aad = [0; 24];
        aad[..4].copy_from_slice(b"HGSN");
        aad[4..8].copy_from_slice(&self.key.to_le_bytes());
        aad[8..16].copy_from_slice(&self.file.to_le_bytes());
        aad[16..].copy_from_slice(&number.to_le_bytes());
        aad
    }

    fn crc(&self, number: u64, sealed: &[u8]) -> u32 {
        crc32c::crc32c_append(crc32c::crc32c(&self.aad(number)), sealed)
    }
}
