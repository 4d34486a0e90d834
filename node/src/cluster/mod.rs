//! `heliograph cluster`: what operators see and change, over a node's admin port.
//!
//! - [`args`]: the command line.
//! - [`target`]: which nodes to ask, with which token.
//! - [`table`]: status for people.
//! - [`goal`], [`wait`]: until a change is done.
//! - [`recover`]: offline, after the loss of a quorum.

mod args;
mod goal;
mod recover;
mod table;
mod target;
mod wait;

use std::future::Future;

use anyhow::Context as _;
use heliograph_api::client::{Changed, NodeChange};
use heliograph_cluster::{ClusterStatus, NodeId};
use serde_json::json;

pub(crate) use self::{
    args::{AdminArgs, ClusterArgs},
    target::Target,
};
use self::{
    args::{ChangeArgs, ClusterCommand, JoinArgs, RebalanceArgs},
    goal::Goal,
};
use crate::{cli::Output, console::say, exit::Failure, signals::Signals};

/// Runs the command.
pub(crate) fn run(args: &ClusterArgs) -> Result<(), Failure> {
    match &args.command {
        ClusterCommand::Status(args) => block_on(status(&args.admin)),
        ClusterCommand::Recover(args) => recover::run(args),
        ClusterCommand::Rebalance(args) => block_on(rebalance(args)),
        ClusterCommand::Join(args) => block_on(join(args)),
        ClusterCommand::Replace(args) => {
            block_on(change(args, NodeChange::Replace, Goal::Whole, "may come with an empty disk"))
        }
        ClusterCommand::Drain(args) => block_on(change(
            args,
            NodeChange::Drain,
            Goal::LeadsNothing,
            "is drained of leaderships",
        )),
        ClusterCommand::Undrain(args) => {
            block_on(change(args, NodeChange::Undrain, Goal::Active, "takes its full part again"))
        }
        ClusterCommand::Remove(args) => {
            block_on(change(args, NodeChange::Remove, Goal::Forgotten, "leaves the cluster"))
        }
    }
}

async fn status(args: &AdminArgs) -> Result<(), Failure> {
    let status = Target::find(args)?.status().await?;
    print_status(args.output, &status)
}

fn print_status(output: Output, status: &ClusterStatus) -> Result<(), Failure> {
    match output {
        Output::Text => say!("{}", table::status(status).trim_end()),
        Output::Json => say!("{}", serde_json::to_string(status).context("cannot write JSON")?),
    }
    Ok(())
}

async fn join(args: &JoinArgs) -> Result<(), Failure> {
    let node = NodeId(args.node);
    let change = NodeChange::Invite { address: args.address.clone(), zone: args.zone.clone() };
    let changed = Target::find(&args.admin)?.change(node, &change).await?;
    print_change(args.admin.output, node, &changed, "may join");
    Ok(())
}

async fn rebalance(args: &RebalanceArgs) -> Result<(), Failure> {
    let target = Target::find(&args.admin)?;
    let mut signals = Signals::listen().context("cannot listen for signals")?;
    target.rebalance().await?;
    match args.admin.output {
        Output::Text => say!("the load is being evened out"),
        Output::Json => say!("{}", json!({ "outcome": "begun" })),
    }
    if args.wait {
        let status = wait::wait(&target, Goal::Balanced, &mut signals).await?;
        print_done(args.admin.output, &status)?;
    }
    Ok(())
}

fn print_done(output: Output, status: &ClusterStatus) -> Result<(), Failure> {
    match output {
        Output::Text => say!("done: the cluster is {}", status.health),
        Output::Json => print_status(output, status)?,
    }
    Ok(())
}

async fn change(
    args: &ChangeArgs,
    change: NodeChange,
    goal: impl FnOnce(NodeId) -> Goal,
    words: &str,
) -> Result<(), Failure> {
    let (node, output) = (NodeId(args.node), args.admin.output);
    let target = Target::find(&args.admin)?;
    // From before the change: whoever interrupts us then hears that it goes on.
    let mut signals = Signals::listen().context("cannot listen for signals")?;
    let changed = target.change(node, &change).await?;
    print_change(output, node, &changed, words);
    if args.wait {
        let status = wait::wait(&target, goal(node), &mut signals).await?;
        print_done(output, &status)?;
    }
    Ok(())
}

fn print_change(output: Output, node: NodeId, changed: &Changed, words: &str) {
    if output == Output::Json {
        let node = node.0;
        say!("{}", json!({ "node": node, "outcome": changed.outcome, "token": changed.token }));
        return;
    }
    say!("node {node} {words}");
    if let Some(token) = &changed.token {
        say!("\nIts one-use token, shown this once:\n\n{token}\n");
        say!(
            "Write it to a file on the node, name that in `node.join-token-file`, start the node."
        );
    }
}

pub(crate) fn block_on<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    runtime.block_on(work)
}
