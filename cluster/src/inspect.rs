//! What a stopped node's replicas hold, read from its rows.

use std::sync::Arc;

use heliograph_storage::{Error, GroupId, GroupState, StateStore};

use crate::{
    context::{META, group_of},
    disk_mark::MARKS,
    machine::queries,
    meta::MetaMachine,
    raft::Applied,
};

/// One replica as of its last checkpoint; a clean shutdown ends with one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicaDigest {
    /// Its group: 0 for meta, else the shard and one.
    pub group: u32,
    /// The index of the last log entry in it.
    pub applied_index: u64,
    /// What its rows say of devices and mailboxes: equal for replicas of a group that have applied
    /// the same commands.
    pub digest: [u8; 32],
}

/// What people call a group: "meta", or its shard.
pub fn group_name(group: GroupId) -> String {
    match group.0.checked_sub(1) {
        None => "meta".to_owned(),
        Some(_) if MARKS.contains(&group) => "the disk's mark".to_owned(),
        Some(shard) => format!("shard {shard}"),
    }
}

/// The index up to which the log is applied, by an applied position as rows and snapshots note it;
/// none where it is not one.
pub fn applied_index(applied: &[u8]) -> Option<u64> {
    Some(Applied::decode(applied).ok()?.index())
}

/// Digests of every shard's replica in `store`. Reads everything.
///
/// # Errors
/// When rows cannot be read.
pub fn replica_digests(store: &Arc<dyn StateStore>) -> Result<Vec<ReplicaDigest>, Error> {
    let state = |group: GroupId| GroupState::open(Arc::clone(store), group);
    let meta = MetaMachine::load(&state(META)?.read())?;
    let shards = meta.topology().map(|topology| topology.shards().collect::<Vec<_>>());
    let mut digests = Vec::new();
    for shard in shards.unwrap_or_default() {
        let group = group_of(shard);
        let state = state(group)?;
        let Some(applied) = state.durable_applied() else { continue };
        let applied_index = Applied::decode(&applied).map_or(0, |applied| applied.index());
        let digest = queries::digest(&state.read())?;
        digests.push(ReplicaDigest { group: group.0, applied_index, digest });
    }
    Ok(digests)
}
