//! What a checker found.

use std::{fmt, time::Duration};

use serde::Serialize;

use super::liveness::Pause;
use crate::history::{MailboxNumber, MessageNumber};

/// How many findings of a check are kept in full; the rest is counted. Twenty show the pattern,
/// twenty thousand hide it.
const FINDINGS_KEPT_MAX: usize = 20;

/// A broken promise.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "finding", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Finding {
    /// A message was accepted and never seen by its recipient.
    Lost {
        /// Where it was sent.
        mailbox: MailboxNumber,
        /// Which.
        message: MessageNumber,
    },
    /// A reading that began after a message's acknowledgement was answered showed it again.
    BackAfterAcknowledgement {
        /// Where.
        mailbox: MailboxNumber,
        /// Which.
        message: MessageNumber,
    },
    /// Something was delivered that nobody sent, or that was certainly refused.
    Unexpected {
        /// Where.
        mailbox: MailboxNumber,
        /// As the relay said.
        priority: u8,
        /// As the relay said.
        seq: u64,
    },
    /// A number came twice in one reading.
    CameTwice {
        /// Where.
        mailbox: MailboxNumber,
        /// In which priority.
        priority: u8,
        /// The number.
        seq: u64,
    },
    /// A message came to another mailbox, or with another priority, than it was sent to.
    Misdelivered {
        /// Where it came.
        mailbox: MailboxNumber,
        /// Which.
        message: MessageNumber,
    },
    /// Content or sender of a message were changed.
    Corrupted {
        /// Where.
        mailbox: MailboxNumber,
        /// Which.
        message: MessageNumber,
    },
    /// One message has two numbers: it was stored twice.
    StoredTwice {
        /// Where.
        mailbox: MailboxNumber,
        /// Which.
        message: MessageNumber,
        /// Its two numbers.
        seqs: [u64; 2],
    },
    /// One number stands for two messages.
    NumberReused {
        /// Where.
        mailbox: MailboxNumber,
        /// In which priority.
        priority: u8,
        /// The number.
        seq: u64,
    },
    /// A number was seen for the first time although an earlier one was neither seen nor skipped.
    Gap {
        /// Where.
        mailbox: MailboxNumber,
        /// In which priority.
        priority: u8,
        /// The next number that should have been seen.
        expected: u64,
        /// What came.
        seq: u64,
    },
    /// A number was seen for the first time after a later one.
    OutOfOrder {
        /// Where.
        mailbox: MailboxNumber,
        /// In which priority.
        priority: u8,
        /// The highest number seen before.
        highest: u64,
        /// What came.
        seq: u64,
    },
    /// A message whose sending began after another was accepted has a lower number than it.
    AcceptedOutOfOrder {
        /// Where.
        mailbox: MailboxNumber,
        /// The later message.
        message: MessageNumber,
        /// Its number.
        seq: u64,
        /// A number that was accepted before the sending began.
        accepted_before: u64,
    },
    /// Messages were still pending when everything had been acknowledged.
    Residue {
        /// Where.
        mailbox: MailboxNumber,
        /// How many.
        pending: u64,
    },
    /// Traffic stood still for longer than it may.
    Stalled {
        /// In which mailbox the longest pause was.
        mailbox: MailboxNumber,
        /// How long it was.
        pause: Duration,
        /// The bound.
        bound: Duration,
    },
}

/// The outcome of one check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// Its name.
    pub name: &'static str,
    /// How many things it looked at; zero is no pass.
    pub counted: u64,
    /// How many are broken.
    pub broken: u64,
    /// Seen more than once, within what is promised.
    pub repeated: u64,
    /// The first of the broken ones.
    pub findings: Vec<Finding>,
}

impl Check {
    /// A check that has looked at nothing yet.
    pub(crate) fn new(name: &'static str) -> Self {
        Self { name, counted: 0, broken: 0, repeated: 0, findings: Vec::new() }
    }

    /// Adds a broken promise.
    pub(crate) fn find(&mut self, finding: Finding) {
        self.broken += 1;
        if self.findings.len() < FINDINGS_KEPT_MAX {
            self.findings.push(finding);
        }
    }

    /// Whether it looked at something and found nothing broken.
    pub fn passed(&self) -> bool {
        self.counted > 0 && self.broken == 0
    }
}

/// The outcome of all checks of a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// Each check.
    pub checks: Vec<Check>,
    /// How long traffic stood still after each fault.
    pub pauses: Vec<Pause>,
}

impl Verdict {
    /// Whether every check passed.
    pub fn passed(&self) -> bool {
        !self.checks.is_empty() && self.checks.iter().all(Check::passed)
    }

    /// All findings that were kept.
    pub fn findings(&self) -> impl Iterator<Item = &Finding> {
        self.checks.iter().flat_map(|check| &check.findings)
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for check in &self.checks {
            let word = match (check.passed(), check.counted) {
                (true, _) => "ok",
                (false, 0) => "SHOWED NOTHING",
                (false, _) => "BROKEN",
            };
            writeln!(
                f,
                "{:<12} {word}: {} looked at, {} broken, {} repeated",
                check.name, check.counted, check.broken, check.repeated
            )?;
            for finding in &check.findings {
                writeln!(f, "  {finding:?}")?;
            }
        }
        for pause in &self.pauses {
            writeln!(f, "{pause}")?;
        }
        Ok(())
    }
}
