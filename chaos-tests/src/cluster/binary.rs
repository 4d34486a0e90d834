//! Where the binary under test is.

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use anyhow::{Context as _, Result, ensure};

/// Names the binary to test, in place of one that is built.
const BINARY_VARIABLE: &str = "HELIOGRAPH_BIN";

/// The `heliograph` binary: `HELIOGRAPH_BIN`, or the one beside this executable, which is built
/// (in the same profile) on the first call.
///
/// # Errors
/// When there is none and it cannot be built.
pub fn heliograph_binary() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os(BINARY_VARIABLE) {
        let path = PathBuf::from(path);
        ensure!(path.is_file(), "{BINARY_VARIABLE} is {}, which is no file", path.display());
        return Ok(path);
    }
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    if let Some(path) = BUILT.get() {
        return Ok(path.clone());
    }
    let path = build()?;
    Ok(BUILT.get_or_init(|| path).clone())
}

/// Where runs keep their data: beside the executables, so on a real disk and not in a `tmpfs`.
///
/// # Errors
/// When it cannot be made.
pub fn run_directory() -> Result<PathBuf> {
    let dir = profile_directory()?.join("chaos-runs");
    std::fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    Ok(dir)
}

fn build() -> Result<PathBuf> {
    let directory = profile_directory()?;
    let profile = match directory.file_name().and_then(|name| name.to_str()) {
        Some("release") => "release",
        _ => "dev",
    };
    let target = directory.parent().context("the profile's directory is in a target directory")?;
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        .args(["build", "--quiet", "--package", "heliograph-node", "--profile", profile])
        .arg("--manifest-path")
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("../Cargo.toml"))
        .arg("--target-dir")
        .arg(target)
        .status()
        .context("cannot run cargo")?;
    ensure!(status.success(), "cargo could not build the heliograph binary");
    let path = directory.join("heliograph");
    ensure!(path.is_file(), "cargo built no {}", path.display());
    Ok(path)
}

/// `target/debug` or `target/release`: where this executable is, or above its `deps`.
fn profile_directory() -> Result<PathBuf> {
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
    fn the_profile_directory_is_above_deps() {
        let directory = profile_directory().unwrap();
        assert!(directory.join("deps").is_dir(), "{}", directory.display());
    }
}
