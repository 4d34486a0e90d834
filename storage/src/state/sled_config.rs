//! How the sled store is opened, and what opening found.

use std::{path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};

/// sled's page cache. Reads of recent rows are served by the overlay, the rows of busy mailboxes are
/// remembered by the state machine, and behind both is the system's page cache.
const CACHE_BYTES: u64 = 8 * 1024 * 1024;

/// At full load some 100 MB of log, of which most is garbage by then; an idle node notices it in no
/// measure.
const CLEAN_EVERY: Duration = Duration::from_secs(1);

/// How the sled store is opened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct SledConfig {
    /// The size of sled's page cache. With 1 GiB of rows sled keeps 60 MB beside it, and its pages
    /// take more than it counts: it looks at what was touched only when 64 touches came to one of 256
    /// parts of the cache, so that up to 16,384 pages more stay. With rows of 1 KiB that makes 150 MB
    /// in all under random reads, for 8 to 24 MiB alike.
    pub cache_bytes: u64,
    /// The database is reopened when a start would have to read more than this of sled's log: that
    /// writes down where each page is. Reads of rows wait meanwhile, about as long as reading that
    /// takes. `None`: 256 MiB, or a quarter of the file where that is more.
    pub replay_bytes_max: Option<u64>,
    /// Reads all rows at open and compares them with the digests, even where nothing that was written
    /// is missing.
    pub verify_rows: bool,
    /// How often sled's background thread moves pages out of sparse segments, which gives space back.
    /// Without it sled moves a page only when it replaces another, and the file grew to three times
    /// as much. Each turn also syncs the file.
    pub clean_every: Duration,
}

impl Default for SledConfig {
    fn default() -> Self {
        Self {
            cache_bytes: CACHE_BYTES,
            replay_bytes_max: None,
            verify_rows: false,
            clean_every: CLEAN_EVERY,
        }
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
