//! Rows in sled 0.34: the working set on disk.
//!
//! One tree; each commit is one batch, sled's `flush()`, and our own `sync_data()` of the database
//! file, since sled's flush only calls `sync_file_range`, which neither flushes the disk's cache
//! nor writes the file's length. sled reports some failures by panicking; a panic is caught and
//! treated as an error. Each value ends in a CRC-32C over key and value.

use std::{
    fs::{self, File},
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use parking_lot::Mutex;

use super::{
    sled_config::{SledConfig, StateOpen},
    store::{StateStore, check_batch},
    sync_file::SyncFile,
};
use crate::{Error, Health, metrics};

/// sled's segment: 16 of the largest rows make a node of 1.1 MiB, and sled writes what exceeds a
/// quarter of a segment to a file of its own, which it does not sync.
const SEGMENT_BYTES: usize = 8 * 1024 * 1024;

/// The name of sled's one file of rows.
const DATABASE_FILE: &str = "db";

/// Where the version of the key layout stands: the system generation without a group.
const VERSION_KEY: [u8; 4] = [0; 4];

/// The version of keys and values this build writes and reads.
const VERSION: u32 = 1;

const CRC_BYTES: usize = 4;

/// Unreadable databases kept for inspection. They are copies of what snapshot and log hold.
const ASIDE_MAX: u32 = 2;

/// Rows in sled.
pub struct SledStore {
    /// `None` only while dropping.
    db: Option<sled::Db>,
    file: Box<dyn SyncFile>,
    path: PathBuf,
    /// The first failure; held through each commit.
    failed: Mutex<Option<Error>>,
}

impl SledStore {
    /// Opens the database in `dir`, creating it where there is none. If sled cannot read it, the
    /// directory is moved aside and an empty one opened.
    ///
    /// Answers an error, and moves nothing, where the reason is not the database's content: it is
    /// open in another process, permissions, a full or failing disk, or a version of a later build.
    pub fn open(dir: &Path, config: SledConfig) -> Result<(Self, StateOpen), Error> {
        fs::create_dir_all(dir).map_err(|error| io_error("create", dir, error))?;
        refuse_if_locked(&dir.join(DATABASE_FILE))?;
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
        let sled_config = sled::Config::new()
            .path(dir)
            .segment_size(SEGMENT_BYTES)
            .cache_capacity(config.cache_bytes)
            .mode(sled::Mode::HighThroughput)
            .use_compression(false)
            .flush_every_ms(None);
        let db = guarded(|| sled_config.open())?;
        let path = dir.join(DATABASE_FILE);
        let file = File::open(&path).map_err(|error| io_error("open", &path, error))?;
        let store = Self { db: Some(db), file: Box::new(file), path, failed: Mutex::new(None) };
        store.check_version()?;
        sync_names(dir)?;
        Ok(store)
    }

    /// Reads the layout's version, or writes it to a new database.
    fn check_version(&self) -> Result<(), Error> {
        let row = self.get(&VERSION_KEY)?;
        let Some(row) = row else {
            if guarded(|| Ok(!self.db().is_empty()))? {
                return Err(self.damage("rows without a version"));
            }
            let version = Bytes::copy_from_slice(&VERSION.to_be_bytes());
            return self.commit(vec![(Bytes::from_static(&VERSION_KEY), Some(version))]);
        };
        let version = <[u8; 4]>::try_from(&row[..]).map(u32::from_be_bytes);
        match version {
            Ok(VERSION) => Ok(()),
            Ok(version) => Err(Error::Version { path: self.path.clone(), version }),
            Err(_) => Err(self.damage("version row of a wrong length")),
        }
    }

    fn db(&self) -> &sled::Db {
        self.db.as_ref().expect("the database is there until the store is dropped")
    }

    fn damage(&self, reason: &'static str) -> Error {
        Error::Damage { path: self.path.clone(), offset: 0, reason }
    }

    /// The value without its checksum, once that is verified.
    fn open_value(&self, key: &[u8], stored: &[u8]) -> Result<Bytes, Error> {
        let value = stored.split_last_chunk::<CRC_BYTES>();
        match value {
            Some((value, crc)) if row_crc(key, value) == u32::from_be_bytes(*crc) => {
                Ok(Bytes::copy_from_slice(value))
            }
            _ => {
                metrics::state_damaged();
                Err(self.damage("row checksum"))
            }
        }
    }

    fn write(&self, batch: &[(Bytes, Option<Bytes>)]) -> Result<(), Error> {
        let mut writes = sled::Batch::default();
        for (key, value) in batch {
            match value {
                Some(value) => {
                    let mut stored = Vec::with_capacity(value.len() + CRC_BYTES);
                    stored.extend_from_slice(value);
                    stored.extend_from_slice(&row_crc(key, value).to_be_bytes());
                    writes.insert(&key[..], stored);
                }
                None => writes.remove(&key[..]),
            }
        }
        guarded(|| {
            self.db().apply_batch(writes)?;
            self.db().flush().map(|_| ())
        })?;
        self.file.sync_data().map_err(|error| io_error("fdatasync", &self.path, error))
    }
}

impl StateStore for SledStore {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, Error> {
        let stored = guarded(|| self.db().get(key))?;
        stored.map(|stored| self.open_value(key, &stored)).transpose()
    }

    fn scan(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<(Bytes, Bytes)>, Error> {
        if from >= to {
            return Ok(Vec::new());
        }
        let rows: Vec<_> = guarded(|| self.db().range(from..to).take(limit).collect())?;
        let open = |(key, stored): (sled::IVec, sled::IVec)| {
            let value = self.open_value(&key, &stored)?;
            Ok((Bytes::copy_from_slice(&key), value))
        };
        rows.into_iter().map(open).collect()
    }

    fn commit(&self, batch: Vec<(Bytes, Option<Bytes>)>) -> Result<(), Error> {
        check_batch(&batch)?;
        let mut failed = self.failed.lock();
        if failed.is_some() {
            return Err(Error::FailSafe);
        }
        self.write(&batch).inspect_err(|error| {
            tracing::error!(%error, "state database failed: fail-safe until the node restarts");
            metrics::state_failed();
            *failed = Some(error.clone());
        })
    }

    fn disk_bytes(&self) -> u64 {
        guarded(|| self.db().size_on_disk()).unwrap_or(0)
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
        let db = self.db.take();
        // sled panics when its last sync fails while it is dropped; what counts is synced already.
        if catch_unwind(AssertUnwindSafe(|| drop(db))).is_err() {
            tracing::error!("state database panicked while it was closed");
        }
    }
}

fn row_crc(key: &[u8], value: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(key), value)
}

fn io_error(operation: &'static str, path: &Path, error: io::Error) -> Error {
    Error::Io { operation, path: path.to_path_buf(), source: Arc::new(error) }
}

/// Runs a sled call; a panic inside becomes an error.
fn guarded<T>(call: impl FnOnce() -> sled::Result<T>) -> Result<T, Error> {
    let result = catch_unwind(AssertUnwindSafe(call));
    let panicked = |_| Err(sled::Error::ReportableBug("sled panicked".to_owned()));
    result.unwrap_or_else(panicked).map_err(|error| Error::State(Arc::new(error)))
}

/// Whether the database's content is at fault rather than what surrounds it.
fn is_content(error: &Error) -> bool {
    match error {
        Error::State(error) => match &**error {
            sled::Error::Io(error) => !is_surroundings(error),
            _ => true,
        },
        Error::Damage { .. } => true,
        _ => false,
    }
}

/// Errors that an intact database answers too.
fn is_surroundings(error: &io::Error) -> bool {
    use rustix::io::Errno;
    const SURROUNDINGS: [Errno; 9] = [
        Errno::ACCESS,
        Errno::PERM,
        Errno::NOSPC,
        Errno::DQUOT,
        Errno::MFILE,
        Errno::NFILE,
        Errno::NOMEM,
        Errno::ROFS,
        Errno::IO,
    ];
    Errno::from_io_error(error).is_some_and(|errno| SURROUNDINGS.contains(&errno))
}

/// sled locks its file; moving a database aside that is merely in use would be a disaster.
fn refuse_if_locked(path: &Path) -> Result<(), Error> {
    use rustix::fs::{FlockOperation, flock};
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(io_error("open", path, error)),
    };
    let lock = flock(&file, FlockOperation::NonBlockingLockExclusive);
    lock.map_err(|error| io_error("lock", path, error.into()))
}

