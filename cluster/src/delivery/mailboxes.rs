//! The mailboxes led by this node that somebody asked for: each an actor, or at rest. Actors are
//! started when something happens, found by mailbox, ended with the leadership. Their supervisor is
//! an actor too.

use std::sync::{Arc, OnceLock, Weak};

use parking_lot::RwLock;
use ractor::{Actor, ActorId, ActorProcessingErr, ActorRef, ActorRuntime, SupervisionEvent};

use crate::{
    Fence, ShardHandle,
    actors::{
        mailbox::{MailboxActor, MailboxArguments, MailboxHost},
        mailbox_handle::{MailboxEvent, MailboxHandle, Refusal},
        mailbox_rest::MailboxRest,
    },
    metrics,
    model::{MailboxKey, MailboxMap, ShardId},
};

/// Mailboxes of a node, actors and those at rest; past it a request for a further one is refused as
/// overloaded. Ten times the connections a node is sized for.
const MAILBOXES_MAX: usize = 200_000;

/// Hears of actors that failed.
pub(crate) trait MailboxWatcher: Send + Sync + 'static {
    /// An actor failed: its mailbox's subscriptions are void.
    fn actor_failed(&self, actor: ActorId);
}

/// See the module.
#[derive(Default)]
pub(crate) struct Mailboxes {
    known: RwLock<MailboxMap<Arc<MailboxHandle>>>,
    supervisor: OnceLock<ActorRef<()>>,
}

impl Mailboxes {
    /// Starts the supervisor.
    pub(crate) fn start(&self, watcher: Weak<dyn MailboxWatcher>) {
        let arguments = Supervision { watcher };
        let spawned = ActorRuntime::spawn_instant(None, MailboxSupervisor, arguments);
        let (supervisor, _) = spawned.expect("an actor without a name can always be started");
        // Started once.
        let _ = self.supervisor.set(supervisor);
    }

    /// Ends all actors and the supervisor.
    pub(crate) fn stop(&self) {
        for handle in std::mem::take(&mut *self.known.write()).into_values() {
            handle.close();
        }
        if let Some(supervisor) = self.supervisor.get() {
            supervisor.stop(None);
        }
    }

    /// Puts an event into the mailbox's actor, which is started when there is none.
    pub(crate) fn send(
        &self,
        mailbox: MailboxKey,
        shard: &ShardHandle,
        fence: Fence,
        host: &Arc<dyn MailboxHost>,
        event: MailboxEvent,
    ) -> Result<(), Refusal> {
        /// An actor may end between being found and being told; the next one hardly does.
        const ATTEMPTS: usize = 3;
        let mut event = Box::new(event);
        for _ in 0..ATTEMPTS {
            let handle = self.find_or_start(mailbox, shard, fence, host)?;
            match handle.push(*event) {
                Ok(()) => return Ok(()),
                Err((Refusal::Full, _)) => return Err(Refusal::Full),
                Err((Refusal::Closed, back)) => {
                    self.remove(&handle);
                    event = back;
                }
            }
        }
        Err(Refusal::Closed)
    }

    /// The mailbox's actor, if there is one.
    pub(crate) fn find(&self, mailbox: &MailboxKey) -> Option<Arc<MailboxHandle>> {
        self.known.read().get(mailbox).cloned()
    }

    /// The mailbox whose actor this is.
    pub(crate) fn find_by_actor(&self, actor: ActorId) -> Option<Arc<MailboxHandle>> {
        let mailboxes = self.known.read();
        mailboxes.values().find(|handle| handle.actor_id() == Some(actor)).cloned()
    }

    /// Forgets a mailbox.
    pub(crate) fn remove(&self, handle: &Arc<MailboxHandle>) {
        let mut mailboxes = self.known.write();
        if mailboxes.get(&handle.mailbox).is_some_and(|known| Arc::ptr_eq(known, handle)) {
            mailboxes.remove(&handle.mailbox);
            ::metrics::gauge!(metrics::MAILBOXES).set(mailboxes.len() as f64);
        }
    }

