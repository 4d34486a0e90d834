//! A row's value as sled stores it: sealed, with a checksum.
//!
//! Sealed: storage key (u32, big-endian), the sealed value, CRC-32C over `HGRW`, the row's key, and
//! all before. Unsealed, as earlier builds wrote it: the value, CRC-32C over the row's key and the
//! value. For the same bytes the two checksums always differ, so neither passes for the other.

use bytes::Bytes;
use smallvec::SmallVec;

use super::journal::Change;
use crate::seal::{KEY_NONE, KeyView, SEAL_BYTES, Sealer};

/// What storing adds to a value, at most.
pub(super) const STORED_EXTRA_BYTES: usize = KEY_BYTES + SEAL_BYTES + CRC_BYTES;

const CRC_BYTES: usize = 4;
const KEY_BYTES: usize = 4;
/// Leads associated data and checksum of a sealed row.
const TAG: [u8; 4] = *b"HGRW";

/// Why a value does not open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RowError {
    /// It is not what was stored.
    Damaged,
    /// The storage key is not at hand.
    KeyMissing,
}

/// A batch's changes as they are stored.
pub(super) fn close_all(changes: &[Change], sealer: &Sealer) -> Vec<Change> {
    let close = |(key, value): &Change| {
        let stored = value.as_ref().map(|value| close_value(key, value, sealer).into());
        (key.clone(), stored)
    };
    changes.iter().map(close).collect()
}

/// The value of a row of the store's own, which is never sealed.
pub(super) fn close_system(key: &[u8], value: &[u8]) -> Vec<u8> {
    [value, &plain_crc(key, value).to_be_bytes()].concat()
}

/// The value as it is stored.
pub(super) fn close_value(key: &[u8], value: &[u8], sealer: &Sealer) -> Vec<u8> {
    let mut stored = Vec::with_capacity(KEY_BYTES + value.len() + sealer.overhead() + CRC_BYTES);
    let crc = if sealer.key() == KEY_NONE {
        stored.extend_from_slice(value);
        plain_crc(key, value)
    } else {
        stored.extend_from_slice(&sealer.key().to_be_bytes());
        sealer.seal(&place(sealer.key(), key), value, &mut stored);
        sealed_crc(key, &stored)
    };
    stored.extend_from_slice(&crc.to_be_bytes());
    stored
}

/// The storage key a sound value is sealed with.
pub(super) fn key_of(key: &[u8], stored: &[u8]) -> Result<u32, RowError> {
    let (value, crc) = stored.split_last_chunk::<CRC_BYTES>().ok_or(RowError::Damaged)?;
    let crc = u32::from_be_bytes(*crc);
    // Nearly all are sealed.
    match value.first_chunk::<KEY_BYTES>() {
        Some(number) if sealed_crc(key, value) == crc => Ok(u32::from_be_bytes(*number)),
        _ if plain_crc(key, value) == crc => Ok(KEY_NONE),
        _ => Err(RowError::Damaged),
    }
}

/// The value that was stored.
pub(super) fn open_value(key: &[u8], stored: &[u8], keys: &KeyView) -> Result<Bytes, RowError> {
    let number = key_of(key, stored)?;
    let stored = &stored[..stored.len() - CRC_BYTES];
    if number == KEY_NONE {
        return Ok(Bytes::copy_from_slice(stored));
    }
    if !keys.holds(number) {
        return Err(RowError::KeyMissing);
    }
    let opened = keys.open_copy(number, &place(number, key), &stored[KEY_BYTES..]);
    opened.map(Bytes::from).ok_or(RowError::Damaged)
}

/// Associated data. Hardly a key is so long that it needs the heap.
fn place(number: u32, key: &[u8]) -> SmallVec<[u8; 64]> {
    let mut place = SmallVec::with_capacity(TAG.len() + KEY_BYTES + key.len());
    for part in [&TAG[..], &number.to_le_bytes(), key] {
        place.extend_from_slice(part);
    }
    place
}

fn plain_crc(key: &[u8], value: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(key), value)
}

fn sealed_crc(key: &[u8], stored: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c_append(crc32c::crc32c(&TAG), key), stored)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Keyring, MemoryKeyDisk};

    fn ring() -> Keyring {
        let fill = Box::new(|bytes: &mut [u8]| bytes.fill(7));
        Keyring::open_memory(&MemoryKeyDisk::new(), fill, 0).unwrap()
    }

    #[test]
    fn sealed_and_unsealed_values_are_told_apart() {
        let sealed_ring = ring();
        let keys = sealed_ring.view();
        for value in [&b""[..], b"x", &[9; 5_000]] {
            let plain = close_value(b"key", value, &Keyring::unsealed().sealer());
            assert_eq!(key_of(b"key", &plain), Ok(KEY_NONE));
            assert_eq!(open_value(b"key", &plain, &keys).unwrap(), value);
            let sealed = close_value(b"key", value, &sealed_ring.sealer());
            assert_eq!(key_of(b"key", &sealed), Ok(0x0707_0708));
            assert_eq!(open_value(b"key", &sealed, &keys).unwrap(), value);
            for stored in [&plain, &sealed] {
                assert_eq!(open_value(b"kez", stored, &keys), Err(RowError::Damaged));
                for at in 0..stored.len() {
                    let mut flipped = stored.clone();
                    flipped[at] ^= 1;
                    assert_eq!(open_value(b"key", &flipped, &keys), Err(RowError::Damaged));
                    let cut = open_value(b"key", &stored[..at], &keys);
                    assert_eq!(cut, Err(RowError::Damaged));
                }
            }
            let none = Keyring::unsealed().view();
            assert_eq!(open_value(b"key", &sealed, &none), Err(RowError::KeyMissing));
        }
    }

    /// The bytes as docs/reference/state-format.md shows them.
    #[test]
    fn layout_stays() {
        let stored = close_value(b"key", b"value", &ring().sealer());
        let hex: String = stored.iter().map(|byte| format!("{byte:02x}")).collect();
        let reference = include_str!("../../../docs/reference/state-format.md");
        assert!(reference.replace(char::is_whitespace, "").contains(&hex), "not shown: {hex}");
    }
}
