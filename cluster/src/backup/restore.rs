//! Makes one node's stores out of a backup.

use std::{collections::BTreeSet, sync::Arc};

use heliograph_storage::{
    CHUNK_BYTES_MAX, GroupId, GroupState, MemoryStateDisk, MemoryStore, SnapshotInfo, SnapshotStore,
};
use heliograph_transport::NodeId;
use serde::Serialize;

use super::{BACKUP_FORMAT, Copied, Manifest};
use crate::{
    Config, ConfigError, Storages,
    context::META,
    features::FEATURES_KNOWN,
    inspect::group_name,
    machine::ShardMachine,
    member::Member,
    meta::MetaMachine,
    placement,
    raft::{Applied, GroupLog, forced_membership, log_id, position, raft_id},
    replica::Placement,
    topology::Topology,
};

/// How far above the backup's terms those of the new cluster may begin: 24 bits of a hash of what
/// it is made of. Nodes that are made of something else are told by their terms, except for one
/// in sixteen million.
const TERM_BITS: u32 = 24;

/// Why nothing was restored, or not all of it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RestoreError {
    /// The manifest is of another release's making.
    #[error(
        "the backup has format {0}, this release reads format {BACKUP_FORMAT}: use the release that wrote it, or a newer one"
    )]
    Format(u32),
    /// The cluster did what this process does not know.
    #[error(
        "the backup is of a cluster with features {0:#x}, which this release does not know: use the release that wrote it, or a newer one"
    )]
    Features(u64),
    /// The new cluster has the old one's id.
    #[error(
        "the new cluster has the id of the one that the backup was taken from: nodes and clients must not take one for the other; give it an id and certificates of its own (`heliograph init-tls`)"
    )]
    SameCluster,
    /// The configuration does not fit.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// There is something already.
    #[error("the data directory is not empty: restore into an empty one")]
    NotEmpty,
    /// A group of the manifest is not there, or it is another.
    #[error("the backup is damaged: {group}: {reason}")]
    Damaged {
        /// `meta` or `shard 3`.
        group: String,
        /// What is wrong.
        reason: &'static str,
    },
    /// The backup cannot be read, or the node's stores cannot be written.
    #[error("{group}")]
    Storage {
        /// `meta` or `shard 3`.
        group: String,
        /// Why.
        source: std::io::Error,
    },
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Restored {
    /// The node.
    pub node: NodeId,
    /// How many groups it holds now.
    pub groups: usize,
    /// The messages in the shards it holds.
    pub messages_here: u64,
}

/// Makes the stores of `config.node`, which must be empty, out of a backup: of the registry and of
/// all shards that the new cluster places on it. `progress` hears of each group that is done.
/// Blocks; where it fails or is interrupted the stores are of no use and must be emptied.
///
/// # Errors
/// See [`RestoreError`].
pub async fn restore(
    manifest: &Manifest,
    backup: &dyn SnapshotStore,
    config: &Config,
    storages: &Storages,
    progress: impl Fn(&str),
) -> Result<Restored, RestoreError> {
    check(manifest, config)?;
    if !storages.log.groups().is_empty() {
        return Err(RestoreError::NotEmpty);
    }
    let plan = Plan::new(manifest, backup, config)?;
    let mut restored = Restored { node: config.node, groups: 0, messages_here: 0 };
    for copied in &manifest.groups {
        let group = GroupId(copied.copy.group);
        let Some(placement) = plan.topology.placement_of(group) else {
            return Err(damaged(group, "the manifest names a group too many"));
        };
        if !placement.is_on(config.node) {
            continue;
        }
        plan.seed(copied, placement, backup, storages).await?;
        restored.groups += 1;
        restored.messages_here += copied.tally.messages;
        progress(&copied.name);
    }
    Ok(restored)
}

/// Whether the backup and the new cluster's configuration fit, as far as the manifest tells.
///
/// # Errors
/// Those of [`restore`], before anything is written.
pub fn check(manifest: &Manifest, config: &Config) -> Result<(), RestoreError> {
    if manifest.format != BACKUP_FORMAT {
        return Err(RestoreError::Format(manifest.format));
    }
    if hex::encode(config.cluster_id) == manifest.cluster_id {
        return Err(RestoreError::SameCluster);
    }
    Ok(config.validate()?)
}

/// What all nodes of the new cluster agree on.
struct Plan {
    topology: Topology,
    /// Added to the terms of the backup.
    terms_above: u64,
}

