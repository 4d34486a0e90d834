//! Pure state machines: functions of (rows, command) → (rows, outcome, effects).
//!
//! No clock, randomness, I/O or `async` here; every replica that applies the same commands holds
//! the same rows.

mod clock;
mod codec;
mod command;
mod current_rows;
mod dedup;
mod delivery;
#[cfg(test)]
mod delivery_model_test;
mod devices;
mod layout;
mod limits;
mod mailboxes;
mod pending;
pub mod queries;
mod rows;
mod shard;
#[cfg(test)]
mod shard_model_test;
#[cfg(test)]
pub(crate) mod test_support;

pub use clock::{JUMP_MS, Readings, ShardClock};
pub use codec::DecodeError;
pub use command::*;
pub use current_rows::CurrentRows;
pub use delivery::{Delivery, DeliveryLimits, Input, Output, Resting, Resume, SubscriptionId};
pub use layout::{RowKind, row_kind};
pub use limits::Limits;
pub use pending::{CONTESTS_MAX, Found, Gap, LaneCounts, LaneRead, MailboxCounts, Pending};
pub use rows::{DeviceRow, KeyRow};
pub use shard::{Applied, ShardMachine};
