//! The shard actor: gathers commands into Raft entries, one entry in flight, everything queued
//! meanwhile in the next (design decision 5), together with those who are expected back
//! (`docs/adr/0005-company.md`).

use std::{collections::VecDeque, sync::Arc, time::Duration};

use heliograph_storage::RowsRead;
use heliograph_transport::BoxFuture;
use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, oneshot},
    time::Instant,
};

use super::{
    company::Company,
    shard_inbox::{Pending, ShardInbox},
    time::ShardTime,
};
use crate::{
    context::Context,
    machine::{Command, CommandBatch, Outcome, ShardMachine},
    metrics,
    model::ShardId,
    raft::{EntryAnswer, RaftGroup},
    shard_handle::{Fence, Leadership, ProposeError, Role, ShardPort},
    watch,
};

/// Commands that may wait for a shard at once; more are refused as overloaded. Two full entries:
/// one in flight, one gathering, and room for as much again.
const QUEUE_COMMANDS_MAX: usize = 16 * 1024;
/// Commands in one entry. Applying 4,096 takes a few milliseconds on each replica.
const ENTRY_COMMANDS_MAX: usize = 4096;
/// Bytes of content in one entry. 1 MiB: a quarter of a frame, and 5 ms of a 200 MB/s disk.
const ENTRY_BYTES_MAX: usize = 1024 * 1024;
/// How long an entry with nothing but acknowledgements waits for company. 15 ms: with the 5 ms that a
/// connection's node gathers them, the design's 20 at most.
const ACKNOWLEDGEMENT_LINGER: Duration = Duration::from_millis(15);
/// How often a leader looks whether messages are due to expire.
const TICK: Duration = Duration::from_secs(1);
/// Messages expired by one command, so that one entry stays quick to apply.
const EXPIRE_LIMIT: u32 = 512;

/// What a shard actor is told.
pub(crate) enum ShardMessage {
    /// There are commands in the inbox, for the next entry.
    Wake,
    /// The entry in flight has its outcome.
    EntryEnded,
    /// The entry in flight was answered with something else than its outcomes.
    EntryMismatched,
    /// The hold is over that began after so many entries.
    HoldEnded(Hold, u64),
    /// Look at the time.
    Tick,
}

/// The shard actor. Owned and supervised by the node actor.
pub(crate) struct ShardActor;

/// What a shard actor starts with.
pub(crate) struct ShardArguments {
    pub(crate) shard: ShardId,
    pub(crate) group: Arc<RaftGroup>,
    pub(crate) time: Arc<ShardTime>,
    pub(crate) inbox: Arc<ShardInbox>,
}

/// What a queue waits for before it flies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hold {
    /// Messages that its acknowledgements may ride with.
    Linger,
    /// Those who are expected back.
    Company,
}

#[derive(PartialEq)]
enum Flight {
    Idle,
    Held(Hold),
    Flying,
}

pub(crate) struct ShardState {
    shard: ShardId,
    group: Arc<RaftGroup>,
    time: Arc<ShardTime>,
    inbox: Arc<ShardInbox>,
    queue: VecDeque<Pending>,
    /// How many commands of the queue somebody waits for.
    prompt: usize,
    flight: Flight,
    company: Company,
}

impl Actor for ShardActor {
    type Msg = ShardMessage;
    type State = ShardState;
    type Arguments = ShardArguments;

    async fn pre_start(
        &self,
        myself: ActorRef<ShardMessage>,
        arguments: ShardArguments,
    ) -> Result<ShardState, ActorProcessingErr> {
        myself.send_interval(TICK, || ShardMessage::Tick);
        Ok(ShardState {
            shard: arguments.shard,
            group: arguments.group,
            time: arguments.time,
            inbox: arguments.inbox,
            queue: VecDeque::new(),
            prompt: 0,
            flight: Flight::Idle,
            company: Company::new(Instant::now()),
        })
    }

    async fn handle(
        &self,
        myself: ActorRef<ShardMessage>,
        message: ShardMessage,
        state: &mut ShardState,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            ShardMessage::Wake => {
                for pending in state.inbox.take() {
                    state.push(pending);
                }
                state.consider(&myself);
            }
            ShardMessage::EntryEnded => {
                state.flight = Flight::Idle;
                state.company.landed(state.prompt, Instant::now());
                state.consider(&myself);
            }
            ShardMessage::EntryMismatched => {
                return Err("an entry's answer does not fit its commands".into());
            }
            ShardMessage::HoldEnded(hold, entries) => {
                if state.flight == Flight::Held(hold) && state.company.entries() == entries {
                    state.fly(&myself);
                }
            }
            ShardMessage::Tick => state.tick(&myself),
        }
        Ok(())
    }

    async fn post_stop(
        &self,
        _myself: ActorRef<ShardMessage>,
        state: &mut ShardState,
    ) -> Result<(), ActorProcessingErr> {
        drop(state.inbox.take());
        Ok(())
    }
}

