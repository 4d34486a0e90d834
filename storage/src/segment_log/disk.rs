//! The file operations of the log, behind a trait so that tests can make them fail.

use std::{
    fs::{self, File, OpenOptions},
    io,
    num::NonZeroU64,
    os::unix::fs::FileExt,
    path::Path,
    sync::Arc,
};

use rustix::fs::{Advice, FallocateFlags, FlockOperation, fadvise, fallocate, flock};

/// An open file.
pub(super) trait DiskFile: Send + Sync {
    /// Fills `bytes` from `offset`.
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()>;
    /// Writes all of `bytes` at `offset`.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// Makes what was written durable.
    fn sync_data(&self) -> io::Result<()>;
    /// Makes what was written, and the size, durable.
    fn sync_all(&self) -> io::Result<()>;
    /// Cuts or extends the file.
    fn set_len(&self, bytes: u64) -> io::Result<()>;
    /// Begins to bring a part into memory, where that can be had.
    fn read_ahead(&self, offset: u64, bytes: u64) {
        let _ = (offset, bytes);
    }
    /// Lets the next read of a part come from the disk rather than from memory, where that can be
    /// had.
    fn forget_cached(&self, offset: u64, bytes: u64) {
        let _ = (offset, bytes);
    }
    /// The file's size.
    fn len(&self) -> io::Result<u64>;
}

/// Where the files are.
pub(super) trait Disk: Send + Sync {
    /// Makes `dir` where it is missing, durably.
    fn create_dir(&self, dir: &Path) -> io::Result<()>;
    /// The names in `dir`.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;
    /// Makes an empty file with `bytes` set aside for it.
    fn create(&self, path: &Path, bytes: u64) -> io::Result<Arc<dyn DiskFile>>;
    /// Opens a file to read and write.
    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>>;
    /// Opens a file and locks it against other processes as long as it is open.
    fn lock(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>>;
    /// Renames a file.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Makes names in `dir` durable.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
}

/// The file system.
#[derive(Clone, Copy, Debug)]
pub(super) struct RealDisk;

impl DiskFile for File {
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        FileExt::read_exact_at(self, bytes, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        FileExt::write_all_at(self, bytes, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        File::sync_data(self)
    }

    fn sync_all(&self) -> io::Result<()> {
        File::sync_all(self)
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        File::set_len(self, bytes)
    }

    fn read_ahead(&self, offset: u64, bytes: u64) {
        // Advice: where it is not taken the read waits for the disk.
        let _ = fadvise(self, offset, NonZeroU64::new(bytes), Advice::WillNeed);
    }

    fn forget_cached(&self, offset: u64, bytes: u64) {
        // Advice: where it is not taken the read comes from memory.
        let _ = fadvise(self, offset, NonZeroU64::new(bytes), Advice::DontNeed);
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }
}

impl Disk for RealDisk {
    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        if dir.is_dir() {
            return Ok(());
        }
        fs::create_dir_all(dir)?;
        // Every directory above may be new too; syncing one that is not costs nothing.
        let above = dir.ancestors().skip(1).filter(|above| !above.as_os_str().is_empty());
        above.take_while(|above| above.is_dir()).try_for_each(|above| self.sync_dir(above))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let names = fs::read_dir(dir)?.map(|entry| entry.map(|entry| entry.file_name()));
        // A name that is not UTF-8 is none of ours.
        Ok(names
            .collect::<io::Result<Vec<_>>>()?
            .into_iter()
            .flat_map(|n| n.into_string())
            .collect())
    }

    fn create(&self, path: &Path, bytes: u64) -> io::Result<Arc<dyn DiskFile>> {
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(path)?;
        fallocate(&file, FallocateFlags::empty(), 0, bytes)?;
        Ok(Arc::new(file))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(OpenOptions::new().read(true).write(true).open(path)?))
    }

    fn lock(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let file = OpenOptions::new().write(true).create(true).truncate(false).open(path)?;
        flock(&file, FlockOperation::NonBlockingLockExclusive)?;
        Ok(Arc::new(file))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        File::open(dir)?.sync_all()
    }
}
