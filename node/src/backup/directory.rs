//! A backup on disk: `manifest.json`, written last; `groups/`, a snapshot file of each group; the keys
//! these are sealed with, in `keys/` or elsewhere.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use heliograph_cluster::backup::{BACKUP_FORMAT, Manifest};
use heliograph_storage::{FileSnapshots, Keyring};
use serde::Deserialize;

use crate::{
    exit::{Failure, OrExit as _, Reason},
    files::{self, Access},
};

const MANIFEST: &str = "manifest.json";
const GROUPS: &str = "groups";
const KEYS: &str = "keys";

/// Why a directory cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
enum DirectoryError {
    /// There is something in it.
    #[error("{0} is not empty: name a directory that is empty or not there")]
    NotEmpty(PathBuf),
    /// It has no manifest.
    #[error("{0} is no whole backup: it has no manifest.json, which is written last")]
    NotWhole(PathBuf),
    /// Its manifest is of another release's making.
    #[error(
        "the backup {path} has format {found}, this release reads format {BACKUP_FORMAT}: use the release that wrote it, or a newer one"
    )]
    Format {
        /// Where.
        path: PathBuf,
        /// Its format.
        found: u32,
    },
}

/// The format alone, to tell a newer one from damage.
#[derive(Deserialize)]
struct FormatOnly {
    format: u32,
}

/// A backup that is being written.
pub(super) struct NewBackup {
    dir: PathBuf,
    /// Its groups.
    pub(super) groups: FileSnapshots,
}

impl NewBackup {
    /// Makes the directories, which only their owner may enter, and draws a key.
    pub(super) fn create(dir: &Path, keys: Option<&Path>) -> Result<Self, Failure> {
        let made = |path: &Path| {
            empty_dir(path)
                .with_context(|| format!("cannot use {}", path.display()))
                .or_exit(Reason::Configuration)
        };
        made(dir)?;
        let keys = keys.map_or_else(|| dir.join(KEYS), Path::to_owned);
        made(&keys)?;
        let keyring = crate::serve::keyring(&keys)?;
        let groups = groups(dir, keyring)?;
        Ok(Self { dir: dir.to_owned(), groups })
    }

    /// Makes it whole.
    pub(super) fn finish(&self, manifest: &Manifest) -> Result<(), Failure> {
        let mut bytes = serde_json::to_vec_pretty(manifest).context("cannot write JSON")?;
        bytes.push(b'\n');
        let path = self.dir.join(MANIFEST);
        files::replace(&path, &bytes, Access::Private)
            .with_context(|| format!("cannot write {}", path.display()))
            .or_exit(Reason::DataDirectory)
    }
}

/// Opens a backup, to read.
pub(super) fn open(dir: &Path, keys: Option<&Path>) -> Result<(Manifest, FileSnapshots), Failure> {
    let manifest = read_manifest(dir)?;
    let keys = keys.map_or_else(|| dir.join(KEYS), Path::to_owned);
    let keyring = crate::serve::keyring_read_only(&keys)?;
    Ok((manifest, groups(dir, keyring)?))
}

fn groups(dir: &Path, keyring: Keyring) -> Result<FileSnapshots, Failure> {
    FileSnapshots::open_sealed(&dir.join(GROUPS), keyring)
        .context("cannot open the backup's groups")
        .or_exit(Reason::DataDirectory)
}

fn read_manifest(dir: &Path) -> Result<Manifest, Failure> {
    let path = dir.join(MANIFEST);
    let bytes = match fs::read(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let error = DirectoryError::NotWhole(dir.to_owned());
            return Err(Failure::new(Reason::Configuration, error));
        }
        read => read
            .with_context(|| format!("cannot read {}", path.display()))
            .or_exit(Reason::Configuration)?,
    };
    let damaged = || format!("{} is damaged", path.display());
    let FormatOnly { format: found } =
        serde_json::from_slice(&bytes).with_context(damaged).or_exit(Reason::Configuration)?;
    if found != BACKUP_FORMAT {
        let error = DirectoryError::Format { path: dir.to_owned(), found };
        return Err(Failure::new(Reason::Configuration, error));
    }
    serde_json::from_slice(&bytes).with_context(damaged).or_exit(Reason::Configuration)
}

fn empty_dir(path: &Path) -> anyhow::Result<()> {
    files::private_dir(path)?;
    match fs::read_dir(path)?.next() {
        None => Ok(()),
        Some(_) => Err(DirectoryError::NotEmpty(path.to_owned()).into()),
    }
}
