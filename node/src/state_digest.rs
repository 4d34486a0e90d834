//! `heliograph state-digest`: what a stopped node's replicas hold, for tests that compare replicas.

use std::{io::Write as _, sync::Arc};

use anyhow::Context as _;
use heliograph_cluster::replica_digests;
use heliograph_storage::{SledConfig, SledStore, StateStore};
use serde_json::json;

use crate::{
    cli::StateDigestArgs,
    exit::{Failure, OrExit as _, Reason},
    serve,
};

/// Runs the command.
pub(crate) fn run(args: &StateDigestArgs) -> Result<(), Failure> {
    let dir = args.data_dir.join("state");
    // Opening a directory that is not there would make one.
    if !dir.is_dir() {
        let error = anyhow::anyhow!("{} is not a data directory", args.data_dir.display());
        return Err(Failure::new(Reason::DataDirectory, error));
    }
    let keys = serve::keyring(&args.data_dir.join("keys"))?;
    let (store, _) = SledStore::open_sealed(&dir, SledConfig::default(), &keys)
        .context("cannot open the state database")
        .or_exit(Reason::DataDirectory)?;
    let store: Arc<dyn StateStore> = store;
    let digests =
        replica_digests(&store).context("cannot read the rows").or_exit(Reason::DataDirectory)?;
    let mut out = std::io::stdout().lock();
    for replica in digests {
        let line = json!({
            "group": replica.group,
            "applied_index": replica.applied_index,
            "digest": hex::encode(replica.digest),
        });
        writeln!(out, "{line}").context("cannot write to standard output")?;
    }
    Ok(())
}
