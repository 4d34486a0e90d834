//! The bytes of a key file; `docs/reference/key-format.md` is the same in prose.

use zeroize::Zeroizing;

use super::cipher::{KEY_BYTES, Secret};

/// A key file's length.
pub(super) const KEY_FILE_BYTES: usize = CRC_AT + 4;
/// The first bytes of a file whose key is destroyed and whose name is still to go.
pub(super) const GONE_MAGIC: [u8; 8] = *b"HELIOGON";

const MAGIC: [u8; 8] = *b"HELIOKEY";
const VERSION: u32 = 1;
const KEY_AT: usize = 32;
const CRC_AT: usize = KEY_AT + KEY_BYTES;

/// A key as its file tells it.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct KeyFile {
    /// Keys are numbered upwards in the order they were drawn.
    pub(super) number: u32,
    /// The key epoch it was drawn in.
    pub(super) epoch: u32,
    /// When that epoch began, milliseconds since the Unix epoch by this node's clock.
    pub(super) epoch_began_ms: u64,
    /// The key.
    pub(super) secret: Secret,
}

/// Why bytes are no key file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum KeyFileError {
    /// Not one, or a damaged one.
    Invalid,
    /// Its key was destroyed.
    Gone,
    /// A sound one of another build.
    Version(u32),
}

impl KeyFile {
    pub(super) fn encode(&self) -> Zeroizing<Vec<u8>> {
        // Sized at once: a vector that grows leaves copies of the key behind.
        let mut out = Zeroizing::new(Vec::with_capacity(KEY_FILE_BYTES));
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&self.number.to_le_bytes());
        out.extend_from_slice(&self.epoch.to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&self.epoch_began_ms.to_le_bytes());
        out.extend_from_slice(&self.secret[..]);
        let crc = crc32c::crc32c(&out);
        out.extend_from_slice(&crc.to_le_bytes());
        out
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<KeyFile, KeyFileError> {
        if bytes.starts_with(&GONE_MAGIC) {
            return Err(KeyFileError::Gone);
        }
        let bytes: &[u8; KEY_FILE_BYTES] = bytes.try_into().map_err(|_| KeyFileError::Invalid)?;
        if bytes[..8] != MAGIC || crc32c::crc32c(&bytes[..CRC_AT]) != u32_at(bytes, CRC_AT) {
            return Err(KeyFileError::Invalid);
        }
        let mut secret = Zeroizing::new([0; KEY_BYTES]);
        secret.copy_from_slice(&bytes[KEY_AT..CRC_AT]);
        match u32_at(bytes, 8) {
            VERSION => Ok(KeyFile {
                number: u32_at(bytes, 12),
                epoch: u32_at(bytes, 16),
                epoch_began_ms: u64::from_le_bytes(bytes[24..32].try_into().expect("8 bytes")),
                secret,
            }),
            version => Err(KeyFileError::Version(version)),
        }
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file() -> KeyFile {
        let mut secret = Zeroizing::new([0; KEY_BYTES]);
        secret.iter_mut().zip(0xa0..).for_each(|(byte, value)| *byte = value);
        KeyFile { number: 7, epoch: 3, epoch_began_ms: 1_700_000_000_000, secret }
    }

    #[test]
    fn round_trips_and_refuses_what_is_not_whole() {
        let bytes = file().encode();
        assert!(KeyFile::decode(&bytes).is_ok_and(|read| read == file()));
        for at in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1;
            assert!(KeyFile::decode(&flipped).is_err(), "byte {at}");
            assert!(KeyFile::decode(&bytes[..at]).is_err(), "cut at {at}");
        }
        let gone = [&GONE_MAGIC[..], &[0; KEY_FILE_BYTES - 8]].concat();
        assert_eq!(KeyFile::decode(&gone).err(), Some(KeyFileError::Gone));
        let mut later = bytes.clone();
        later[8] = 2;
        let crc = crc32c::crc32c(&later[..CRC_AT]);
        later[CRC_AT..].copy_from_slice(&crc.to_le_bytes());
        assert_eq!(KeyFile::decode(&later).err(), Some(KeyFileError::Version(2)));
    }

    #[test]
    fn file_has_the_documented_bytes() {
        let rows = file().encode();
        let hex: String = rows
            .chunks(16)
            .map(|row| row.iter().map(|byte| format!("{byte:02x} ")).collect::<String>())
            .map(|row| format!("{}\n", row.trim_end()))
            .collect();
        let reference = include_str!("../../../docs/reference/key-format.md");
        assert!(reference.contains(&hex), "the reference does not show these bytes:\n{hex}");
    }
}
