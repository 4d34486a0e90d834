//! Opening a sled database that may be unreadable, and what to do with it then.

use std::{
    fs::{self, File},
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::Duration,
};

use rustix::{
    fs::{FlockOperation, flock},
    io::Errno,
};

use crate::{Error, error::io_error};

/// The name of sled's one file of rows.
pub(super) const DATABASE_FILE: &str = "db";

/// How long a lock is waited for, and how often it is tried: a killed process is gone within
/// milliseconds, unless it has gigabytes to free.
const LOCK_RETRIES: u32 = 400;
const LOCK_RETRY: Duration = Duration::from_millis(5);

/// Unreadable databases kept for inspection. They are copies of what snapshot and log hold.
const ASIDE_MAX: u32 = 2;

/// Runs a sled call; a panic inside becomes an error.
pub(super) fn guarded<T>(call: impl FnOnce() -> sled::Result<T>) -> Result<T, Error> {
    let result = catch_unwind(AssertUnwindSafe(call));
    let panicked = |_| Err(sled::Error::ReportableBug("sled panicked".to_owned()));
    result.unwrap_or_else(panicked).map_err(|error| Error::State(Arc::new(error)))
}

/// Whether the database's content is at fault rather than what surrounds it.
pub(super) fn is_content(error: &Error) -> bool {
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

/// Refuses a database that somebody else has open: moving one aside that is merely in use would be
/// a disaster. The lock of a process just killed, or of a store just dropped whose last write
/// thread is about to end, is waited for.
pub(super) fn refuse_if_locked(dir: &Path) -> Result<(), Error> {
    let path = dir.join(DATABASE_FILE);
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(io_error("open", &path, error)),
    };
    let try_lock = || flock(&file, FlockOperation::NonBlockingLockExclusive);
    let mut lock = try_lock();
    for _ in 0..LOCK_RETRIES {
        if lock != Err(Errno::WOULDBLOCK) {
            break;
        }
        thread::park_timeout(LOCK_RETRY);
        lock = try_lock();
    }
    lock.map_err(|error| io_error("lock", &path, error.into()))
}

/// Moves `dir` to a sibling with `.damaged-1` after its name, or `.damaged-2`, which is
/// overwritten where both exist: the first is what began the trouble.
pub(super) fn move_aside(dir: &Path) -> Result<PathBuf, Error> {
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

/// Makes durable what sled did not sync: the names it created or renamed, its settings file, and
/// what a killed process left of the database in the page cache.
pub(super) fn sync_all(dir: &Path) -> Result<(), Error> {
    let parent = dir.parent().filter(|parent| !parent.as_os_str().is_empty());
    let files = [DATABASE_FILE, "conf", "blobs"].map(|name| dir.join(name));
    let dirs = [Some(dir.to_path_buf()), parent.map(Path::to_path_buf)];
    for path in files.into_iter().chain(dirs.into_iter().flatten()) {
        let file = File::open(&path).map_err(|error| io_error("open", &path, error))?;
        file.sync_all().map_err(|error| io_error("fsync", &path, error))?;
    }
    Ok(())
}
