//! The command lines of `heliograph backup` and `heliograph restore`.

use std::path::PathBuf;

use clap::Args;

use crate::{cli::Output, cluster::AdminArgs};

/// Arguments of `backup`.
#[derive(Debug, Args)]
#[command(
    after_help = "What was accepted before it began and is not acknowledged when it ends is \
    in it. It is sealed with keys of its own: without them nothing in it can be read, and until \
    they are destroyed it holds what it holds, whatever the cluster forgets. See \
    docs/operations.md, Backup and restore."
)]
pub(crate) struct BackupArgs {
    /// Where to put the backup: a directory that is empty or not there
    #[arg(long, value_name = "DIR")]
    pub(crate) to: PathBuf,
    /// Where to put the keys it is sealed with; `keys` in the backup when left out
    #[arg(long, value_name = "DIR")]
    pub(crate) keys: Option<PathBuf>,
    /// Where to ask.
    #[command(flatten)]
    pub(crate) admin: AdminArgs,
}

/// Arguments of `restore`.
#[derive(Debug, Args)]
#[command(after_help = "Run it once for each first member of the new cluster, each with its own \
    configuration, all from the same backup; then start them all. The cluster has an id and \
    certificates of its own, as many nodes as its configuration names, and as many shards as the \
    backup. See docs/operations.md, Backup and restore.")]
pub(crate) struct RestoreArgs {
    /// The backup
    #[arg(long, value_name = "DIR")]
    pub(crate) from: PathBuf,
    /// The keys it is sealed with; `keys` in the backup when left out
    #[arg(long, value_name = "DIR")]
    pub(crate) keys: Option<PathBuf>,
    /// The configuration file (TOML) of a node of the new cluster; its data directory is empty
    #[arg(long, value_name = "FILE")]
    pub(crate) config: PathBuf,
    /// A report for people, or one JSON object
    #[arg(long, value_enum, default_value_t = Output::Text)]
    pub(crate) output: Output,
}
