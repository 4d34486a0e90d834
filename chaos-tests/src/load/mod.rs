//! Load: how much, how fast, how much memory.
//!
//! What is measured:
//!
//! * [`closed`] keeps a number of messages in flight: throughput.
//! * [`open`] sends at a rate, whatever the answers: latency without coordinated omission.
//! * [`sweep`] does that at rising rates, with a picture.
//! * [`idle`] holds connections that do nothing: memory. [`idle_cpu`] does nothing at all.
//! * [`stored`] lets messages wait: memory, and whether others are slower for them. [`beside`] does
//!   the same with idle connections.
//! * [`kill`] kills leaders' nodes under load.
//! * [`cold`] starts a node that has much data.
//! * [`disk`] measures what one `fdatasync` takes here: the floor under all of it. [`stalls`] tells
//!   for how long the machine itself stands still.
//! * [`suite`] does all of that and holds it against the [`bars`].
//!
//! With what: [`target`] is the cluster, [`fleet`] the registered devices whose recipients read and
//! acknowledge, [`crowd`] the idle ones, [`report`] what comes out as JSON.

mod backlog;
pub mod bars;
pub mod beside;
pub mod closed;
pub mod cold;
mod counts;
pub mod crowd;
pub mod disk;
mod fill;
pub mod fleet;
pub mod idle;
pub mod idle_cpu;
pub mod kill;
pub mod machine;
pub mod open;
mod pacing;
mod plot;
mod recipient;
pub mod reign;
pub mod report;
pub mod stalls;
pub mod stored;
pub mod suite;
pub mod sweep;
pub mod target;
pub mod times;
pub mod traffic;
