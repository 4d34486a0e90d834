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
    /// A message was neither accepted nor refused in all the time its sender repeated it.
    Unanswered {
        /// Where.
        mailbox: MailboxNumber,
        /// Which.
        message: MessageNumber,
    },
    /// A frame of a live stream was seen that nobody sent, elsewhere than it was sent, or changed.
    LiveWrong {
        /// Where.
        mailbox: MailboxNumber,
        /// Which, if it is known.
        frame: Option<MessageNumber>,
    },
    /// A key was refused although its registration had been answered.
    KeyRefused {
        /// Which device.
        device: u32,
        /// Where.
        node: u16,
    },
    /// A node acted as leader long after another had acted in a newer term.
    TwoOwners {
        /// Of which group.
        group: u32,
        /// Who acted in the older term.
        node: u16,
        /// The older term.
        term: u64,
        /// The newer one.
        newer: u64,
    },
    /// Two replicas of one group hold different things.
    ReplicasDiffer {
        /// Of which group.
        group: u32,
        /// On which nodes.
        nodes: [u16; 2],
    },
    /// A node logged an error that the profile does not expect.
    Logged {
        /// The node.
        node: u16,
        /// The line.
        line: String,
    },
    /// A node uses more than it should after everything has settled.
    NotBackToBaseline {
        /// The node.
        node: u16,
        /// Of what.
        resource: &'static str,
        /// The most it should be.
        bound: u64,
        /// What it is.
        used: u64,
    },
    /// A fault's remedy did not bring the nodes back.
    NotBack {
        /// The remedy.
        fault: String,
        /// What was seen.
        why: String,
    },
}

/// Why a check cannot say that all is well.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "doubt", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Doubt {
    /// There was nothing to look at.
    SawNothing,
    /// A fault that the profile demands was not installed as often as it demands.
    NotInstalled {
        /// Its kind.
        fault: String,
        /// How often it is demanded.
        wanted: u32,
        /// How often it was installed.
        installed: u32,
        /// Why not, the first time that it was not.
        why: Option<String>,
    },
    /// No fault hit a node in that role.
    NeverHit {
        /// The role.
        role: &'static str,
    },
}

/// What a check, or all of them, say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// Everything that was promised was kept.
    Valid,
    /// Nothing broken was seen, and not enough was seen to say that nothing is. It never passes.
    Unknown,
    /// A promise was broken.
    Invalid,
}

impl Outcome {
    /// The exit status of a program that judged so.
    pub fn exit_status(self) -> u8 {
        match self {
            Self::Valid => 0,
            Self::Invalid => 1,
            Self::Unknown => 2,
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Valid => "valid",
            Self::Unknown => "unknown",
            Self::Invalid => "invalid",
        })
    }
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
    /// Why it cannot say that all is well, though it found nothing broken.
    pub doubts: Vec<Doubt>,
}

impl Check {
    /// A check that has looked at nothing yet.
    pub(crate) fn new(name: &'static str) -> Self {
        Self { name, counted: 0, broken: 0, repeated: 0, findings: Vec::new(), doubts: Vec::new() }
    }

    /// Adds a broken promise.
    pub(crate) fn find(&mut self, finding: Finding) {
        self.broken += 1;
        if self.findings.len() < FINDINGS_KEPT_MAX {
            self.findings.push(finding);
        }
    }

    /// Adds a reason not to be sure.
    pub(crate) fn doubt(&mut self, doubt: Doubt) {
        self.doubts.push(doubt);
    }

    /// What it says.
    pub fn outcome(&self) -> Outcome {
        match (self.broken, self.counted) {
            (1.., _) => Outcome::Invalid,
            (0, 1..) if self.doubts.is_empty() => Outcome::Valid,
            _ => Outcome::Unknown,
        }
    }

    /// Whether it looked at enough and found nothing broken.
    pub fn passed(&self) -> bool {
        self.outcome() == Outcome::Valid
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
    /// What all checks say together: the worst of them, and nothing without any.
    pub fn outcome(&self) -> Outcome {
        self.checks.iter().map(Check::outcome).max().unwrap_or(Outcome::Unknown)
    }

    /// Whether every check passed.
    pub fn passed(&self) -> bool {
        self.outcome() == Outcome::Valid
    }

    /// All findings that were kept.
    pub fn findings(&self) -> impl Iterator<Item = &Finding> {
        self.checks.iter().flat_map(|check| &check.findings)
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for check in &self.checks {
            let word = match check.outcome() {
                Outcome::Valid => "ok",
                Outcome::Unknown => "UNKNOWN",
                Outcome::Invalid => "BROKEN",
            };
            writeln!(
                f,
                "{:<12} {word}: {} looked at, {} broken, {} repeated",
                check.name, check.counted, check.broken, check.repeated
            )?;
            for finding in &check.findings {
                writeln!(f, "  {finding:?}")?;
            }
            for doubt in &check.doubts {
                writeln!(f, "  {doubt:?}")?;
            }
        }
        for pause in &self.pauses {
            writeln!(f, "{pause}")?;
        }
        Ok(())
    }
}
