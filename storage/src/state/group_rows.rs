//! The guards through which a group's rows are read and written.

use std::{collections::btree_map::Range, iter::Peekable, ops::Bound};

use bytes::Bytes;
use parking_lot::{RwLockReadGuard, RwLockWriteGuard};

use super::{
    frozen::Frozen,
    group_state::{Layers, successor},
    keys::PREFIX_BYTES,
    layer::{Change, Layer, RowKey},
    store::{KEY_BYTES_MAX, StateStore, VALUE_BYTES_MAX},
};
use crate::{Error, RowsRead, RowsWrite};

/// The least number of rows fetched from the store at once by a scan, so that a few deletions in
/// the overlay do not cost a second look-up.
const PAGE_ROWS_MIN: usize = 16;

/// The most rows fetched at once: 256 of 64 KiB are 16 MiB.
const PAGE_ROWS_MAX: usize = 256;

/// Reads a group's rows.
pub struct GroupRead<'a> {
    store: &'a dyn StateStore,
    layers: RwLockReadGuard<'a, Layers>,
}

impl<'a> GroupRead<'a> {
    pub(super) fn new(store: &'a dyn StateStore, layers: RwLockReadGuard<'a, Layers>) -> Self {
        Self { store, layers }
    }

    /// The applied position these rows belong to.
    pub fn applied(&self) -> Option<&Bytes> {
        self.layers.applied.as_ref()
    }
}

impl RowsRead for GroupRead<'_> {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, Error> {
        get(self.store, &self.layers, key)
    }

    fn scan(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<(Bytes, Bytes)>, Error> {
        scan(self.store, &self.layers, from, to, limit)
    }
}

/// Reads and writes a group's rows.
pub struct GroupWrite<'a> {
    store: &'a dyn StateStore,
    layers: RwLockWriteGuard<'a, Layers>,
}

impl<'a> GroupWrite<'a> {
    pub(super) fn new(store: &'a dyn StateStore, layers: RwLockWriteGuard<'a, Layers>) -> Self {
        Self { store, layers }
    }

    /// Notes the applied position that the rows now belong to.
    pub fn set_applied(&mut self, applied: Bytes) {
        self.layers.applied = Some(applied);
    }

    /// Freezes what was written since the last freeze, for one checkpoint. `None` while an earlier
    /// layer is not yet committed, or a snapshot is written or installed.
    pub fn freeze(&mut self) -> Option<Frozen> {
        self.layers.freeze()
    }

    /// Writes `key` to the active layer; `write` is told what the frozen one says of the key.
    fn change(&mut self, key: &[u8], write: impl FnOnce(&mut Layer, Option<&Change>)) {
        let layers = &mut *self.layers;
        let below = layers.frozen.as_ref().and_then(|frozen| frozen.layer.get(key));
        write(&mut layers.active, below);
    }
}

impl RowsRead for GroupWrite<'_> {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, Error> {
        get(self.store, &self.layers, key)
    }

    fn scan(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<(Bytes, Bytes)>, Error> {
        scan(self.store, &self.layers, from, to, limit)
    }
}

impl RowsWrite for GroupWrite<'_> {
    /// # Panics
    /// If key or value exceed their bounds: every replica would fail to checkpoint the row.
    fn put(&mut self, key: &[u8], value: Bytes) {
        assert_bounds(key, &value);
        self.change(key, |active, below| active.put(key, value, below));
    }

    /// # Panics
    /// If key or value exceed their bounds; in debug builds also if the row exists.
    fn put_new(&mut self, key: &[u8], value: Bytes) {
        assert_bounds(key, &value);
        debug_assert!(!matches!(self.get(key), Ok(Some(_))), "put_new of a row that exists");
        self.change(key, |active, below| active.put_new(key, value, below));
    }

    fn delete(&mut self, key: &[u8]) {
        self.change(key, |active, below| active.delete(key, below));
    }

    fn take(&mut self, key: &[u8]) -> Result<Option<Bytes>, Error> {
        if let Some(taken) = self.layers.active.take(key) {
            return Ok(taken);
        }
        let value = get_below(self.store, &self.layers, key)?;
        if value.is_some() {
            self.delete(key);
        }
        Ok(value)
    }
}

fn assert_bounds(key: &[u8], value: &[u8]) {
    let key_bytes_max = KEY_BYTES_MAX - PREFIX_BYTES;
    assert!(key.len() <= key_bytes_max, "key of {} bytes exceeds {key_bytes_max}", key.len());
    assert!(
        value.len() <= VALUE_BYTES_MAX,
        "value of {} bytes exceeds {VALUE_BYTES_MAX}",
        value.len()
    );
}

