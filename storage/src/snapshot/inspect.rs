//! Reading the snapshot files of a stopped node without changing a byte.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;

use super::{
    block::BlockReader,
    engine::{check_ends, parse_name},
    file::open,
    medium::ReadAt,
};
use crate::{Error, GroupId, Keyring, error::io_error};

/// A snapshot file as it was found.
#[derive(Debug)]
pub struct SnapshotFinding {
    /// The file.
    pub path: PathBuf,
    /// The group its name tells.
    pub group: GroupId,
    /// Its number: the highest of a group counts.
    pub id: u64,
    /// Its length.
    pub bytes: u64,
    /// The applied position it holds, or what is wrong with it.
    pub result: Result<Bytes, Error>,
}

/// Reads every byte of every snapshot file in `dir`; `keys` open what is sealed:
/// [`Keyring::inspect`]. `progress` hears of the bytes as they are read.
///
/// # Errors
/// [`Error::Io`] where the directory cannot be read.
pub fn inspect_snapshots(
    dir: &Path,
    keys: &Keyring,
    progress: &mut dyn FnMut(u64),
) -> Result<Vec<SnapshotFinding>, Error> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).map_err(|error| io_error("list", dir, error))? {
        let entry = entry.map_err(|error| io_error("list", dir, error))?;
        let name = entry.file_name();
        let Some((group, id)) = name.to_str().and_then(parse_name) else { continue };
        let path = entry.path();
        let file = open(&path).map_err(|error| io_error("open", &path, error))?;
        let bytes = file.bytes();
        let reader = BlockReader::open(Arc::new(file), path.clone(), keys);
        let result = reader.and_then(|reader| check_ends(&reader, group)).and_then(|rows| {
            let applied = rows.applied().clone();
            rows.verify().map(|()| applied)
        });
        progress(bytes);
        found.push(SnapshotFinding { path, group, id, bytes, result });
    }
    found.sort_by_key(|finding| (finding.group, finding.id));
    Ok(found)
}
