//! Rows in sled 0.34: the working set on disk.
//!
//! A commit goes to the checkpoint journal, then row by row in key order to sled, then
//! sled's `flush()`, and our own `sync_data()` of the database file: sled's flush only calls
//! `sync_file_range`, which neither flushes the disk's cache nor writes the file's length. sled
//! reports some failures by panicking; a panic is caught and treated as an error. Each value is
//! sealed and ends in a CRC-32C (see `row_seal`).
//!
//! sled passes over a message of its log that it cannot read, and what it then holds is older than
//! what was committed, page by page. So opening makes sure that nothing of that log is missing
//! (`sled_log`), or else reads every row and compares with the digests that the last commits left.

use std::{
    fs::{self, File},
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
    journal::{Change, Entry, Journal, in_order},
    keys::GroupRow,
    row_seal::{RowError, close_all, close_system, open_value},
    sled_config::{SledConfig, StateOpen},
    sled_database::{Database, close_database},
    sled_open::{DATABASE_FILE, guarded, is_content, move_aside, refuse_if_locked, sync_all},
    sled_record::RecordFile,
    sled_reseal::Pass,
    sled_trust::Found,
    store::{StateStore, check_batch},
    verify,
};
use crate::{
    Error, Health, Keyring,
    error::io_error,
    metrics,
    seal::{KeyUser, KeyView},
};

/// System rows of the store itself; those of groups are 8 bytes long.
const VERSION_KEY: [u8; 4] = [0; 4];
/// The sequence of the batch whose rows are being written: the first row of each commit.
const BEGUN_KEY: [u8; 5] = [0, 0, 0, 0, 1];
/// The sequence of the last batch whose rows are all there, and the digest of all groups' rows: the
/// last row of each commit.
const DONE_KEY: [u8; 5] = [0, 0, 0, 0, 2];

/// The version of keys and values that a store with keys writes: values may be sealed.
const VERSION: u32 = 6;
/// The version of a store where nothing is sealed.
const VERSION_UNSEALED: u32 = 5;
/// The versions, sealed and not, where large values stood among the others: they are read where they
/// are. Those below had no digests.
const VERSION_ONE_TREE: u32 = 4;
const VERSION_ONE_TREE_UNSEALED: u32 = 3;

const KEY_MISSING: &str = "the storage key of a row is missing";

/// Rows in sled.
pub struct SledStore {
    /// `None` once it could not be reopened.
    db: RwLock<Option<Database>>,
    pub(super) keys: Keyring,
    pub(super) dir: PathBuf,
    pub(super) path: PathBuf,
    pub(super) config: SledConfig,
    /// The database file, to look at.
    pub(super) file: File,
    pub(super) record: Mutex<RecordFile>,
    pub(super) writer: Mutex<Writer>,
    /// The first failure.
    failed: Mutex<Option<Error>>,
    /// Whether what was opened was found sound: from then on damage is a failure.
    is_serving: AtomicBool,
    has_read_rows: bool,
}

