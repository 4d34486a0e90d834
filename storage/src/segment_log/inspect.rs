//! Reading the log of a stopped node without changing a byte.

use std::{fs::File, io, path::Path, sync::Arc};

use super::{
    config::OpenExpectations,
    disk::{Disk, DiskFile, RealDisk},
    open::read_all,
    report::OpenReport,
};
use crate::{Error, Keyring};

/// What opening the log in `dir` would find. Nothing is written, and nothing is locked: the caller
/// makes sure that no node runs.
///
/// # Errors
/// [`Error::Io`] where the files cannot be read, [`Error::Version`] where another build wrote them.
pub fn inspect_log(
    dir: &Path,
    expectations: &OpenExpectations,
    keys: &Keyring,
) -> Result<OpenReport, Error> {
    read_all(&ReadOnly, dir, expectations, keys)
}

/// The file system, with every way to change it shut.
struct ReadOnly;

fn refused<T>() -> io::Result<T> {
    Err(io::ErrorKind::ReadOnlyFilesystem.into())
}

impl Disk for ReadOnly {
    fn create_dir(&self, _dir: &Path) -> io::Result<()> {
        refused()
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        RealDisk.list(dir)
    }

    fn create(&self, _path: &Path, _bytes: u64) -> io::Result<Arc<dyn DiskFile>> {
        refused()
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(File::open(path)?))
    }

    fn lock(&self, _path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        refused()
    }

    fn rename(&self, _from: &Path, _to: &Path) -> io::Result<()> {
        refused()
    }

    fn remove(&self, _path: &Path) -> io::Result<()> {
        refused()
    }

    fn sync_dir(&self, _dir: &Path) -> io::Result<()> {
        refused()
    }
}
