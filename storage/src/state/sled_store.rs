//! Rows in sled 0.34: the working set on disk.
//!
//! One tree. A commit goes to the checkpoint journal, then row by row in key order to sled, then
//! sled's `flush()`, and our own `sync_data()` of the database file: sled's flush only calls
//! `sync_file_range`, which neither flushes the disk's cache nor writes the file's length. sled
//! reports some failures by panicking; a panic is caught and treated as an error. Each value ends
//! in a CRC-32C over key and value.

use std::{
    fs::{self, File},
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
};

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};

use super::{
    disk_file::DiskFile,
    journal::{Change, Entry, Journal},
    sled_config::{SledConfig, StateOpen},
    sled_open::{
        DATABASE_FILE, guarded, io_error, is_content, move_aside, refuse_if_locked, sync_all,
    },
    store::{StateStore, check_batch},
};
use crate::{Error, Health, metrics};

/// sled's segment: 16 of the largest rows make a node of 1.1 MiB, and sled writes what exceeds a
/// quarter of a segment to a file of its own, which it does not sync.
const SEGMENT_BYTES: usize = 8 * 1024 * 1024;

/// System rows of the store itself; those of groups are 8 bytes long.
const VERSION_KEY: [u8; 4] = [0; 4];
/// The sequence of the batch whose rows are being written: the first row of each commit.
const BEGUN_KEY: [u8; 5] = [0, 0, 0, 0, 1];
/// The sequence of the last batch whose rows are all there: the last row of each commit.
const DONE_KEY: [u8; 5] = [0, 0, 0, 0, 2];

/// The version of keys and values this build writes and reads.
const VERSION: u32 = 1;

const CRC_BYTES: usize = 4;

/// Rows in sled.
pub struct SledStore {
    /// `None` once it could not be reopened.
    db: RwLock<Option<sled::Db>>,
    dir: PathBuf,
    path: PathBuf,
    config: SledConfig,
    writer: Mutex<Writer>,
    /// The first failure.
    failed: Mutex<Option<Error>>,
}

/// What one commit at a time uses.
struct Writer {
    journal: Journal,
    /// The database file, for our own sync.
    database: Box<dyn DiskFile>,
    /// The sequence of the last batch that is wholly in sled and synced.
    sequence: u64,
    /// What was committed since the database was opened.
    bytes: u64,
}

impl SledStore {
    /// Opens the database in `dir`, creating it where there is none. If sled cannot read it, or
    /// what it reads is not what was committed, the directory is moved aside and an empty one
    /// opened.
    ///
    /// Answers an error, and moves nothing, where the reason is not the database's content: it is
    /// open in another process, permissions, a full or failing disk, or a version of a later build.
    pub fn open(dir: &Path, config: SledConfig) -> Result<(Self, StateOpen), Error> {
        fs::create_dir_all(dir).map_err(|error| io_error("create", dir, error))?;
        refuse_if_locked(dir)?;
        match Self::try_open(dir, &config) {
            Ok(store) => Ok((store, StateOpen::Opened)),
            Err(error) if is_content(&error) => {
                let moved_to = move_aside(dir)?;
                metrics::state_rebuilt();
                tracing::error!(
                    %error, ?moved_to,
                    "state database is unreadable: rebuilding it from snapshot and log"
                );
                Ok((Self::try_open(dir, &config)?, StateOpen::Rebuilt { moved_to }))
            }
            Err(error) => Err(error),
        }
    }

    fn try_open(dir: &Path, config: &SledConfig) -> Result<Self, Error> {
        let db = open_database(dir, config)?;
        let path = dir.join(DATABASE_FILE);
        let database = File::open(&path).map_err(|error| io_error("open", &path, error))?;
        let (journal, entry) = Journal::open(dir)?;
        sync_all(dir)?;
        let writer = Writer { journal, database: Box::new(database), sequence: 0, bytes: 0 };
        let store = Self {
            db: RwLock::new(Some(db)),
            dir: dir.to_path_buf(),
            path,
            config: config.clone(),
            writer: Mutex::new(writer),
            failed: Mutex::new(None),
        };
        store.check_version()?;
        store.recover(entry)?;
        Ok(store)
    }