    /// Starts an actor for a mailbox that rested.
    pub(crate) fn wake(&self, handle: &Arc<MailboxHandle>, rest: Box<MailboxRest>) {
        let (shard, host) = (rest.shard.clone(), Arc::clone(&rest.host));
        let arguments =
            MailboxArguments { handle: Arc::clone(handle), shard, host, rest: Some(rest) };
        match self.supervisor.get() {
            Some(supervisor) => start(supervisor, arguments),
            // Never started, so nothing ever came to rest.
            None => handle.close(),
        }
    }

    /// Ends the mailboxes of a shard that are held under another licence than `fence`.
    pub(crate) fn end_shard(&self, shard: ShardId, fence: Option<Fence>) {
        let mut ended = Vec::new();
        let mut mailboxes = self.known.write();
        mailboxes.retain(|_, handle| {
            let stays = handle.fence.shard != shard || Some(handle.fence) == fence;
            if !stays {
                ended.push(Arc::clone(handle));
            }
            stays
        });
        ::metrics::gauge!(metrics::MAILBOXES).set(mailboxes.len() as f64);
        drop(mailboxes);
        for handle in ended {
            handle.close();
        }
    }

    fn find_or_start(
        &self,
        mailbox: MailboxKey,
        shard: &ShardHandle,
        fence: Fence,
        host: &Arc<dyn MailboxHost>,
    ) -> Result<Arc<MailboxHandle>, Refusal> {
        if let Some(known) = self.find(&mailbox)
            && known.fence == fence
        {
            return Ok(known);
        }
        let Some(supervisor) = self.supervisor.get() else { return Err(Refusal::Closed) };
        let mut mailboxes = self.known.write();
        if let Some(known) = mailboxes.get(&mailbox) {
            if known.fence.term > fence.term {
                return Err(Refusal::Closed);
            }
            if known.fence == fence {
                return Ok(Arc::clone(known));
            }
            known.close();
        } else if mailboxes.len() >= MAILBOXES_MAX {
            return Err(Refusal::Full);
        }
        let handle = Arc::new(MailboxHandle::new(mailbox, fence));
        let arguments = MailboxArguments {
            handle: Arc::clone(&handle),
            shard: shard.clone(),
            host: Arc::clone(host),
            rest: None,
        };
        start(supervisor, arguments);
        mailboxes.insert(mailbox, Arc::clone(&handle));
        ::metrics::gauge!(metrics::MAILBOXES).set(mailboxes.len() as f64);
        Ok(handle)
    }
}

fn start(supervisor: &ActorRef<()>, arguments: MailboxArguments) {
    let (handle, supervisor) = (Arc::clone(&arguments.handle), supervisor.get_cell());
    let spawned = ActorRuntime::spawn_linked_instant(None, MailboxActor, arguments, supervisor);
    let (actor, _) = spawned.expect("an actor without a name can always be started");
    handle.attach(actor);
}

struct MailboxSupervisor;

struct Supervision {
    watcher: Weak<dyn MailboxWatcher>,
}

impl Actor for MailboxSupervisor {
    type Msg = ();
    type State = Supervision;
    type Arguments = Supervision;

    async fn pre_start(
        &self,
        _myself: ActorRef<()>,
        arguments: Supervision,
    ) -> Result<Supervision, ActorProcessingErr> {
        Ok(arguments)
    }

    async fn handle_supervisor_evt(
        &self,
        _myself: ActorRef<()>,
        event: SupervisionEvent,
        state: &mut Supervision,
    ) -> Result<(), ActorProcessingErr> {
        if let SupervisionEvent::ActorFailed(actor, error) = event
            && let Some(watcher) = state.watcher.upgrade()
        {
            tracing::error!(%error, "a mailbox actor failed; its connections subscribe again");
            watcher.actor_failed(actor.get_id());
        }
        Ok(())
    }
}
