//! The data directory of a node: one process at a time, one node for ever.

use std::{
    fs::{File, OpenOptions, TryLockError},
    io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::files::{self, Access};

/// The version of the directory's layout. A binary opens its own version alone.
const FORMAT: u32 = 1;
/// The lock: held as long as the process lives, whatever ends it.
pub(crate) const LOCK: &str = "lock";
/// The first life of a node's disk.
const FIRST_INCARNATION: u32 = 1;
/// Where the storage keys lie, unless elsewhere.
pub(crate) const KEYS: &str = "keys";
/// There while a restore fills the directory.
const RESTORING: &str = "restoring";
/// Whose directory it is.
const IDENTITY: &str = "identity.json";

/// Why a data directory cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum DataDirError {
    /// Another process has it.
    #[error(
        "the data directory {0} is in use by another process; stop that one first, or give this node a directory of its own (`node.data-dir`)"
    )]
    Locked(PathBuf),
    /// It cannot be read or written.
    #[error("cannot use the data directory {path}")]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The identity file is not one.
    #[error(
        "{path} is damaged; restore it from a backup, or let this node join anew with an empty directory"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
    /// It is no node's.
    #[error("{0} is not the data directory of a node")]
    Nobodys(PathBuf),
    /// A restore did not come to its end.
    #[error(
        "a restore into {0} was interrupted: empty the directory, and the storage keys' if they lie elsewhere, then restore again"
    )]
    HalfRestored(PathBuf),
    /// There is something to be lost.
    #[error("the data directory {0} holds a node's data already: restore into an empty one")]
    NotEmpty(PathBuf),
    /// The directory belongs to another node.
    #[error(
        "the data directory {path} belongs to {found}, but the configuration says {wanted}; check `node.id`, `cluster.id` and `node.data-dir`"
    )]
    Foreign {
        /// The directory.
        path: PathBuf,
        /// Whose it is.
        found: Owner,
        /// Who wants it.
        wanted: Owner,
    },
    /// The directory has another layout.
    #[error(
        "the data directory {path} has format {found}, this version of heliograph reads format {FORMAT}; use the version that wrote it"
    )]
    Format {
        /// The directory.
        path: PathBuf,
        /// Its format.
        found: u32,
    },
}

/// Whose directory it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Owner {
    /// The node.
    pub(crate) node: u16,
    /// Its cluster.
    pub(crate) cluster_id: [u8; 16],
}

impl std::fmt::Display for Owner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "node {} of cluster {}", self.node, hex::encode(self.cluster_id))
    }
}

/// The identity file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Identity {
    format: u32,
    cluster_id: String,
    node: u16,
    /// Counts the lives of this node's disk.
    incarnation: u32,
}

/// The format alone, to tell a newer layout from damage.
#[derive(Deserialize)]
struct FormatOnly {
    format: u32,
}

/// An opened data directory.
#[derive(Debug)]
pub(crate) struct DataDir {
    path: PathBuf,
    incarnation: u32,
    /// Dropping it lets the next process in.
    _lock: File,
}

impl DataDir {
    /// Locks `path` for `owner`; an empty directory becomes `owner`'s.
    ///
    /// # Errors
    /// When another process has it, it belongs to somebody else, or cannot be used.
    pub(crate) fn open(path: &Path, owner: Owner) -> Result<Self, DataDirError> {
        files::private_dir(path).map_err(io_at(path))?;
        let lock = lock(path)?;
        if path.join(RESTORING).exists() {
            return Err(DataDirError::HalfRestored(path.to_owned()));
        }
        let incarnation = match read_identity(path)? {
            Some(identity) => {
                check_owner(path, &identity, owner)?;
                identity.incarnation
            }
            None => write_identity(path, owner)?,
        };
        Ok(Self { path: path.to_owned(), incarnation, _lock: lock })
    }

    /// Whether the directory belongs to somebody.
    pub(crate) fn is_taken(path: &Path) -> bool {
        path.join(IDENTITY).exists()
    }

