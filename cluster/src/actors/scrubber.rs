//! The scrubber: reads everything this node keeps, slowly and again and again, so that damage is
//! found before the bytes are needed (design decision 11). It also takes note of damage to the log
//! that others ran into, and lets the log write its outlines.
//!
//! What is damaged takes no further part: a replica whose log lost something begins anew, a damaged
//! snapshot is written again from its rows, and damaged rows end the database's service, so that the
//! node's process begins anew and rebuilds them.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use heliograph_storage::{Error, GroupId, ScrubStep, SnapshotInfo};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::time::Instant;

use crate::{context::Context, fail_safe, metrics, raft::offload};

/// How often the scrubber looks whether somebody ran into damage, or a pass is due.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// The first pass leaves the node this long to start. Opening has read of log and rows only what was
/// written last.
const FIRST_PASS_AFTER: Duration = Duration::from_secs(60);
/// Bytes of log or snapshot a step reads: some milliseconds of a disk, a multiple of a block.
const STEP_BYTES: usize = 256 * 1024;
/// Rows a step reads, at most 4 MiB of them. The group's checkpoints wait meanwhile.
const STEP_ROWS: usize = 64;
/// The least pause between two steps, so that empty groups take no time from others.
const PAUSE_MIN: Duration = Duration::from_millis(1);

/// What the scrubber is told.
pub(crate) enum ScrubberMessage {
    /// Do the next step, or look whether one is due.
    Step,
}

/// The scrubber. Owned and supervised by the node actor.
pub(crate) struct ScrubberActor;

/// A part of a pass.
enum Part {
    Log,
    Rows(GroupId),
    /// With how far it is read.
    Snapshot(GroupId, Option<(SnapshotInfo, u64)>),
}

pub(crate) struct ScrubberState {
    context: Arc<Context>,
    /// What of the pass is left; empty between passes.
    parts: VecDeque<Part>,
    next_pass: Instant,
    last_end: Instant,
}

impl Actor for ScrubberActor {
    type Msg = ScrubberMessage;
    type State = ScrubberState;
    type Arguments = Arc<Context>;

    async fn pre_start(
        &self,
        myself: ActorRef<ScrubberMessage>,
        context: Arc<Context>,
    ) -> Result<ScrubberState, ActorProcessingErr> {
        myself.send_after(LOOK_INTERVAL, || ScrubberMessage::Step);
        let now = Instant::now();
        let next_pass = now + context.config.scrub.interval.min(FIRST_PASS_AFTER);
        Ok(ScrubberState { context, parts: VecDeque::new(), next_pass, last_end: now })
    }

    async fn handle(
        &self,
        myself: ActorRef<ScrubberMessage>,
        ScrubberMessage::Step: ScrubberMessage,
        state: &mut ScrubberState,
    ) -> Result<(), ActorProcessingErr> {
        state.take_note();
        let pause = state.step().await;
        // The next step starts after this one has ended: at most one message is under way.
        myself.send_after(pause, || ScrubberMessage::Step);
        Ok(())
    }
}

impl ScrubberState {
    /// Damage to the log that reads, compaction or the scrub ran into.
    fn take_note(&self) {
        for group in self.context.all_groups() {
            if let Some(damage) = self.context.storages.log.damage(group.id) {
                self.context.reseed(group.id, &damage.to_string());
            }
        }
    }

