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

use crate::faults::Unsynced;

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
    /// A fault, from the moment it is inflicted (invoke) until it is complete (ok).
    Fault {
        /// What it is.
        fault: Fault,
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

/// What is done to a cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "fault", rename_all = "kebab-case")]
pub enum Fault {
    /// `kill -9` of these nodes at once.
    Kill {
        /// Their ids.
        nodes: Vec<u16>,
    },
    /// SIGTERM to this node, until its process has ended; it must end with 0.
    Stop {
        /// Its id.
        node: u16,
    },
    /// Start of these nodes on their directories.
    Restart {
        /// Their ids.
        nodes: Vec<u16>,
    },
    /// Loss of power of these nodes at once.
    PowerCut {
        /// Their ids.
        nodes: Vec<u16>,
        /// What it leaves of what was not synced.
        unsynced: Unsynced,
        /// Decides the rest.
        seed: u64,
    },
    /// The disks of these nodes fail from now on.
    Disk {
        /// Their ids.
        nodes: Vec<u16>,
        /// How, as `preload/powercut.c` tells.
        rules: String,
    },
    /// The disks of these nodes are well again; complete when the nodes are ready.
    Repair {
        /// Their ids.
        nodes: Vec<u16>,
    },
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

/// The most events a recorder takes: a guard against a run that never ends, at about 100 bytes
/// an event below half a gigabyte.
const EVENTS_MAX: usize = 4_000_000;

/// Takes down a history while it happens; clones write into the same one.
#[derive(Clone, Debug)]
pub struct Recorder {
    started: Instant,
    events: Arc<Mutex<Vec<Event>>>,
}

impl Recorder {
    /// An empty history that starts at `started`.
    pub fn new(started: Instant) -> Self {
        Self { started, events: Arc::default() }
    }

    /// Takes down an event at the present time.
    ///
    /// # Panics
    /// When the run is far longer than any run may be.
    pub fn record(&self, process: u32, phase: Phase, operation: Operation) {
        let mut events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        assert!(events.len() < EVENTS_MAX, "a run of more than {EVENTS_MAX} events");
        // The time is read under the lock, so that the order of the list is the order of time.
        let at = self.started.elapsed();
        events.push(Event { at, process, phase, operation });
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
    fn a_history_survives_being_saved() {
        let recorder = Recorder::new(Instant::now());
        let mailbox = MailboxNumber(3);
        let message = MessageNumber(7);
        let send = Operation::Send { mailbox, priority: 2, message };
        recorder.record(1, Phase::Invoke, send.clone());
        recorder.record(1, Phase::Ok, send);
        recorder.record(
            0,
            Phase::Invoke,
            Operation::Fault { fault: Fault::Kill { nodes: vec![1, 2] } },
        );
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
