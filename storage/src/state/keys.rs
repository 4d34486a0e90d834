//! Where a row stands in the store: 4 bytes of generation, big-endian, then the group's own key.
//!
//! A generation is one incarnation of one group's rows. Its upper 20 bits are the group, its lower
//! 12 count 1 to 4,095 and wrap; 0 is the system generation. So the generations of a group stand
//! together, no two groups can pick the same one, and a snapshot is installed under the successor
//! of the current one. System rows:
//!
//! | key | value |
//! |---|---|
//! | `00000000` | the version of this layout, u32 |
//! | `00000000` group u32 | a [`GroupRow`] |

use std::path::PathBuf;

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::{digest::Digest, store::KEY_BYTES_MAX};
use crate::{Error, GroupId};

/// The lower bits of a generation: an incarnation is reused only after 4,095 installs, long after
/// its rows are deleted (install clears the target first in any case).
const INCARNATION_BITS: u32 = 12;
const INCARNATION_MAX: u32 = (1 << INCARNATION_BITS) - 1;

/// Groups a store can tell apart; 256 shards and meta use a fraction.
const GROUP_MAX: u32 = (1 << (32 - INCARNATION_BITS)) - 1;

const GROUP_ROW_VERSION: u8 = 2;
/// What stands before the applied position.
const GROUP_ROW_BYTES: usize = 1 + 4 + Digest::BYTES + 8 + 1;

/// The length of a generation in front of a key.
pub(crate) const PREFIX_BYTES: usize = 4;

/// One incarnation of one group's rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Generation(u32);

impl Generation {
    /// The first generation of a group.
    ///
    /// # Panics
    /// If the group's number does not fit 20 bits.
    pub(crate) fn first(group: GroupId) -> Self {
        assert!(group.0 <= GROUP_MAX, "group {} exceeds {GROUP_MAX}", group.0);
        Self((group.0 << INCARNATION_BITS) | 1)
    }

    /// The generation that the next snapshot is installed under.
    pub(crate) fn next(self) -> Self {
        let incarnation = self.0 & INCARNATION_MAX;
        let next = if incarnation == INCARNATION_MAX { 1 } else { incarnation + 1 };
        Self((self.0 & !INCARNATION_MAX) | next)
    }

    /// The key in the store of the group's `key`.
    pub(crate) fn key(self, key: &[u8]) -> Bytes {
        let mut out = BytesMut::with_capacity(PREFIX_BYTES + key.len());
        self.put_key(key, &mut out);
        out.freeze()
    }

    /// Appends the key in the store of the group's `key` to `out`.
    pub(crate) fn put_key(self, key: &[u8], out: &mut BytesMut) {
        out.put_u32(self.0);
        out.put_slice(key);
    }

    /// All rows of this generation.
    pub(crate) fn range(self) -> KeyRange {
        KeyRange { from: prefix(self.0), to: end_of(self.0) }
    }

    /// All rows of every other generation of the same group.
    pub(crate) fn others(self) -> Vec<KeyRange> {
        let first = self.0 & !INCARNATION_MAX;
        let before = KeyRange { from: prefix(first | 1), to: prefix(self.0) };
        let after = KeyRange { from: end_of(self.0), to: end_of(first | INCARNATION_MAX) };
        [before, after].into_iter().filter(|range| range.from < range.to).collect()
    }
}

/// Keys `from <= key < to` of the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KeyRange {
    pub(crate) from: Bytes,
    pub(crate) to: Bytes,
}

/// Where the generation's rows end.
fn end_of(generation: u32) -> Bytes {
    // The last generation of all has no successor: a key past every key stands in for it.
    generation.checked_add(1).map_or_else(|| Bytes::from_static(&[0xff; KEY_BYTES_MAX]), prefix)
}

fn prefix(generation: u32) -> Bytes {
    Bytes::copy_from_slice(&generation.to_be_bytes())
}

/// The row that says which generation of a group counts, what is in it, and up to where it is
/// applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct GroupRow {
    pub(crate) generation: Generation,
    /// Of the generation's rows, by the group's own keys.
    pub(crate) digest: Digest,
    /// How many records of the group the log held durably at least: it must hold as many again.
    pub(crate) log_records: u64,
    pub(crate) applied: Option<Bytes>,
}

impl GroupRow {
    /// A group without rows.
    pub(crate) fn empty(generation: Generation) -> Self {
        Self { generation, digest: Digest::default(), log_records: 0, applied: None }
    }

    pub(crate) fn key(group: GroupId) -> Bytes {
        let mut key = BytesMut::with_capacity(2 * PREFIX_BYTES);
        key.put_u32(0);
        key.put_u32(group.0);
        key.freeze()
    }

