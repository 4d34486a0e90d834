//! Load: how much, how fast, how much memory.
//!
//! * [`fleet`] has the registered devices, their recipients reading and acknowledging.
//! * [`closed`] keeps a number of messages in flight: throughput.
//! * [`open`] sends at a rate, whatever the answers: latency without coordinated omission.
//! * [`idle`] holds connections that do nothing: memory.
//! * [`cold`] starts a node that has much data.
//! * [`disk`] measures what one `fdatasync` takes here: the floor under all of it.
//! * [`report`] is what comes out, as JSON.

pub mod closed;
pub mod cold;
pub mod disk;
pub mod fleet;
pub mod idle;
pub mod open;
pub mod report;
pub mod target;
