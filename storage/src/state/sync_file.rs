//! The one system call that makes a checkpoint durable, behind a trait so that tests can fail it.

use std::{fs::File, io};

/// A file that can be synced.
pub(super) trait SyncFile: Send + Sync {
    /// Waits until the file's data and length are on disk.
    fn sync_data(&self) -> io::Result<()>;
}

impl SyncFile for File {
    fn sync_data(&self) -> io::Result<()> {
        File::sync_data(self)
    }
}