/// Moves `dir` to a sibling of its name with `.damaged-1`, or `-2`; the second is overwritten
/// where both exist.
fn move_aside(dir: &Path) -> Result<PathBuf, Error> {
    let aside = |number: u32| {
        let mut name = dir.file_name().unwrap_or_default().to_owned();
        name.push(format!(".damaged-{number}"));
        dir.with_file_name(name)
    };
    let free = (1..ASIDE_MAX).map(aside).find(|path| !path.exists());
    let target = free.unwrap_or_else(|| aside(ASIDE_MAX));
    if target.exists() {
        fs::remove_dir_all(&target).map_err(|error| io_error("remove", &target, error))?;
    }
    fs::rename(dir, &target).map_err(|error| io_error("rename", dir, error))?;
    fs::create_dir_all(dir).map_err(|error| io_error("create", dir, error))?;
    Ok(target)
}

/// Makes the names durable that sled created or renamed but did not sync, and its settings file.
fn sync_names(dir: &Path) -> Result<(), Error> {
    let parent = dir.parent().filter(|parent| !parent.as_os_str().is_empty());
    let paths = [Some(dir.join("conf")), Some(dir.join("blobs")), Some(dir.to_path_buf())];
    let parent = parent.map(Path::to_path_buf);
    for path in paths.into_iter().chain([parent]).flatten() {
        let file = File::open(&path).map_err(|error| io_error("open", &path, error))?;
        file.sync_all().map_err(|error| io_error("fsync", &path, error))?;
    }
    Ok(())
}
