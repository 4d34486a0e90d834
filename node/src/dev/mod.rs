//! `heliograph dev`: a cluster of real processes on this machine, for people who try it.
//!
//! - [`layout`]: what lies in the data directory, and what is remembered there.
//! - [`ports`]: loopback ports, checked before anything starts.
//! - [`child`]: one `heliograph serve` process.
//! - [`ready`]: waiting for all of them.
//! - [`supervisor`]: starts, watches, stops.
//! - [`conversation`]: what to paste into a shell.
//!
//! It restarts nothing by itself: who kills a node wants to see what happens.

mod child;
mod conversation;
mod layout;
mod ports;
mod ready;
mod supervisor;

use std::fs::{File, OpenOptions, TryLockError};

use anyhow::Context as _;

use self::layout::Layout;
use crate::{
    cli::DevArgs,
    exit::{Failure, OrExit as _, Reason},
    files,
};

/// The lock of the whole directory.
const LOCK: &str = "dev.lock";

/// Why no cluster was started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum DevError {
    /// Another `dev` runs here.
    #[error("a `heliograph dev` runs on {0} already; stop it first, or choose another --data-dir")]
    Running(std::path::PathBuf),
}

/// Runs the command until a signal ends it.
pub(crate) fn run(args: &DevArgs) -> Result<(), Failure> {
    let _lock = lock(args)?;
    let layout = Layout::open(args)?;
    ports::refuse_taken(&layout)?;
    layout.write_configs()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    runtime.block_on(supervisor::run(&layout))
}

fn lock(args: &DevArgs) -> Result<File, Failure> {
    let dir = &args.data_dir;
    let unusable = || format!("cannot use the data directory {}", dir.display());
    files::private_dir(dir).with_context(unusable).or_exit(Reason::DataDirectory)?;
    let lock = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(dir.join(LOCK))
        .with_context(unusable)
        .or_exit(Reason::DataDirectory)?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => {
            Err(Failure::new(Reason::DataDirectory, DevError::Running(dir.clone())))
        }
        Err(TryLockError::Error(error)) => {
            Err(error).with_context(unusable).or_exit(Reason::DataDirectory)
        }
    }
}
