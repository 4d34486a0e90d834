//! Snapshots in memory, for tests and simulations: what a crash keeps lives in a
//! [`MemorySnapshotDisk`].

use std::{
    collections::BTreeMap,
    io,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use bytes::Bytes;
use parking_lot::Mutex;

use super::{
    engine::Engine,
    medium::{Listed, Medium, Part, ReadAt},
    store::{SnapshotInfo, SnapshotReceiver, SnapshotStore},
};
use crate::{Error, Frozen, GroupId, GroupState, Keyring, ScrubStep};

/// The disk of a [`MemorySnapshots`]: survives it, can be inspected, damaged and opened again.
#[derive(Clone, Debug, Default)]
pub struct MemorySnapshotDisk {
    files: Arc<Mutex<BTreeMap<String, Bytes>>>,
}

impl MemorySnapshotDisk {
    /// An empty disk.
    pub fn new() -> Self {
        Self::default()
    }

    /// The files on it, by name.
    pub fn files(&self) -> BTreeMap<String, Bytes> {
        self.files.lock().clone()
    }

    /// Replaces the content of a file, as damage does.
    pub fn overwrite(&self, name: &str, content: Bytes) {
        self.files.lock().insert(name.to_owned(), content);
    }

    /// Deletes all files, as a replaced disk.
    pub fn wipe(&self) {
        self.files.lock().clear();
    }
}

/// Snapshots in memory: the twin of `FileSnapshots`.
pub struct MemorySnapshots {
    engine: Arc<Engine>,
    is_crashed: Arc<AtomicBool>,
}

impl MemorySnapshots {
    /// The snapshots on `disk`.
    pub fn open(disk: &MemorySnapshotDisk) -> Result<Self, Error> {
        Self::open_sealed(disk, Keyring::unsealed())
    }

    /// Like [`MemorySnapshots::open`]; what is written is sealed with `keys`.
    pub fn open_sealed(disk: &MemorySnapshotDisk, keys: Keyring) -> Result<Self, Error> {
        let is_crashed = Arc::new(AtomicBool::new(false));
        let medium = MemoryMedium { disk: disk.clone(), is_crashed: is_crashed.clone() };
        Ok(Self { engine: Engine::open(Box::new(medium), keys)?, is_crashed })
    }

    /// Crashes: later writes answer [`Error::Closed`], the disk keeps the complete files.
    pub fn crash(&self) {
        self.is_crashed.store(true, Ordering::SeqCst);
    }
}

impl SnapshotStore for MemorySnapshots {
    fn current(&self, group: GroupId) -> Option<SnapshotInfo> {
        self.engine.current(group)
    }

    fn write(&self, state: &GroupState, frozen: Frozen) -> Result<SnapshotInfo, Error> {
        self.engine.write(state, frozen)
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
        self.engine.receive(group, applied, bytes)
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
}

struct MemoryMedium {
    disk: MemorySnapshotDisk,
    is_crashed: Arc<AtomicBool>,
}

impl Medium for MemoryMedium {
    fn list(&self) -> Result<Vec<Listed>, Error> {
        let files = self.disk.files.lock();
        let listed = |(name, content): (&String, &Bytes)| Listed {
            name: name.clone(),
            file: Arc::new(content.clone()),
        };
        Ok(files.iter().map(listed).collect())
    }

    fn create(&self, _number: u64) -> Result<Box<dyn Part>, Error> {
        let content = Vec::new();
        let disk = self.disk.clone();
        Ok(Box::new(MemoryPart { disk, is_crashed: self.is_crashed.clone(), content }))
    }

    fn remove(&self, name: &str) {
        self.disk.files.lock().remove(name);
    }

    fn set_aside(&self, name: &str) {
        let mut files = self.disk.files.lock();
        if let Some(content) = files.remove(name) {
            files.insert(name.replace(".snapshot", ".damaged"), content);
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        PathBuf::from(name)
    }
}

struct MemoryPart {
    disk: MemorySnapshotDisk,
    is_crashed: Arc<AtomicBool>,
    content: Vec<u8>,
}

impl Part for MemoryPart {
    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.content.extend_from_slice(bytes);
        Ok(())
    }

    fn reader(&self) -> io::Result<Arc<dyn ReadAt>> {
        Ok(Arc::new(Bytes::copy_from_slice(&self.content)))
    }

    fn sync(&mut self) -> Result<(), Error> {
        Ok(())
    }

    fn publish(self: Box<Self>, name: &str) -> Result<(), Error> {
        if self.is_crashed.load(Ordering::SeqCst) {
            return Err(Error::Closed);
        }
        self.disk.files.lock().insert(name.to_owned(), Bytes::from(self.content));
        Ok(())
    }
}

impl ReadAt for Bytes {
    fn bytes(&self) -> u64 {
        self.len() as u64
    }

    fn read_exact_at(&self, out: &mut [u8], offset: u64) -> io::Result<()> {
        let start = offset as usize;
        let Some(found) = self.get(start..start + out.len()) else {
            return Err(io::ErrorKind::UnexpectedEof.into());
        };
        out.copy_from_slice(found);
        Ok(())
    }
}
