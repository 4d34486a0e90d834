//! Where snapshot bytes live: real files, or memory.

use std::{io, path::PathBuf, sync::Arc};

use crate::Error;

/// Complete bytes that can be read anywhere.
pub(super) trait ReadAt: Send + Sync {
    fn bytes(&self) -> u64;

    fn read_exact_at(&self, out: &mut [u8], offset: u64) -> io::Result<()>;

    /// Lets the next read of a part come from the disk rather than from memory, where that can be
    /// had.
    fn forget_cached(&self, offset: u64, bytes: u64) {
        let _ = (offset, bytes);
    }
}

/// Bytes being written; dropped unpublished, they vanish.
pub(super) trait Part: Send {
    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()>;

    /// What was written so far, for reading.
    fn reader(&self) -> io::Result<Arc<dyn ReadAt>>;

    /// Makes the bytes durable, under no name yet.
    fn sync(&mut self) -> Result<(), Error>;

    /// Makes the synced bytes durable under `name`.
    fn publish(self: Box<Self>, name: &str) -> Result<(), Error>;
}

/// A complete file.
pub(super) struct Listed {
    pub(super) name: String,
    pub(super) file: Arc<dyn ReadAt>,
}

/// A directory of snapshots.
pub(super) trait Medium: Send + Sync {
    /// The complete files.
    fn list(&self) -> Result<Vec<Listed>, Error>;

    /// Starts a file; `number` tells parts apart that are written at the same time.
    fn create(&self, number: u64) -> Result<Box<dyn Part>, Error>;

    /// Removes a complete file. A failure is logged: it is removed at the next start.
    fn remove(&self, name: &str);

    /// Sets a damaged file aside, out of [`Medium::list`].
    fn set_aside(&self, name: &str);

    /// The path of a name, for errors.
    fn path(&self, name: &str) -> PathBuf;
}
