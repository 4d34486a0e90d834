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

/// What was last done for a group.
struct Seen {
    checkpoint_index: u64,
    checkpoint_at: Instant,
    snapshot_index: u64,
    snapshot_at: Instant,
    /// How much had been appended when the last snapshot was written.
    snapshot_log_bytes: u64,
    /// What the log held at the start and no snapshot covers yet: restarts must not make it grow.
    left_log_bytes: u64,
    /// The end of the snapshot file behind which the log was last shortened.
    shortened_index: u64,
}

impl Seen {
    /// What the log holds of `group` behind its last snapshot.
    fn grown_bytes(&self, group: &RaftGroup) -> u64 {
        let appended = group.log.appended_bytes().saturating_sub(self.snapshot_log_bytes);
        self.left_log_bytes + appended
    }
}

pub(crate) struct CheckpointerState {
    context: Arc<Context>,
    seen: BTreeMap<(GroupId, u32), Seen>,
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
        state.look().await;
        // The next look starts after this one has ended: at most one message is under way.
        myself.send_after(LOOK_INTERVAL, || CheckpointerMessage::Look);
        Ok(())
    }
}

impl CheckpointerState {
    async fn look(&mut self) {
        let groups = self.context.all_groups();
        let running = |key: &(GroupId, u32)| {
            groups.iter().any(|group| (group.id, group.incarnation()) == *key)
        };
        self.seen.retain(|key, _| running(key));
        let (mut overlay_bytes, mut applied) = (0, 0);
        for group in &groups {
            applied += group.core.applied().index();
            overlay_bytes += group.core.state().overlay_bytes();
            if self.context.fitness.has_failed() {
                continue;
            }
            self.checkpoint_if_due(group).await;
        }
        ::metrics::gauge!(metrics::APPLIED_ENTRIES).set(applied as f64);
        ::metrics::gauge!(metrics::OVERLAY_BYTES).set(overlay_bytes as f64);
        if self.context.fitness.has_failed() {
            return;
        }
        self.shorten_logs(&groups).await;
        if let Some(group) = self.snapshot_due(&groups) {
            self.snapshot(group).await;
        }
    }

    fn seen(&mut self, group: &RaftGroup) -> &mut Seen {
        self.seen.entry((group.id, group.incarnation())).or_insert_with(|| {
            let (now, index) = (Instant::now(), group.core.applied().index());
            let snapshot = group.core.current_snapshot().ok().flatten();
            let covered = snapshot.and_then(|(meta, _)| meta.last_log_id);
            let covered = covered.map_or(0, |last| last.index);
            let (held, appended) = (group.log.bytes_after(covered), group.log.appended_bytes());
            Seen {
                checkpoint_index: index,
                checkpoint_at: now,
                snapshot_index: covered,
                snapshot_at: now,
                snapshot_log_bytes: appended,
                left_log_bytes: held,
                shortened_index: 0,
            }
        })
    }

    async fn checkpoint_if_due(&mut self, group: &RaftGroup) {
        let now = Instant::now();
        let index = group.core.applied().index();
        let config = self.context.config.checkpoint.clone();
        let seen = self.seen(group);
        let is_large = group.core.state().overlay_bytes() > config.overlay_bytes_max;
        let is_old = now - seen.checkpoint_at > config.age_max && index > seen.checkpoint_index;
        if !is_large && !is_old {
            return;
        }
        seen.checkpoint_index = index;
        seen.checkpoint_at = now;
        if let Err(error) = group.core.checkpoint().await {
            tracing::error!(
                group = group.id.0,
                %error,
                "a checkpoint failed: the node is fail-safe until it restarts on a sound disk"
            );
        }
        let seconds = (Instant::now() - now).as_secs_f64();
        ::metrics::histogram!(metrics::CHECKPOINT_SECONDS).record(seconds);
    }

    /// The group to write a snapshot of: one that is old or has many entries, or, where the log of
    /// all groups together has grown too long, the one with the largest part in it. One at a time
    /// keeps the disk free for the log.
    fn snapshot_due<'a>(&mut self, groups: &'a [Arc<RaftGroup>]) -> Option<&'a Arc<RaftGroup>> {
        let now = Instant::now();
        let config = self.context.config.checkpoint.clone();
        let (mut grown_total, mut snapshots) = (0, 0);
        let mut largest: Option<(u64, &Arc<RaftGroup>)> = None;
        for group in groups {
            let seen = self.seen(group);
            let grown = seen.grown_bytes(group);
            let is_old = now - seen.snapshot_at > config.snapshot_age_max;
            let entries = group.core.applied().index().saturating_sub(seen.snapshot_index);
            if entries > config.snapshot_entries || (is_old && entries > 0) {
                return Some(group);
            }
            grown_total += grown;
            snapshots += group.core.snapshot_bytes();
            if largest.is_none_or(|(most, _)| grown > most) {
                largest = Some((grown, group));
            }
        }
        let bound = config.snapshot_log_bytes.max(snapshots);
        largest.filter(|_| grown_total > bound).map(|(_, group)| group)
    }

    async fn snapshot(&mut self, group: &RaftGroup) {
        let (index, log_bytes) = (group.core.applied().index(), group.log.appended_bytes());
        let seen = self.seen(group);
        seen.snapshot_index = index;
        seen.snapshot_at = Instant::now();
        seen.snapshot_log_bytes = log_bytes;
        seen.left_log_bytes = 0;
        group.write_snapshot().await;
    }

    /// Purges what new snapshots cover. A part of each log stays for followers that are a little
    /// behind: Raft keeps a number of entries, which may be of a MiB each, and this its share of
    /// the bytes.
    async fn shorten_logs(&mut self, groups: &[Arc<RaftGroup>]) {
        let share = self.context.config.checkpoint.snapshot_log_bytes / groups.len().max(1) as u64;
        for group in groups {
            let covered = group.core.current_snapshot().ok().flatten();
            let covered = covered.and_then(|(meta, _)| meta.last_log_id);
            let covered = covered.map_or(0, |last| last.index);
            let seen = self.seen(group);
            if seen.shortened_index == covered {
                continue;
            }
            seen.shortened_index = covered;
            let upto = group.log.index_before(share).min(covered);
            if group.log.purged_index().unwrap_or(0) < upto {
                group.purge_log(upto).await;
            }
        }
    }
}