fn get(store: &dyn StateStore, layers: &Layers, key: &[u8]) -> Result<Option<Bytes>, Error> {
    if let Some(change) = layers.active.get(key) {
        return Ok(change.value().cloned());
    }
    get_below(store, layers, key)
}

/// What lies below the active layer.
fn get_below(store: &dyn StateStore, layers: &Layers, key: &[u8]) -> Result<Option<Bytes>, Error> {
    if let Some(change) = layers.frozen.as_ref().and_then(|frozen| frozen.layer.get(key)) {
        return Ok(change.value().cloned());
    }
    store.get(&layers.generation.key(key))
}

fn scan(
    store: &dyn StateStore,
    layers: &Layers,
    from: &[u8],
    to: &[u8],
    limit: usize,
) -> Result<Vec<(Bytes, Bytes)>, Error> {
    let mut rows = Vec::new();
    if from >= to || limit == 0 {
        return Ok(rows);
    }
    let mut overlay = Overlay::new(layers, from, to).peekable();
    let mut stored = Stored::new(store, layers, from, to, limit);
    while rows.len() < limit {
        let below = stored.peek()?.map(|(key, _)| key.clone());
        let take_overlay = match (overlay.peek(), &below) {
            (None, None) => break,
            (Some((above, _)), Some(below)) => above[..] <= below[..],
            (above, _) => above.is_some(),
        };
        if !take_overlay {
            rows.extend(stored.pop());
        } else if let Some((key, change)) = overlay.next() {
            if below.as_deref() == Some(&key[..]) {
                stored.pop();
            }
            let value = change.value();
            rows.extend(value.map(|value| (Bytes::copy_from_slice(key), value.clone())));
        }
    }
    Ok(rows)
}

/// The changes of both layers in a range, ascending, the active one over the frozen one.
struct Overlay<'a> {
    active: Peekable<Range<'a, RowKey, Change>>,
    frozen: Option<Peekable<Range<'a, RowKey, Change>>>,
}

impl<'a> Overlay<'a> {
    fn new(layers: &'a Layers, from: &[u8], to: &[u8]) -> Self {
        let bounds = (Bound::Included(from), Bound::Excluded(to));
        let range = |layer: &'a Layer| layer.changes().range::<[u8], _>(bounds).peekable();
        let frozen = layers.frozen.as_ref().map(|frozen| range(&frozen.layer));
        Self { active: range(&layers.active), frozen }
    }
}

impl<'a> Iterator for Overlay<'a> {
    type Item = (&'a RowKey, &'a Change);

    fn next(&mut self) -> Option<Self::Item> {
        let Some(frozen) = &mut self.frozen else {
            return self.active.next();
        };
        match (self.active.peek(), frozen.peek()) {
            (Some((above, _)), Some((below, _))) if above == below => {
                frozen.next();
                self.active.next()
            }
            (Some((above, _)), Some((below, _))) if above > below => frozen.next(),
            (None, _) => frozen.next(),
            _ => self.active.next(),
        }
    }
}

/// The store's rows in a range, fetched page by page.
struct Stored<'a> {
    store: &'a dyn StateStore,
    from: Bytes,
    to: Bytes,
    page_rows: usize,
    page: std::vec::IntoIter<(Bytes, Bytes)>,
    next: Option<(Bytes, Bytes)>,
    is_exhausted: bool,
}

impl<'a> Stored<'a> {
    fn new(
        store: &'a dyn StateStore,
        layers: &Layers,
        from: &[u8],
        to: &[u8],
        limit: usize,
    ) -> Self {
        Self {
            store,
            from: layers.generation.key(from),
            to: layers.generation.key(to),
            page_rows: limit.clamp(PAGE_ROWS_MIN, PAGE_ROWS_MAX),
            page: Vec::new().into_iter(),
            next: None,
            is_exhausted: false,
        }
    }

    /// The next row, its key without the generation.
    fn peek(&mut self) -> Result<Option<&(Bytes, Bytes)>, Error> {
        if self.next.is_none() {
            if self.page.len() == 0 && !self.is_exhausted {
                self.fetch()?;
            }
            let row = self.page.next();
            self.next = row.map(|(key, value)| (key.slice(PREFIX_BYTES..), value));
        }
        Ok(self.next.as_ref())
    }

    /// Takes the row last peeked at.
    fn pop(&mut self) -> Option<(Bytes, Bytes)> {
        self.next.take()
    }

    fn fetch(&mut self) -> Result<(), Error> {
        let rows = self.store.scan(&self.from, &self.to, self.page_rows)?;
        self.is_exhausted = rows.len() < self.page_rows;
        if let Some((last, _)) = rows.last() {
            self.from = successor(last);
        }
        self.page = rows.into_iter();
        Ok(())
    }
}
