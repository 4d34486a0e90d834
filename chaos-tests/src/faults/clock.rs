//! Wall clocks that jump, by libfaketime: only of one process, and never its monotonic clock.

use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

/// Where distributions put it, below a library directory.
const NAMES: [&str; 2] = ["faketime/libfaketimeMT.so.1", "faketime/libfaketime.so.1"];
/// Library directories, and those of an architecture in them.
const DIRECTORIES: [&str; 4] = ["/usr/lib", "/usr/lib64", "/lib", "/usr/local/lib"];

/// The library, if it is there.
pub fn library() -> Option<PathBuf> {
    let inner = DIRECTORIES.iter().filter_map(|directory| fs::read_dir(directory).ok());
    let inner = inner.flatten().filter_map(|entry| Some(entry.ok()?.path()));
    let directories: Vec<PathBuf> = DIRECTORIES.iter().map(PathBuf::from).chain(inner).collect();
    NAMES
        .iter()
        .flat_map(|name| directories.iter().map(move |directory| directory.join(name)))
        .find(|path| path.is_file())
}

/// The wall clock of one process.
#[derive(Clone, Debug)]
pub struct FaultyClock {
    /// What the process must be started with.
    pub library: PathBuf,
    control: PathBuf,
}

impl FaultyClock {
    /// A right one, steered by a file in `beside`.
    ///
    /// # Errors
    /// When the library is not there, or the file cannot be written.
    pub fn new(beside: &Path) -> Result<Self> {
        let library = library().context("libfaketime is not installed")?;
        fs::create_dir_all(beside)?;
        let clock = Self { library, control: beside.join("clock") };
        clock.set(0)?;
        Ok(clock)
    }

    /// What the process must find in its environment, beside the library itself.
    pub fn environment(&self) -> Vec<(&'static str, OsString)> {
        vec![
            ("FAKETIME_TIMESTAMP_FILE", self.control.clone().into()),
            ("FAKETIME_CACHE_DURATION", "1".into()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".into()),
            ("DONT_FAKE_MONOTONIC", "1".into()),
            // Neither timers nor the times of files.
            ("FAKETIME_DONT_FAKE_STAT", "1".into()),
            ("NO_FAKE_STAT", "1".into()),
        ]
    }

    /// From now on, give or take a second, the clock is off by so much.
    ///
    /// # Errors
    /// When that cannot be written.
    pub fn set(&self, seconds: i64) -> Result<()> {
        let next = self.control.with_extension("next");
        fs::write(&next, format!("{seconds:+}\n"))?;
        Ok(fs::rename(&next, &self.control)?)
    }
}
