//! What waits for a shard actor: commands and those who proposed them. The actor is woken once for all
//! that came since it last looked; a message of its own for each would cost as much as applying it.

use parking_lot::Mutex;
use tokio::{
    sync::{OwnedSemaphorePermit, oneshot},
    time::Instant,
};

use crate::{
    machine::{Command, Outcome},
    shard_handle::ProposeError,
};

/// A command that waits for its outcome.
pub(crate) struct Pending {
    pub(super) command: Command,
    pub(super) deadline: Instant,
    pub(super) answer: oneshot::Sender<Result<Outcome, ProposeError>>,
    /// Its place: there are no more commands than permits, in the inbox and behind it.
    pub(super) permit: OwnedSemaphorePermit,
}

impl Pending {
    /// Whether it need not be in the next entry at once.
    pub(super) fn may_linger(&self) -> bool {
        matches!(self.command, Command::Acknowledge { .. })
    }

    pub(super) fn refuse(self, error: ProposeError) {
        // Who asked may have given up.
        let _ = self.answer.send(Err(error));
    }

    /// The fault that answers acknowledgements without replicating them.
    #[cfg(feature = "mutants")]
    pub(super) fn unless_swallowed(self) -> Option<Self> {
        use heliograph_storage::mutant::Mutant;
        match &self.command {
            Command::Acknowledge { items, .. } if Mutant::AcknowledgementsNotReplicated.is_on() => {
                let count = u32::try_from(items.len()).unwrap_or(u32::MAX);
                let _ = self.answer.send(Ok(Outcome::Acknowledged { count }));
                None
            }
            _ => Some(self),
        }
    }
}

#[derive(Default)]
struct State {
    commands: Vec<Pending>,
    /// The actor was woken and has not looked yet.
    is_awake: bool,
}

/// See the module.
#[derive(Default)]
pub(crate) struct ShardInbox {
    state: Mutex<State>,
}

impl ShardInbox {
    /// Adds a command; `wake` is called where the actor must be told.
    pub(super) fn push(&self, pending: Pending, wake: impl FnOnce()) {
        let was_awake = {
            let mut state = self.state.lock();
            state.commands.push(pending);
            std::mem::replace(&mut state.is_awake, true)
        };
        if !was_awake {
            wake();
        }
    }

    /// Takes all there are, in the order in which they came. The next one wakes the actor again.
    pub(super) fn take(&self) -> Vec<Pending> {
        let mut state = self.state.lock();
        state.is_awake = false;
        std::mem::take(&mut state.commands)
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, sync::Arc};

    use tokio::sync::Semaphore;

    use super::*;

    fn pending(limit: u32) -> Pending {
        let permit = Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap();
        let (answer, _) = oneshot::channel();
        Pending { command: Command::Expire { limit }, deadline: Instant::now(), answer, permit }
    }

    #[test]
    fn many_commands_wake_the_actor_once() {
        let inbox = ShardInbox::default();
        let wakes = Cell::new(0);
        let push = |limit| inbox.push(pending(limit), || wakes.set(wakes.get() + 1));
        push(1);
        push(2);
        assert_eq!(wakes.get(), 1);
        let taken = inbox.take();
        let limits: Vec<_> = taken.iter().map(|pending| pending.command.clone()).collect();
        assert_eq!(limits, [Command::Expire { limit: 1 }, Command::Expire { limit: 2 }]);
        assert!(inbox.take().is_empty());
        push(3);
        assert_eq!(wakes.get(), 2);
    }
}
