//! The database as sled holds it: one tree of rows, and one of the values that are too large for it.
//!
//! A leaf of sled holds up to 16 rows, and ten changes of any of them write all of it anew. So a
//! small row that changes often must not share a leaf with large ones: a deduplication part of 54 KiB
//! beside the end of the expiry index made 13 KB of database out of each message of 1 KiB. A value
//! above [`LARGE_BYTES`] stands in a tree of its own under the row's key, and the row says
//! [`ELSEWHERE`].
//!
//! The owner's writes come one after the other; reads may meet any state between two of them, and
//! see the row before or after.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
};

use super::{sled_config::SledConfig, sled_open::guarded};
use crate::Error;

/// sled's segment: 16 of the largest rows make a node of 1.1 MiB, and sled writes what exceeds a
/// quarter of a segment to a file of its own, which it does not sync.
pub(super) const SEGMENT_BYTES: usize = 8 * 1024 * 1024;

/// The largest value, as it is stored, that stands among the rows: sixteen make a leaf of 64 KiB.
/// Messages of a few KiB, which are written once and deleted once, stay where one look-up finds them.
pub(super) const LARGE_BYTES: usize = 4096;

/// Stands for a value in the tree of large ones. No stored value is so short.
const ELSEWHERE: [u8; 1] = [1];

/// The tree of large values.
const LARGE: &[u8] = b"large";

/// How often a read looks again whose row changed between its two look-ups.
const LOOKS_MAX: u32 = 8;

/// How often a commit asks for freeing: the first three let what it replaced itself grow old enough,
/// and each frees 8 bags of up to 64 things.
const FREE_ROUNDS: usize = 16;

/// An open database.
pub(super) struct Database {
    rows: sled::Db,
    large: sled::Tree,
}

type Row = (sled::IVec, sled::IVec);

impl Database {
    pub(super) fn open(dir: &Path, config: &SledConfig) -> Result<Self, Error> {
        let clean_every_ms = u64::try_from(config.clean_every.as_millis()).unwrap_or(u64::MAX);
        let config = sled::Config::new()
            .path(dir)
            .segment_size(SEGMENT_BYTES)
            .cache_capacity(config.cache_bytes)
            .use_compression(false)
            .flush_every_ms(Some(clean_every_ms));
        guarded(|| {
            let rows = config.open()?;
            let large = rows.open_tree(LARGE)?;
            Ok(Self { rows, large })
        })
    }

    /// The value stored at `key`; [`ELSEWHERE`] where it should be in the other tree and is not.
    pub(super) fn get(&self, key: impl AsRef<[u8]>) -> sled::Result<Option<sled::IVec>> {
        let key = key.as_ref();
        let mut stored = self.rows.get(key)?;
        for _ in 0..LOOKS_MAX {
            match &stored {
                Some(value) if is_elsewhere(value) => {}
                _ => return Ok(stored),
            }
            if let Some(value) = self.large.get(key)? {
                return Ok(Some(value));
            }
            // The row was changed meanwhile, or the value is lost.
            stored = self.rows.get(key)?;
        }
        Ok(stored)
    }

    /// At most `limit` rows with `from <= key < to`, ascending.
    pub(super) fn scan(&self, from: &[u8], to: &[u8], limit: usize) -> sled::Result<Vec<Row>> {
        let mut rows = Vec::new();
        for row in self.rows.range(from..to).take(limit) {
            rows.extend(self.whole(row?)?);
        }
        Ok(rows)
    }

    /// At most `limit` keys with `from <= key < to`, ascending.
    pub(super) fn keys(
        &self,
        from: &[u8],
        to: &[u8],
        limit: usize,
    ) -> sled::Result<Vec<sled::IVec>> {
        self.rows.range(from..to).keys().take(limit).collect()
    }

    /// The first row after `key`, or of all.
    pub(super) fn next(&self, key: Option<&[u8]>) -> sled::Result<Option<Row>> {
        let mut after = key.map(<[u8]>::to_vec);
        loop {
            let next = match &after {
                Some(key) => self.rows.get_gt(key)?,
                None => self.rows.first()?,
            };
            let Some(next) = next else { return Ok(None) };
            after = Some(next.0.to_vec());
            if let Some(row) = self.whole(next)? {
                return Ok(Some(row));
            }
        }
    }