impl ShardState {
    fn push(&mut self, pending: Pending) {
        #[cfg(feature = "mutants")]
        let Some(pending) = pending.unless_swallowed() else { return };
        self.prompt += usize::from(!pending.may_linger());
        self.queue.push_back(pending);
    }

    /// Decides whether the queue flies now, waits for company, or for the entry in flight.
    fn consider(&mut self, myself: &ActorRef<ShardMessage>) {
        if self.queue.is_empty() || self.flight == Flight::Flying {
            return;
        }
        if self.prompt == 0 {
            if self.flight == Flight::Idle {
                self.hold(Hold::Linger, ACKNOWLEDGEMENT_LINGER, myself);
            }
        } else if self.company.is_complete(self.prompt) {
            self.fly(myself);
        } else if self.flight != Flight::Held(Hold::Company) {
            self.hold(Hold::Company, self.company.wait(), myself);
        }
    }

    /// Lets the queue wait so long. A hold that gave way to another, or to an entry, ends nothing.
    fn hold(&mut self, hold: Hold, time: Duration, myself: &ActorRef<ShardMessage>) {
        self.flight = Flight::Held(hold);
        let entries = self.company.entries();
        myself.send_after(time, move || ShardMessage::HoldEnded(hold, entries));
    }

    /// Hands the next entry to Raft.
    fn fly(&mut self, myself: &ActorRef<ShardMessage>) {
        let leadership = self.group.leads();
        if leadership.role == Role::Follower {
            for pending in self.queue.drain(..) {
                pending.refuse(ProposeError::NotLeader { leader: leadership.leader });
            }
            self.prompt = 0;
            self.flight = Flight::Idle;
            return;
        }
        let prompt = self.prompt;
        let (commands, answers) = self.gather();
        if commands.is_empty() {
            self.flight = Flight::Idle;
            return;
        }
        metrics::COMMANDS_OF_ENTRY.record(commands.len() as f64);
        let time_ms = self.time.propose(leadership.term, self.group.core.time_ms());
        self.company.departed(prompt - self.prompt, Instant::now());
        let data = CommandBatch { time_ms, commands }.encode();
        self.flight = Flight::Flying;
        let (group, myself) = (Arc::clone(&self.group), myself.clone());
        tokio::spawn(async move {
            let ended = answer_all(answers, group.write(data).await);
            // The actor is gone only when the node stops.
            let _ = myself.cast(ended);
        });
    }

    /// Takes the next entry's commands from the queue.
    fn gather(&mut self) -> (Vec<Command>, Vec<Waiting>) {
        let now = Instant::now();
        let mut commands = Vec::with_capacity(self.queue.len().min(ENTRY_COMMANDS_MAX));
        let mut answers = Vec::with_capacity(commands.capacity());
        let mut bytes = 0;
        while let Some(pending) = self.queue.front() {
            bytes += content_bytes(&pending.command);
            let is_full = commands.len() == ENTRY_COMMANDS_MAX || bytes > ENTRY_BYTES_MAX;
            if is_full && !commands.is_empty() {
                break;
            }
            let Some(pending) = self.queue.pop_front() else { break };
            self.prompt -= usize::from(!pending.may_linger());
            if pending.deadline <= now {
                pending.refuse(ProposeError::Overloaded);
                continue;
            }
            commands.push(pending.command);
            answers.push((pending.answer, pending.permit));
        }
        (commands, answers)
    }

    /// Expires what is due, if this replica leads.
    fn tick(&mut self, myself: &ActorRef<ShardMessage>) {
        let leadership = self.group.leads();
        if leadership.role != Role::Acting || self.flight == Flight::Flying {
            return;
        }
        let due = ShardMachine::next_expiry(&self.group.core.state().read());
        let due = match due {
            Ok(due) => due,
            Err(error) => {
                tracing::error!(shard = self.shard.0, %error, "cannot read the expiry rows");
                return;
            }
        };
        let now_ms = self.time.propose(leadership.term, self.group.core.time_ms());
        if due.is_none_or(|due_ms| due_ms > now_ms) {
            return;
        }
        let (answer, _) = oneshot::channel();
        let permit = Arc::new(Semaphore::new(1)).try_acquire_owned();
        let permit = permit.expect("a new semaphore has its permit");
        self.push(Pending {
            command: Command::Expire { limit: EXPIRE_LIMIT },
            deadline: Instant::now() + TICK,
            answer,
            permit,
        });
        self.consider(myself);
    }
}