    /// Locks a directory that belongs to somebody, and answers to whom.
    ///
    /// # Errors
    /// When another process has it, it is nobody's, or cannot be used.
    pub(crate) fn open_known(path: &Path) -> Result<(Self, Owner), DataDirError> {
        let identity = read_identity(path)?;
        let identity = identity.ok_or_else(|| DataDirError::Nobodys(path.to_owned()))?;
        let lock = lock(path)?;
        let cluster_id = crate::config::parse_cluster_id(&identity.cluster_id).unwrap_or_default();
        let owner = Owner { node: identity.node, cluster_id };
        let incarnation = identity.incarnation;
        Ok((Self { path: path.to_owned(), incarnation, _lock: lock }, owner))
    }

    /// Notes that a restore fills the directory from now on: nobody opens it until it has ended.
    ///
    /// # Errors
    /// When there is data already, or the note cannot be written.
    pub(crate) fn begin_restore(&self) -> Result<(), DataDirError> {
        if [self.log(), self.state(), self.snapshots()].iter().any(|path| path.exists()) {
            return Err(DataDirError::NotEmpty(self.path.clone()));
        }
        let path = self.path.join(RESTORING);
        files::replace(&path, b"", Access::Public).map_err(io_at(&path))
    }

    /// Notes that the restore has come to its end.
    ///
    /// # Errors
    /// When the note cannot be removed: then it does not count as ended.
    pub(crate) fn end_restore(&self) -> Result<(), DataDirError> {
        let path = self.path.join(RESTORING);
        let removed = std::fs::remove_file(&path).and_then(|()| File::open(&self.path)?.sync_all());
        removed.map_err(io_at(&path))
    }

    /// Counts the lives of this node's disk: peers refuse an earlier one.
    pub(crate) fn incarnation(&self) -> u32 {
        self.incarnation
    }

    /// The segment log's directory.
    pub(crate) fn log(&self) -> PathBuf {
        self.path.join("log")
    }

    /// sled's directory.
    pub(crate) fn state(&self) -> PathBuf {
        self.path.join("state")
    }

    /// The storage keys' directory, unless they have one elsewhere.
    pub(crate) fn keys(&self) -> PathBuf {
        self.path.join(KEYS)
    }

    /// The snapshot files' directory.
    pub(crate) fn snapshots(&self) -> PathBuf {
        self.path.join("snapshots")
    }
}

fn io_at(path: &Path) -> impl FnOnce(io::Error) -> DataDirError {
    let path = path.to_owned();
    move |source| DataDirError::Io { path, source }
}

fn lock(dir: &Path) -> Result<File, DataDirError> {
    let path = dir.join(LOCK);
    let options = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
    let lock = options.map_err(io_at(&path))?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(DataDirError::Locked(dir.to_owned())),
        Err(TryLockError::Error(source)) => Err(io_at(&path)(source)),
    }
}

fn read_identity(dir: &Path) -> Result<Option<Identity>, DataDirError> {
    let path = dir.join(IDENTITY);
    let bytes = match std::fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io_at(&path)(error)),
    };
    let damaged = |source| DataDirError::Damaged { path: path.clone(), source };
    let FormatOnly { format } = serde_json::from_slice(&bytes).map_err(damaged)?;
    if format != FORMAT {
        return Err(DataDirError::Format { path: dir.to_owned(), found: format });
    }
    serde_json::from_slice(&bytes).map(Some).map_err(damaged)
}

/// Whether the identity file in `dir` can be read.
pub(crate) fn check_identity(dir: &Path) -> Result<(), DataDirError> {
    let path = dir.join(IDENTITY);
    match read_identity(dir)? {
        Some(_) => Ok(()),
        None => Err(io_at(&path)(io::ErrorKind::NotFound.into())),
    }
}

fn check_owner(dir: &Path, identity: &Identity, wanted: Owner) -> Result<(), DataDirError> {
    let cluster_id = crate::config::parse_cluster_id(&identity.cluster_id).unwrap_or_default();
    let found = Owner { node: identity.node, cluster_id };
    if found == wanted {
        return Ok(());
    }
    Err(DataDirError::Foreign { path: dir.to_owned(), found, wanted })
}

