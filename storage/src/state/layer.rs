//! One in-memory layer of changed rows over the store.

use std::{
    borrow::Borrow,
    cmp::Ordering,
    collections::{
        BTreeMap,
        btree_map::{Entry, OccupiedEntry},
    },
    ops::Deref,
};

use bytes::Bytes;
use smallvec::SmallVec;

/// A row's key as a layer keeps it: in the tree's own nodes, where a search finds it without following
/// a pointer for each comparison. 40 bytes: what a shard's longest keys take, and whole words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RowKey(SmallVec<[u8; 40]>);

impl RowKey {
    fn new(key: &[u8]) -> Self {
        Self(SmallVec::from_slice(key))
    }
}

/// As bytes are ordered. The first sixteen, which nearly always decide, are compared as numbers: a call
/// of `memcmp` takes longer.
impl Ord for RowKey {
    fn cmp(&self, other: &Self) -> Ordering {
        if let (Some(mine), Some(others)) = (self.0.first_chunk(), other.0.first_chunk()) {
            let heads = (u128::from_be_bytes(*mine), u128::from_be_bytes(*others));
            if heads.0 != heads.1 {
                return heads.0.cmp(&heads.1);
            }
        }
        self.0.cmp(&other.0)
    }
}

impl PartialOrd for RowKey {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Deref for RowKey {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl Borrow<[u8]> for RowKey {
    fn borrow(&self) -> &[u8] {
        &self.0
    }
}

/// What a changed row costs beside its bytes: a `Bytes` handle with its shared counter, the inline key,
/// and its place in a B-tree node two thirds full.
const ROW_OVERHEAD_BYTES: usize = 160;

/// A change of one row relative to what lies below.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// The row is known to be absent below: deleting it leaves nothing behind.
    New(Bytes),
    /// The row may exist below.
    Put(Bytes),
    /// The row may exist below and is hidden.
    Delete,
}

impl Change {
    /// The row's value; `None` where it is deleted.
    pub(super) fn value(&self) -> Option<&Bytes> {
        match self {
            Self::New(value) | Self::Put(value) => Some(value),
            Self::Delete => None,
        }
    }

    fn into_value(self) -> Option<Bytes> {
        match self {
            Self::New(value) | Self::Put(value) => Some(value),
            Self::Delete => None,
        }
    }
}

/// Changed rows, and what they take.
#[derive(Debug, Default)]
pub(super) struct Layer {
    changes: BTreeMap<RowKey, Change>,
    bytes: usize,
}

impl Layer {
    pub(super) fn changes(&self) -> &BTreeMap<RowKey, Change> {
        &self.changes
    }

    /// Memory taken, about.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn get(&self, key: &[u8]) -> Option<&Change> {
        self.changes.get(&RowKey::new(key))
    }

    /// Sets `key`; `below` is what the next layer down says of it.
    pub(super) fn put(&mut self, key: &[u8], value: Bytes, below: Option<&Change>) {
        let key_bytes = key.len();
        let value_bytes = value.len();
        match self.changes.entry(RowKey::new(key)) {
            Entry::Occupied(mut row) => {
                let old_bytes = row.get().value().map_or(0, Bytes::len);
                let change = match row.get() {
                    Change::New(_) => Change::New(value),
                    Change::Put(_) | Change::Delete => Change::Put(value),
                };
                row.insert(change);
                self.bytes = self.bytes - old_bytes + value_bytes;
            }
            Entry::Vacant(row) => {
                // A row that the layer below deletes is absent from the store once that layer is
                // committed, and it is committed before this one.
                let absent = matches!(below, Some(Change::Delete));
                row.insert(if absent { Change::New(value) } else { Change::Put(value) });
                self.bytes += key_bytes + value_bytes + ROW_OVERHEAD_BYTES;
            }
        }
    }

    /// Sets `key`, which exists neither here nor below.
    pub(super) fn put_new(&mut self, key: &[u8], value: Bytes, below: Option<&Change>) {
        if matches!(below, Some(Change::New(_) | Change::Put(_))) {
            return self.put(key, value, below);
        }
        let row_bytes = key.len() + value.len() + ROW_OVERHEAD_BYTES;
        match self.changes.entry(RowKey::new(key)) {
            Entry::Vacant(row) => {
                row.insert(Change::New(value));
                self.bytes += row_bytes;
            }
            Entry::Occupied(_) => self.put(key, value, below),
        }
    }

