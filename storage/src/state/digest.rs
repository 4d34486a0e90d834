//! A digest of a set of rows that does not depend on their order: the sum of a 128-bit hash of each.
//!
//! A row's own checksum cannot tell that the row is an old one, or that another is missing. The
//! digest can: each checkpoint takes the old rows out of the sum and adds the new ones, so the sum
//! kept in the group's row is that of exactly the rows there must be. Whoever reads all rows
//! compares.

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// What the rows' hashes are keyed with: no secret, only another function than any other use of
/// BLAKE3.
const KEY: &[u8; 32] = b"heliograph storage rows digest 1";

/// The digest of a set of rows, and how many there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Digest {
    rows: u64,
    sum: u128,
}

impl Digest {
    /// The bytes of an encoded digest.
    pub(crate) const BYTES: usize = 24;

    /// Takes a row in.
    pub(crate) fn add(&mut self, key: &[u8], value: &[u8]) {
        self.rows = self.rows.wrapping_add(1);
        self.sum = self.sum.wrapping_add(hash(key, value));
    }

    /// Takes a row out that was taken in.
    pub(crate) fn remove(&mut self, key: &[u8], value: &[u8]) {
        self.rows = self.rows.wrapping_sub(1);
        self.sum = self.sum.wrapping_sub(hash(key, value));
    }

    /// Replaces what stood at `key`.
    pub(crate) fn change(&mut self, key: &[u8], old: Option<&Bytes>, new: Option<&Bytes>) {
        if let Some(old) = old {
            self.remove(key, old);
        }
        if let Some(new) = new {
            self.add(key, new);
        }
    }

    /// Appends the digest: the rows (u64) and the sum (u128), big-endian.
    pub(crate) fn encode(&self, out: &mut BytesMut) {
        out.put_u64(self.rows);
        out.put_u128(self.sum);
    }

    /// Reads a digest.
    pub(crate) fn decode(bytes: &[u8; Self::BYTES]) -> Self {
        let mut bytes = &bytes[..];
        Self { rows: bytes.get_u64(), sum: bytes.get_u128() }
    }
}

fn hash(key: &[u8], value: &[u8]) -> u128 {
    let mut hasher = blake3::Hasher::new_keyed(KEY);
    // The key's length comes first, so that no two rows are the same bytes.
    hasher.update(&(key.len() as u32).to_be_bytes()).update(key).update(value);
    let mut sum = [0; 16];
    hasher.finalize_xof().fill(&mut sum);
    u128::from_be_bytes(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(rows: &[(&str, &str)]) -> Digest {
        let mut digest = Digest::default();
        for (key, value) in rows {
            digest.add(key.as_bytes(), value.as_bytes());
        }
        digest
    }

    #[test]
    fn order_does_not_count_and_everything_else_does() {
        let rows = of(&[("a", "1"), ("b", "2")]);
        assert_eq!(rows, of(&[("b", "2"), ("a", "1")]));
        for other in [
            of(&[("a", "1")]),
            of(&[("a", "1"), ("b", "1")]),
            of(&[("a", "2"), ("b", "1")]),
            of(&[("a1", ""), ("b", "2")]),
            of(&[("a", "1"), ("b", "2"), ("", "")]),
            of(&[]),
        ] {
            assert_ne!(rows, other);
        }
    }

    #[test]
    fn changes_leave_the_digest_of_what_is_there() {
        let (old, new) = (Bytes::from_static(b"1"), Bytes::from_static(b"3"));
        let mut digest = of(&[("a", "1"), ("b", "2")]);
        digest.change(b"a", Some(&old), Some(&new));
        digest.change(b"b", Some(&Bytes::from_static(b"2")), None);
        digest.change(b"c", None, Some(&new));
        assert_eq!(digest, of(&[("c", "3"), ("a", "3")]));
    }

    #[test]
    fn encoding_round_trips_and_keeps_its_bytes() {
        let digest = of(&[("a", "1"), ("b", "2")]);
        let mut out = BytesMut::new();
        digest.encode(&mut out);
        assert_eq!(out[..8], 2_u64.to_be_bytes());
        assert_eq!(Digest::decode(out[..].try_into().unwrap()), digest);
        let sum = hash(b"a", b"1").wrapping_add(hash(b"b", b"2"));
        assert_eq!(out[8..], sum.to_be_bytes());
    }
}
