//! The system calls that make a checkpoint durable, behind a trait so that tests can fail them.

use std::{fs::File, io, os::unix::fs::FileExt};

/// A file that is written and synced.
pub(super) trait DiskFile: Send + Sync {
    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// Cuts the file, or lengthens it by zeros.
    fn set_len(&self, bytes: u64) -> io::Result<()>;

    /// Waits until the file's data and length are on disk.
    fn sync_data(&self) -> io::Result<()>;
}

impl DiskFile for File {
    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        FileExt::write_all_at(self, bytes, offset)
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        File::set_len(self, bytes)
    }

    fn sync_data(&self) -> io::Result<()> {
        File::sync_data(self)
    }
}
