//! Copies of groups, for backups: each a snapshot that the group's leader writes when it is asked, and
//! then its bytes, piece by piece.

use std::time::Duration;

use bytes::Bytes;
use heliograph_storage::{GroupId, SnapshotInfo};
use heliograph_transport::{Lane, NodeId};
use openraft::ReadPolicy;
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;
use tokio::time::{Instant, timeout_at};

use super::{
    AdminError, LEADER_PAUSE,
    ask::ask,
    wire::{AdminAnswer, AdminRequest},
};
use crate::{
    context::{Context, META, shard_of},
    raft::{offload, position},
};

/// Bytes of a piece: half a frame. It goes by the bulk connection, which delays nobody.
const PIECE_BYTES: usize = 2 * 1024 * 1024;
/// How long it is looked for: a few elections.
const LEADER_PATIENCE: Duration = Duration::from_secs(15);

/// A snapshot that its group's leader keeps to be read: everything that was accepted before it was
/// asked for is in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupCopy {
    /// 0 is meta, `shard + 1` a shard.
    pub group: u32,
    /// Who keeps it.
    pub node: NodeId,
    /// Its number there.
    pub id: u64,
    /// The term of the last entry of the group's log that is in it.
    pub term: u64,
    /// The index of that entry.
    pub index: u64,
    /// Log position and membership as the snapshot has them, hexadecimal.
    pub applied: String,
    /// Its length.
    pub bytes: u64,
}

impl GroupCopy {
    fn info(&self) -> Option<SnapshotInfo> {
        let applied = hex::decode(&self.applied).ok()?.into();
        let group = GroupId(self.group);
        Some(SnapshotInfo { group, id: self.id, applied, bytes: self.bytes })
    }
}

/// Lets the leader of a group write a copy.
pub(super) async fn copy(
    context: &Context,
    group: u32,
    deadline: Instant,
) -> Result<GroupCopy, AdminError> {
    let topology = context.topology().ok_or(AdminError::NotFormed)?;
    topology.placement_of(GroupId(group)).ok_or(AdminError::UnknownGroup(group))?;
    let found_until = deadline.min(Instant::now() + LEADER_PATIENCE);
    loop {
        if let Some(leader) = leader_of(context, GroupId(group)) {
            let answer = match leader == context.local() {
                true => copy_here(context, group, deadline).await,
                false => {
                    ask(context, leader, Lane::Bulk, &AdminRequest::Copy { group }, deadline).await
                }
            };
            match answer {
                Some(AdminAnswer::Copied(copy)) => return Ok(copy),
                Some(AdminAnswer::CopyFailed(reason)) => {
                    return Err(AdminError::CopyFailed { node: leader, reason: reason.into() });
                }
                _ => {}
            }
        }
        if Instant::now() + LEADER_PAUSE >= found_until {
            return Err(AdminError::GroupWithoutLeader(group));
        }
        tokio::time::sleep(LEADER_PAUSE).await;
    }
}

fn leader_of(context: &Context, group: GroupId) -> Option<NodeId> {
    if group == META {
        return context.group(META)?.leads().leader;
    }
    Some(context.leaders.leader(shard_of(group)?)?.0)
}

/// Writes a copy on this node, if it leads the group.
pub(super) async fn copy_here(
    context: &Context,
    group: u32,
    deadline: Instant,
) -> Option<AdminAnswer> {
    let Some(group) = context.group(GroupId(group)) else { return Some(AdminAnswer::NotLeader) };
    if group.acting_term().is_none() {
        return Some(AdminAnswer::NotLeader);
    }
    // What a quorum agrees is committed now is applied here when this answers.
    let agreed = group.raft.ensure_linearizable(ReadPolicy::ReadIndex);
    if !timeout_at(deadline, agreed).await.is_ok_and(|agreed| agreed.is_ok()) {
        return Some(AdminAnswer::NotLeader);
    }
    let _turn = timeout_at(deadline, context.snapshot_turns.acquire()).await.ok()?;
    let (meta, info) = match group.core.write_snapshot().await {
        Ok(written) => written,
        Err(error) => return Some(AdminAnswer::CopyFailed(error.to_string())),
    };
    let place = position(&meta.last_log_id?);
    Some(AdminAnswer::Copied(GroupCopy {
        group: info.group.0,
        node: context.local(),
        id: info.id,
        term: place.term,
        index: place.index,
        applied: hex::encode(&info.applied),
        bytes: info.bytes,
    }))
}

/// Reads a piece of a copy, wherever it is kept; empty at its end.
pub(super) async fn piece(
    context: &Context,
    copy: GroupCopy,
    offset: u64,
    deadline: Instant,
) -> Result<Bytes, AdminError> {
    let (node, group) = (copy.node, copy.group);
    let answer = match node == context.local() {
        true => Some(piece_here(context, &copy, offset).await),
        false => {
            ask(context, node, Lane::Bulk, &AdminRequest::Piece { copy, offset }, deadline).await
        }
    };
    match answer {
        Some(AdminAnswer::Piece(bytes)) => Ok(bytes.into_vec().into()),
        _ => Err(AdminError::CopyGone { group, node }),
    }
}

/// Reads a piece of a copy on this node.
pub(super) async fn piece_here(context: &Context, copy: &GroupCopy, offset: u64) -> AdminAnswer {
    let Some(info) = copy.info() else { return AdminAnswer::Gone };
    let snapshots = std::sync::Arc::clone(&context.storages.snapshots);
    let read = offload(move || snapshots.read_chunk(&info, offset, PIECE_BYTES)).await;
    read.map_or(AdminAnswer::Gone, |bytes| AdminAnswer::Piece(ByteBuf::from(bytes.to_vec())))
}
