//! What the tests of the log share.

#![allow(dead_code, reason = "each test binary uses a part")]

use std::{
    future::Future,
    pin::pin,
    sync::{Arc, mpsc},
    task::{Context, Poll, Wake, Waker},
    thread::Thread,
    time::Duration,
};

use bytes::Bytes;
use heliograph_storage::{Done, Error, GroupId, LogEntry, LogStore, Position};

/// Far longer than any step takes: a test that waits so long has failed.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Waits for a future on this thread.
pub(crate) fn block_on<F: Future>(future: F) -> F::Output {
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(output) => return output,
            Poll::Pending => std::thread::park_timeout(DEADLINE),
        }
    }
}

/// A callback and where its result arrives.
pub(crate) fn done() -> (Done, mpsc::Receiver<Result<(), Error>>) {
    let (sender, receiver) = mpsc::channel();
    let done = Box::new(move |result| {
        // A test that no longer waits is no error.
        let _ = sender.send(result);
    });
    (done, receiver)
}

/// An entry whose payload tells group, term and index, and is `bytes` long at least.
pub(crate) fn entry(group: GroupId, term: u64, index: u64, bytes: usize) -> LogEntry {
    let mut payload = format!("{}/{term}/{index};", group.0).into_bytes();
    let fill = payload.clone();
    while payload.len() < bytes {
        payload.extend_from_slice(&fill);
    }
    LogEntry { position: Position { term, index }, payload: Bytes::from(payload) }
}

/// Reads all entries of a range, however many reads it takes.
pub(crate) fn read_all(log: &dyn LogStore, group: GroupId, from: u64, to: u64) -> Vec<LogEntry> {
    let mut entries: Vec<LogEntry> = Vec::new();
    loop {
        let next = entries.last().map_or(from, |last| last.position.index + 1);
        let read = block_on(log.read(group, next..to, 256 << 10)).expect("the range is readable");
        if read.is_empty() {
            return entries;
        }
        entries.extend(read);
    }
}
