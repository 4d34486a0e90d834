//! What a node does when its disk fails, or fills up.
//!
//! **Failed**: a write or sync of the log, the rows or a snapshot failed. What the disk holds is
//! unknown from then on, so the node's replicas stop: they lead no more, vote no more and take
//! nothing more. The node lives: it routes its clients' requests to the leaders on other nodes, and
//! is not ready. Its process restarts it once the disk is well; opening the stores writes anew what
//! may not be on disk.
//!
//! **Short**: there is less free space than the configured minimum. The node hands its leaderships
//! to nodes that have space, and takes no new messages where it cannot. It keeps following, and takes
//! what makes room: acknowledgements, expiry, checkpoints, snapshots.
//!
//! Its beats say so. One whose disk failed names itself as suspected: peers elect others at once. One
//! that is short says that, and keeps the leaderships that nobody with space can take.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use heliograph_storage::Health;

use crate::{actors::pulse, context::Context, metrics, raft::offload::offload, watch};

/// Once short, a node has enough space again with this many parts in a hundred more than the
/// minimum: else it would hand leaderships to and fro at the edge.
const ENOUGH_PERCENT: u64 = 110;

/// Whether this node may lead and take messages.
#[derive(Debug)]
pub(crate) struct Fitness {
    /// Why the disk failed.
    failed: watch::Sender<Option<Arc<str>>>,
    is_short: AtomicBool,
}

impl Default for Fitness {
    fn default() -> Self {
        Self { failed: watch::Sender::new(None), is_short: AtomicBool::new(false) }
    }
}

impl Fitness {
    /// Whether this node's disk failed.
    pub(crate) fn has_failed(&self) -> bool {
        self.failed.borrow().is_some()
    }

    /// Whether this node is short of space.
    pub(crate) fn is_short(&self) -> bool {
        self.is_short.load(Ordering::Relaxed)
    }

    /// Whether this node should lead nothing.
    pub(crate) fn is_unfit(&self) -> bool {
        self.has_failed() || self.is_short()
    }

    /// Waits until the disk has failed, and says why.
    pub(crate) async fn failure(&self) -> Arc<str> {
        let mut failed = self.failed.subscribe();
        let why = failed.wait_for(Option::is_some).await;
        why.ok().and_then(|why| why.clone()).unwrap_or_else(|| "unknown".into())
    }
}

/// Why this node's disks take no more writes; `None` while they do.
pub(crate) fn disk_failure(context: &Context) -> Option<Arc<str>> {
    let storages = &context.storages;
    let stores = [storages.log.health(), storages.state.health(), storages.snapshots.health()];
    stores.into_iter().find_map(|health| match health {
        Health::Sound => None,
        Health::FailSafe(error) => Some(error.to_string().into()),
    })
}

/// Looks at the stores; the first failure stops every replica. Answers whether there is one.
pub(crate) fn look(context: &Arc<Context>) -> bool {
    let Some(why) = disk_failure(context) else { return false };
    let is_news = context.fitness.failed.send_if_modified(|known| {
        let is_news = known.is_none();
        known.get_or_insert(why.clone());
        is_news
    });
    if !is_news {
        return true;
    }
    tracing::error!(
        %why,
        "this node's disk failed: it leads nothing and stores nothing until it is well again"
    );
    ::metrics::gauge!(metrics::FAIL_SAFE).set(1.0);
    let groups = context.all_groups();
    // The licences end before anybody else may lead.
    for group in &groups {
        group.retire();
    }
    pulse::send_beat(context);
    for group in groups {
        tokio::spawn(async move {
            if let Err(error) = group.raft.shutdown().await {
                tracing::debug!(group = group.id.0, %error, "raft had stopped before");
            }
        });
    }
    true
}

/// Looks at the free space.
pub(crate) async fn measure(context: &Arc<Context>) {
    let free_min = context.config.disk_free_min;
    if free_min == 0 {
        return;
    }
    let host = Arc::clone(&context.config.host);
    let Some(disk) = offload(move || host.disk()).await else { return };
    ::metrics::gauge!(metrics::DISK_FREE_BYTES).set(disk.free_bytes as f64);
    let was_short = context.fitness.is_short();
    let is_short = is_short(disk.free_bytes, free_min, was_short);
    context.fitness.is_short.store(is_short, Ordering::Relaxed);
    match (was_short, is_short) {
        (false, true) => {
            tracing::error!(
                free_bytes = disk.free_bytes,
                free_min,
                "short of disk space: this node takes no new messages and leads nothing; free some"
            );
            // Ahead of its leaderships, which its peers would else hand back.
            pulse::send_beat(context);
        }
        (true, false) => tracing::info!(free_bytes = disk.free_bytes, "enough disk space again"),
        _ => {}
    }
}

fn is_short(free: u64, free_min: u64, was_short: bool) -> bool {
    match was_short {
        false => free < free_min,
        true => free < free_min / 100 * ENOUGH_PERCENT,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn space_comes_back_later_than_it_went() {
        const MIN: u64 = 1000;
        assert!(!is_short(1000, MIN, false));
        assert!(is_short(999, MIN, false));
        assert!(is_short(1099, MIN, true));
        assert!(!is_short(1100, MIN, true));
    }
}
