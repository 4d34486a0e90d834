//! Why storage could not do what it was asked.

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

/// A storage error. Clonable, since one failed sync fails every write that waited for it.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A read, write or sync failed. A failed write or sync is final: the store is fail-safe from
    /// then on and answers every later write with [`Error::FailSafe`].
    #[error("{operation} of {path}: {source}")]
    Io {
        /// What was tried, e.g. `"fdatasync"`.
        operation: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The operating system's answer.
        source: Arc<io::Error>,
    },
    /// Bytes on disk are not what was written: the replica must not vote with them.
    #[error("damage in {path} at byte {offset}: {reason}")]
    Damage {
        /// The file.
        path: PathBuf,
        /// Where in the file.
        offset: u64,
        /// What was wrong.
        reason: &'static str,
    },
    /// An earlier write or sync failed; nothing is written until the node restarts on a sound disk.
    #[error(
        "storage is fail-safe after an earlier write error: restart the node once the disk is sound"
    )]
    FailSafe,
    /// The asked entries are purged.
    #[error("entries up to {purged} are purged")]
    Purged {
        /// The last purged index.
        purged: u64,
    },
    /// A value or batch exceeds what the store takes.
    #[error("{bytes} bytes exceed the limit of {bytes_max}")]
    TooLarge {
        /// The size offered.
        bytes: usize,
        /// The limit.
        bytes_max: usize,
    },
    /// The file's format version is not known to this build.
    #[error("{path} has format version {version}, which this build does not read")]
    Version {
        /// The file.
        path: PathBuf,
        /// The version found.
        version: u32,
    },
    /// The state database failed; it is rebuilt from snapshot and log at the next start.
    #[error("state database: {0}")]
    State(Arc<sled::Error>),
    /// The snapshot was replaced by a newer one: start again with that.
    #[error("the snapshot was replaced by a newer one")]
    SnapshotGone,
    /// A chunk or end that does not follow what arrived so far.
    #[error("byte {expected} is next, not {offered}")]
    OutOfOrder {
        /// Where the next chunk belongs.
        expected: u64,
        /// Where the offered one begins.
        offered: u64,
    },
    /// What is here is sealed, and the key directory was empty: rather a directory that is not
    /// mounted than damage.
    #[error(
        "{path} is sealed, but no storage key is there: bring the key directory back, or let this node join anew with an empty data directory"
    )]
    KeysMissing {
        /// What is sealed.
        path: PathBuf,
    },
    /// The store was closed.
    #[error("the store is closed")]
    Closed,
}

impl Error {
    /// Whether the disk is the cause: full, read-only or failing. Nothing is wrong with what is on
    /// it, as far as that tells.
    pub fn is_of_disk(&self) -> bool {
        match self {
            Self::Io { source, .. } => is_disk_trouble(source),
            Self::State(error) => {
                matches!(&**error, sled::Error::Io(error) if is_disk_trouble(error))
            }
            _ => false,
        }
    }
}

/// Whether an error tells that a disk is full, read-only or failing.
pub fn is_disk_trouble(error: &io::Error) -> bool {
    /// `EIO`: the same number on every Linux this runs on.
    const INPUT_OUTPUT: i32 = 5;
    use io::ErrorKind::{QuotaExceeded, ReadOnlyFilesystem, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded | ReadOnlyFilesystem)
        || error.raw_os_error() == Some(INPUT_OUTPUT)
}

/// An [`Error::Io`].
pub(crate) fn io_error(operation: &'static str, path: &Path, source: io::Error) -> Error {
    Error::Io { operation, path: path.to_path_buf(), source: Arc::new(source) }
}

/// Makes durable which names are in a directory.
pub(crate) fn sync_dir(dir: &Path) -> Result<(), Error> {
    let synced = File::open(dir).and_then(|dir| dir.sync_all());
    synced.map_err(|source| io_error("fsync", dir, source))
}
