//! One end of storage keys, step by step: first everything acknowledged is dropped from snapshots,
//! log and rows, then what is left is sealed anew, then the keys are destroyed.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use heliograph_storage::{Error, GroupId, Retirement};
use tokio::time::Instant;

use crate::{
    context::Context,
    raft::{RaftGroup, offload},
};

/// Groups that write a snapshot at a time: the disk is the log's first of all.
const SNAPSHOTS_MAX: usize = 2;
/// How often Raft is asked again for a snapshot or a purge that it put off.
const ASK_AGAIN: Duration = Duration::from_secs(1);
/// How long to wait for a snapshot, a purge, or the log's writer.
const POLL: Duration = Duration::from_millis(20);
/// The least time that snapshots and purges get, and the part of the epoch they get.
const PURGE_PATIENCE_MIN: Duration = Duration::from_secs(10);
const PURGE_PATIENCE_PART: u32 = 2;
/// After a step of sealing rows anew the disk rests this many times as long.
const REST: u32 = 3;
/// The least pause, so that others come in between.
const REST_MIN: Duration = Duration::from_millis(1);

/// Keys on their way out.
pub(crate) struct KeyRetirement {
    began: Instant,
    stage: Stage,
}

/// What a step says.
#[derive(Debug)]
pub(crate) enum Step {
    /// Go on after this long.
    Pause(Duration),
    /// The keys are destroyed; so long it took.
    Complete(Duration),
}

enum Stage {
    Purging(BTreeMap<GroupId, Purge>),
    Sweeping(Vec<GroupId>),
    Sealing,
}

/// A group whose log is to be purged.
struct Purge {
    /// Up to what was applied when the epoch ended.
    upto: u64,
    /// What Raft was last asked for, and when.
    asked: Option<(Ask, Instant)>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Ask {
    Snapshot,
    Purge,
}

impl KeyRetirement {
    /// Begins: what the groups have applied by now is to be dropped from their logs.
    pub(crate) fn new(context: &Context) -> KeyRetirement {
        let purge = |group: Arc<RaftGroup>| {
            let upto = group.core.applied().log_id?.index;
            Some((group.id, Purge { upto, asked: None }))
        };
        let groups = context.all_groups().into_iter().filter_map(purge).collect();
        KeyRetirement { began: Instant::now(), stage: Stage::Purging(groups) }
    }

    /// Takes one step.
    pub(crate) async fn step(&mut self, context: &Context) -> Result<Step, Error> {
        match &mut self.stage {
            Stage::Purging(groups) => {
                purge_groups(context, groups).await;
                let patience = context.config.key_epoch / PURGE_PATIENCE_PART;
                let is_late = self.began.elapsed() > patience.max(PURGE_PATIENCE_MIN);
                if !groups.is_empty() && !is_late {
                    return Ok(Step::Pause(POLL));
                }
                for group in groups.keys() {
                    tracing::warn!(
                        group = group.0,
                        "a log could not be purged: what it holds is forgotten an epoch later"
                    );
                }
                let groups = context.all_groups();
                self.stage = Stage::Sweeping(groups.iter().map(|group| group.id).collect());
                Ok(Step::Pause(REST_MIN))
            }
            Stage::Sweeping(groups) => {
                let began = Instant::now();
                match groups.last().map(|group| context.group(*group)) {
                    None => self.stage = Stage::Sealing,
                    Some(None) => drop(groups.pop()),
                    Some(Some(group)) => {
                        let state = group.core.state().clone();
                        if offload(move || state.sweep()).await? {
                            groups.pop();
                        }
                    }
                }
                Ok(rest(began))
            }
            Stage::Sealing => {
                let (keys, began) = (context.storages.keys.clone(), Instant::now());
                match offload(move || keys.retire_step()).await? {
                    Retirement::Complete | Retirement::Destroyed(_) => {
                        Ok(Step::Complete(self.began.elapsed()))
                    }
                    Retirement::Waiting => Ok(Step::Pause(POLL)),
                    Retirement::Moved(_) => Ok(rest(began)),
                }
            }
        }
    }
}

fn rest(began: Instant) -> Step {
    Step::Pause((began.elapsed() * REST).max(REST_MIN))
}

/// Brings each group nearer to a log without what was applied; forgets those that are there.
async fn purge_groups(context: &Context, groups: &mut BTreeMap<GroupId, Purge>) {
    let mut snapshots = 0;
    let mut done = Vec::new();
    for (id, purge) in groups.iter_mut() {
        let group = context.group(*id);
        let Some(group) = group.filter(|group| group.log.purged_index() < Some(purge.upto)) else {
            done.push(*id);
            continue;
        };
        let snapshot = group.core.current_snapshot().ok().flatten();
        let covered = snapshot.and_then(|(meta, _)| meta.last_log_id).map(|last| last.index);
        let ask = if covered >= Some(purge.upto) { Ask::Purge } else { Ask::Snapshot };
        if ask == Ask::Snapshot {
            if snapshots == SNAPSHOTS_MAX {
                continue;
            }
            snapshots += 1;
        }
        let is_asked = |(asked, at): (Ask, Instant)| asked == ask && at.elapsed() < ASK_AGAIN;
        if purge.asked.is_some_and(is_asked) {
            continue;
        }
        purge.asked = Some((ask, Instant::now()));
        let trigger = group.raft.trigger();
        let asked = match ask {
            Ask::Purge => trigger.purge_log(purge.upto).await,
            Ask::Snapshot => trigger.snapshot().await,
        };
        if let Err(error) = asked {
            tracing::warn!(group = id.0, %error, "raft is gone");
            done.push(*id);
        }
    }
    for id in done {
        groups.remove(&id);
    }
}
