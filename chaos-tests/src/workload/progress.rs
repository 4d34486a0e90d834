//! How far a run is: what was accepted and is not yet seen.

use std::{
    collections::HashSet,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Result, bail};
use heliograph_api::client::Entry;
use tokio::{
    sync::Notify,
    time::{Instant, timeout_at},
};

use crate::history::MessageNumber;

/// Shared by all clients of a run.
#[derive(Debug, Default)]
pub(super) struct Progress {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    accepted: u64,
    seen: HashSet<MessageNumber>,
    /// Accepted and not seen.
    waiting: HashSet<MessageNumber>,
    /// Answers that a correct relay never gives to a correct client.
    refused: Vec<String>,
    resumed: Resumed,
}

/// How often connections of the product's own client went on at another node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Resumed {
    /// By the ticket their former node gave them.
    pub by_ticket: u64,
    /// By their API key.
    pub by_key: u64,
}

/// How many refusals are kept in full.
const REFUSED_KEPT_MAX: usize = 20;

impl Progress {
    fn with<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let result = change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner));
        self.changed.notify_waiters();
        result
    }

    pub(super) fn accepted(&self, message: MessageNumber) {
        self.with(|state| {
            state.accepted += 1;
            if !state.seen.contains(&message) {
                state.waiting.insert(message);
            }
        });
    }

    pub(super) fn seen(&self, message: MessageNumber) {
        self.with(|state| {
            state.seen.insert(message);
            state.waiting.remove(&message);
        });
    }

    pub(super) fn refused(&self, answer: String) {
        self.with(|state| {
            if state.refused.len() < REFUSED_KEPT_MAX {
                state.refused.push(answer);
            }
        });
    }

    pub(super) fn refusals(&self) -> Vec<String> {
        self.with(|state| state.refused.clone())
    }

    pub(super) fn resumed(&self, entry: Entry) {
        self.with(|state| match entry {
            Entry::Ticket => state.resumed.by_ticket += 1,
            Entry::Key => state.resumed.by_key += 1,
        });
    }

    pub(super) fn resumptions(&self) -> Resumed {
        self.with(|state| state.resumed)
    }

    pub(super) fn accepted_total(&self) -> u64 {
        self.with(|state| state.accepted)
    }

    fn waiting(&self) -> usize {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).waiting.len()
    }

    /// Waits until `count` messages more than now are accepted.
    pub(super) async fn more_accepted(&self, count: u64, deadline: Duration) -> Result<()> {
        let goal = self.accepted_total() + count;
        let until = Instant::now() + deadline;
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let accepted = self.state.lock().unwrap_or_else(PoisonError::into_inner).accepted;
            if accepted >= goal {
                return Ok(());
            }
            if timeout_at(until, changed).await.is_err() {
                bail!(
                    "{} of {count} messages accepted within {deadline:?}",
                    accepted + count - goal
                );
            }
        }
    }

    /// Waits until everything accepted was seen, or until nothing missing has arrived for
    /// `patience`; the answer is how much is missing. What it means is the checker's business.
    pub(super) async fn drained(&self, patience: Duration) -> usize {
        let mut least = usize::MAX;
        let mut until = Instant::now() + patience;
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let waiting = self.waiting();
            if waiting < least {
                // What is seen again is no progress.
                least = waiting;
                until = Instant::now() + patience;
            }
            if waiting == 0 || timeout_at(until, changed).await.is_err() {
                return waiting;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_secs(20);

    #[tokio::test]
    async fn drained_when_everything_accepted_was_seen_in_either_order() {
        let progress = Progress::default();
        let [a, b] = [MessageNumber(1), MessageNumber(2)];
        progress.seen(a);
        progress.accepted(a);
        assert_eq!(progress.drained(SOON).await, 0);
        progress.accepted(b);
        assert_eq!(progress.drained(Duration::from_millis(20)).await, 1);
        let (waiting, ()) = tokio::join!(progress.drained(SOON), async { progress.seen(b) });
        assert_eq!(waiting, 0);
    }

    #[tokio::test]
    async fn what_is_seen_again_and_again_is_no_progress() {
        let progress = Progress::default();
        progress.accepted(MessageNumber(1));
        let again = async {
            loop {
                progress.seen(MessageNumber(2));
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::select! {
            waiting = progress.drained(Duration::from_millis(20)) => assert_eq!(waiting, 1),
            () = again => unreachable!("it goes on for ever"),
        }
    }

    #[tokio::test]
    async fn accepted_messages_are_waited_for() {
        let progress = Progress::default();
        assert!(progress.more_accepted(1, Duration::from_millis(20)).await.is_err());
        let (waited, ()) = tokio::join!(progress.more_accepted(2, SOON), async {
            progress.accepted(MessageNumber(1));
            progress.accepted(MessageNumber(2));
        });
        waited.unwrap();
    }
}
