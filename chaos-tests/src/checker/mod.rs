//! Verdicts over a history: pure functions, no clock, no I/O.
//!
//! * [`total_queue`]: nothing accepted is lost, nothing comes back after its acknowledgement was
//!   answered, nothing appears that was not sent.
//! * [`order`]: per mailbox and priority the numbers come in order, without gaps, and in the order
//!   in which the relay accepted them.
//! * [`once`]: within one reading nothing comes twice.
//! * [`liveness`]: how long traffic stood still after a fault, and whether remedies worked.
//! * [`answered`]: every message was accepted or refused before its sender gave up.
//! * [`owner`]: no node acts as leader after another did in a newer term.
//! * [`replicas`]: all replicas of a group hold the same.
//! * [`live`]: frames of live streams come as they were sent, to whom they were sent.
//! * [`registration`]: a key that was given out is taken everywhere.
//! * [`logs`]: no node logged an error that is not expected.
//! * [`resources`]: no node uses more in the end than its share.
//! * [`coverage`]: the faults really happened, and hit leaders and others.
//!
//! [`patience`] measures how long senders waited.
//!
//! A check that counted nothing has shown nothing: it is not a pass, it is *unknown*.

pub mod answered;
pub mod coverage;
mod expectation;
pub mod live;
pub mod liveness;
pub mod logs;
pub mod once;
pub mod order;
pub mod owner;
pub mod patience;
pub mod registration;
pub mod replicas;
pub mod resources;
pub mod total_queue;
mod verdict;

#[cfg(test)]
pub(crate) mod histories;

pub use self::{
    coverage::Demand,
    expectation::Expectation,
    liveness::Pause,
    verdict::{Check, Doubt, Finding, Outcome, Verdict},
};
use crate::history::History;

/// Whether a history that goes on shows already that a promise was broken. What is missing may still
/// come.
pub fn is_broken_so_far(history: &History) -> bool {
    let mut back = Check::new("back");
    liveness::not_back(history, &mut back);
    let checks = [
        back,
        total_queue::check(history),
        order::check(history),
        once::check(history),
        owner::check(history),
        registration::check(history),
    ];
    let may_change = |finding: &Finding| {
        matches!(finding, Finding::Lost { .. } | Finding::Residue { .. } | Finding::Gap { .. })
    };
    checks.iter().flat_map(|check| &check.findings).any(|finding| !may_change(finding))
}

/// Runs every check. Those beyond the first four count where the run showed them something, and
/// where the expectation says that it had to.
pub fn check(history: &History, expectation: &Expectation) -> Verdict {
    let (liveness, pauses) = liveness::check(history, expectation);
    let mut checks =
        vec![total_queue::check(history), order::check(history), once::check(history), liveness];
    let further = [
        answered::check(history),
        owner::check(history),
        replicas::check(history),
        live::check(history),
        registration::check(history),
        logs::check(history),
        resources::check(history, expectation),
        coverage::check(history, expectation),
    ];
    let is_asked = |check: &Check| {
        expectation.is_whole || check.counted > 0 || check.broken > 0 || !check.doubts.is_empty()
    };
    checks.extend(further.into_iter().filter(is_asked));
    Verdict { checks, pauses }
}
