//! openraft's state machine over [`GroupCore`].

use std::{io, sync::Arc};

use futures_util::{Stream, StreamExt};
use heliograph_storage::SnapshotInfo;
use openraft::{
    RaftSnapshotBuilder, Snapshot,
    storage::{EntryResponder, RaftStateMachine},
};

use super::{
    core::GroupCore,
    types::{CommittedLeaderId, LogId, SnapshotMeta, StoredMembership, TypeConfig},
};

/// openraft's view of a group's state.
#[derive(Clone, Debug)]
pub(crate) struct GroupStateMachine(pub(crate) Arc<GroupCore>);

type GroupSnapshot = Snapshot<CommittedLeaderId, u64, openraft::EmptyNode, SnapshotInfo>;

impl RaftStateMachine<TypeConfig> for GroupStateMachine {
    type SnapshotData = SnapshotInfo;
    type SnapshotBuilder = Self;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        let applied = self.0.applied();
        Ok((applied.log_id, applied.membership))
    }

    async fn apply<Entries>(&mut self, mut entries: Entries) -> Result<(), io::Error>
    where
        Entries: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + Send,
    {
        while let Some(item) = entries.next().await {
            let (entry, responder) = item?;
            let answer = self.0.apply(entry)?;
            if let Some(responder) = responder {
                responder.send(answer);
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Self {
        self.clone()
    }

    async fn install_snapshot(
        &mut self,
        _meta: &SnapshotMeta,
        snapshot: SnapshotInfo,
    ) -> Result<(), io::Error> {
        self.0.install_snapshot(snapshot).await
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<GroupSnapshot>, io::Error> {
        let current = self.0.current_snapshot()?;
        Ok(current.map(|(meta, snapshot)| Snapshot { meta, snapshot }))
    }
}

impl RaftSnapshotBuilder<TypeConfig> for GroupStateMachine {
    type SnapshotData = SnapshotInfo;

    async fn build_snapshot(&mut self) -> Result<GroupSnapshot, io::Error> {
        let (meta, snapshot) = self.0.write_snapshot().await?;
        Ok(Snapshot { meta, snapshot })
    }
}
