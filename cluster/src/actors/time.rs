//! Shard time on the leader: [`ShardClock`] fed with this node's clocks and its peers'.

use std::sync::Arc;

use parking_lot::Mutex;

use crate::context::Context;

pub(crate) struct ShardTime {
    context: Arc<Context>,
    last: Mutex<u64>,
}

impl ShardTime {
    pub(crate) fn new(context: Arc<Context>) -> Self {
        Self { context, last: Mutex::new(0) }
    }

    pub(crate) fn propose(&self, _term: u64, applied_ms: u64) -> u64 {
        let mut last = self.last.lock();
        *last = (*last).max(applied_ms).max(self.context.surroundings.clock.wall_ms());
        *last
    }
}
