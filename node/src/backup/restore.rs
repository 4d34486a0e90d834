//! Makes one node of a new cluster out of a backup.

use std::time::{Duration, UNIX_EPOCH};

use heliograph_cluster::backup::{self, Manifest, RestoreError, Restored};
use serde_json::{Value, json};

use super::{args::RestoreArgs, directory};
use crate::{
    cli::Output,
    cluster::block_on,
    config::Config,
    console::{self, say},
    exit::{Failure, OrExit as _, Reason},
    serve,
};

/// Runs the command.
pub(crate) fn run(args: &RestoreArgs) -> Result<(), Failure> {
    let config = serve::load_config(&args.config)?;
    serve::check(&config)?;
    let (manifest, store) = directory::open(&args.from, args.keys.as_deref())?;
    let cluster = serve::cluster_config(&config)?;
    backup::check(&manifest, &cluster).map_err(failure)?;
    let dir = serve::data_dir(&config)?;
    dir.begin_restore().or_exit(Reason::DataDirectory)?;
    let storages = serve::storages(&config.storage, &dir)?;
    let bar = console::progress_bar(
        "{spinner} {bar:30} {pos} of {len} groups {msg}",
        manifest.groups.len() as u64,
    );
    let restored = block_on(async {
        let progress = |group: &str| {
            bar.set_message(group.to_owned());
            bar.inc(1);
        };
        let restored = backup::restore(&manifest, &store, &cluster, &storages, progress).await;
        storages.log.close();
        restored.map_err(failure)
    })?;
    bar.finish_and_clear();
    dir.end_restore().or_exit(Reason::DataDirectory)?;
    match args.output {
        Output::Text => say!("{}", describe(&manifest, &restored, &config)),
        Output::Json => say!("{}", report(&manifest, &restored, &config)),
    }
    Ok(())
}

fn failure(error: RestoreError) -> Failure {
    let reason = match &error {
        RestoreError::Storage { .. } => Reason::DataDirectory,
        _ => Reason::Configuration,
    };
    Failure::new(reason, error)
}

fn time(unix_ms: u64) -> String {
    humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_millis(unix_ms)).to_string()
}

fn report(manifest: &Manifest, restored: &Restored, config: &Config) -> Value {
    let total = manifest.total;
    json!({
        "node": restored.node,
        "cluster_id": config.cluster.id,
        "backup_id": manifest.backup_id,
        "taken_from": manifest.cluster_id,
        "begun_ms": manifest.begun_ms,
        "ended_ms": manifest.ended_ms,
        "shards": manifest.shards,
        "groups_here": restored.groups,
        "messages_here": restored.messages_here,
        "messages": total.messages,
        "devices": total.devices,
        "may_be_delivered_again_max": total.messages,
        "api_keys_valid_again_max": total.api_keys,
        "accepted_after_ms_is_missing": manifest.begun_ms,
    })
}

fn describe(manifest: &Manifest, restored: &Restored, config: &Config) -> String {
    let members = config.cluster.members.iter().map(|member| member.id.to_string());
    let members: Vec<String> = members.collect();
    let total = manifest.total;
    let (begun, ended) = (time(manifest.begun_ms), time(manifest.ended_ms));
    format!(
        "node {} of cluster {} holds {} groups of backup {}, taken from cluster {}\n\
         at {begun}: {} messages here, {} in all {} shards.\n\n\
         MAY BE DELIVERED AGAIN: at most {} messages: those that were acknowledged after {begun}.\n\
         MISSING: what was accepted after {ended}, and what was registered; some of what came\n\
         between the two times. Senders that were answered \"accepted\" do not send again.\n\
         VALID AGAIN: at most {} API keys: those that were revoked after {begun}.\n\n\
         Restore every first member from this backup (nodes {}), then start them all. The nodes of\n\
         the old cluster must not serve the same clients any more.",
        restored.node,
        config.cluster.id,
        restored.groups,
        manifest.backup_id,
        manifest.cluster_id,
        restored.messages_here,
        total.messages,
        manifest.shards,
        total.messages,
        total.api_keys,
        members.join(", "),
    )
}
