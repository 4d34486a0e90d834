//! Ordered byte rows: what a state machine reads and writes.

use std::{collections::BTreeMap, ops::Bound};

use bytes::Bytes;

use crate::Error;

/// Read access to the rows of one group.
pub trait RowsRead {
    /// The value at `key`.
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, Error>;

    /// At most `limit` rows with `from <= key < to`, ascending.
    fn scan(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<(Bytes, Bytes)>, Error>;
}

/// Write access to the rows of one group. Writes are visible to reads at once.
pub trait RowsWrite: RowsRead {
    /// Sets `key` to `value` (≤ 64 KiB).
    fn put(&mut self, key: &[u8], value: Bytes);

    /// Sets `key`, which the caller knows to be absent, e.g. because its number was never given
    /// out before. A row so put and soon deleted leaves no trace on disk; [`RowsWrite::put`] has to
    /// allow for an older row. Debug builds panic where the row exists.
    fn put_new(&mut self, key: &[u8], value: Bytes) {
        debug_assert!(!matches!(self.get(key), Ok(Some(_))), "put_new of a row that exists");
        self.put(key, value);
    }

    /// Removes `key`.
    fn delete(&mut self, key: &[u8]);

    /// Removes `key` and answers its value: [`RowsRead::get`] and [`RowsWrite::delete`] with one
    /// search, where the row is in memory.
    ///
    /// # Errors
    /// When the row cannot be read. It is still there then.
    fn take(&mut self, key: &[u8]) -> Result<Option<Bytes>, Error>;
}

/// Rows in memory alone: the model that tests of pure state machines run on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemoryRows {
    rows: BTreeMap<Bytes, Bytes>,
}

impl MemoryRows {
    /// All rows, ascending.
    pub fn iter(&self) -> impl Iterator<Item = (&Bytes, &Bytes)> {
        self.rows.iter()
    }

    /// How many rows there are.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }
}

impl RowsRead for MemoryRows {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, Error> {
        Ok(self.rows.get(key).cloned())
    }

    fn scan(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<(Bytes, Bytes)>, Error> {
        if from >= to {
            return Ok(Vec::new());
        }
        let range = (Bound::Included(from), Bound::Excluded(to));
        let rows = self.rows.range::<[u8], _>(range).take(limit);
        Ok(rows.map(|(key, value)| (key.clone(), value.clone())).collect())
    }
}

impl RowsWrite for MemoryRows {
    fn put(&mut self, key: &[u8], value: Bytes) {
        self.rows.insert(Bytes::copy_from_slice(key), value);
    }

    fn delete(&mut self, key: &[u8]) {
        self.rows.remove(key);
    }

    fn take(&mut self, key: &[u8]) -> Result<Option<Bytes>, Error> {
        Ok(self.rows.remove(key))
    }
}