    /// The group whose row stands at `key`, if it is the key of such a row.
    pub(crate) fn group(key: &[u8]) -> Option<GroupId> {
        let group = key.strip_prefix(&[0; PREFIX_BYTES])?;
        Some(GroupId(u32::from_be_bytes(group.try_into().ok()?)))
    }

    /// Where all groups' rows stand, among other system rows.
    pub(crate) fn range() -> KeyRange {
        KeyRange { from: prefix(0), to: end_of(0) }
    }

    pub(crate) fn encode(&self) -> Bytes {
        let applied = self.applied.as_deref().unwrap_or_default();
        let mut out = BytesMut::with_capacity(GROUP_ROW_BYTES + applied.len());
        out.put_u8(GROUP_ROW_VERSION);
        out.put_u32(self.generation.0);
        self.digest.encode(&mut out);
        out.put_u64(self.log_records);
        out.put_u8(u8::from(self.applied.is_some()));
        out.put_slice(applied);
        out.freeze()
    }

    pub(crate) fn decode(group: GroupId, row: &Bytes) -> Result<Self, Error> {
        let damage = |reason| Error::Damage {
            path: PathBuf::from(format!("state row of group {}", group.0)),
            offset: 0,
            reason,
        };
        if row.first() != Some(&GROUP_ROW_VERSION) {
            return Err(damage("group row of an unknown version"));
        }
        if row.len() < GROUP_ROW_BYTES {
            return Err(damage("group row too short"));
        }
        let mut rest = row.slice(1..);
        let generation = rest.get_u32();
        if generation >> INCARNATION_BITS != group.0 || generation & INCARNATION_MAX == 0 {
            return Err(damage("group row names another group's generation"));
        }
        let mut digest = [0; Digest::BYTES];
        rest.copy_to_slice(&mut digest);
        let log_records = rest.get_u64();
        let applied = (rest.get_u8() == 1).then_some(rest);
        let digest = Digest::decode(&digest);
        Ok(Self { generation: Generation(generation), digest, log_records, applied })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generations_of_a_group_wrap_and_stay_its_own() {
        let first = Generation::first(GroupId(7));
        let mut generation = first;
        for _ in 0..INCARNATION_MAX {
            assert_eq!(generation.0 >> INCARNATION_BITS, 7);
            assert_ne!(generation.0 & INCARNATION_MAX, 0);
            generation = generation.next();
        }
        assert_eq!(generation, first);
    }

    #[test]
    fn others_cover_all_but_the_own_generation() {
        let second = Generation::first(GroupId(7)).next();
        let key = second.key(b"k");
        let others = second.others();
        assert_eq!(others.len(), 2);
        assert!(!others.iter().any(|range| range.from <= key && key < range.to));
        for other in [Generation::first(GroupId(7)), second.next()] {
            let key = other.key(b"k");
            assert!(others.iter().any(|range| range.from <= key && key < range.to));
        }
        for foreign in [Generation::first(GroupId(6)), Generation::first(GroupId(8))] {
            let key = foreign.key(b"k");
            assert!(!others.iter().any(|range| range.from <= key && key < range.to));
        }
        assert_eq!(Generation::first(GroupId(GROUP_MAX)).others().len(), 1);
    }

    #[test]
    fn group_row_round_trips_and_refuses_a_foreign_one() {
        let generation = Generation::first(GroupId(3)).next();
        let mut digest = Digest::default();
        digest.add(b"k", b"v");
        for applied in [None, Some(Bytes::new()), Some(Bytes::from_static(b"at 9"))] {
            let row = GroupRow { generation, digest, log_records: 7, applied };
            assert_eq!(GroupRow::decode(GroupId(3), &row.encode()).unwrap(), row);
            assert!(GroupRow::decode(GroupId(4), &row.encode()).is_err());
            assert!(GroupRow::decode(GroupId(3), &row.encode().slice(..20)).is_err());
        }
        let mut row = GroupRow { log_records: 7, ..GroupRow::empty(generation) };
        row.applied = Some(Bytes::from_static(b"ab"));
        let expected = [&[2, 0, 0, 0x30, 2][..], &[0; Digest::BYTES + 7], &[7, 1, b'a', b'b']];
        assert_eq!(row.encode(), expected.concat());
    }

    #[test]
    fn keys_of_group_rows_are_told_from_others() {
        assert_eq!(GroupRow::group(&GroupRow::key(GroupId(9))), Some(GroupId(9)));
        for other in [&[0; 4][..], &[0, 0, 0, 0, 1], &[0, 0, 0x10, 1, 0, 0, 0, 9], b"a"] {
            assert_eq!(GroupRow::group(other), None);
        }
    }
}
