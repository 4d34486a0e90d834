//! Copies of a running cluster, and new clusters out of them.
//!
//! - [`manifest`](Manifest): what a backup holds, plain data.
//! - [`tally`](Tally): counts what a group's rows say.
//! - `restore`: makes one node's stores out of a backup.
//!
//! A backup is one snapshot of each group, each written by the group's leader after it was asked
//! (`admin::copy`). Groups are copied one after the other: no row of one says anything of another's.
//!
//! A new cluster is made as every one of its nodes alone makes its stores out of the same backup and
//! the same list of first members: the same registry, the same positions in every log. Nodes whose
//! backup or list differs have other terms, so that Raft finds their logs to differ.

mod manifest;
mod restore;
mod tally;

pub use manifest::{BACKUP_FORMAT, Copied, Manifest};
pub use restore::{RestoreError, Restored, check, restore};
pub use tally::Tally;
