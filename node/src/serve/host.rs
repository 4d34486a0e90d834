//! What operators hear of the machine a node runs on.

use std::path::{Path, PathBuf};

use heliograph_cluster::{DiskUse, Host};

/// This process and its data directory.
#[derive(Debug)]
pub(super) struct Machine {
    data_dir: PathBuf,
}

impl Machine {
    pub(super) fn new(data_dir: &Path) -> Self {
        Self { data_dir: data_dir.to_owned() }
    }
}

impl Host for Machine {
    fn version(&self) -> &str {
        env!("CARGO_PKG_VERSION")
    }

    fn disk(&self) -> Option<DiskUse> {
        let system = rustix::fs::statvfs(&self.data_dir).ok()?;
        let log_bytes = file_bytes(&self.data_dir.join("log")).unwrap_or(0);
        Some(DiskUse { free_bytes: system.f_bavail * system.f_frsize, log_bytes })
    }
}

/// What the files of a directory take on disk: segments are preallocated.
fn file_bytes(dir: &Path) -> std::io::Result<u64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(dir)? {
        // A file may vanish between the two calls.
        bytes += entry?.metadata().map_or(0, |metadata| metadata.len());
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_disk_is_told() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("log")).unwrap();
        std::fs::write(dir.path().join("log/1"), [0; 100]).unwrap();
        std::fs::write(dir.path().join("log/2"), [0; 23]).unwrap();
        let disk = Machine::new(dir.path()).disk().unwrap();
        assert_eq!(disk.log_bytes, 123);
        assert!(disk.free_bytes > 0);
        assert_eq!(Machine::new(Path::new("/nowhere/at/all")).disk(), None);
    }
}
