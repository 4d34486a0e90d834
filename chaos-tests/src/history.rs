//! What happened in a run, in the order of one monotonic clock.
//!
//! Every operation begins with [`Phase::Invoke`] and ends with at most one of [`Phase::Ok`],
//! [`Phase::Fail`] (certainly not done) and [`Phase::Unknown`] (perhaps done). An operation
//! without an end is as good as unknown. Deliveries and skipped ranges have no invocation of
//! their own: they are seen in a *reading*, which has one.

use std::{
    io::Write,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

pub use crate::faults::Fault;

/// A mailbox of the workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct MailboxNumber(pub u32);

/// A message of the workload: unique in a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct MessageNumber(pub u64);

/// One WebSocket connection or one REST receive; unique in a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Reading(pub u64);

/// How far an operation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// It begins.
    Invoke,
    /// It was done.
    Ok,
    /// It was certainly not done.
    Fail,
    /// Perhaps it was done.
    Unknown,
}

/// What was done or seen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "kebab-case")]
pub enum Operation {
    /// A message was sent. *Ok* is the relay's promise: accepted.
    Send {
        /// To whom.
        mailbox: MailboxNumber,
        /// 0 to 3.
        priority: u8,
        /// Which.
        message: MessageNumber,
    },
    /// A recipient began (invoke) or ended a reading.
    Read {
        /// Of this mailbox.
        mailbox: MailboxNumber,
        /// Which reading.
        reading: Reading,
    },
    /// A message was seen by its recipient (always *ok*).
    Deliver {
        /// The mailbox it came from.
        mailbox: MailboxNumber,
        /// In which reading.
        reading: Reading,
        /// 0 to 3, as the relay said.
        priority: u8,
        /// As the relay said.
        seq: u64,
        /// Which message, `None` when the id is none of this run's.
        message: Option<MessageNumber>,
        /// Whether content and sender are those that were sent.
        intact: Intact,
    },
    /// Numbers that will never come (always *ok*).
    Skipped {
        /// The mailbox.
        mailbox: MailboxNumber,
        /// In which reading.
        reading: Reading,
        /// 0 to 3.
        priority: u8,
        /// First number.
        from: u64,
        /// Last number.
        to: u64,
    },
    /// Messages were acknowledged. *Ok* means that the relay answered.
    Acknowledge {
        /// The mailbox.
        mailbox: MailboxNumber,
        /// Which messages.
        messages: Vec<MessageNumber>,
    },
    /// What was still pending in a mailbox when everything had settled (always *ok*).
    Residue {
        /// The mailbox.
        mailbox: MailboxNumber,
        /// How many messages.
        pending: u64,
    },
    /// A fault, from the moment it is inflicted (invoke) until it is known what came of it:
    /// *installed* (ok), *skipped* (fail) or *indeterminate* (unknown).
    Fault {
        /// What it is.
        #[serde(flatten)]
        fault: Fault,
        /// Whom it hit.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        hit: Vec<Hit>,
        /// Why it was skipped or is indeterminate; what showed that it is installed.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        why: Option<String>,
    },
    /// A frame of a live stream was written to a socket (always *ok*).
    SendLive {
        /// To whom.
        mailbox: MailboxNumber,
        /// Which: unique in a run, rising for each sender.
        frame: MessageNumber,
    },
    /// A frame of a live stream came (always *ok*).
    SeeLive {
        /// To whom.
        mailbox: MailboxNumber,
        /// Which, `None` when it is none of this run's.
        frame: Option<MessageNumber>,
        /// Whether it is what was sent.
        intact: Intact,
    },
    /// A device was registered at a node. *Ok* is the relay's promise that its key works.
    Register {
        /// Which device; unique in a run.
        device: u32,
        /// At which node.
        node: u16,
    },
    /// A registered device's key was used at a node: taken (ok), refused (fail), no answer
    /// (unknown).
    Authenticate {
        /// Which device.
        device: u32,
        /// At which node.
        node: u16,
    },
    /// A node said for which groups it acts as leader (always *ok*).
    Acts {
        /// The node.
        node: u16,
        /// When it was asked, as `at`.
        asked: Duration,
        /// Group and term.
        groups: Vec<(u32, u64)>,
    },
    /// What a replica holds when all had caught up (always *ok*).
    Replica {
        /// On which node.
        node: u16,
        /// Of which group.
        group: u32,
        /// Up to where.
        applied_index: u64,
        /// What it says of devices and mailboxes.
        digest: String,
    },
    /// What a node uses (always *ok*).
    Resources {
        /// The node.
        node: u16,
        /// When.
        moment: Moment,
        /// Resident memory that is not of files.
        anonymous_bytes: u64,
        /// Open file descriptors.
        descriptors: u64,
        /// Threads.
        threads: u64,
    },
    /// A node logged something that somebody must look at (always *ok*).
    Logged {
        /// The node.
        node: u16,
        /// The line.
        line: String,
        /// Which expectation of the profile it meets, if any.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        expected: Option<String>,
    },
    /// A node's whole log was read (always *ok*).
    LogRead {
        /// The node.
        node: u16,
        /// How many lines.
        lines: u64,
    },
}