type Waiting = (oneshot::Sender<Result<Outcome, ProposeError>>, OwnedSemaphorePermit);

/// Tells everybody who waits; answers what the actor has to know.
fn answer_all(answers: Vec<Waiting>, result: Result<EntryAnswer, ProposeError>) -> ShardMessage {
    match result {
        Ok(EntryAnswer::Shard(outcomes)) if outcomes.len() == answers.len() => {
            for ((answer, _permit), outcome) in answers.into_iter().zip(outcomes) {
                // Who asked may have given up; the outcome stands all the same.
                let _ = answer.send(Ok(outcome));
            }
            ShardMessage::EntryEnded
        }
        Ok(_) => ShardMessage::EntryMismatched,
        Err(error) => {
            for (answer, _permit) in answers {
                let _ = answer.send(Err(error.clone()));
            }
            ShardMessage::EntryEnded
        }
    }
}

fn content_bytes(command: &Command) -> usize {
    /// What a command takes beside its content, roughly.
    const HEAD_BYTES: usize = 128;
    match command {
        Command::Enqueue(enqueue) => enqueue.content.len() + HEAD_BYTES,
        Command::Acknowledge { items, .. } => items.len() * 10 + HEAD_BYTES,
        _ => HEAD_BYTES,
    }
}

/// A shard's replica over Raft: what [`crate::ShardHandle`] wraps.
pub(crate) struct RaftShard {
    shard: ShardId,
    context: Arc<Context>,
    group: Arc<RaftGroup>,
    inbox: Arc<ShardInbox>,
    actor: ActorRef<ShardMessage>,
    permits: Arc<Semaphore>,
}

impl RaftShard {
    pub(crate) fn new(
        shard: ShardId,
        context: Arc<Context>,
        group: Arc<RaftGroup>,
        inbox: Arc<ShardInbox>,
        actor: ActorRef<ShardMessage>,
    ) -> Self {
        let permits = Arc::new(Semaphore::new(QUEUE_COMMANDS_MAX));
        Self { shard, context, group, inbox, actor, permits }
    }
}

impl ShardPort for RaftShard {
    fn id(&self) -> ShardId {
        self.shard
    }

    fn propose(
        &self,
        command: Command,
        deadline: Instant,
    ) -> BoxFuture<'static, Result<Outcome, ProposeError>> {
        let leadership = self.group.leads();
        if leadership.role == Role::Follower {
            let error = ProposeError::NotLeader { leader: leadership.leader };
            return Box::pin(std::future::ready(Err(error)));
        }
        // What is stored makes no room; the rest may.
        let is_storing = matches!(command, Command::Enqueue(_) | Command::Register(_));
        if is_storing && self.context.fitness.is_short() {
            return Box::pin(std::future::ready(Err(ProposeError::Overloaded)));
        }
        let Ok(permit) = Arc::clone(&self.permits).try_acquire_owned() else {
            return Box::pin(std::future::ready(Err(ProposeError::Overloaded)));
        };
        let (answer, outcome) = oneshot::channel();
        self.inbox.push(Pending { command, deadline, answer, permit }, || {
            if self.actor.cast(ShardMessage::Wake).is_err() {
                // It has ended. Whoever waits learns that nobody knows the outcome.
                drop(self.inbox.take());
            }
        });
        Box::pin(async move {
            match tokio::time::timeout_at(deadline, outcome).await {
                Ok(Ok(outcome)) => outcome,
                // Dropped unanswered or out of time: it may be in flight.
                Ok(Err(_)) | Err(_) => Err(ProposeError::Unknown),
            }
        })
    }

    fn leadership(&self) -> watch::Receiver<Leadership> {
        self.group.leadership()
    }

    fn fence(&self) -> Option<Fence> {
        let term = self.group.acting_term()?;
        Some(Fence { shard: self.shard, term })
    }

    fn rows(&self, reader: &mut dyn FnMut(&dyn RowsRead)) {
        self.group.core.read(reader);
    }

    fn time_ms(&self) -> u64 {
        self.group.core.time_ms()
    }

    fn applied_index(&self) -> u64 {
        self.group.core.applied().index()
    }
}
