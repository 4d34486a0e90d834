//! `heliograph serve`: one node of a cluster.
//!
//! - [`parts`]: opens what a node is made of, each with its own way to fail.
//! - [`parent`]: ends with the process that started it, where that was asked.
//! - [`disk`]: whether the disk is well, and what is done until it is.
//! - [`host`]: what operators hear of the machine.
//! - [`lifecycle`]: from the first to the last moment.

mod disk;
mod host;
mod lifecycle;
mod parent;
mod parts;

pub(crate) use parts::{
    check, cluster as cluster_config, data_dir, keyring, keyring_read_only, storages,
};

use std::path::Path;

use anyhow::Context as _;

use crate::{
    cli::ServeArgs,
    config::{self, Config},
    exit::{Failure, OrExit as _, Reason},
    metrics, telemetry,
};

/// Reads the configuration: the file and what overrides it.
pub(crate) fn load_config(path: &Path) -> Result<Config, Failure> {
    let environment = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    config::load(path, environment).or_exit(Reason::Configuration)
}

/// Runs the command until a signal or a failure ends it.
pub(crate) fn run(args: &ServeArgs) -> Result<(), Failure> {
    let config = load_config(&args.config)?;
    if args.check {
        parts::check(&config)?;
        return Ok(());
    }
    telemetry::start_logging(&config.log);
    let recorder = telemetry::start_metrics().context("cannot install the metrics recorder")?;
    metrics::start(crate::clock::since_epoch().as_secs_f64());
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    if let Some(count) = config.node.worker_threads {
        runtime.worker_threads(usize::from(count));
    }
    let runtime = runtime.enable_all().thread_name("heliograph").build();
    let runtime = runtime.context("cannot start the runtime")?;
    let parent = args.until_stdin_ends.then(parent::watch).transpose();
    let parent = parent.context("cannot watch standard input")?;
    let outcome = runtime.block_on(lifecycle::run(&config, recorder, parent));
    // What still runs is blocking work that was told to end; it is not waited for.
    runtime.shutdown_background();
    match outcome {
        Ok(lifecycle::Next::End) => Ok(()),
        Ok(lifecycle::Next::BeginAnew { begun }) => Err(disk::begin_anew(begun).log()),
        Err(failure) => Err(failure.log()),
    }
}
