//! Copies a running cluster into a directory.

use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use heliograph_cluster::{
    GroupCopy, GroupStatus,
    backup::{BACKUP_FORMAT, Copied, Manifest, Tally},
};
use heliograph_storage::{FileSnapshots, GroupId, SnapshotStore as _};
use indicatif::HumanBytes;

use super::{args::BackupArgs, directory::NewBackup};
use crate::{
    cli::Output,
    clock,
    cluster::{Target, block_on},
    console::{self, say},
    exit::{Failure, OrExit as _, Reason},
};

/// How often a group is copied from the beginning before the command gives up: where copies are
/// replaced faster than they are read, or nodes keep dying.
const TRIES: u32 = 5;
/// The pause before that: an election is over.
const PAUSE: Duration = Duration::from_secs(2);

/// Why there is no backup.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
enum BackupError {
    /// A copy came to an end early, or is no position in hexadecimal.
    #[error("the copy of {0} is not what its node said")]
    Copy(String),
    /// It was begun too often.
    #[error(
        "the copy of {0} was lost {TRIES} times on the way: the cluster writes newer ones faster than this machine reads, or its nodes come and go"
    )]
    Lost(String),
}

/// Runs the command.
pub(crate) fn run(args: &BackupArgs) -> Result<(), Failure> {
    let target = Target::find(&args.admin)?;
    let manifest = block_on(take(args, &target))?;
    match args.admin.output {
        Output::Json => say!("{}", serde_json::to_string(&manifest).context("cannot write JSON")?),
        Output::Text => {
            let total = manifest.total;
            say!(
                "backup {} of cluster {}: {} shards, {} devices, {} messages in {}",
                manifest.backup_id,
                manifest.cluster_id,
                manifest.shards,
                total.devices,
                total.messages,
                args.to.display()
            );
            say!("\n{}", manifest.notice);
        }
    }
    Ok(())
}

async fn take(args: &BackupArgs, target: &Target) -> Result<Manifest, Failure> {
    let status = target.status().await?;
    let backup = NewBackup::create(&args.to, args.keys.as_deref())?;
    let begun_ms = wall_ms();
    let bar = console::progress_bar(
        "{spinner} {bar:30} {pos} of {len} groups, {msg}",
        status.groups.len() as u64,
    );
    let mut groups = Vec::with_capacity(status.groups.len());
    let (mut total, mut bytes) = (Tally::default(), 0);
    for group in &status.groups {
        bar.set_message(format!("{}, {}", HumanBytes(bytes), group.name));
        let copied = copy(target, &backup.groups, group).await?;
        total.join(&copied.tally);
        bytes += copied.copy.bytes;
        groups.push(copied);
        bar.inc(1);
    }
    bar.finish_and_clear();
    let mut id = [0; 16];
    getrandom::fill(&mut id).context("the operating system gives no randomness")?;
    let manifest = Manifest {
        format: BACKUP_FORMAT,
        backup_id: hex::encode(id),
        release: env!("CARGO_PKG_VERSION").to_owned(),
        cluster_id: status.cluster_id,
        begun_ms,
        ended_ms: wall_ms(),
        shards: u16::try_from(groups.len().saturating_sub(1))
            .context("a cluster has few shards")?,
        total,
        notice: Manifest::NOTICE.to_owned(),
        groups,
    };
    backup.finish(&manifest)?;
    Ok(manifest)
}

fn wall_ms() -> u64 {
    u64::try_from(clock::since_epoch().as_millis()).unwrap_or(u64::MAX)
}

/// Copies one group; where its copy is lost on the way, another one.
async fn copy(
    target: &Target,
    store: &FileSnapshots,
    group: &GroupStatus,
) -> Result<Copied, Failure> {
    for tried in 0..TRIES {
        if tried > 0 {
            tokio::time::sleep(PAUSE).await;
        }
        let copy = target.copy(group.id).await?;
        if let Some(blake3) = receive(target, store, group, &copy).await? {
            let tally = tally(store, group)?;
            return Ok(Copied { name: group.name.clone(), copy, blake3, tally });
        }
    }
    Err(Failure::new(Reason::Remote, BackupError::Lost(group.name.clone())))
}

/// Brings the bytes of a copy to the directory; answers their hash, or none where the copy is lost.
async fn receive(
    target: &Target,
    store: &FileSnapshots,
    group: &GroupStatus,
    copy: &GroupCopy,
) -> Result<Option<String>, Failure> {
    let strange = || Failure::new(Reason::Remote, BackupError::Copy(group.name.clone()));
    let written = |error| {
        let context = format!("cannot write the copy of {}", group.name);
        Failure::new(Reason::DataDirectory, anyhow::Error::new(error).context(context))
    };
    let applied = hex::decode(&copy.applied).map_err(|_| strange())?;
    let receiver = store.receive(GroupId(group.id), Bytes::from(applied), copy.bytes);
    let mut receiver = receiver.map_err(written)?;
    let mut hasher = blake3::Hasher::new();
    while receiver.offset() < copy.bytes {
        let offset = receiver.offset();
        let Some(piece) = target.piece(copy, offset).await? else { return Ok(None) };
        if piece.is_empty() || piece.len() as u64 > copy.bytes - offset {
            return Err(strange());
        }
        hasher.update(&piece);
        receiver.append(offset, piece).map_err(written)?;
    }
    receiver.finish().map_err(written)?;
    Ok(Some(hasher.finalize().to_hex().to_string()))
}

/// Reads the copy again, as it is on disk now.
fn tally(store: &FileSnapshots, group: &GroupStatus) -> Result<Tally, Failure> {
    let mut tally = Tally::default();
    let Some(info) = store.current(GroupId(group.id)) else { return Ok(tally) };
    // The registry's rows are no shard's.
    let counts = group.id > 0;
    store
        .each_row(&info, |key, value| {
            if counts {
                tally.add(key, value);
            }
        })
        .with_context(|| format!("cannot read the copy of {} again", group.name))
        .or_exit(Reason::DataDirectory)?;
    Ok(tally)
}
