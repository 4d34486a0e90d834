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
    /// Let a new node join: names it and prints the one-use token it must bring
    Join(JoinArgs),
    /// Let a node that lost its disk come back with an empty one: prints its one-use token
    Replace(ChangeArgs),
    /// Let a node lead nothing; it keeps its replicas
    Drain(ChangeArgs),
    /// Let a drained or leaving node take its full part again
    Undrain(ChangeArgs),
    /// Move a node's replicas to others and forget the node
    Remove(ChangeArgs),
    /// Even replicas and leaders out over the nodes now, and not slowly and later
    Rebalance(RebalanceArgs),
    /// Form new quorums out of stopped nodes when a majority is lost for ever: LOSES DATA
    Recover(RecoverArgs),
}

/// Where a cluster's operators are answered.
#[derive(Debug, Clone, Args)]
#[command(group = clap::ArgGroup::new("target").required(true).args(["url", "data_dir"]))]
pub(crate) struct AdminArgs {
    /// A node's admin port; several, separated by commas, are tried one after the other
    #[arg(
        long,
        value_name = "URL",
        value_delimiter = ',',
        env = "HELIOGRAPH_ADMIN_URL",
        requires = "token_file"
    )]
    pub(crate) url: Vec<String>,
    /// The operators' token: the file that the nodes' `admin.token-file` names
    #[arg(long, value_name = "FILE", env = "HELIOGRAPH_ADMIN_TOKEN_FILE")]
    pub(crate) token_file: Option<PathBuf>,
    /// The authority that signed the nodes' certificates (PEM), e.g. client-ca.crt of init-tls
    #[arg(long, value_name = "FILE")]
    pub(crate) ca_file: Option<PathBuf>,
    /// The data directory of a running `heliograph dev`, in place of --url and --token-file
    #[arg(long, value_name = "DIR", conflicts_with_all = ["url", "token_file", "ca_file"])]
    pub(crate) data_dir: Option<PathBuf>,
    /// Tables for people, or one JSON object a line
    #[arg(long, value_enum, default_value_t = Output::Text)]
    pub(crate) output: Output,
}

/// Arguments of `cluster status`.
#[derive(Debug, Args)]
pub(super) struct StatusArgs {
    /// Where to ask.
    #[command(flatten)]
    pub(super) admin: AdminArgs,
}

/// Arguments of `cluster join`.
#[derive(Debug, Args)]
pub(super) struct JoinArgs {
    /// The new node's id: a number that no node of this cluster had before
    #[arg(value_name = "NODE", value_parser = clap::value_parser!(u16).range(1..))]
    pub(super) node: u16,
    /// Where its peers will reach it
    #[arg(long, value_name = "HOST:PORT")]
    pub(super) address: String,
    /// Where it will stand (a room, a building, a provider's zone)
    #[arg(long, value_name = "ZONE", default_value = "")]
    pub(super) zone: String,
    /// Where to ask.
    #[command(flatten)]
    pub(super) admin: AdminArgs,
}

/// Arguments of the commands that change what becomes of a node.
#[derive(Debug, Args)]
pub(super) struct ChangeArgs {
    /// The node's id
    #[arg(value_name = "NODE", value_parser = clap::value_parser!(u16).range(1..))]
    pub(super) node: u16,
    /// Wait until it is done, with a progress bar; Ctrl-C ends the waiting, not the work
    #[arg(long)]
    pub(super) wait: bool,
    /// Where to ask.
    #[command(flatten)]
    pub(super) admin: AdminArgs,
}

/// Arguments of `cluster rebalance`.
#[derive(Debug, Args)]
pub(super) struct RebalanceArgs {
    /// Wait until it is done, with a progress bar; Ctrl-C ends the waiting, not the work
    #[arg(long)]
    pub(super) wait: bool,
    /// Where to ask.
    #[command(flatten)]
    pub(super) admin: AdminArgs,
}

/// Arguments of `cluster recover`.
#[derive(Debug, Args)]
#[command(
    after_help = "Stop all nodes first. Name the data directory of every node that is left, \
    in one call: mount or copy them to one machine. Without --yes-lose-data it only says what it \
    would do and what is lost. See docs/operations.md, Lost quorum."
)]
pub(super) struct RecoverArgs {
    /// The data directory of a stopped survivor; once for each
    #[arg(long, value_name = "DIR", required = true)]
    pub(super) data_dir: Vec<PathBuf>,
    /// Do it
    #[arg(long)]
    pub(super) yes_lose_data: bool,
    /// Tables for people, or one JSON object
    #[arg(long, value_enum, default_value_t = Output::Text)]
    pub(super) output: Output,
}
