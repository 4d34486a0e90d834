//! Verdicts over a history: pure functions, no clock, no I/O.
//!
//! * [`total_queue`]: nothing accepted is lost, nothing comes back after its acknowledgement was
//!   answered, nothing appears that was not sent.
//! * [`order`]: per mailbox and priority the numbers come in order, without gaps, and in the order
//!   in which the relay accepted them.
//! * [`once`]: within one reading nothing comes twice.
//! * [`liveness`]: how long traffic stood still after a fault.
//!
//! [`patience`] measures how long senders waited.
//!
//! A check that counted nothing has shown nothing: it is not a pass.

pub mod liveness;
pub mod once;
pub mod order;
pub mod patience;
pub mod total_queue;
mod verdict;

#[cfg(test)]
mod histories;

pub use self::{
    liveness::{Expectation, Pause},
    verdict::{Check, Finding, Verdict},
};
use crate::history::History;

/// Runs every check.
pub fn check(history: &History, expectation: &Expectation) -> Verdict {
    let (liveness, pauses) = liveness::check(history, expectation);
    let checks =
        vec![total_queue::check(history), order::check(history), once::check(history), liveness];
    Verdict { checks, pauses }
}
