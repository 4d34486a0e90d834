//! The thread that reads older entries from the files, so that no async thread waits for a disk.

use std::{
    sync::{Arc, mpsc},
    thread::JoinHandle,
};

use futures_channel::oneshot;

use super::{
    compact::read_span,
    shared::{Plan, Shared},
};
use crate::{Error, GroupId, LogEntry, metrics};

/// Reads that may wait: some for each group and peer. A call past it blocks.
const READS_MAX: usize = 1024;

/// What a read answers.
pub(super) type Answer = Result<Vec<LogEntry>, Error>;

/// A read that needs the files.
pub(super) struct Read {
    group: GroupId,
    plan: Plan,
    answer: oneshot::Sender<Answer>,
}

/// The way to the reader's thread.
pub(super) struct Reader {
    reads: mpsc::SyncSender<Read>,
    thread: JoinHandle<()>,
}

impl Reader {
    /// Starts the thread.
    pub(super) fn start(shared: Arc<Shared>) -> std::io::Result<Reader> {
        let (reads, queue) = mpsc::sync_channel::<Read>(READS_MAX);
        let thread = std::thread::Builder::new().name("log-reader".into()).spawn(move || {
            for read in queue {
                let answer = answer(&shared, read.group, read.plan);
                // A caller that no longer waits is no error.
                let _ = read.answer.send(answer);
            }
        })?;
        Ok(Reader { reads, thread })
    }

    /// Queues a read.
    pub(super) fn read(&self, group: GroupId, plan: Plan) -> oneshot::Receiver<Answer> {
        let (answer, receiver) = oneshot::channel();
        // Without a thread the sender is dropped, and the receiver answers that.
        let _ = self.reads.send(Read { group, plan, answer });
        receiver
    }

    /// Ends the thread after what is queued.
    pub(super) fn stop(self) {
        drop(self.reads);
        if self.thread.join().is_err() {
            tracing::error!("the log's reader panicked");
        }
    }
}

fn answer(shared: &Shared, group: GroupId, plan: Plan) -> Answer {
    metrics::log_file_read();
    let mut entries = Vec::new();
    for span in &plan.spans {
        match read_span(&shared.config.dir, group, span, &plan.keys)? {
            Ok(read) => entries.extend(read),
            Err(damage) => {
                let mut inner = shared.inner.lock();
                let first = span.entries.first();
                let current = first.is_some_and(|(index, slot)| {
                    inner.written.get(&group).and_then(|written| written.slot(*index))
                        == Some(*slot)
                });
                // What was truncated or dropped meanwhile costs nobody anything.
                if current {
                    inner.lose(group, span.segment, &damage);
                }
                return Err(damage.into());
            }
        }
    }
    entries.extend(plan.recent);
    Ok(entries)
}
