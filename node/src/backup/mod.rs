//! `heliograph backup` and `heliograph restore`.
//!
//! - [`args`]: the command lines.
//! - [`directory`]: what a backup is on disk.
//! - [`mod@take`]: copies a running cluster, over a node's admin port.
//! - [`mod@restore`]: makes one node of a new cluster out of a backup. Offline.

mod args;
mod directory;
mod restore;
mod take;

pub(crate) use self::{
    args::{BackupArgs, RestoreArgs},
    restore::run as restore,
    take::run as take,
};
