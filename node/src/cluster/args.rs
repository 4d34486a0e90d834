//! The command line of `heliograph cluster`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::cli::Output;

/// Arguments of `cluster`.
#[derive(Debug, Args)]
pub(crate) struct ClusterArgs {
    /// What to do.
    #[command(subcommand)]
    pub(super) command: ClusterCommand,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(super) enum ClusterCommand {
    /// Show nodes, shards and what is on its way
    Status(StatusArgs),
}

/// Where a cluster's operators are answered.
#[derive(Debug, Clone, Args)]
#[command(group = clap::ArgGroup::new("target").required(true).args(["url", "data_dir"]))]
pub(super) struct AdminArgs {
    /// A node's admin port; several, separated by commas, are tried one after the other
    #[arg(
        long,
        value_name = "URL",
        value_delimiter = ',',
        env = "HELIOGRAPH_ADMIN_URL",
        requires = "token_file"
    )]
    pub(super) url: Vec<String>,
    /// The operators' token: the file that the nodes' `admin.token-file` names
    #[arg(long, value_name = "FILE", env = "HELIOGRAPH_ADMIN_TOKEN_FILE")]
    pub(super) token_file: Option<PathBuf>,
    /// The authority that signed the nodes' certificates (PEM), e.g. client-ca.crt of init-tls
    #[arg(long, value_name = "FILE")]
    pub(super) ca_file: Option<PathBuf>,
    /// The data directory of a running `heliograph dev`, in place of --url and --token-file
    #[arg(long, value_name = "DIR", conflicts_with_all = ["url", "token_file", "ca_file"])]
    pub(super) data_dir: Option<PathBuf>,
    /// Tables for people, or one JSON object a line
    #[arg(long, value_enum, default_value_t = Output::Text)]
    pub(super) output: Output,
}

/// Arguments of `cluster status`.
#[derive(Debug, Args)]
pub(super) struct StatusArgs {
    /// Where to ask.
    #[command(flatten)]
    pub(super) admin: AdminArgs,
}
