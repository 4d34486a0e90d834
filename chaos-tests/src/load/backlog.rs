//! Messages that are due and wait for a connection of their sender.

use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
};

use tokio::sync::Semaphore;

/// Messages that may wait for one sender; more mean that the load generator, or the relay's
/// back-pressure, cannot keep the rate.
const MESSAGES_MAX: usize = 100_000;

/// A message that is due.
#[derive(Debug)]
pub(super) struct Due {
    pub(super) id: String,
    pub(super) text: String,
}

/// A queue that one thread fills and any number of connections empty.
#[derive(Debug)]
pub(super) struct Backlog {
    queue: Mutex<VecDeque<Due>>,
    /// A permit for each message; after the last one, for each connection.
    waiting: Semaphore,
}

impl Default for Backlog {
    fn default() -> Self {
        Self { queue: Mutex::default(), waiting: Semaphore::new(0) }
    }
}

impl Backlog {
    /// Adds one; `false` when it is full.
    pub(super) fn push(&self, due: Due) -> bool {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        if queue.len() >= MESSAGES_MAX {
            return false;
        }
        queue.push_back(due);
        self.waiting.add_permits(1);
        true
    }

    /// Nothing comes any more: so many connections are told when the queue is empty.
    pub(super) fn close(&self, connections: usize) {
        self.waiting.add_permits(connections);
    }

    /// The next message, when there is one; `None` at the end.
    pub(super) async fn next(&self) -> Option<Due> {
        self.waiting.acquire().await.ok()?.forget();
        self.pop()
    }

    /// The next message, if there is one now.
    pub(super) fn try_next(&self) -> Option<Due> {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        let permit = self.waiting.try_acquire().ok()?;
        let due = queue.pop_front()?;
        permit.forget();
        Some(due)
    }

    fn pop(&self) -> Option<Due> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn due(id: usize) -> Due {
        Due { id: id.to_string(), text: String::new() }
    }

    #[tokio::test]
    async fn everything_comes_out_once_and_in_order_and_then_everybody_is_told() {
        let backlog = Backlog::default();
        for id in 0..3 {
            assert!(backlog.push(due(id)));
        }
        assert_eq!(backlog.next().await.unwrap().id, "0");
        assert_eq!(backlog.try_next().unwrap().id, "1");
        backlog.close(2);
        assert_eq!(backlog.next().await.unwrap().id, "2");
        // Whoever only looks takes nobody's end away.
        assert!(backlog.try_next().is_none());
        assert!(backlog.next().await.is_none());
        assert!(backlog.next().await.is_none());
    }

    #[test]
    fn a_full_one_takes_no_more() {
        let backlog = Backlog::default();
        assert!((0..MESSAGES_MAX).all(|id| backlog.push(due(id))));
        assert!(!backlog.push(due(MESSAGES_MAX)));
    }
}
