//! `heliograph serve`: one node of a cluster.

use crate::{
    cli::ServeArgs,
    config,
    exit::{Failure, OrExit as _, Reason},
};

/// Runs the command until a signal or a failure ends it.
pub(crate) fn run(args: &ServeArgs) -> Result<(), Failure> {
    let environment = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    let config = config::load(&args.config, environment).or_exit(Reason::Configuration)?;
    if args.check {
        return Ok(());
    }
    let address = config.client.listen;
    Err(anyhow::anyhow!("the cluster is not part of this build yet: nothing serves {address}")
        .into())
}
