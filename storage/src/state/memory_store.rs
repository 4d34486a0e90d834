//! Rows in memory, for tests and simulations: what a crash keeps lives in a [`MemoryStateDisk`].

use std::{collections::BTreeMap, ops::Bound, sync::Arc};

use bytes::Bytes;
use parking_lot::Mutex;

use super::store::{StateStore, check_batch};
use crate::{Error, Health};

/// The disk of a [`MemoryStore`]: survives it, can be inspected and opened again.
#[derive(Clone, Debug, Default)]
pub struct MemoryStateDisk {
    rows: Arc<Mutex<BTreeMap<Bytes, Bytes>>>,
}

impl MemoryStateDisk {
    /// An empty disk.
    pub fn new() -> Self {
        Self::default()
    }

    /// All rows on it, ascending.
    pub fn rows(&self) -> Vec<(Bytes, Bytes)> {
        self.rows.lock().iter().map(|(key, value)| (key.clone(), value.clone())).collect()
    }

    /// Sets or deletes a row behind the store's back, as damage does.
    pub fn overwrite(&self, key: &Bytes, value: Option<Bytes>) {
        let mut rows = self.rows.lock();
        match value {
            Some(value) => rows.insert(key.clone(), value),
            None => rows.remove(key),
        };
    }

    /// Deletes all rows, as a replaced disk.
    pub fn wipe(&self) {
        self.rows.lock().clear();
    }
}

/// What a commit that a crash interrupts leaves on the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The whole batch.
    Kept,
    /// Nothing of it.
    Lost,
}

/// Rows in memory: the twin of `SledStore`.
pub struct MemoryStore {
    disk: MemoryStateDisk,
    fate: Mutex<Fate>,
}

#[derive(Debug)]
struct Fate {
    is_crashed: bool,
    failed: Option<Error>,
    /// Commits until one is interrupted, and what it leaves.
    crash_in: Option<(usize, Outcome)>,
    fail_in: Option<(usize, Error)>,
}

impl MemoryStore {
    /// The rows on `disk`.
    pub fn open(disk: &MemoryStateDisk) -> Self {
        let fate = Fate { is_crashed: false, failed: None, crash_in: None, fail_in: None };
        Self { disk: disk.clone(), fate: Mutex::new(fate) }
    }

    /// Crashes: every later call answers [`Error::Closed`], the disk keeps what was committed.
    pub fn crash(&self) {
        self.fate.lock().is_crashed = true;
    }

    /// Crashes in the middle of a commit, after `commits` further ones.
    pub fn crash_after(&self, commits: usize, outcome: Outcome) {
        self.fate.lock().crash_in = Some((commits, outcome));
    }

    /// Fails a commit with `error`, after `commits` further ones: the store is fail-safe then.
    pub fn fail_after(&self, commits: usize, error: Error) {
        self.fate.lock().fail_in = Some((commits, error));
    }

    fn readable(&self) -> Result<(), Error> {
        if self.fate.lock().is_crashed {
            return Err(Error::Closed);
        }
        Ok(())
    }
}

impl StateStore for MemoryStore {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, Error> {
        self.readable()?;
        Ok(self.disk.rows.lock().get(key).cloned())
    }

    fn scan(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<(Bytes, Bytes)>, Error> {
        self.readable()?;
        if from >= to {
            return Ok(Vec::new());
        }
        let rows = self.disk.rows.lock();
        let range = rows.range::<[u8], _>((Bound::Included(from), Bound::Excluded(to)));
        Ok(range.take(limit).map(|(key, value)| (key.clone(), value.clone())).collect())
    }

    fn keys(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<Bytes>, Error> {
        Ok(self.scan(from, to, limit)?.into_iter().map(|(key, _)| key).collect())
    }

    fn commit(&self, batch: Vec<(Bytes, Option<Bytes>)>) -> Result<(), Error> {
        check_batch(&batch)?;
        let interrupted = self.fate.lock().commit()?;
        if interrupted != Some(Outcome::Lost) {
            let mut rows = self.disk.rows.lock();
            for (key, value) in batch {
                match value {
                    Some(value) => rows.insert(key, value),
                    None => rows.remove(&key),
                };
            }
        }
        interrupted.map_or(Ok(()), |_| Err(Error::Closed))
    }

    fn give_up(&self, error: &Error) {
        self.fate.lock().failed.get_or_insert(error.clone());
    }

    fn disk_bytes(&self) -> u64 {
        let rows = self.disk.rows.lock();
        rows.iter().map(|(key, value)| (key.len() + value.len()) as u64).sum()
    }

    fn health(&self) -> Health {
        match &self.fate.lock().failed {
            Some(error) => Health::FailSafe(error.clone()),
            None => Health::Sound,
        }
    }
}

impl Fate {
    /// Decides about one commit: refused, interrupted by a crash, or carried out.
    fn commit(&mut self) -> Result<Option<Outcome>, Error> {
        if self.is_crashed {
            return Err(Error::Closed);
        }
        if self.failed.is_some() {
            return Err(Error::FailSafe);
        }
        if let Some((commits, error)) = &mut self.fail_in {
            if *commits == 0 {
                let error = error.clone();
                self.failed = Some(error.clone());
                return Err(error);
            }
            *commits -= 1;
        }
        if let Some((commits, outcome)) = &mut self.crash_in {
            if *commits == 0 {
                self.is_crashed = true;
                return Ok(Some(*outcome));
            }
            *commits -= 1;
        }
        Ok(None)
    }
}
