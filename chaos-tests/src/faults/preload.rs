//! The library that makes disks fail (`preload/powercut.c`), and what it needs for one node.

use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use tokio::time::{Instant, sleep};

use crate::cluster::run_directory;

/// Between two looks at whether a fault was met.
const POLL: Duration = Duration::from_millis(10);

/// The built library; it is built on the first call.
///
/// # Errors
/// When there is no C compiler, or it refuses the source.
pub fn library() -> Result<PathBuf> {
    static BUILT: Mutex<Option<PathBuf>> = Mutex::new(None);
    // Held while it is built: the tests of one process begin at the same moment.
    let mut built = BUILT.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(path) = &*built {
        return Ok(path.clone());
    }
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("preload/powercut.c");
    let own = run_directory()?.join(format!("powercut-{}.so", std::process::id()));
    let mut compiler = Command::new("cc");
    compiler.args(["-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-o"]).arg(&own);
    let status = compiler.arg(&source).args(["-ldl", "-lpthread"]).status();
    ensure!(status.context("no C compiler")?.success(), "{} does not compile", source.display());
    // Whole under its name: another test process may use it.
    let path = run_directory()?.join("powercut.so");
    fs::rename(&own, &path)?;
    Ok(built.insert(path).clone())
}

/// A directory whose disk can be made to fail under one process.
#[derive(Clone, Debug)]
pub struct FaultyDisk {
    /// The directory under test.
    pub data: PathBuf,
    /// What a power cut would leave.
    pub shadow: PathBuf,
    control: PathBuf,
}

impl FaultyDisk {
    /// For `data`; what is noted lies in `beside`, which must be another directory.
    ///
    /// # Errors
    /// When a directory cannot be made.
    pub fn new(data: &Path, beside: &Path) -> Result<Self> {
        let shadow = beside.join("shadow");
        fs::create_dir_all(data)?;
        fs::create_dir_all(&shadow)?;
        Ok(Self { data: data.to_owned(), shadow, control: beside.join("faults") })
    }

    /// What the process must find in its environment, beside [`library`] as what is loaded first.
    pub fn environment(&self, seed: u64) -> Vec<(&'static str, OsString)> {
        vec![
            ("POWERCUT_DIR", self.data.clone().into()),
            ("POWERCUT_SHADOW", self.shadow.clone().into()),
            ("POWERCUT_CONTROL", self.control.clone().into()),
            ("POWERCUT_SEED", seed.to_string().into()),
        ]
    }

    /// From now on the disk fails by these rules, which `preload/powercut.c` tells; none for a sound
    /// disk.
    ///
    /// # Errors
    /// When they cannot be written.
    pub fn fail(&self, rules: &str) -> Result<()> {
        let next = self.control.with_extension("next");
        fs::write(&next, format!("{rules}\n"))?;
        drop(fs::remove_file(self.met_path()));
        fs::rename(&next, &self.control)?;
        Ok(())
    }

    /// Whether a rule has hit a call.
    pub fn is_met(&self) -> bool {
        fs::metadata(self.met_path()).is_ok_and(|met| met.len() > 0)
    }

    /// Waits until a rule has hit a call.
    ///
    /// # Errors
    /// When that does not happen before the deadline.
    pub async fn met(&self, deadline: Duration) -> Result<()> {
        let until = Instant::now() + deadline;
        while !self.is_met() {
            ensure!(Instant::now() < until, "no fault was met within {deadline:?}");
            sleep(POLL).await;
        }
        Ok(())
    }

    fn met_path(&self) -> PathBuf {
        self.control.with_extension("met")
    }
}
