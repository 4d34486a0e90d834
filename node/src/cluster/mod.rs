//! `heliograph cluster`: what operators see and change, over a node's admin port.
//!
//! - [`args`]: the command line.
//! - [`target`]: which nodes to ask, with which token.
//! - [`table`]: status for people.

mod args;
mod table;
mod target;

use std::future::Future;

use anyhow::Context as _;

pub(crate) use self::args::ClusterArgs;
use self::{
    args::{AdminArgs, ClusterCommand},
    target::Target,
};
use crate::{cli::Output, console::say, exit::Failure};

/// Runs the command.
pub(crate) fn run(args: &ClusterArgs) -> Result<(), Failure> {
    match &args.command {
        ClusterCommand::Status(args) => block_on(status(&args.admin)),
    }
}

async fn status(args: &AdminArgs) -> Result<(), Failure> {
    let status = Target::find(args)?.status().await?;
    match args.output {
        Output::Text => say!("{}", table::status(&status).trim_end()),
        Output::Json => say!("{}", serde_json::to_string(&status).context("cannot write JSON")?),
    }
    Ok(())
}

fn block_on(work: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    runtime.block_on(work)
}
