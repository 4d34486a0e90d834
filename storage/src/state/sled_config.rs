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
    /// The size of sled's page cache. With 1 GiB of rows sled keeps 60 MB beside it, and its pages
    /// take more than it counts: 150 MB in all under random reads, for 8 to 24 MiB alike.
    pub cache_bytes: u64,
    /// Reopens the database after so many bytes of committed rows, which caps what a start has to
    /// replay. Off by default: sled reads its file at most once (0.5 s a GiB of rows from the page
    /// cache, the disk's speed otherwise), while reopening holds reads up for that long.
    pub reopen_after_bytes: Option<u64>,
}

impl Default for SledConfig {
    fn default() -> Self {
        Self { cache_bytes: CACHE_BYTES, reopen_after_bytes: None }
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
