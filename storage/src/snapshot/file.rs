//! Snapshots as files in one directory: `GROUP-ID.snapshot`, and `NUMBER.part` while being written.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    num::NonZeroU64,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use parking_lot::Mutex;
use rustix::fs::{Advice, fadvise};

use super::{
    engine::Engine,
    medium::{Listed, Medium, Part, ReadAt},
    store::{SnapshotInfo, SnapshotReceiver, SnapshotStore},
};
use crate::{
    Error, Frozen, GroupId, GroupState, Health, Keyring, ScrubStep,
    background::give_way,
    error::{io_error, sync_dir},
};

/// Snapshot files in a directory.
pub struct FileSnapshots {
    engine: Arc<Engine>,
    /// The first write or sync that failed.
    failed: Mutex<Option<Error>>,
}

impl FileSnapshots {
    /// Opens a directory, creating it where there is none. What an earlier run left unfinished is
    /// removed; what is complete is made durable before it is relied on.
    pub fn open(dir: &Path) -> Result<Self, Error> {
        Self::open_sealed(dir, Keyring::unsealed())
    }

    /// Like [`FileSnapshots::open`]; what is written is sealed with `keys`.
    pub fn open_sealed(dir: &Path, keys: Keyring) -> Result<Self, Error> {
        fs::create_dir_all(dir).map_err(|error| io_error("create", dir, error))?;
        let medium = FileMedium { dir: dir.to_path_buf() };
        let engine = Engine::open(Box::new(medium), keys)?;
        Ok(Self { engine, failed: Mutex::new(None) })
    }

    /// Reads every row of a snapshot, in ascending order; all is verified on the way. Blocks.
    ///
    /// # Errors
    /// [`Error::Damage`] where it is not what was written; rows before that were given to `take`.
    pub fn each_row(
        &self,
        info: &SnapshotInfo,
        mut take: impl FnMut(&[u8], &[u8]),
    ) -> Result<(), Error> {
        self.engine.each_row(info, &mut take)
    }

    fn note(&self, error: &Error) {
        if matches!(error, Error::Io { .. }) {
            tracing::error!(%error, "a snapshot could not be written: this disk is not trusted");
            self.failed.lock().get_or_insert(error.clone());
        }
    }
}

impl SnapshotStore for FileSnapshots {
    fn current(&self, group: GroupId) -> Option<SnapshotInfo> {
        self.engine.current(group)
    }

    fn write(&self, state: &GroupState, frozen: Frozen) -> Result<SnapshotInfo, Error> {
        // It reads, opens and seals all of a group's rows: seconds of a processor that clients wait for.
        let written = give_way("snapshot", || self.engine.write(state, frozen));
        written.inspect_err(|error| self.note(error))
    }

    fn read_chunk(&self, info: &SnapshotInfo, offset: u64, len: usize) -> Result<Bytes, Error> {
        self.engine.read_chunk(info, offset, len)
    }

    fn receive(
        &self,
        group: GroupId,
        applied: Bytes,
        bytes: u64,
    ) -> Result<Box<dyn SnapshotReceiver>, Error> {
        self.engine.receive(group, applied, bytes).inspect_err(|error| self.note(error))
    }

    fn install(&self, state: &GroupState, info: &SnapshotInfo) -> Result<(), Error> {
        self.engine.install(state, info)
    }

    fn verify(&self, info: &SnapshotInfo) -> Result<(), Error> {
        self.engine.verify(info)
    }

    fn scrub(&self, info: &SnapshotInfo, offset: u64, len: usize) -> Result<ScrubStep, Error> {
        self.engine.scrub(info, offset, len)
    }

    fn remove(&self, group: GroupId) {
        self.engine.remove(group);
    }

    fn health(&self) -> Health {
        self.failed.lock().clone().map_or(Health::Sound, Health::FailSafe)
    }
}

struct FileMedium {
    dir: PathBuf,
}

impl Medium for FileMedium {
    fn list(&self) -> Result<Vec<Listed>, Error> {
        let listed = fs::read_dir(&self.dir).map_err(|error| io_error("list", &self.dir, error))?;
        let mut files = Vec::new();
        for entry in listed {
            let entry = entry.map_err(|error| io_error("list", &self.dir, error))?;
            let path = entry.path();
            let Ok(name) = entry.file_name().into_string() else {
                continue;
            };
            if name.ends_with(".part") {
                fs::remove_file(&path).map_err(|error| io_error("remove", &path, error))?;
            } else if name.ends_with(".snapshot") {
                let file = open(&path).map_err(|error| io_error("open", &path, error))?;
                file.sync().map_err(|error| io_error("fsync", &path, error))?;
                files.push(Listed { name, file: Arc::new(file) });
            }
        }
        sync_dir(&self.dir)?;
        Ok(files)
    }

    fn create(&self, number: u64) -> Result<Box<dyn Part>, Error> {
        let path = self.dir.join(format!("{number}.part"));
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(true).open(&path);
        let file = file.map_err(|error| io_error("create", &path, error))?;
        Ok(Box::new(FilePart { dir: self.dir.clone(), path, file, is_published: false }))
    }

    fn remove(&self, name: &str) {
        let path = self.dir.join(name);
        if let Err(error) = fs::remove_file(&path) {
            tracing::warn!(%error, ?path, "old snapshot stays until the next start");
        }
    }

    fn set_aside(&self, name: &str) {
        let path = self.dir.join(name);
        if let Err(error) = fs::rename(&path, path.with_extension("damaged")) {
            tracing::warn!(%error, ?path, "damaged snapshot stays under its name");
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }
}

struct FilePart {
    dir: PathBuf,
    path: PathBuf,
    file: File,
    is_published: bool,
}

impl Part for FilePart {
    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)
    }

    fn reader(&self) -> io::Result<Arc<dyn ReadAt>> {
        Ok(Arc::new(open(&self.path)?))
    }

    fn sync(&mut self) -> Result<(), Error> {
        self.file.sync_all().map_err(|error| io_error("fsync", &self.path, error))
    }

    fn publish(mut self: Box<Self>, name: &str) -> Result<(), Error> {
        let target = self.dir.join(name);
        fs::rename(&self.path, &target).map_err(|error| io_error("rename", &target, error))?;
        self.is_published = true;
        sync_dir(&self.dir)
    }
}

impl Drop for FilePart {
    fn drop(&mut self) {
        if self.is_published {
            return;
        }
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(%error, path = ?self.path, "unfinished snapshot stays until next start");
        }
    }
}

/// A file of a known length.
pub(super) struct OpenFile {
    file: File,
    bytes: u64,
}

impl OpenFile {
    fn sync(&self) -> io::Result<()> {
        self.file.sync_all()
    }
}

impl ReadAt for OpenFile {
    fn bytes(&self) -> u64 {
        self.bytes
    }

    fn read_exact_at(&self, out: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_exact_at(out, offset)
    }

    fn forget_cached(&self, offset: u64, bytes: u64) {
        // Advice: where it is not taken the read comes from memory.
        let _ = fadvise(&self.file, offset, NonZeroU64::new(bytes), Advice::DontNeed);
    }
}

pub(super) fn open(path: &Path) -> io::Result<OpenFile> {
    let file = File::open(path)?;
    let bytes = file.metadata()?.len();
    Ok(OpenFile { file, bytes })
}
