//! Calls under way on one connection, by request id.

use std::collections::HashMap;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::oneshot;

/// What came back.
#[derive(Debug)]
pub(super) enum Reply {
    Answer(Bytes),
    Declined,
    Busy,
    Failed,
}

/// The table of calls under way. Bounded by the callers: each waits for its call.
#[derive(Default)]
pub(super) struct Pending {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    last_id: u64,
    calls: HashMap<u64, oneshot::Sender<Reply>>,
    closed: bool,
}

impl Pending {
    /// A new request id and where its reply will come; the receiver ends without a reply when the
    /// connection does. `None` when it has ended.
    pub(super) fn begin(&self) -> Option<(u64, oneshot::Receiver<Reply>)> {
        let (sender, receiver) = oneshot::channel();
        let mut state = self.state.lock();
        if state.closed {
            return None;
        }
        state.last_id += 1;
        let id = state.last_id;
        state.calls.insert(id, sender);
        Some((id, receiver))
    }

    /// Hands a reply to its caller. One that comes for nobody (late, twice, made up) is dropped.
    pub(super) fn end(&self, id: u64, reply: Reply) {
        let caller = self.state.lock().calls.remove(&id);
        if let Some(caller) = caller {
            // The caller may have given up in this instant.
            let _ = caller.send(reply);
        }
    }

    /// Forgets a call its caller no longer waits for.
    pub(super) fn forget(&self, id: u64) {
        self.state.lock().calls.remove(&id);
    }

    /// Ends all calls without a reply, and refuses new ones.
    pub(super) fn close(&self) {
        let calls = {
            let mut state = self.state.lock();
            state.closed = true;
            std::mem::take(&mut state.calls)
        };
        drop(calls);
    }
}
