//! Pure state machines: functions of (rows, command) → (rows, outcome, effects).
//!
//! No clock, randomness, I/O or `async` here; every replica that applies the same commands holds
//! the same rows.

mod command;
mod delivery;
mod pending;

pub use command::*;
pub use delivery::{Delivery, DeliveryLimits, Input, Output, Resume, SubscriptionId};
pub use pending::{CONTESTS_MAX, Found, Gap, LaneCounts, LaneRead, MailboxCounts, Pending};
