//! Where key files are: a directory, or memory.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use parking_lot::Mutex;
use rustix::fs::{FlockOperation, flock};
use zeroize::Zeroizing;

use crate::{
    Error,
    error::{io_error, sync_dir},
};

const SUFFIX: &str = ".key";
/// A key that is not yet durable; no byte was sealed with it.
const NEW_SUFFIX: &str = ".key.new";
/// Held by the process that has the keys open: two nodes must not share a directory.
const LOCK_FILE: &str = "lock";
/// A key file is some tens of bytes: what a larger stray file holds is not read into memory.
const READ_BYTES_MAX: u64 = 4096;

/// A key file's name and bytes.
pub(super) type Listed = (u32, Zeroizing<Vec<u8>>);

/// Where key files are.
pub(super) trait KeyDisk: Send + Sync {
    /// The key files, by number. What never got its name is removed.
    fn list(&self) -> Result<Vec<Listed>, Error>;

    /// Makes a key file; durable when it returns.
    fn create(&self, number: u32, content: &[u8]) -> Result<(), Error>;

    /// Overwrites a key file with `noise`, removes it, and makes both durable. One that is not
    /// there is gone already.
    fn destroy(&self, number: u32, noise: &[u8]) -> Result<(), Error>;

    /// The path of a key file, for errors.
    fn path(&self, number: u32) -> PathBuf;
}

/// What is in a directory of a stopped node, in memory: nothing there is changed.
pub(super) fn copy(dir: &Path) -> Result<MemoryKeyDisk, Error> {
    let list_error = |source| io_error("list", dir, source);
    let disk = MemoryKeyDisk::new();
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(disk),
        entries => entries.map_err(list_error)?,
    };
    for entry in entries {
        let entry = entry.map_err(list_error)?;
        let Some(number) = entry.file_name().to_str().and_then(number) else { continue };
        let path = entry.path();
        let content = read(&path).map_err(|source| io_error("read", &path, source))?;
        disk.create(number, &content)?;
    }
    Ok(disk)
}

/// Key files in a directory that nobody but this user can read.
pub(super) struct KeyDir {
    dir: PathBuf,
    /// Keeps other processes out.
    _lock: File,
}

impl KeyDir {
    pub(super) fn open(dir: &Path) -> Result<KeyDir, Error> {
        let created = fs::DirBuilder::new().recursive(true).mode(0o700).create(dir);
        created.map_err(|source| io_error("create", dir, source))?;
        let path = dir.join(LOCK_FILE);
        let lock = OpenOptions::new().write(true).create(true).truncate(false).open(&path);
        let lock = lock.map_err(|source| io_error("open", &path, source))?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive)
            .map_err(|errno| io_error("lock", &path, errno.into()))?;
        // A directory just made is as durable as the keys in it must be.
        for above in dir.ancestors().skip(1).filter(|above| !above.as_os_str().is_empty()).take(2) {
            sync_dir(above)?;
        }
        Ok(KeyDir { dir: dir.to_path_buf(), _lock: lock })
    }
}

impl KeyDisk for KeyDir {
    fn list(&self) -> Result<Vec<Listed>, Error> {
        let list_error = |source| io_error("list", &self.dir, source);
        let mut keys = Vec::new();
        for entry in fs::read_dir(&self.dir).map_err(list_error)? {
            let entry = entry.map_err(list_error)?;
            let (path, name) = (entry.path(), entry.file_name());
            let Some(name) = name.to_str() else { continue };
            if name.ends_with(NEW_SUFFIX) {
                fs::remove_file(&path).map_err(|source| io_error("remove", &path, source))?;
                continue;
            }
            let Some(number) = number(name) else { continue };
            keys.push((number, read(&path).map_err(|source| io_error("read", &path, source))?));
        }
        // What a killed process renamed last is not durable yet.
        sync_dir(&self.dir)?;
        Ok(keys)
    }

    fn create(&self, number: u32, content: &[u8]) -> Result<(), Error> {
        let path = self.path(number);
        let new = path.with_extension("key.new");
        let mut options = OpenOptions::new();
        let file = options.write(true).create_new(true).mode(0o600).open(&new);
        let mut file = file.map_err(|source| io_error("create", &new, source))?;
        file.write_all(content).map_err(|source| io_error("write", &new, source))?;
        file.sync_all().map_err(|source| io_error("fsync", &new, source))?;
        fs::rename(&new, &path).map_err(|source| io_error("rename", &new, source))?;
        sync_dir(&self.dir)
    }