impl Plan {
    fn new(
        manifest: &Manifest,
        backup: &dyn SnapshotStore,
        config: &Config,
    ) -> Result<Self, RestoreError> {
        let shards = usize::from(manifest.shards);
        let numbers = manifest.groups.iter().map(|copied| copied.copy.group);
        if !numbers.eq(0..=u32::from(manifest.shards)) {
            return Err(damaged(META, "the manifest does not name every shard once"));
        }
        let info = find(&manifest.groups[0], backup)?;
        let rows = GroupState::open(Arc::new(MemoryStore::open(&MemoryStateDisk::new())), META);
        let rows = rows.map_err(failed_with(META))?;
        backup.install(&rows, &info).map_err(failed_with(META))?;
        let machine = MetaMachine::load(&rows.read()).map_err(failed_with(META))?;
        let old = machine.topology().cloned();
        let old = old.ok_or_else(|| damaged(META, "it holds no registry"))?;
        if old.features & !FEATURES_KNOWN != 0 {
            return Err(RestoreError::Features(old.features & !FEATURES_KNOWN));
        }
        if old.shards.len() != shards {
            return Err(damaged(META, "its registry has another number of shards"));
        }
        let zoned = config.members.iter().map(|member| (member.id, member.zone.clone()));
        let mut zoned: Vec<(NodeId, String)> = zoned.collect();
        zoned.sort_unstable();
        let nodes: Vec<NodeId> = zoned.iter().map(|(id, _)| *id).collect();
        let mut members = config.members.clone();
        members.sort_unstable_by_key(|member| member.id);
        let mut hasher = blake3::Hasher::new();
        hasher.update(manifest.backup_id.as_bytes());
        hasher.update(&config.cluster_id);
        hasher.update(&[config.replicas]);
        for member in &members {
            hasher
                .update(format!("{}\n{}\n{}\n", member.id, member.address, member.zone).as_bytes());
        }
        let hash = hasher.finalize();
        let bits = u64::from_be_bytes(*hash.as_bytes().first_chunk().expect("32 bytes"));
        let placed = placement::initial(&zoned, manifest.shards, config.replicas);
        let first = |m: &crate::FirstMember| Member::first(m.id, m.address.clone(), m.zone.clone());
        let mut settings = old.settings;
        settings.replicas = config.replicas;
        let topology = Topology {
            version: old.version + 1,
            members: members.iter().map(first).collect(),
            meta: Placement::formed(&nodes),
            shards: placed.iter().map(|nodes| Placement::formed(nodes)).collect(),
            settings,
            features: old.features,
        };
        Ok(Self { topology, terms_above: 1 + (bits >> (64 - TERM_BITS)) })
    }

    /// Brings one group to the node's stores.
    async fn seed(
        &self,
        copied: &Copied,
        placement: &Placement,
        backup: &dyn SnapshotStore,
        storages: &Storages,
    ) -> Result<(), RestoreError> {
        let group = GroupId(copied.copy.group);
        let info = find(copied, backup)?;
        check_digest(copied, backup, &info)?;
        let old = Applied::decode(&info.applied).map_err(|error| storage(group, error))?;
        let Some(old) = old.log_id else { return Err(damaged(group, "it has no position")) };
        let mut place = position(&old);
        place.term += self.terms_above;
        let place = log_id(place);
        let voters: BTreeSet<u64> = placement
            .target
            .iter()
            .map(|replica| raft_id(replica.node, replica.incarnation))
            .collect();
        let applied = Applied::formed(place, forced_membership(&voters, &BTreeSet::new()));
        let state =
            GroupState::open(Arc::clone(&storages.state), group).map_err(failed_with(group))?;
        backup.install(&state, &info).map_err(failed_with(group))?;
        let mut rows = state.write();
        match group {
            META => MetaMachine::reform(&mut rows, &self.topology),
            _ => ShardMachine::renumber(&mut rows).map_err(failed_with(group))?,
        }
        rows.set_applied(applied.encode());
        let frozen = rows.freeze().expect("nobody else has these rows");
        drop(rows);
        storages.snapshots.write(&state, frozen).map_err(failed_with(group))?;
        let leader = placement.target.first().map_or(0, |first| raft_id(first.node, 0));
        let log = GroupLog::new(Arc::clone(&storages.log), group, 0);
        log.begin_at(leader, &place).await.map_err(|error| storage(group, error))
    }
}

/// The backup's copy of a group, if it is the one that the manifest names.
fn find(copied: &Copied, backup: &dyn SnapshotStore) -> Result<SnapshotInfo, RestoreError> {
    let group = GroupId(copied.copy.group);
    let info = backup.current(group).ok_or_else(|| damaged(group, "its file is not there"))?;
    if info.bytes != copied.copy.bytes || hex::encode(&info.applied) != copied.copy.applied {
        return Err(damaged(group, "its file is not the one that the manifest names"));
    }
    Ok(info)
}

fn check_digest(
    copied: &Copied,
    backup: &dyn SnapshotStore,
    info: &SnapshotInfo,
) -> Result<(), RestoreError> {
    let mut hasher = blake3::Hasher::new();
    let mut offset = 0;
    while offset < info.bytes {
        let chunk = backup.read_chunk(info, offset, CHUNK_BYTES_MAX);
        let chunk = chunk.map_err(failed_with(info.group))?;
        if chunk.is_empty() {
            return Err(damaged(info.group, "its file ends early"));
        }
        hasher.update(&chunk);
        offset += chunk.len() as u64;
    }
    match hasher.finalize().to_hex().as_str() == copied.blake3 {
        true => Ok(()),
        false => Err(damaged(info.group, "its file is not what was written (BLAKE3)")),
    }
}

fn failed_with(group: GroupId) -> impl Fn(heliograph_storage::Error) -> RestoreError {
    move |error| storage(group, std::io::Error::other(error))
}

fn storage(group: GroupId, source: std::io::Error) -> RestoreError {
    RestoreError::Storage { group: group_name(group), source }
}

fn damaged(group: GroupId, reason: &'static str) -> RestoreError {
    RestoreError::Damaged { group: group_name(group), reason }
}

#[cfg(test)]
#[path = "restore_test.rs"]
mod tests;