    /// Reads the layout's version, or writes it to a new database.
    fn check_version(&self) -> Result<(), Error> {
        let Some(row) = self.get(&VERSION_KEY)? else {
            if self.call(|db| Ok(!db.is_empty()))? {
                return Err(self.damage("rows without a version"));
            }
            return self.put_system(&VERSION_KEY, &VERSION.to_be_bytes());
        };
        match <[u8; 4]>::try_from(&row[..]).map(u32::from_be_bytes) {
            Ok(VERSION) => Ok(()),
            Ok(version) => Err(Error::Version { path: self.path.clone(), version }),
            Err(_) => Err(self.damage("version row of a wrong length")),
        }
    }

    /// Finishes the batch in the journal where a crash interrupted it, and finds out whether sled
    /// holds what was committed.
    fn recover(&self, entry: Option<Entry>) -> Result<(), Error> {
        let begun = self.sequence(&BEGUN_KEY)?;
        let done = self.sequence(&DONE_KEY)?;
        let mut writer = self.writer.lock();
        writer.sequence = done;
        match entry {
            Some(entry) if entry.sequence == done + 1 => {
                self.apply(entry.sequence, &entry.changes)?;
                self.sync(&mut writer, entry.sequence)
            }
            Some(entry) if entry.sequence > done => Err(self.damage("committed rows are missing")),
            None if begun > done => Err(self.damage("half a batch without its journal")),
            _ => Ok(()),
        }
    }

    /// Runs a call of sled; a panic inside is an error.
    fn call<T>(&self, call: impl FnOnce(&sled::Db) -> sled::Result<T>) -> Result<T, Error> {
        let db = self.db.read();
        let db = db.as_ref().ok_or(Error::Closed)?;
        guarded(|| call(db))
    }

    fn damage(&self, reason: &'static str) -> Error {
        Error::Damage { path: self.path.clone(), offset: 0, reason }
    }

    fn sequence(&self, key: &[u8]) -> Result<u64, Error> {
        let Some(row) = self.get(key)? else {
            return Ok(0);
        };
        let bytes = row[..].try_into().map_err(|_| self.damage("sequence of a wrong length"))?;
        Ok(u64::from_be_bytes(bytes))
    }

    fn put_system(&self, key: &[u8], value: &[u8]) -> Result<(), Error> {
        self.call(|db| db.insert(key, close_value(key, value)).map(|_| ()))
    }

    /// The value without its checksum, once that is verified.
    fn open_value(&self, key: &[u8], stored: &[u8]) -> Result<Bytes, Error> {
        match stored.split_last_chunk::<CRC_BYTES>() {
            Some((value, crc)) if row_crc(key, value) == u32::from_be_bytes(*crc) => {
                Ok(Bytes::copy_from_slice(value))
            }
            _ => {
                metrics::state_damaged();
                Err(self.damage("row checksum"))
            }
        }
    }

    fn write(&self, writer: &mut Writer, changes: &[Change]) -> Result<(), Error> {
        let sequence = writer.sequence + 1;
        writer.journal.write(sequence, changes)?;
        self.apply(sequence, changes)?;
        self.sync(writer, sequence)
    }

    /// Writes rows to sled, between the two that say how far it got. sled recovers a prefix of what
    /// it was given.
    fn apply(&self, sequence: u64, changes: &[Change]) -> Result<(), Error> {
        self.put_system(&BEGUN_KEY, &sequence.to_be_bytes())?;
        self.call(|db| {
            for (key, value) in changes {
                match value {
                    Some(value) => db.insert(&key[..], close_value(key, value))?,
                    None => db.remove(&key[..])?,
                };
            }
            Ok(())
        })?;
        self.put_system(&DONE_KEY, &sequence.to_be_bytes())
    }

    /// Closes and opens the database, which writes down where replay starts.
    fn reopen(&self) -> Result<(), Error> {
        let mut db = self.db.write();
        close_database(db.take());
        refuse_if_locked(&self.dir)?;
        *db = Some(open_database(&self.dir, &self.config)?);
        sync_all(&self.dir)
    }

