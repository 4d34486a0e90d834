//! Shard time on the leader: a [`ShardClock`] for each term, fed with this node's clocks and its
//! peers'.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::{
    context::Context,
    machine::{Readings, ShardClock},
};

/// A peer's wall clock counts for this long after its last beat; then it may be gone.
const PEER_CLOCK_LIFE: Duration = Duration::from_secs(5);

/// One shard's time, while this node leads it.
pub(crate) struct ShardTime {
    context: Arc<Context>,
    origin: Instant,
    clock: Mutex<(u64, ShardClock)>,
}

impl ShardTime {
    pub(crate) fn new(context: Arc<Context>) -> Self {
        let clock = Mutex::new((0, ShardClock::new(0, 0)));
        Self { context, origin: Instant::now(), clock }
    }

    /// The time to propose now, in milliseconds since the Unix epoch. A new `term` begins at
    /// `applied_ms`, the shard time applied so far.
    pub(crate) fn propose(&self, term: u64, applied_ms: u64) -> u64 {
        let now = Instant::now();
        let monotonic_ms = millis(now - self.origin);
        let peers_wall_ms: Vec<u64> = {
            let heard = self.context.peer_clocks.lock();
            let fresh = heard.values().filter(|(_, at)| now - *at < PEER_CLOCK_LIFE);
            fresh.map(|(wall_ms, at)| wall_ms + millis(now - *at)).collect()
        };
        let mut clock = self.clock.lock();
        if clock.0 != term {
            *clock = (term, ShardClock::new(applied_ms, monotonic_ms));
        }
        clock.1.propose(Readings {
            monotonic_ms,
            wall_ms: self.context.surroundings.clock.wall_ms(),
            peers_wall_ms: &peers_wall_ms,
            nodes: self.context.node_count(),
        })
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
