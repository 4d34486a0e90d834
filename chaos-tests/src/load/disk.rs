//! What one `fdatasync` takes here: no accepted message can be faster.

use std::{fs::File, io::Write as _, path::Path, time::Duration};

use anyhow::Result;
use rustix::fs::{FallocateFlags, fallocate, fdatasync};
use serde::Serialize;
use tokio::time::Instant;

use super::times::{Latency, Times};
use crate::cluster::run_directory;

/// What is written before each sync: one page, as the log does for a small batch.
const WRITE_BYTES: usize = 4096;

/// What one `fdatasync` takes.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct DiskReport {
    /// Bytes written before each.
    pub write_bytes: usize,
    /// Write and sync together.
    pub sync: Latency,
}

/// Measures where the clusters of this program keep their data.
///
/// # Errors
/// When the disk does not take it.
pub async fn here(writes: u32) -> Result<DiskReport> {
    let directory = run_directory()?;
    tokio::task::spawn_blocking(move || measure(&directory, writes)).await?
}

/// Writes a page and syncs it, `writes` times, into a preallocated file in `directory`, one after
/// another. Blocks.
///
/// # Errors
/// When the disk does not take it.
pub fn measure(directory: &Path, writes: u32) -> Result<DiskReport> {
    let mut file: File = tempfile::tempfile_in(directory)?;
    fallocate(&file, FallocateFlags::empty(), 0, u64::from(writes) * WRITE_BYTES as u64)?;
    file.sync_all()?;
    let times = Times::default();
    let page = [0x5a; WRITE_BYTES];
    for _ in 0..writes {
        let began = Instant::now();
        file.write_all(&page)?;
        fdatasync(&file)?;
        times.record(began.elapsed().max(Duration::from_micros(1)));
    }
    Ok(DiskReport { write_bytes: WRITE_BYTES, sync: times.summary() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_write_is_timed() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(measure(dir.path(), 3).unwrap().sync.count, 3);
    }
}
