//! The checkpointer: brings changes from memory to disk and keeps the log short (design decisions
//! 8 to 10).

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use heliograph_storage::GroupId;
use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::time::Instant;

use crate::{context::Context, metrics, raft::RaftGroup};

/// How often the checkpointer looks. A shard at full load fills its overlay in seconds.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// What the checkpointer is told.
pub(crate) enum CheckpointerMessage {
    /// Look at all groups.
    Look,
}

/// The checkpointer. Owned and supervised by the node actor.
pub(crate) struct CheckpointerActor;

struct Seen {
    applied_index: u64,
    checkpointed: Instant,
    snapshot_log_bytes: u64,
    snapshot_index: u64,
    snapshot_at: Instant,
}

pub(crate) struct CheckpointerState {
    context: Arc<Context>,
    seen: BTreeMap<GroupId, Seen>,
}

impl Actor for CheckpointerActor {
    type Msg = CheckpointerMessage;
    type State = CheckpointerState;
    type Arguments = Arc<Context>;

    async fn pre_start(
        &self,
        myself: ActorRef<CheckpointerMessage>,
        context: Arc<Context>,
    ) -> Result<CheckpointerState, ActorProcessingErr> {
        myself.send_after(LOOK_INTERVAL, || CheckpointerMessage::Look);
        Ok(CheckpointerState { context, seen: BTreeMap::new() })
    }

    async fn handle(
        &self,
        myself: ActorRef<CheckpointerMessage>,
        CheckpointerMessage::Look: CheckpointerMessage,
        state: &mut CheckpointerState,
    ) -> Result<(), ActorProcessingErr> {
        let mut overlay_bytes = 0;
        for group in state.context.all_groups() {
            overlay_bytes += group.core.state().overlay_bytes();
            state.look(&group).await;
        }
        ::metrics::gauge!(metrics::OVERLAY_BYTES).set(overlay_bytes as f64);
        // The next look starts after this one has ended: at most one message is under way.
        myself.send_after(LOOK_INTERVAL, || CheckpointerMessage::Look);
        Ok(())
    }
}

impl CheckpointerState {
    async fn look(&mut self, group: &Arc<RaftGroup>) {
        let now = Instant::now();
        let applied_index = group.core.applied().index();
        let config = &self.context.config.checkpoint;
        let seen = self.seen.entry(group.id).or_insert_with(|| Seen {
            applied_index,
            checkpointed: now,
            snapshot_log_bytes: 0,
            snapshot_index: applied_index,
            snapshot_at: now,
        });
        let log_bytes = group.log.appended_bytes();
        let grown = log_bytes.saturating_sub(seen.snapshot_log_bytes);
        let state_bytes = self.context.storages.state.disk_bytes();
        let is_long = grown > config.snapshot_log_bytes.max(state_bytes);
        let is_old =
            now - seen.snapshot_at > config.snapshot_age_max && applied_index > seen.snapshot_index;
        if is_long || is_old {
            *seen = Seen {
                applied_index,
                checkpointed: now,
                snapshot_log_bytes: log_bytes,
                snapshot_index: applied_index,
                snapshot_at: now,
            };
            // openraft builds the snapshot in a task of its own and purges the log up to it.
            if let Err(error) = group.raft.trigger().snapshot().await {
                tracing::warn!(group = group.id.0, %error, "raft is gone");
            }
            return;
        }
        let is_large = group.core.state().overlay_bytes() > config.overlay_bytes_max;
        let is_due = now - seen.checkpointed > config.age_max && applied_index > seen.applied_index;
        if is_large || is_due {
            seen.applied_index = applied_index;
            seen.checkpointed = now;
            if let Err(error) = group.core.checkpoint().await {
                tracing::error!(group = group.id.0, %error, "a checkpoint failed: the node is fail-safe until it restarts on a sound disk");
            }
            ::metrics::histogram!(metrics::CHECKPOINT_SECONDS)
                .record((Instant::now() - now).as_secs_f64());
        }
    }
}
