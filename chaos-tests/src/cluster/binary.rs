//! Where the binary under test is.

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use anyhow::{Context as _, Result, ensure};

/// Names the binary to test, in place of one that is built.
const BINARY_VARIABLE: &str = "HELIOGRAPH_BIN";
/// The workspace this program was built from, if it is still there.
const WORKSPACE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml");

/// The `heliograph` binary: `HELIOGRAPH_BIN`, or the one beside this executable, which is built
/// (in the same profile) on the first call where the source tree is still there.
///
/// # Errors
/// When there is none and it cannot be built.
pub fn heliograph_binary() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os(BINARY_VARIABLE) {
        let path = PathBuf::from(path);
        ensure!(path.is_file(), "{BINARY_VARIABLE} is {}, which is no file", path.display());
        return Ok(path);
    }
    static FOUND: OnceLock<PathBuf> = OnceLock::new();
    if let Some(path) = FOUND.get() {
        return Ok(path.clone());
    }
    let path = find(&own_directory()?, Path::new(WORKSPACE))?;
    Ok(FOUND.get_or_init(|| path).clone())
}

/// Where runs keep their data: beside the executables of a build, so on a real disk and not in a
/// `tmpfs`; for a program that was brought elsewhere, below the current directory.
///
/// # Errors
/// When it cannot be made.
pub fn run_directory() -> Result<PathBuf> {
    let own = own_directory()?;
    let base = match target_directory(&own) {
        Some(_) => own,
        None => std::env::current_dir().context("there is no current directory")?,
    };
    let dir = base.join("chaos-runs");
    std::fs::create_dir_all(&dir).with_context(|| {
        format!("cannot make {}: change to a directory that you may write to", dir.display())
    })?;
    Ok(dir)
}

fn find(own: &Path, workspace: &Path) -> Result<PathBuf> {
    let path = own.join("heliograph");
    if let Some(target) = target_directory(own)
        && workspace.is_file()
    {
        build(own, target, workspace)?;
    }
    ensure!(
        path.is_file(),
        "there is no {}: name the build under test with --bin or {BINARY_VARIABLE}",
        path.display()
    );
    Ok(path)
}

fn build(directory: &Path, target: &Path, workspace: &Path) -> Result<()> {
    let profile = match directory.file_name().and_then(|name| name.to_str()) {
        Some("release") => "release",
        _ => "dev",
    };
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        .args(["build", "--quiet", "--package", "heliograph-node", "--profile", profile])
        .arg("--manifest-path")
        .arg(workspace)
        .arg("--target-dir")
        .arg(target)
        .status()
        .context("cannot run cargo")?;
    ensure!(status.success(), "cargo could not build the heliograph binary");
    Ok(())
}

/// The target directory whose executables lie in `directory`: cargo marks it.
fn target_directory(directory: &Path) -> Option<&Path> {
    directory.parent().filter(|target| target.join("CACHEDIR.TAG").is_file())
}

/// Where this executable is, or above its `deps`: in a build `target/debug` or `target/release`.
fn own_directory() -> Result<PathBuf> {
    let own = std::env::current_exe().context("cannot find this program's own file")?;
    let mut directory = own.parent().context("an executable is in a directory")?;
    if directory.ends_with("deps") || directory.ends_with("examples") {
        directory = directory.parent().context("deps is in a directory")?;
    }
    Ok(directory.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_build_is_told_from_a_program_that_was_brought_elsewhere() {
        let directory = own_directory().unwrap();
        assert!(directory.join("deps").is_dir(), "{}", directory.display());
        assert!(target_directory(&directory).is_some(), "{}", directory.display());
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(target_directory(dir.path()), None);
        // No source, no target directory: what lies beside is taken, or its lack is said.
        let nowhere = dir.path().join("Cargo.toml");
        let error = find(dir.path(), &nowhere).unwrap_err();
        assert!(error.to_string().contains("--bin"), "{error}");
        std::fs::write(dir.path().join("heliograph"), "").unwrap();
        assert_eq!(find(dir.path(), &nowhere).unwrap(), dir.path().join("heliograph"));
    }
}
