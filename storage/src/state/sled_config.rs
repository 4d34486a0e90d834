//! How the sled store is opened, and what opening found.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// sled's page cache. Reads of recent rows are served by the overlay; sled's own cache only has to
/// hold the index nodes and the leaves of active mailboxes.
const CACHE_BYTES: u64 = 24 * 1024 * 1024;

/// How the sled store is opened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct SledConfig {
    /// The size of sled's page cache. Resident memory is about three times this.
    pub cache_bytes: u64,
}

impl Default for SledConfig {
    fn default() -> Self {
        Self { cache_bytes: CACHE_BYTES }
    }
}

/// What opening found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StateOpen {
    /// The rows as of the last checkpoint (none in a new directory).
    Opened,
    /// The database would not open: it was moved aside and an empty one opened, to be rebuilt from
    /// snapshot files and log.
    Rebuilt {
        /// Where the unreadable database is now.
        moved_to: PathBuf,
    },
}
