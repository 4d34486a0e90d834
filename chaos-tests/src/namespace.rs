//! An own network namespace: partitions touch nobody else, and ports are all free.
//!
//! The program starts itself anew through `unshare` (util-linux), as the root of an own user
//! namespace; no privilege is needed where the system allows that.

use std::{
    os::unix::process::CommandExt as _,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};

/// Set in the program that runs inside.
const INSIDE: &str = "HELIOGRAPH_CHAOS_NAMESPACE";
/// What is tried first, and what `unshare` is asked for.
const UNSHARE: [&str; 4] = ["--user", "--map-root-user", "--net", "--kill-child"];

/// Whether this program runs in its own namespace.
pub fn is_inside() -> bool {
    std::env::var_os(INSIDE).is_some()
}

/// Goes on inside a namespace: does not return where that works. Inside, brings loopback up.
///
/// # Errors
/// Why there is none; the run can go on without, and partitions are then skipped.
pub fn enter() -> Result<()> {
    if is_inside() {
        let status = Command::new("ip").args(["link", "set", "lo", "up"]).status();
        let status = status.context("there is no ip (Debian package iproute2)")?;
        ensure!(status.success(), "loopback cannot be brought up");
        return Ok(());
    }
    let mut trial = Command::new("unshare");
    trial.args(UNSHARE).args(["ip", "link", "set", "lo", "up"]);
    let trial = trial.stdin(Stdio::null()).output();
    let trial = trial.context("there is no unshare (Debian package util-linux)")?;
    let refusal = String::from_utf8_lossy(&trial.stderr).trim().to_owned();
    ensure!(trial.status.success(), "the system refuses an own namespace: {refusal}");
    let own = std::env::current_exe().context("cannot find this program's own file")?;
    let mut again = Command::new("unshare");
    again.args(UNSHARE).arg(own).args(std::env::args_os().skip(1)).env(INSIDE, "1");
    Err(again.exec()).context("unshare cannot be run")
}
