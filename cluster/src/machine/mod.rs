//! Pure state machines: functions of (rows, command) → (rows, outcome, effects).
//!
//! No clock, randomness, I/O or `async` here; every replica that applies the same commands holds
//! the same rows.

mod command;

pub use command::*;
