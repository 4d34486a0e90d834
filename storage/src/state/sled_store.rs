//! Rows in sled 0.34: the working set on disk.
//!
//! One tree. A commit goes to the checkpoint journal, then row by row in key order to sled, then
//! sled's `flush()`, and our own `sync_data()` of the database file: sled's flush only calls
//! `sync_file_range`, which neither flushes the disk's cache nor writes the file's length. sled
//! reports some failures by panicking; a panic is caught and treated as an error. Each value is
//! sealed and ends in a CRC-32C (see `row_seal`).
//!
//! sled passes over a message of its log that it cannot read, and what it then holds is older than
//! what was committed, page by page. So opening reads every row and compares with the digests that
//! the last commits left.

use std::{
    fs::{self, File},
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use bytes::{Buf, Bytes, BytesMut};
use parking_lot::{Mutex, RwLock};

use super::{
    digest::Digest,
    disk_file::DiskFile,
    journal::{Change, Entry, Journal},
    keys::GroupRow,
    row_seal::{RowError, close_all, close_system, open_value},
    sled_config::{SledConfig, StateOpen},
    sled_open::{DATABASE_FILE, guarded, is_content, move_aside, refuse_if_locked, sync_all},
    sled_reseal::Pass,
    store::{StateStore, check_batch},
    verify,
};
use crate::{
    Error, Health, Keyring,
    error::io_error,
    metrics,
    seal::{KeyUser, KeyView},
};

/// sled's segment: 16 of the largest rows make a node of 1.1 MiB, and sled writes what exceeds a
/// quarter of a segment to a file of its own, which it does not sync.
const SEGMENT_BYTES: usize = 8 * 1024 * 1024;

/// System rows of the store itself; those of groups are 8 bytes long.
const VERSION_KEY: [u8; 4] = [0; 4];
/// The sequence of the batch whose rows are being written: the first row of each commit.
const BEGUN_KEY: [u8; 5] = [0, 0, 0, 0, 1];
/// The sequence of the last batch whose rows are all there, and the digest of all groups' rows: the
/// last row of each commit.
const DONE_KEY: [u8; 5] = [0, 0, 0, 0, 2];

/// The version of keys and values that a store with keys writes: values may be sealed.
const VERSION: u32 = 4;
/// The version of a store where nothing is sealed. Those below had no digests.
const VERSION_UNSEALED: u32 = 3;

const KEY_MISSING: &str = "the storage key of a row is missing";

/// Rows in sled.
pub struct SledStore {
    /// `None` once it could not be reopened.
    db: RwLock<Option<sled::Db>>,
    pub(super) keys: Keyring,
    dir: PathBuf,
    path: PathBuf,
    config: SledConfig,
    pub(super) writer: Mutex<Writer>,
    /// The first failure.
    failed: Mutex<Option<Error>>,
    /// Whether what was opened was found sound: from then on damage is a failure.
    is_serving: AtomicBool,
}

/// What one commit at a time uses.
pub(super) struct Writer {
    journal: Journal,
    /// The database file, for our own sync.
    database: Box<dyn DiskFile>,
    /// The sequence of the last batch that is wholly in sled and synced.
    sequence: u64,
    /// Of all groups' rows, as that batch left them.
    groups: Digest,
    /// What was committed since the database was opened.
    bytes: u64,
    /// How far rows under earlier keys are moved.
    pub(super) pass: Pass,
}

impl SledStore {
    /// Opens the database in `dir`, creating it where there is none. If sled cannot read it, or
    /// what it reads is not what was committed, the directory is moved aside and an empty one
    /// opened.
    ///
    /// Answers an error, and moves nothing, where the reason is not the database's content: it is
    /// open in another process, permissions, a full or failing disk, or a version of a later build.
    pub fn open(dir: &Path, config: SledConfig) -> Result<(Self, StateOpen), Error> {
        Self::open_with(dir, config, &Keyring::unsealed())
    }

    /// Like [`SledStore::open`]; what is written is sealed with `keys`.
    pub fn open_sealed(
        dir: &Path,
        config: SledConfig,
        keys: &Keyring,
    ) -> Result<(Arc<Self>, StateOpen), Error> {
        let (store, opened) = Self::open_with(dir, config, keys)?;
        let store = Arc::new(store);
        let user: Arc<dyn KeyUser> = store.clone();
        keys.register(Arc::downgrade(&user));
        Ok((store, opened))
    }

    fn open_with(
        dir: &Path,
        config: SledConfig,
        keys: &Keyring,
    ) -> Result<(Self, StateOpen), Error> {
        fs::create_dir_all(dir).map_err(|error| io_error("create", dir, error))?;
        refuse_if_locked(dir)?;
        match Self::try_open(dir, &config, keys) {
            Ok(store) => Ok((store, StateOpen::Opened)),
            Err(error) if is_content(&error) => {
                let moved_to = move_aside(dir)?;
                metrics::state_rebuilt();
                tracing::error!(
                    %error, ?moved_to,
                    "state database is unreadable: rebuilding it from snapshot and log"
                );
                Ok((Self::try_open(dir, &config, keys)?, StateOpen::Rebuilt { moved_to }))
            }
            Err(error) => Err(error),
        }
    }

    fn try_open(dir: &Path, config: &SledConfig, keys: &Keyring) -> Result<Self, Error> {
        let store = Self::open_unverified(dir, config, keys)?;
        verify::all(&store, &store.groups_digest())?;
        store.is_serving.store(true, Ordering::Relaxed);
        Ok(store)
    }

    /// Opens the database and finishes what a crash interrupted, but does not look at the rows.
    pub(super) fn open_unverified(
        dir: &Path,
        config: &SledConfig,
        keys: &Keyring,
    ) -> Result<Self, Error> {
        let db = open_database(dir, config)?;
        let path = dir.join(DATABASE_FILE);
        let database = File::open(&path).map_err(|error| io_error("open", &path, error))?;
        let (journal, entry) = Journal::open(dir)?;
        sync_all(dir)?;
        let writer = Writer {
            journal,
            database: Box::new(database),
            sequence: 0,
            groups: Digest::default(),
            bytes: 0,
            pass: Pass::default(),
        };
        let store = Self {
            db: RwLock::new(Some(db)),
            keys: keys.clone(),
            dir: dir.to_path_buf(),
            path,
            config: config.clone(),
            writer: Mutex::new(writer),
            failed: Mutex::new(None),
            is_serving: AtomicBool::new(false),
        };
        store.check_version()?;
        store.recover(entry)?;
        Ok(store)
    }

    /// Of all groups' rows, as the last commit left them.
    pub(super) fn groups_digest(&self) -> Digest {
        self.writer.lock().groups
    }

    /// Reads the layout's version, or writes it to a new database.
    fn check_version(&self) -> Result<(), Error> {
        let has_keys = self.keys.status().is_some();
        let ours = if has_keys { VERSION } else { VERSION_UNSEALED };
        let Some(row) = self.get(&VERSION_KEY)? else {
            if self.call(|db| Ok(!db.is_empty()))? {
                return Err(self.damage("rows without a version"));
            }
            return self.put_system(&VERSION_KEY, &ours.to_be_bytes());
        };
        match <[u8; 4]>::try_from(&row[..]).map(u32::from_be_bytes) {
            Ok(VERSION) if self.keys.is_new() => Err(Error::KeysMissing { path: self.dir.clone() }),
            Ok(VERSION) => Ok(()),
            Ok(VERSION_UNSEALED) if has_keys => {
                self.put_system(&VERSION_KEY, &VERSION.to_be_bytes())
            }
            Ok(VERSION_UNSEALED) => Ok(()),
            // All of it can be rebuilt, so no older layout is ever read.
            Ok(version) if version < VERSION => Err(self.damage("layout of an earlier version")),
            Ok(version) => Err(Error::Version { path: self.path.clone(), version }),
            Err(_) => Err(self.damage("version row of a wrong length")),
        }
    }

    /// Finishes the batch in the journal where a crash interrupted it, and finds out whether sled
    /// holds what was committed.
    fn recover(&self, entry: Option<Entry>) -> Result<(), Error> {
        let begun = self.begun()?;
        let (done, groups) = self.done()?;
        let mut writer = self.writer.lock();
        (writer.sequence, writer.groups) = (done, groups);
        match entry {
            Some(entry) if entry.sequence == done + 1 => {
                self.apply(entry.sequence, &entry.groups, &entry.changes)?;
                writer.groups = entry.groups;
                self.sync(&mut writer, entry.sequence)
            }
            Some(entry) if entry.sequence > done => Err(self.damage("committed rows are missing")),
            _ if begun != done => Err(self.damage("half a batch without its journal")),
            _ => Ok(()),
        }
    }

    /// Runs a call of sled; a panic inside is an error.
    pub(super) fn call<T>(
        &self,
        call: impl FnOnce(&sled::Db) -> sled::Result<T>,
    ) -> Result<T, Error> {
        let db = self.db.read();
        let db = db.as_ref().ok_or(Error::Closed)?;
        guarded(|| call(db))
    }

    fn damage(&self, reason: &'static str) -> Error {
        Error::Damage { path: self.path.clone(), offset: 0, reason }
    }

    fn begun(&self) -> Result<u64, Error> {
        let Some(row) = self.get(&BEGUN_KEY)? else { return Ok(0) };
        let bytes = row[..].try_into().map_err(|_| self.damage("sequence of a wrong length"))?;
        Ok(u64::from_be_bytes(bytes))
    }

    fn done(&self) -> Result<(u64, Digest), Error> {
        let Some(mut row) = self.get(&DONE_KEY)? else { return Ok((0, Digest::default())) };
        if row.len() != 8 + Digest::BYTES {
            return Err(self.damage("sequence of a wrong length"));
        }
        let sequence = row.get_u64();
        let mut groups = [0; Digest::BYTES];
        row.copy_to_slice(&mut groups);
        Ok((sequence, Digest::decode(&groups)))
    }

    fn put_system(&self, key: &[u8], value: &[u8]) -> Result<(), Error> {
        self.call(|db| db.insert(key, close_system(key, value)).map(|_| ()))
    }

    /// The value that was stored, once its checksum is verified. `keys` are those there were
    /// before it was read.
    pub(super) fn open_value(
        &self,
        key: &[u8],
        stored: &[u8],
        keys: &KeyView,
    ) -> Result<Bytes, Error> {
        let opened = match open_value(key, stored, keys) {
            // Sealed with a key that was drawn between the two.
            Err(RowError::KeyMissing) => open_value(key, stored, &self.keys.view()),
            opened => opened,
        };
        opened.map_err(|error| {
            metrics::state_damaged();
            match error {
                RowError::Damaged => self.damage("row checksum"),
                RowError::KeyMissing => self.damage(KEY_MISSING),
            }
        })
    }

    fn write(&self, writer: &mut Writer, changes: &[Change]) -> Result<(), Error> {
        let sequence = writer.sequence + 1;
        // Held until sled has the rows, and synced.
        let sealer = self.keys.sealer();
        let stored = close_all(changes, &sealer);
        let mut groups = writer.groups;
        for (key, row) in changes.iter().filter(|(key, _)| GroupRow::group(key).is_some()) {
            groups.change(key, self.get(key)?.as_ref(), row.as_ref());
        }
        writer.journal.write(sequence, &groups, &stored)?;
        self.apply(sequence, &groups, &stored)?;
        writer.groups = groups;
        self.sync(writer, sequence)
    }

    /// Writes stored values to sled, between the two that say how far it got. sled recovers a prefix
    /// of what it was given.
    fn apply(&self, sequence: u64, groups: &Digest, changes: &[Change]) -> Result<(), Error> {
        self.put_system(&BEGUN_KEY, &sequence.to_be_bytes())?;
        self.call(|db| {
            for (key, value) in changes {
                match value {
                    Some(stored) => db.insert(&key[..], &stored[..])?,
                    None => db.remove(&key[..])?,
                };
            }
            Ok(())
        })?;
        let mut done = BytesMut::from(&sequence.to_be_bytes()[..]);
        groups.encode(&mut done);
        self.put_system(&DONE_KEY, &done)
    }

    /// Closes and opens the database, which writes down where replay starts.
    fn reopen(&self) -> Result<(), Error> {
        let mut db = self.db.write();
        close_database(db.take());
        refuse_if_locked(&self.dir)?;
        *db = Some(open_database(&self.dir, &self.config)?);
        sync_all(&self.dir)
    }

    pub(super) fn has_failed(&self) -> bool {
        self.failed.lock().is_some()
    }

    pub(super) fn fail(&self, error: &Error) {
        tracing::error!(%error, "state database failed: fail-safe until the node restarts");
        metrics::state_failed();
        *self.failed.lock() = Some(error.clone());
    }

    fn sync(&self, writer: &mut Writer, sequence: u64) -> Result<(), Error> {
        self.sync_database(writer)?;
        writer.sequence = sequence;
        Ok(())
    }

    pub(super) fn sync_database(&self, writer: &Writer) -> Result<(), Error> {
        self.call(|db| db.flush().map(|_| ()))?;
        let synced = writer.database.sync_data();
        synced.map_err(|error| io_error("fdatasync", &self.path, error))
    }
}

impl StateStore for SledStore {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, Error> {
        let keys = self.keys.view();
        let stored = self.call(|db| db.get(key));
        let open = |stored: sled::IVec| self.open_value(key, &stored, &keys);
        let value = stored.and_then(|stored| stored.map(open).transpose());
        value.inspect_err(|error| self.give_up(error))
    }

    fn scan(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<(Bytes, Bytes)>, Error> {
        if from >= to {
            return Ok(Vec::new());
        }
        let keys = self.keys.view();
        let rows: Result<Vec<_>, _> = self.call(|db| db.range(from..to).take(limit).collect());
        let open = |(key, stored): (sled::IVec, sled::IVec)| {
            let value = self.open_value(&key, &stored, &keys)?;
            Ok((Bytes::copy_from_slice(&key), value))
        };
        let rows = rows.and_then(|rows| rows.into_iter().map(open).collect());
        rows.inspect_err(|error| self.give_up(error))
    }

    fn keys(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<Bytes>, Error> {
        if from >= to {
            return Ok(Vec::new());
        }
        let keys = self.call(|db| db.range(from..to).keys().take(limit).collect());
        let keys: Vec<_> = keys.inspect_err(|error| self.give_up(error))?;
        Ok(keys.iter().map(|key: &sled::IVec| Bytes::copy_from_slice(key)).collect())
    }

    fn commit(&self, batch: Vec<(Bytes, Option<Bytes>)>) -> Result<(), Error> {
        check_batch(&batch)?;
        let changes = in_order(batch);
        let mut writer = self.writer.lock();
        if self.has_failed() {
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

    fn give_up(&self, error: &Error) {
        let is_ended = matches!(error, Error::Closed);
        if self.is_serving.load(Ordering::Relaxed) && !is_ended && !self.has_failed() {
            self.fail(error);
        }
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

#[cfg(test)]
impl SledStore {
    /// Changes a row behind the digests' back, as a page of an earlier time does.
    pub(super) fn overwrite(&self, key: &[u8], value: Option<&[u8]>) {
        let changed = match value {
            Some(value) => self.put_system(key, value),
            None => self.call(|db| db.remove(key).map(|_| ())),
        };
        changed.unwrap();
    }

    /// Changes a stored value, checksum and all.
    pub(super) fn overwrite_raw(&self, key: &[u8], stored: &[u8]) {
        self.call(|db| db.insert(key, stored).map(|_| ())).unwrap();
    }
}

#[cfg(test)]
#[path = "sled_store_test.rs"]
mod tests;

#[cfg(test)]
#[path = "reseal_test.rs"]
mod reseal_tests;

#[cfg(test)]
#[path = "power_test.rs"]
mod power_tests;
