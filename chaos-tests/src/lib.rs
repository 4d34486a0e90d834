//! Real clusters, faults, workloads, checkers and load: Heliograph seen from outside.
//!
//! Everything here drives the built `heliograph` binary over real sockets, as a client and as an
//! operator would. A run produces a [`history`]: what was invoked, what was answered, what was
//! seen, with monotonic times. The [`checker`]s are pure functions over a history and are
//! themselves tested with histories that must be rejected.
//!
//! * [`cluster`] runs processes on this machine, started, killed, restarted, cleaned up.
//! * [`faults`] is what is done to them, written into the history.
//! * [`wire`] is a stock client, independent of the server's code.
//! * [`workload`] has senders and recipients that move between nodes and record what they see.
//! * [`mod@checker`] gives verdicts.
//! * [`trial`] puts a cluster, a workload and a verdict together.
//! * [`mod@run`] does that by a profile, and [`report`] tells what came of it: the `chaos` program.
//! * [`namespace`] is a network of our own, [`descriptors`] as many files as may be.
//! * [`load`] measures how much, how fast, how much memory.

pub mod checker;
pub mod clock;
pub mod cluster;
pub mod descriptors;
pub mod faults;
pub mod history;
pub mod load;
pub mod namespace;
pub mod report;
pub mod run;
mod svg;
pub mod trial;
pub mod wire;
pub mod workload;