    /// A row with its value; `None` where it was deleted meanwhile.
    fn whole(&self, (key, value): Row) -> sled::Result<Option<Row>> {
        if !is_elsewhere(&value) {
            return Ok(Some((key, value)));
        }
        Ok(self.get(&key)?.map(|value| (key, value)))
    }

    /// Sets a row. A crash between the two trees leaves a large value that no row names: the batch
    /// it belongs to is in the journal, and [`Self::forget`] goes before it is applied again.
    pub(super) fn insert(&self, key: impl AsRef<[u8]>, stored: &[u8]) -> sled::Result<()> {
        let key = key.as_ref();
        if stored.len() > LARGE_BYTES {
            self.large.insert(key, stored)?;
            self.rows.insert(key, &ELSEWHERE)?;
            return Ok(());
        }
        let before = self.rows.insert(key, stored)?;
        self.forget_where(key, before)
    }

    /// Deletes a row.
    pub(super) fn remove(&self, key: impl AsRef<[u8]>) -> sled::Result<()> {
        let key = key.as_ref();
        let before = self.rows.remove(key)?;
        self.forget_where(key, before)
    }

    fn forget_where(&self, key: &[u8], before: Option<sled::IVec>) -> sled::Result<()> {
        match before {
            Some(before) if is_elsewhere(&before) => self.large.remove(key).map(drop),
            _ => Ok(()),
        }
    }

    /// Deletes a large value whose row does not name it.
    pub(super) fn forget(&self, key: &[u8]) -> sled::Result<()> {
        let is_named = self.rows.get(key)?.is_some_and(|value| is_elsewhere(&value));
        if !is_named { self.large.remove(key).map(drop) } else { Ok(()) }
    }

    /// Whether there is no row.
    pub(super) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Hands everything to the operating system.
    pub(super) fn flush(&self) -> sled::Result<()> {
        self.rows.flush()?;
        free_what_was_replaced();
        Ok(())
    }

    /// What it takes on disk.
    pub(super) fn disk_bytes(&self) -> sled::Result<u64> {
        self.rows.size_on_disk()
    }

    /// Sets a row the way earlier builds did, however large it is.
    #[cfg(test)]
    pub(super) fn insert_among_rows(&self, key: &[u8], stored: &[u8]) -> sled::Result<()> {
        self.rows.insert(key, stored).map(drop)
    }

    /// Loses a large value, which is not what a commit does.
    #[cfg(test)]
    pub(super) fn lose_large(&self, key: &[u8]) -> sled::Result<()> {
        self.large.remove(key).map(drop)
    }

    #[cfg(test)]
    pub(super) fn large_values(&self) -> usize {
        self.large.len()
    }
}

/// sled panics when its last sync fails while it is dropped; what counts is synced already.
pub(super) fn close_database(db: Option<Database>) {
    if catch_unwind(AssertUnwindSafe(|| drop(db))).is_err() {
        tracing::error!("state database panicked while it was closed");
    }
}

/// Frees what writes have replaced. sled leaves that to `crossbeam-epoch`, which looks only now and
/// then while somebody reads or writes: after a commit several buffers of [`SEGMENT_BYTES`] would
/// wait for the next one. What another thread still looks at stays until then.
fn free_what_was_replaced() {
    for _ in 0..FREE_ROUNDS {
        sled::pin().flush();
    }
}

fn is_elsewhere(value: &[u8]) -> bool {
    value == ELSEWHERE
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{
            Arc,
            atomic::{AtomicBool, Ordering},
        },
        thread,
    };

    use super::*;

    /// Looks until what other tests' threads have pinned is old: each is done within milliseconds.
    const LOOKS: usize = 10_000;

    #[test]
    fn what_was_replaced_is_freed_with_the_flush_and_waits_for_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let db = Database::open(dir.path(), &SledConfig::default()).unwrap();
        let is_freed = Arc::new(AtomicBool::new(false));
        let freed = Arc::clone(&is_freed);
        // As a buffer that was written; it stays with this thread until that has 64 of them, or asks.
        sled::pin().defer(move || freed.store(true, Ordering::SeqCst));
        assert!(!is_freed.load(Ordering::SeqCst));
        let looks = (0..LOOKS).take_while(|_| {
            db.flush().unwrap();
            thread::yield_now();
            !is_freed.load(Ordering::SeqCst)
        });
        assert!(looks.count() < LOOKS, "it waits for more to be replaced");
    }
}
