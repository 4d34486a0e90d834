//! How far the cluster is with moving replicas.

use serde::{Deserialize, Serialize};

/// How far the cluster is with moving replicas to where they should be, as the node that leads
/// meta sees it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Groups that move at this moment.
    pub under_way: u32,
    /// Moves that were completed since the cluster was last at rest (or since another node took
    /// over deciding).
    pub done: u32,
    /// Moves that are still to begin, as far as can be foreseen.
    pub to_do: u32,
}

impl Progress {
    /// Whether every replica is where it should be.
    pub fn is_at_rest(&self) -> bool {
        self.under_way == 0 && self.to_do == 0
    }
}
