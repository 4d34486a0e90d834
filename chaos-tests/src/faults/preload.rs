//! The library that makes disks fail (`preload/powercut.c`), and what it needs for one node.

use std::{
    ffi::{OsStr, OsString},
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

/// The source, as it was when this program was built: it works wherever the program is brought.
const SOURCE: [(&str, &str); 4] = [
    ("powercut.c", include_str!("../../preload/powercut.c")),
    ("files.h", include_str!("../../preload/files.h")),
    ("rules.h", include_str!("../../preload/rules.h")),
    ("shadow.h", include_str!("../../preload/shadow.h")),
];
/// Names another compiler than `cc`.
const COMPILER_VARIABLE: &str = "CC";
const COMPILER: &str = "cc";

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
    let compiler = std::env::var_os(COMPILER_VARIABLE).unwrap_or_else(|| COMPILER.into());
    let path = build(&run_directory()?, &compiler)?;
    Ok(built.insert(path).clone())
}

/// Builds the library into a directory.
fn build(directory: &Path, compiler: &OsStr) -> Result<PathBuf> {
    let own = tempfile::tempdir_in(directory)?;
    for (name, text) in SOURCE {
        fs::write(own.path().join(name), text)?;
    }
    let (source, fresh) = (own.path().join("powercut.c"), own.path().join("powercut.so"));
    let mut command = Command::new(compiler);
    command.args(["-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-o"]).arg(&fresh);
    command.arg(&source).args(["-ldl", "-lpthread"]);
    let name = compiler.to_string_lossy();
    let output = command.output().with_context(|| {
        format!("disks cannot be made to fail: there is no C compiler {name} (Debian package gcc)")
    })?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{name} does not compile the library for disks: {errors}");
    // Whole under its name: another test process may use it.
    let path = directory.join("powercut.so");
    fs::rename(&fresh, &path)?;
    Ok(path)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_library_is_built_without_the_source_tree_and_no_compiler_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let path = build(dir.path(), OsStr::new(COMPILER)).unwrap();
        assert!(fs::metadata(path).unwrap().len() > 0);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing else is left");
        let error = build(dir.path(), OsStr::new("no-such-compiler")).unwrap_err();
        assert!(format!("{error:#}").contains("no C compiler no-such-compiler"), "{error:#}");
    }
}
