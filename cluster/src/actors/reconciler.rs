//! The reconciler: brings the memberships of the groups this node leads to where the registry wants
//! them. It keeps nothing in mind: each look decides from Raft and the registry alone, so that after
//! a change of leader the next one goes on.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use heliograph_storage::GroupId;
use openraft::{ChangeMembers, EmptyNode, async_runtime::WatchReceiver};
use parking_lot::Mutex;
use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::time::Instant;

use crate::{
    context::{Context, META},
    meta::MetaCommand,
    raft::RaftGroup,
    reconcile::{self, Membership, Step},
    registry,
    replica::Placement,
    shard_handle::Role,
};

/// How often the reconciler looks. A move takes seconds at least.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);
/// How many groups led here let new replicas catch up at a time: each reads this node's disk and
/// fills its network (design: a slow one must not stall the rest).
const CATCH_UPS_MAX: usize = 2;
/// How long one change may take before the next look decides anew. It goes on by itself.
const CHANGE_PATIENCE: Duration = Duration::from_secs(10);

/// What the reconciler is told.
pub(crate) enum ReconcilerMessage {
    /// Look at all groups.
    Look,
}

/// The reconciler. Owned and supervised by the node actor.
pub(crate) struct ReconcilerActor;

pub(crate) struct ReconcilerState {
    context: Arc<Context>,
    /// Groups whose change is under way.
    busy: Arc<Mutex<BTreeSet<GroupId>>>,
}

impl Actor for ReconcilerActor {
    type Msg = ReconcilerMessage;
    type State = ReconcilerState;
    type Arguments = Arc<Context>;

    async fn pre_start(
        &self,
        myself: ActorRef<ReconcilerMessage>,
        context: Arc<Context>,
    ) -> Result<ReconcilerState, ActorProcessingErr> {
        myself.send_after(LOOK_INTERVAL, || ReconcilerMessage::Look);
        Ok(ReconcilerState { context, busy: Arc::default() })
    }

    async fn handle(
        &self,
        myself: ActorRef<ReconcilerMessage>,
        ReconcilerMessage::Look: ReconcilerMessage,
        state: &mut ReconcilerState,
    ) -> Result<(), ActorProcessingErr> {
        state.look();
        myself.send_after(LOOK_INTERVAL, || ReconcilerMessage::Look);
        Ok(())
    }
}

impl ReconcilerState {
    fn look(&self) {
        let Some(topology) = self.context.topology() else { return };
        let mut catching_up = 0;
        for group in self.context.all_groups() {
            if group.leads().role != Role::Acting || self.busy.lock().contains(&group.id) {
                continue;
            }
            let Some(wanted) = topology.placement_of(group.id) else { continue };
            let step = reconcile::next(wanted, &membership(&group));
            // What is under way counts first: groups come in order, and so do their turns.
            let is_catching_up = matches!(step, Step::CatchUp | Step::AddLearners(_));
            if is_catching_up && group.id != META {
                catching_up += 1;
                if catching_up > CATCH_UPS_MAX {
                    continue;
                }
            }
            if !matches!(step, Step::Wait | Step::CatchUp) {
                self.take(group, wanted.clone(), step);
            }
        }
    }

    /// Takes one step, off the actor: it may wait for a majority.
    fn take(&self, group: Arc<RaftGroup>, wanted: Placement, step: Step) {
        tracing::info!(group = group.id.0, ?step, "moving replicas");
        self.busy.lock().insert(group.id);
        let (context, busy) = (Arc::clone(&self.context), Arc::clone(&self.busy));
        tokio::spawn(async move {
            let taken = take(&context, &group, &wanted, step);
            if tokio::time::timeout(CHANGE_PATIENCE, taken).await.is_err() {
                tracing::warn!(group = group.id.0, "a change of replicas waits for a majority");
            }
            busy.lock().remove(&group.id);
        });
    }
}

async fn take(context: &Arc<Context>, group: &RaftGroup, wanted: &Placement, step: Step) {
    let nodes = |ids: BTreeSet<u64>| ids.into_iter().map(|id| (id, EmptyNode {})).collect();
    let change = match step {
        Step::Wait | Step::CatchUp => return,
        Step::Report => {
            let settled = MetaCommand::Settled { group: group.id, changes: wanted.changes };
            let told = registry::tell(context, &settled, Instant::now() + CHANGE_PATIENCE).await;
            tracing::info!(group = group.id.0, ?told, "the replicas are where they should be");
            return;
        }
        Step::AddLearners(ids) => ChangeMembers::AddNodes(nodes(ids)),
        Step::RemoveLearners(ids) => ChangeMembers::RemoveNodes(ids),
        Step::Flatten => ChangeMembers::AddVoterIds(BTreeSet::new()),
        Step::ChangeVoters(ids) => ChangeMembers::ReplaceAllVoters(ids),
    };
    // Whoever loses its vote in meta goes on learning from it; elsewhere it is let go.
    let keeps_learning = group.id == META;
    if let Err(error) = group.raft.change_membership(change, keeps_learning).await {
        tracing::info!(group = group.id.0, %error, "a change of replicas did not go through");
    }
}

fn membership(group: &RaftGroup) -> Membership {
    let server = group.raft.server_metrics();
    let (effective, committed) = {
        let server = server.borrow_watched();
        (server.membership_config.clone(), server.committed_membership_config.clone())
    };
    let data = group.raft.data_metrics();
    let data = data.borrow_watched();
    let replication = data.replication.iter().flatten();
    let matched = replication.filter_map(|(id, matched)| Some((*id, matched.as_ref()?.index)));
    Membership {
        voters: effective.membership().get_joint_config().clone(),
        learners: effective.membership().learner_ids().collect(),
        is_committed: effective.log_id() == committed.log_id(),
        matched: matched.collect(),
        last: data.last_log.as_ref().map_or(0, |log_id| log_id.index),
    }
}