    fn destroy(&self, number: u32, noise: &[u8]) -> Result<(), Error> {
        let path = self.path(number);
        let file = match OpenOptions::new().write(true).open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return sync_dir(&self.dir),
            file => file.map_err(|source| io_error("open", &path, source))?,
        };
        file.write_all_at(noise, 0).map_err(|source| io_error("write", &path, source))?;
        file.sync_all().map_err(|source| io_error("fsync", &path, source))?;
        fs::remove_file(&path).map_err(|source| io_error("remove", &path, source))?;
        sync_dir(&self.dir)
    }

    fn path(&self, number: u32) -> PathBuf {
        self.dir.join(format!("{number:08x}{SUFFIX}"))
    }
}

fn number(name: &str) -> Option<u32> {
    let digits = name.strip_suffix(SUFFIX).filter(|digits| digits.len() == 8)?;
    u32::from_str_radix(digits, 16).ok()
}

fn read(path: &Path) -> io::Result<Zeroizing<Vec<u8>>> {
    use std::io::Read;
    let mut content = Zeroizing::new(Vec::with_capacity(READ_BYTES_MAX as usize));
    let file = File::open(path)?;
    file.sync_all()?;
    file.take(READ_BYTES_MAX).read_to_end(&mut content)?;
    Ok(content)
}

/// Key files in memory, for tests and simulations: survives a [`Keyring`](super::Keyring), can be
/// inspected, and opened again.
#[derive(Clone, Default)]
pub struct MemoryKeyDisk {
    inner: Arc<Mutex<MemoryKeys>>,
}

#[derive(Default)]
struct MemoryKeys {
    files: BTreeMap<u32, Vec<u8>>,
    /// Writes until the power goes, if it goes.
    power_left: Option<usize>,
}

impl MemoryKeyDisk {
    /// An empty disk.
    pub fn new() -> Self {
        Self::default()
    }

    /// The key files, by number.
    pub fn files(&self) -> BTreeMap<u32, Vec<u8>> {
        self.inner.lock().files.clone()
    }

    /// Deletes a key file, as damage does.
    pub fn remove(&self, number: u32) {
        self.inner.lock().files.remove(&number);
    }

    /// Deletes all files, as a replaced disk.
    pub fn wipe(&self) {
        self.inner.lock().files.clear();
    }

    /// Lets `writes` more writes happen; all after that answer [`Error::Closed`] and leave nothing,
    /// until [`MemoryKeyDisk::power_on`].
    pub fn power_off_after(&self, writes: usize) {
        self.inner.lock().power_left = Some(writes);
    }

    /// Takes the files away from a process that is dead: its later writes answer
    /// [`Error::Closed`] and change nothing.
    pub fn unplug(&self) -> MemoryKeyDisk {
        let mut dead = self.inner.lock();
        dead.power_left = Some(0);
        let alive = MemoryKeys { files: dead.files.clone(), power_left: None };
        MemoryKeyDisk { inner: Arc::new(Mutex::new(alive)) }
    }

    /// Takes writes again.
    pub fn power_on(&self) {
        self.inner.lock().power_left = None;
    }
}

impl std::fmt::Debug for MemoryKeyDisk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("MemoryKeyDisk")
    }
}

impl MemoryKeys {
    fn write(&mut self, write: impl FnOnce(&mut BTreeMap<u32, Vec<u8>>)) -> Result<(), Error> {
        if let Some(left) = &mut self.power_left {
            *left = left.checked_sub(1).ok_or(Error::Closed)?;
        }
        write(&mut self.files);
        Ok(())
    }
}

impl KeyDisk for MemoryKeyDisk {
    fn list(&self) -> Result<Vec<Listed>, Error> {
        let inner = self.inner.lock();
        let files = inner.files.iter();
        Ok(files.map(|(number, file)| (*number, Zeroizing::new(file.clone()))).collect())
    }

    fn create(&self, number: u32, content: &[u8]) -> Result<(), Error> {
        self.inner.lock().write(|files| {
            files.insert(number, content.to_vec());
        })
    }

    fn destroy(&self, number: u32, noise: &[u8]) -> Result<(), Error> {
        let mut inner = self.inner.lock();
        // Two steps, between which the power may go.
        inner.write(|files| {
            files.entry(number).and_modify(|file| file.clone_from(&noise.to_vec()));
        })?;
        inner.write(|files| {
            files.remove(&number);
        })
    }

    fn path(&self, number: u32) -> PathBuf {
        PathBuf::from(format!("{number:08x}{SUFFIX}"))
    }
}