/// What one commit at a time uses.
pub(super) struct Writer {
    journal: Journal,
    /// The database file, for our own sync.
    pub(super) database: Box<dyn DiskFile>,
    /// The sequence of the last batch that is wholly in sled and synced.
    pub(super) sequence: u64,
    /// Of all groups' rows, as that batch left them.
    pub(super) groups: Digest,
    /// Where sled's log ends, as the last sync left it.
    pub(super) end: u64,
    /// Where a start would begin to read it.
    pub(super) replay: u64,
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
        let found = Found::before_open(dir)?;
        let mut store = Self::open_unverified(dir, config, keys)?;
        let sequence = store.writer.lock().sequence;
        let is_sound = match found {
            Some(found) => found.is_what_opened(dir, sequence)?,
            None => false,
        };
        if !is_sound {
            store.record.lock().forget()?;
        }
        store.has_read_rows = config.verify_rows || !is_sound;
        let groups = store.groups_digest();
        match store.has_read_rows {
            true => verify::all(&store, &groups)?,
            false => verify::check_group_rows(&store, &groups).map(drop)?,
        }
        tracing::info!(has_read_rows = store.has_read_rows, "state database opened");
        store.is_serving.store(true, Ordering::Relaxed);
        store.record_as_is(sequence)?;
        Ok(store)
    }

    /// Opens the database and finishes what a crash interrupted, but does not look at the rows.
    pub(super) fn open_unverified(
        dir: &Path,
        config: &SledConfig,
        keys: &Keyring,
    ) -> Result<Self, Error> {
        let db = Database::open(dir, config)?;
        let path = dir.join(DATABASE_FILE);
        let open = || File::open(&path).map_err(|error| io_error("open", &path, error));
        let (database, file) = (open()?, open()?);
        let (journal, entry) = Journal::open(dir)?;
        let record = RecordFile::open(dir)?;
        sync_all(dir)?;
        let writer = Writer {
            journal,
            database: Box::new(database),
            sequence: 0,
            groups: Digest::default(),
            end: 0,
            replay: 0,
            pass: Pass::default(),
        };
        let store = Self {
            db: RwLock::new(Some(db)),
            keys: keys.clone(),
            dir: dir.to_path_buf(),
            path,
            config: config.clone(),
            file,
            record: Mutex::new(record),
            writer: Mutex::new(writer),
            failed: Mutex::new(None),
            is_serving: AtomicBool::new(false),
            has_read_rows: false,
        };
        store.writer.lock().replay = store.replay_start()?;
        store.check_version()?;
        store.recover(entry)?;
        Ok(store)
    }

    /// Whether opening read all rows: it could not tell otherwise that they are those of the last
    /// commit.
    pub fn has_read_rows(&self) -> bool {
        self.has_read_rows
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
            Ok(VERSION | VERSION_ONE_TREE) if self.keys.is_new() => {
                Err(Error::KeysMissing { path: self.dir.clone() })
            }
            Ok(VERSION) => Ok(()),
            // What was sealed once stays readable to those with keys alone.
            Ok(VERSION_ONE_TREE) => self.put_system(&VERSION_KEY, &VERSION.to_be_bytes()),
            Ok(VERSION_UNSEALED) if !has_keys => Ok(()),
            Ok(VERSION_UNSEALED | VERSION_ONE_TREE_UNSEALED) => {
                self.put_system(&VERSION_KEY, &ours.to_be_bytes())
            }
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
                self.call(|db| entry.changes.iter().try_for_each(|(key, _)| db.forget(key)))?;
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
        call: impl FnOnce(&Database) -> sled::Result<T>,
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
        self.call(|db| db.insert(key, &close_system(key, value)))
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

    /// Closes and opens the database, which writes down where replay starts. `look` sees its file while
    /// nobody writes to it.
    pub(super) fn reopen(&self, look: impl FnOnce() -> Result<(), Error>) -> Result<(), Error> {
        let mut db = self.db.write();
        close_database(db.take());
        refuse_if_locked(&self.dir)?;
        look()?;
        *db = Some(Database::open(&self.dir, &self.config)?);
        sync_all(&self.dir)
    }

    pub(super) fn is_serving(&self) -> bool {
        self.is_serving.load(Ordering::Relaxed)
    }

    pub(super) fn has_failed(&self) -> bool {
        self.failed.lock().is_some()
    }

    pub(super) fn fail(&self, error: &Error) {
        tracing::error!(%error, "state database failed: fail-safe until the node restarts");
        metrics::state_failed();
        *self.failed.lock() = Some(error.clone());
        self.doubt();
    }

    fn sync(&self, writer: &mut Writer, sequence: u64) -> Result<(), Error> {
        self.sync_database(writer, sequence)?;
        writer.sequence = sequence;
        Ok(())
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
        let rows = self.call(|db| db.scan(from, to, limit));
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
        let keys = self.call(|db| db.keys(from, to, limit));
        let keys = keys.inspect_err(|error| self.give_up(error))?;
        Ok(keys.iter().map(|key| Bytes::copy_from_slice(key)).collect())
    }

    fn commit(&self, batch: Vec<(Bytes, Option<Bytes>)>) -> Result<(), Error> {
        check_batch(&batch)?;
        let changes = in_order(batch);
        let mut writer = self.writer.lock();
        if self.has_failed() {
            return Err(Error::FailSafe);
        }
        self.write(&mut writer, &changes).inspect_err(|error| self.fail(error))?;
        // The batch is durable whatever becomes of this.
        self.bound_replay(&mut writer).unwrap_or_else(|error| self.fail(&error));
        Ok(())
    }

    fn give_up(&self, error: &Error) {
        let is_ended = matches!(error, Error::Closed);
        if self.is_serving() && !is_ended && !self.has_failed() {
            self.fail(error);
        }
    }

    fn disk_bytes(&self) -> u64 {
        self.call(Database::disk_bytes).unwrap_or(0)
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
        if self.is_serving() && !self.has_failed() {
            let sequence = self.writer.get_mut().sequence;
            if let Err(error) = self.record_as_is(sequence) {
                tracing::warn!(%error, "the next start reads all rows");
            }
        }
    }
}

#[cfg(test)]
impl SledStore {
    /// Changes a row behind the digests' back, as a page of an earlier time does.
    pub(super) fn overwrite(&self, key: &[u8], value: Option<&[u8]>) {
        let changed = match value {
            Some(value) => self.put_system(key, value),
            None => self.call(|db| db.remove(key)),
        };
        changed.unwrap();
    }

    /// Changes a stored value, checksum and all.
    pub(super) fn overwrite_raw(&self, key: &[u8], stored: &[u8]) {
        self.call(|db| db.insert(key, stored)).unwrap();
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
