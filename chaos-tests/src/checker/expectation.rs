//! What a run promises, and what it had to show.

use std::time::Duration;

use super::{Demand, resources};

/// What is expected of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expectation {
    /// How many nodes the cluster has; traffic must go on while a majority of them lives.
    pub nodes: usize,
    /// How long after a fault to look at most.
    pub window: Duration,
    /// The longest pause allowed in any mailbox.
    pub pause_max: Duration,
    /// Bytes that a node may use in the end beside twice what it used before the first fault.
    pub memory_more: u64,
    /// Whether each check must have seen something: a whole run of the product, in place of a test
    /// of one thing.
    pub is_whole: bool,
    /// Which faults must have happened how often.
    pub demands: Vec<Demand>,
}

impl Expectation {
    /// Of a test of one thing on three nodes: traffic goes on within `pause_max`, looked at for
    /// `window` after each fault.
    pub const fn of_three(window: Duration, pause_max: Duration) -> Self {
        Self {
            nodes: 3,
            window,
            pause_max,
            memory_more: resources::MEMORY_MORE,
            is_whole: false,
            demands: Vec::new(),
        }
    }
}