    /// Removes `key`; `below` is what the next layer down says of it.
    pub(super) fn delete(&mut self, key: &[u8], below: Option<&Change>) {
        match self.changes.entry(RowKey::new(key)) {
            Entry::Occupied(row) => {
                let (_, freed) = hide(row);
                self.bytes -= freed;
            }
            Entry::Vacant(row) => {
                if !matches!(below, Some(Change::Delete)) {
                    row.insert(Change::Delete);
                    self.bytes += key.len() + ROW_OVERHEAD_BYTES;
                }
            }
        }
    }

    /// Removes `key` and answers its value; `None` where this layer says nothing of it.
    pub(super) fn take(&mut self, key: &[u8]) -> Option<Option<Bytes>> {
        let Entry::Occupied(row) = self.changes.entry(RowKey::new(key)) else { return None };
        let (value, freed) = hide(row);
        self.bytes -= freed;
        Some(value)
    }
}

/// Removes a row that the layer has; a tombstone stays unless it is known to be absent below. Answers
/// its value, and by how much less the layer takes.
fn hide(mut row: OccupiedEntry<'_, RowKey, Change>) -> (Option<Bytes>, usize) {
    if matches!(row.get(), Change::New(_)) {
        let (key, change) = row.remove_entry();
        let value = change.into_value();
        let row_bytes = key.len() + value.as_ref().map_or(0, Bytes::len) + ROW_OVERHEAD_BYTES;
        return (value, row_bytes);
    }
    let value = row.insert(Change::Delete).into_value();
    let value_bytes = value.as_ref().map_or(0, Bytes::len);
    (value, value_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &'static str) -> &'static [u8] {
        text.as_bytes()
    }

    fn bytes(text: &'static str) -> Bytes {
        Bytes::from_static(text.as_bytes())
    }

    #[test]
    fn keys_are_ordered_as_their_bytes_are() {
        let mut keys = vec![Vec::new()];
        for length in [1, 15, 16, 17, 40, 41] {
            for at in [0, length / 2, length - 1] {
                for byte in [0, 1, 0x80, 0xff] {
                    let mut key = vec![7; length];
                    key[at] = byte;
                    keys.push(key);
                }
            }
        }
        for one in &keys {
            for other in &keys {
                assert_eq!(RowKey::new(one).cmp(&RowKey::new(other)), one.cmp(other));
            }
        }
    }

    #[test]
    fn new_row_deleted_again_leaves_nothing() {
        let mut layer = Layer::default();
        layer.put_new(key("k"), bytes("v"), None);
        layer.put(key("k"), bytes("longer"), None);
        layer.delete(key("k"), None);
        assert!(layer.changes().is_empty());
        assert_eq!(layer.bytes(), 0);
    }

    #[test]
    fn what_is_taken_leaves_what_a_deletion_does() {
        for write in [
            |layer: &mut Layer| layer.put_new(b"k", bytes("v"), None),
            |layer: &mut Layer| layer.put(b"k", bytes("v"), None),
            |layer: &mut Layer| layer.delete(b"k", None),
            |_: &mut Layer| {},
        ] {
            let (mut taken, mut deleted) = (Layer::default(), Layer::default());
            write(&mut taken);
            write(&mut deleted);
            let before = deleted.get(b"k").map(|change| change.value().cloned());
            assert_eq!(taken.take(b"k"), before);
            if before.is_some() {
                deleted.delete(key("k"), None);
            }
            assert_eq!((taken.changes(), taken.bytes()), (deleted.changes(), deleted.bytes()));
        }
    }

    #[test]
    fn row_that_may_exist_below_leaves_a_tombstone() {
        let mut layer = Layer::default();
        layer.put(key("k"), bytes("v"), None);
        layer.delete(key("k"), None);
        assert_eq!(layer.get(b"k"), Some(&Change::Delete));
        layer.put(key("k"), bytes("v"), None);
        assert_eq!(layer.get(b"k"), Some(&Change::Put(bytes("v"))));
    }

    #[test]
    fn row_deleted_below_counts_as_absent() {
        let mut layer = Layer::default();
        layer.delete(key("k"), Some(&Change::Delete));
        assert!(layer.changes().is_empty());
        layer.put(key("k"), bytes("v"), Some(&Change::Delete));
        layer.delete(key("k"), Some(&Change::Delete));
        assert!(layer.changes().is_empty());
    }

    #[test]
    fn wrongly_vouched_row_is_treated_as_one_that_exists() {
        let mut layer = Layer::default();
        layer.put_new(key("k"), bytes("v"), Some(&Change::Put(bytes("old"))));
        layer.delete(key("k"), Some(&Change::Put(bytes("old"))));
        assert_eq!(layer.get(b"k"), Some(&Change::Delete));
    }
}