fn write_identity(dir: &Path, owner: Owner) -> Result<u32, DataDirError> {
    let path = dir.join(IDENTITY);
    let identity = Identity {
        format: FORMAT,
        cluster_id: hex::encode(owner.cluster_id),
        node: owner.node,
        incarnation: FIRST_INCARNATION,
    };
    let mut bytes = serde_json::to_vec_pretty(&identity)
        .map_err(|source| DataDirError::Damaged { path: path.clone(), source })?;
    bytes.push(b'\n');
    files::replace(&path, &bytes, Access::Public).map_err(io_at(&path))?;
    Ok(FIRST_INCARNATION)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWNER: Owner = Owner { node: 1, cluster_id: [7; 16] };

    #[test]
    fn a_directory_keeps_its_incarnation() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b");
        assert_eq!(DataDir::open(&path, OWNER).unwrap().incarnation(), 1);
        let identity = path.join(IDENTITY);
        let second_life =
            std::fs::read_to_string(&identity).unwrap().replace("n\": 1\n", "n\": 2\n");
        std::fs::write(&identity, second_life).unwrap();
        assert_eq!(DataDir::open(&path, OWNER).unwrap().incarnation(), 2);
    }

    #[test]
    fn a_second_opener_is_refused_until_the_first_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let first = DataDir::open(dir.path(), OWNER).unwrap();
        let error = DataDir::open(dir.path(), OWNER).unwrap_err();
        assert!(matches!(error, DataDirError::Locked(_)), "{error}");
        drop(first);
        DataDir::open(dir.path(), OWNER).unwrap();
    }

    #[test]
    fn another_node_or_cluster_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        drop(DataDir::open(dir.path(), OWNER).unwrap());
        for wanted in [Owner { node: 2, ..OWNER }, Owner { cluster_id: [8; 16], ..OWNER }] {
            let error = DataDir::open(dir.path(), wanted).unwrap_err();
            assert!(matches!(error, DataDirError::Foreign { .. }), "{error}");
            assert!(error.to_string().contains("node 1 of cluster 0707"), "{error}");
        }
    }

    #[test]
    fn a_half_restored_directory_is_refused_and_a_full_one_is_not_restored_into() {
        let dir = tempfile::tempdir().unwrap();
        let opened = DataDir::open(dir.path(), OWNER).unwrap();
        opened.begin_restore().unwrap();
        drop(opened);
        let error = DataDir::open(dir.path(), OWNER).unwrap_err();
        assert!(matches!(error, DataDirError::HalfRestored(_)), "{error}");
        std::fs::remove_file(dir.path().join(RESTORING)).unwrap();
        let opened = DataDir::open(dir.path(), OWNER).unwrap();
        opened.begin_restore().unwrap();
        opened.end_restore().unwrap();
        std::fs::create_dir(opened.log()).unwrap();
        let error = opened.begin_restore().unwrap_err();
        assert!(matches!(error, DataDirError::NotEmpty(_)), "{error}");
        drop(opened);
        DataDir::open(dir.path(), OWNER).unwrap();
    }

    #[test]
    fn damage_and_a_newer_format_are_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let identity = dir.path().join(IDENTITY);
        std::fs::write(&identity, "{\"format\":2,\"shape\":\"new\"}").unwrap();
        let error = DataDir::open(dir.path(), OWNER).unwrap_err();
        assert!(matches!(error, DataDirError::Format { found: 2, .. }), "{error}");
        for damage in ["", "{", "{\"format\":1}"] {
            std::fs::write(&identity, damage).unwrap();
            let error = DataDir::open(dir.path(), OWNER).unwrap_err();
            assert!(matches!(error, DataDirError::Damaged { .. }), "{error}");
        }
    }

    #[test]
    fn the_identity_file_has_the_documented_shape() {
        let dir = tempfile::tempdir().unwrap();
        drop(DataDir::open(dir.path(), OWNER).unwrap());
        assert_eq!(
            std::fs::read_to_string(dir.path().join(IDENTITY)).unwrap(),
            "{\n  \"format\": 1,\n  \"cluster-id\": \"07070707070707070707070707070707\",\n  \
             \"node\": 1,\n  \"incarnation\": 1\n}\n"
        );
    }
}
