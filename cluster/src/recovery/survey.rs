//! What stopped nodes hold.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Display,
    sync::Arc,
};

use heliograph_storage::{GroupId, GroupState};
use heliograph_transport::NodeId;
use openraft::{EntryPayload, RaftLogReader as _};
use serde::Serialize;

use super::RecoveryError;
use crate::{
    Storages, Topology,
    context::META,
    inspect::group_name,
    raft::{Applied, GroupCore, GroupKind, GroupLog},
    watch,
};

/// A stopped node that is to go on.
#[derive(Clone, Debug)]
pub struct Survivor {
    /// Which.
    pub node: NodeId,
    /// Its stores, opened by nobody else.
    pub storages: Storages,
}

/// What one survivor holds of one group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Holding {
    /// Whose.
    pub node: NodeId,
    /// The term of the last entry of its log.
    pub last_term: u64,
    /// The index of the last entry of its log.
    pub last_index: u64,
    /// Up to where its checkpoint has applied the log: surely committed.
    pub applied_index: u64,
    /// The highest term it has heard of.
    pub term: u64,
    /// The voters of the group as it knows them, by Raft id; two sets while they were changing.
    pub voters: Vec<BTreeSet<u64>>,
    /// The group's replicas without a vote as it knows them, by Raft id.
    pub learners: BTreeSet<u64>,
}

/// What all survivors hold.
#[derive(Clone, Debug)]
pub struct Survey {
    /// By group.
    pub groups: BTreeMap<GroupId, Vec<Holding>>,
    /// The registry, as the survivor with the longest log of it has it.
    pub topology: Topology,
}

/// Looks at all survivors; writes nothing.
///
/// # Errors
/// When a store cannot be read, or there is no registry.
pub async fn survey(survivors: &[Survivor]) -> Result<Survey, RecoveryError> {
    let mut groups: BTreeMap<GroupId, Vec<Holding>> = BTreeMap::new();
    for survivor in survivors {
        for group in survivor.storages.log.groups() {
            if let Some(holding) = look(survivor, group).await? {
                groups.entry(group).or_default().push(holding);
            }
        }
    }
    for holdings in groups.values_mut() {
        // The best first: what Raft itself would elect.
        holdings.sort_by_key(|h| std::cmp::Reverse((h.last_term, h.last_index, h.node)));
    }
    let best = groups.get(&META).and_then(|holdings| holdings.first());
    let best = best.ok_or(RecoveryError::NotFormed)?.node;
    let holder = survivors.iter().find(|survivor| survivor.node == best);
    let topology = topology(holder.expect("holdings are of survivors")).await?;
    Ok(Survey { groups, topology })
}

async fn look(survivor: &Survivor, group: GroupId) -> Result<Option<Holding>, RecoveryError> {
    let storages = &survivor.storages;
    let failed = |error: &dyn Display| storage_error(survivor.node, group, error);
    let Some(last) = storages.log.group(group).last else { return Ok(None) };
    let applied = applied(storages, group).map_err(|error| failed(&error))?;
    let log = GroupLog::held(Arc::clone(&storages.log), group);
    let mut log = log.map_err(|error| failed(&error))?;
    let vote = log.read_vote().await.map_err(|error| failed(&error))?;
    let mut membership = applied.membership.membership().clone();
    let entries = log.try_get_log_entries(applied.index() + 1..).await;
    for entry in entries.map_err(|error| failed(&error))? {
        if let EntryPayload::Membership(newer) = entry.payload {
            membership = newer;
        }
    }
    Ok(Some(Holding {
        node: survivor.node,
        last_term: last.term,
        last_index: last.index,
        applied_index: applied.index(),
        term: vote.map_or(0, |vote| vote.leader_id.term).max(last.term),
        voters: membership.get_joint_config().clone(),
        learners: membership.learner_ids().collect(),
    }))
}

pub(super) fn storage_error(node: NodeId, group: GroupId, error: &dyn Display) -> RecoveryError {
    let reason = format!("{}: {error}", group_name(group)).into();
    RecoveryError::Storage { node, reason }
}

/// The registry as `survivor` has it, all of its log applied.
async fn topology(survivor: &Survivor) -> Result<Topology, RecoveryError> {
    let storages = &survivor.storages;
    let failed = |error: &dyn Display| storage_error(survivor.node, META, error);
    let state = GroupState::open(Arc::clone(&storages.state), META);
    let state = state.map_err(|error| failed(&error))?;
    let published = watch::Sender::new(None);
    let kind = GroupKind::Meta(published.clone());
    let log = GroupLog::held(Arc::clone(&storages.log), META);
    let mut log = log.map_err(|error| failed(&error))?;
    let core = GroupCore::open(kind, state, META, Arc::clone(&storages.snapshots), log.clone());
    let core = core.map_err(|error| failed(&error))?;
    let entries = log.try_get_log_entries(core.applied().index() + 1..).await;
    for entry in entries.map_err(|error| failed(&error))? {
        core.apply(entry).map_err(|error| failed(&error))?;
    }
    let topology = published.borrow().clone().ok_or(RecoveryError::NotFormed)?;
    Ok(Topology::clone(&topology))
}

/// How far rows or snapshot reach, whichever is further.
fn applied(storages: &Storages, group: GroupId) -> Result<Applied, std::io::Error> {
    let state = GroupState::open(Arc::clone(&storages.state), group);
    let state = state.map_err(std::io::Error::other)?;
    let durable = state.durable_applied().map(|bytes| Applied::decode(&bytes)).transpose()?;
    let snapshot = storages.snapshots.current(group);
    let snapshot = snapshot.map(|info| Applied::decode(&info.applied)).transpose()?;
    let further = |a: Applied, b: Applied| if b.log_id > a.log_id { b } else { a };
    Ok(further(durable.unwrap_or_default(), snapshot.unwrap_or_default()))
}