    /// Does the next step; answers how long to pause after it.
    async fn step(&mut self) -> Duration {
        let age = Instant::now() - self.last_end;
        ::metrics::gauge!(metrics::SCRUB_PASS_AGE_SECONDS).set(age.as_secs_f64());
        if self.context.fitness.has_failed() {
            // Its process begins anew, and reads everything then.
            self.parts.clear();
            return LOOK_INTERVAL;
        }
        if self.outline().await {
            return PAUSE_MIN;
        }
        let Some(part) = self.parts.pop_front() else {
            if Instant::now() >= self.next_pass {
                self.begin();
            }
            return LOOK_INTERVAL;
        };
        let (bytes, left) = match part {
            Part::Log => self.log().await,
            Part::Rows(group) => self.rows(group).await,
            Part::Snapshot(group, read) => self.snapshot(group, read).await,
        };
        if let Some(left) = left {
            self.parts.push_front(left);
        } else if self.parts.is_empty() {
            self.last_end = Instant::now();
            tracing::debug!("everything on disk was read and compared");
        }
        ::metrics::counter!(metrics::SCRUB_BYTES_TOTAL).increment(bytes);
        let rate = self.context.config.scrub.bytes_per_second.max(1);
        Duration::from_secs_f64(bytes as f64 / rate as f64).max(PAUSE_MIN)
    }

    fn begin(&mut self) {
        self.next_pass = Instant::now() + self.context.config.scrub.interval;
        self.parts.push_back(Part::Log);
        for group in self.context.all_groups() {
            self.parts.push_back(Part::Rows(group.id));
            self.parts.push_back(Part::Snapshot(group.id, None));
        }
    }

    /// Reads a part of what the log has written last, so that the next start need not; `false` where
    /// nothing is left to do.
    async fn outline(&self) -> bool {
        let log = Arc::clone(&self.context.storages.log);
        match offload(move || log.outline(STEP_BYTES)).await {
            Ok(bytes) => bytes > 0,
            Err(error) => {
                tracing::warn!(%error, "a part of the log has to be read at the next start: check this disk");
                false
            }
        }
    }

    async fn log(&self) -> (u64, Option<Part>) {
        let log = Arc::clone(&self.context.storages.log);
        match offload(move || log.scrub(STEP_BYTES)).await {
            Ok(step) => {
                count_damages(step.damages);
                (step.bytes, (!step.is_last).then_some(Part::Log))
            }
            Err(error) => {
                tracing::error!(%error, "the log cannot be read: check this disk");
                (0, None)
            }
        }
    }

    async fn rows(&self, id: GroupId) -> (u64, Option<Part>) {
        // A replica that went meanwhile has nothing to scrub.
        let Some(group) = self.context.group(id) else { return (0, None) };
        let state = group.core.state().clone();
        match offload(move || state.scrub(STEP_ROWS)).await {
            Ok(step) => (step.bytes, (!step.is_last).then_some(Part::Rows(id))),
            Err(error) => {
                count_damages(1);
                tracing::error!(group = id.0, %error, "rows are damaged: check this disk");
                // The database has given up, and the node with it until it is rebuilt.
                fail_safe::look(&self.context);
                (0, None)
            }
        }
    }

    async fn snapshot(
        &self,
        id: GroupId,
        read: Option<(SnapshotInfo, u64)>,
    ) -> (u64, Option<Part>) {
        let Some(group) = self.context.group(id) else { return (0, None) };
        let snapshots = Arc::clone(&self.context.storages.snapshots);
        let Some((info, at)) = read.or_else(|| Some((snapshots.current(id)?, 0))) else {
            return (0, None);
        };
        let asked = info.clone();
        match offload(move || snapshots.scrub(&asked, at, STEP_BYTES)).await {
            Ok(ScrubStep { bytes, is_last: true, .. }) => (bytes, None),
            Ok(step) => (step.bytes, Some(Part::Snapshot(id, Some((info, at + step.bytes))))),
            // A newer one was written: it is as good as new.
            Err(Error::SnapshotGone) => (0, None),
            Err(error) => {
                count_damages(1);
                tracing::error!(group = id.0, %error, "a snapshot is damaged: writing another");
                // From the rows, which are compared with their digest on the way.
                group.write_snapshot().await;
                (0, None)
            }
        }
    }
}

fn count_damages(damages: u32) {
    ::metrics::counter!(metrics::SCRUB_DAMAGES_TOTAL).increment(u64::from(damages));
}