/// Whether a delivered message is what was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Intact {
    /// It is.
    Yes,
    /// Content or sender differ.
    No,
}

/// A node that a fault hit, and what it was at that moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hit {
    /// The node.
    pub node: u16,
    /// How many groups it led.
    pub leads: u32,
    /// How many replicas it held.
    pub holds: u32,
}

/// Whether resources were read before the first fault or after everything had settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Moment {
    /// Before the first fault.
    Before,
    /// When everything had settled.
    After,
}

/// One line of a history.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Since the start of the run, monotonic.
    pub at: Duration,
    /// Which of the run's clients; 0 is the one that inflicts faults.
    pub process: u32,
    /// How far the operation is.
    pub phase: Phase,
    /// The operation.
    #[serde(flatten)]
    pub operation: Operation,
}

/// Everything that happened in a run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct History {
    /// In the order of time.
    pub events: Vec<Event>,
}

impl History {
    /// Writes one JSON object a line.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn save(&self, path: &Path) -> anyhow::Result<()> {
        let mut file = std::io::BufWriter::new(std::fs::File::create(path)?);
        for event in &self.events {
            serde_json::to_writer(&mut file, event)?;
            file.write_all(b"\n")?;
        }
        file.flush()?;
        Ok(())
    }

    /// Reads what [`Self::save`] wrote.
    ///
    /// # Errors
    /// When the file cannot be read or a line is no event.
    pub fn load(path: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(path)?;
        let events = text.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
        Ok(Self { events })
    }
}

/// The most events a recorder takes, at about 100 bytes each: a run must not take its machine's
/// memory.
const EVENTS_MAX: usize = 16_000_000;

/// Takes down a history while it happens; clones write into the same one.
#[derive(Clone, Debug)]
pub struct Recorder {
    started: Instant,
    events: Arc<Mutex<Vec<Event>>>,
    events_max: usize,
}

impl Recorder {
    /// An empty history that starts at `started`.
    pub fn new(started: Instant) -> Self {
        Self::with_room(started, EVENTS_MAX)
    }

    fn with_room(started: Instant, events_max: usize) -> Self {
        Self { started, events: Arc::default(), events_max }
    }

    /// Takes down an event at the present time.
    ///
    /// # Panics
    /// When the run goes on long after [`Self::is_nearly_full`].
    pub fn record(&self, process: u32, phase: Phase, operation: Operation) {
        let mut events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        assert!(events.len() < self.events_max, "a run of more than {} events", self.events_max);
        // The time is read under the lock, so that the order of the list is the order of time.
        let at = self.started.elapsed();
        events.push(Event { at, process, phase, operation });
    }

    /// Whether the run should end because its history has grown too long: there is room left for
    /// what its end tells.
    pub fn is_nearly_full(&self) -> bool {
        let events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        events.len() >= self.events_max / 8 * 7
    }

    /// The history of a run that has ended; the recorder is empty then.
    pub fn take_history(&self) -> History {
        let mut events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        History { events: std::mem::take(&mut events) }
    }

    /// The history so far.
    pub fn history(&self) -> History {
        let events = self.events.lock().unwrap_or_else(PoisonError::into_inner).clone();
        History { events }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recorder_says_in_time_that_it_is_nearly_full() {
        let recorder = Recorder::with_room(Instant::now(), 16);
        let read = Operation::Read { mailbox: MailboxNumber(1), reading: Reading(1) };
        for _ in 0..14 {
            assert!(!recorder.is_nearly_full());
            recorder.record(1, Phase::Invoke, read.clone());
        }
        assert!(recorder.is_nearly_full());
        assert_eq!(recorder.take_history().events.len(), 14);
        assert!(!recorder.is_nearly_full());
    }

    #[test]
    fn a_history_survives_being_saved() {
        let recorder = Recorder::new(Instant::now());
        let mailbox = MailboxNumber(3);
        let message = MessageNumber(7);
        let send = Operation::Send { mailbox, priority: 2, message };
        recorder.record(1, Phase::Invoke, send.clone());
        recorder.record(1, Phase::Ok, send);
        let hit = vec![Hit { node: 1, leads: 5, holds: 17 }];
        let fault = Fault::Kill { nodes: vec![1, 2] };
        recorder.record(0, Phase::Invoke, Operation::Fault { fault, hit, why: None });
        let links = crate::faults::Impairment { loss_per_mille: 7, ..Default::default() };
        let why = Some("12 datagrams were lost".to_owned());
        let fault = Fault::Links { links };
        recorder.record(0, Phase::Ok, Operation::Fault { fault, hit: Vec::new(), why });
        let deliver = Operation::Deliver {
            mailbox,
            reading: Reading(9),
            priority: 2,
            seq: 1,
            message: Some(message),
            intact: Intact::Yes,
        };
        recorder.record(2, Phase::Ok, deliver);
        let history = recorder.history();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("history.jsonl");
        history.save(&path).unwrap();
        assert_eq!(History::load(&path).unwrap(), history);
        assert!(history.events.windows(2).all(|pair| pair[0].at <= pair[1].at));
    }
}