    fn fail(&self, error: &Error) {
        tracing::error!(%error, "state database failed: fail-safe until the node restarts");
        metrics::state_failed();
        *self.failed.lock() = Some(error.clone());
    }

    fn sync(&self, writer: &mut Writer, sequence: u64) -> Result<(), Error> {
        self.call(|db| db.flush().map(|_| ()))?;
        let synced = writer.database.sync_data();
        synced.map_err(|error| io_error("fdatasync", &self.path, error))?;
        writer.sequence = sequence;
        Ok(())
    }
}

impl StateStore for SledStore {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, Error> {
        let stored = self.call(|db| db.get(key))?;
        stored.map(|stored| self.open_value(key, &stored)).transpose()
    }

    fn scan(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<(Bytes, Bytes)>, Error> {
        if from >= to {
            return Ok(Vec::new());
        }
        let rows: Vec<_> = self.call(|db| db.range(from..to).take(limit).collect())?;
        let open = |(key, stored): (sled::IVec, sled::IVec)| {
            let value = self.open_value(&key, &stored)?;
            Ok((Bytes::copy_from_slice(&key), value))
        };
        rows.into_iter().map(open).collect()
    }

    fn commit(&self, batch: Vec<(Bytes, Option<Bytes>)>) -> Result<(), Error> {
        check_batch(&batch)?;
        let changes = in_order(batch);
        let mut writer = self.writer.lock();
        if self.failed.lock().is_some() {
            return Err(Error::FailSafe);
        }
        self.write(&mut writer, &changes).inspect_err(|error| self.fail(error))?;
        writer.bytes += changes.iter().map(change_bytes).sum::<u64>();
        if self.config.reopen_after_bytes.is_some_and(|bytes_max| writer.bytes >= bytes_max) {
            writer.bytes = 0;
            // The batch is durable whatever becomes of this.
            self.reopen().unwrap_or_else(|error| self.fail(&error));
        }
        Ok(())
    }

    fn disk_bytes(&self) -> u64 {
        self.call(|db| db.size_on_disk()).unwrap_or(0)
    }

    fn health(&self) -> Health {
        match &*self.failed.lock() {
            Some(error) => Health::FailSafe(error.clone()),
            None => Health::Sound,
        }
    }
}

impl Drop for SledStore {
    fn drop(&mut self) {
        close_database(self.db.get_mut().take());
    }
}

fn open_database(dir: &Path, config: &SledConfig) -> Result<sled::Db, Error> {
    let config = sled::Config::new()
        .path(dir)
        .segment_size(SEGMENT_BYTES)
        .cache_capacity(config.cache_bytes)
        .use_compression(false)
        .flush_every_ms(None);
    guarded(|| config.open())
}

/// sled panics when its last sync fails while it is dropped; what counts is synced already.
fn close_database(db: Option<sled::Db>) {
    if catch_unwind(AssertUnwindSafe(|| drop(db))).is_err() {
        tracing::error!("state database panicked while it was closed");
    }
}

fn change_bytes((key, value): &Change) -> u64 {
    (key.len() + value.as_ref().map_or(0, Bytes::len)) as u64
}

/// The last change of each key, by key: neighbours share a page, which is read and written once.
fn in_order(mut batch: Vec<Change>) -> Vec<Change> {
    batch.sort_by(|(one, _), (other, _)| one.cmp(other));
    batch.reverse();
    batch.dedup_by(|(one, _), (other, _)| one == other);
    batch.reverse();
    batch
}

fn row_crc(key: &[u8], value: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(key), value)
}

/// The value as sled stores it.
fn close_value(key: &[u8], value: &[u8]) -> Vec<u8> {
    let mut stored = Vec::with_capacity(value.len() + CRC_BYTES);
    stored.extend_from_slice(value);
    stored.extend_from_slice(&row_crc(key, value).to_be_bytes());
    stored
}

#[cfg(test)]
#[path = "sled_store_test.rs"]
mod tests;

#[cfg(test)]
#[path = "power_test.rs"]
mod power_tests;
