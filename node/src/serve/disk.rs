//! The disk: whether it is well, and what is done until it is.
//!
//! After a write error the process does not trust what it has in memory about its files, nor what
//! the kernel's page cache has of them. Once the disk is well it begins anew, as the same process
//! (`exec`), so that a supervisor sees no crash: opening the stores reads and writes again what may
//! not have reached the disk.

use std::{
    fs,
    io::{self, Read as _, Seek as _, Write as _},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::Duration,
};

use anyhow::Context as _;

use crate::{
    config::Config,
    exit::{Failure, Reason},
};

/// The pause before the first try: an error that was a moment's (a path that failed over) is over.
const PAUSE_FIRST: Duration = Duration::from_secs(1);
/// The longest pause: a disk that was repaired is noticed this soon.
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// A process that served this long begins counting its new beginnings anew.
const CALM: Duration = Duration::from_secs(600);
/// What a try writes: more than fits into an inode.
const PROBE_BYTES: usize = 64 << 10;
/// The file it writes to, in the data directory.
const PROBE_FILE: &str = "probe";
/// Tells the new beginning how many there were in a row.
const BEGUN_VARIABLE: &str = "HELIOGRAPH_BEGUN_ANEW";
/// A segment that is full and the next one, at least, must fit.
const SEGMENTS_MIN: u64 = 2;

/// How often in a row this process has begun anew.
pub(super) fn begun_anew(served: Duration) -> u32 {
    let begun = std::env::var(BEGUN_VARIABLE).ok().and_then(|text| text.parse().ok());
    if served >= CALM { 0 } else { begun.unwrap_or(0) }
}

/// Runs `open` off the async threads; where the disk is what hinders it, waits until the disk is well
/// and tries again.
///
/// # Errors
/// What `open` answers, if it is not the disk's fault.
pub(super) async fn when_well<T: Send + 'static>(
    config: &Config,
    open: impl Fn() -> Result<T, Failure> + Send + Sync + 'static,
) -> Result<T, Failure> {
    let open = Arc::new(open);
    for tries in 0.. {
        let opening = Arc::clone(&open);
        let opened = tokio::task::spawn_blocking(move || opening()).await;
        match opened.context("opening the stores panicked")? {
            Err(failure) if failure.is_of_disk() => {
                tracing::error!(%failure, "the disk is not well: the node starts once it is");
                Probe::of(config, tries).until_well().await;
            }
            opened => return opened,
        }
    }
    unreachable!("the disk is tried without end")
}

/// Tries the disk.
#[derive(Clone, Debug)]
pub(super) struct Probe {
    dir: PathBuf,
    free_min: u64,
    pause: Duration,
}

impl Probe {
    /// For the data directory of `config`; the more often it was tried in vain before, the longer it
    /// waits.
    pub(super) fn of(config: &Config, tries: u32) -> Self {
        let storage = &config.storage;
        let segments = SEGMENTS_MIN * storage.log_segment_size.bytes();
        Self {
            dir: config.node.data_dir.clone(),
            free_min: storage.disk_free_min.bytes().max(segments),
            pause: (PAUSE_FIRST * 2_u32.saturating_pow(tries.min(16))).min(PAUSE_MAX),
        }
    }

    /// Waits until the disk takes a file, makes it durable and gives it back, and has room.
    pub(super) async fn until_well(mut self) {
        let mut said = None;
        loop {
            // Nodes on one storage system do not all come back at the same moment.
            let mut jitter = [0];
            getrandom::fill(&mut jitter).expect("the operating system gives randomness after boot");
            let jitter = 0.5 + f64::from(jitter[0]) / 256.0;
            tokio::time::sleep(self.pause.mul_f64(jitter)).await;
            let probe = self.clone();
            let tried = tokio::task::spawn_blocking(move || probe.try_disk()).await;
            let error = match tried {
                Ok(Ok(())) => return,
                Ok(Err(error)) => error,
                Err(panic) => io::Error::other(panic),
            };
            let error = error.to_string();
            if said.as_ref() != Some(&error) {
                tracing::warn!(%error, dir = %self.dir.display(), "the disk is not well yet");
                said = Some(error);
            }
            self.pause = (self.pause * 2).min(PAUSE_MAX);
        }
    }

    fn try_disk(&self) -> io::Result<()> {
        let system = rustix::fs::statvfs(&self.dir)?;
        let free = system.f_bavail * system.f_frsize;
        if free < self.free_min {
            let text = format!("{free} bytes are free, {} are needed", self.free_min);
            return Err(io::Error::new(io::ErrorKind::StorageFull, text));
        }
        let path = self.dir.join(PROBE_FILE);
        let result = write_and_read(&path).and_then(|()| sync_dir(&self.dir));
        let removed = fs::remove_file(&path);
        result.and(removed)
    }
}

fn write_and_read(path: &Path) -> io::Result<()> {
    let mut written = vec![0; PROBE_BYTES];
    getrandom::fill(&mut written).map_err(io::Error::other)?;
    let mut options = fs::File::options();
    let mut file = options.read(true).write(true).create(true).truncate(true).open(path)?;
    file.write_all(&written)?;
    file.sync_all()?;
    file.rewind()?;
    let mut read = Vec::with_capacity(PROBE_BYTES);
    file.read_to_end(&mut read)?;
    if read == written { Ok(()) } else { Err(io::Error::other("the disk gave back other bytes")) }
}

fn sync_dir(dir: &Path) -> io::Result<()> {
    fs::File::open(dir)?.sync_all()
}

/// Replaces this process by a new one of the same binary, arguments and id. Returns only when that
/// does not work.
pub(super) fn begin_anew(begun: u32) -> Failure {
    let mut arguments = std::env::args_os();
    let name = arguments.next().unwrap_or_else(|| "heliograph".into());
    // The path names the process; the link works where the binary was replaced meanwhile.
    let path = std::env::current_exe().ok().filter(|path| path.is_file());
    let path = path.unwrap_or_else(|| "/proc/self/exe".into());
    let error = Command::new(path)
        .arg0(name)
        .args(arguments)
        .env(BEGUN_VARIABLE, begun.saturating_add(1).to_string())
        .exec();
    let error = anyhow::Error::new(error).context("the disk is well, but cannot begin anew");
    Failure::new(Reason::Failed, error)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn probe(dir: &Path, free_min: u64) -> Probe {
        Probe { dir: dir.to_owned(), free_min, pause: PAUSE_FIRST }
    }

    #[test]
    fn a_sound_disk_is_well_and_keeps_nothing_of_the_try() {
        let dir = tempfile::tempdir().unwrap();
        probe(dir.path(), 0).try_disk().unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_full_or_missing_disk_is_not_well() {
        let dir = tempfile::tempdir().unwrap();
        let error = probe(dir.path(), u64::MAX).try_disk().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        assert!(probe(&dir.path().join("gone"), 0).try_disk().is_err());
    }
}
