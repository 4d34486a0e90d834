//! The rows of each Raft group on this node: durable ordered rows ([`StateStore`]), and the
//! write-behind view of one group over them ([`GroupState`]).
//!
//! ```text
//! reads ──> active layer ──> frozen layer ──> store (sled)
//! writes ─> active layer      │                 ^
//!             │ freeze()      │ commit()        │ one atomic batch: net change + applied
//!             └──────────────>└─────────────────┘
//! ```
//! Nothing here is under an acknowledgement: what the layers hold is in the log, and the store can
//! be rebuilt from snapshot file and log at any time.

mod digest;
mod disk_file;
mod frozen;
mod group_rows;
mod group_state;
mod inspect;
mod journal;
mod keys;
mod layer;
mod memory_store;
mod row_seal;
mod scrub;
mod sled_config;
mod sled_database;
mod sled_log;
mod sled_open;
mod sled_record;
mod sled_reseal;
mod sled_store;
mod sled_trust;
mod store;
mod verify;

#[cfg(test)]
mod contract_test;
#[cfg(test)]
mod group_state_test;
#[cfg(test)]
mod model_test;
#[cfg(test)]
mod scrub_test;

pub(crate) use digest::Digest;
pub use frozen::Frozen;
pub use group_rows::{GroupRead, GroupWrite};
pub use group_state::GroupState;
pub(crate) use group_state::RowSource;
pub use inspect::{StateFinding, StateInspection, inspect_state};
#[cfg(any(test, fuzzing))]
pub(crate) use journal::fuzz as fuzz_journal;
pub use memory_store::{MemoryStateDisk, MemoryStore, Outcome};
pub use sled_config::{SledConfig, StateOpen};
pub use sled_store::SledStore;
pub use store::{BATCH_BYTES_MAX, KEY_BYTES_MAX, StateStore, VALUE_BYTES_MAX};
pub use verify::log_expectations;
