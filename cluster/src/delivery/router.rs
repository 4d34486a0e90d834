//! From a mailbox to the leader of its shard: a local call, or one over the network, with the
//! caller's deadline.
//!
//! Every request may be repeated (see [`super::wire`]), so the router asks on until the deadline:
//! it follows hints, asks replicas in turn where nobody is known to lead, and leaves a node that
//! does not answer as soon as another one is known to lead.

use std::sync::Arc;

use bytes::Bytes;
use heliograph_transport::{CallError, NodeId};
use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::Instant,
};

use super::{
    route_plan::{Missed, RoutePlan, Step},
    service::Service,
    wire::{self, Failure, RelayAnswer, RelayNotice, RelayRequest},
};
use crate::{
    LeaderTable, RelayError, Surroundings, Topology, metrics,
    model::{MailboxKey, ShardId},
    peer_client::PeerClient,
    watch,
};

/// Requests of this node under way; a further one is refused. At 1 KiB and 10 ms each this is
/// 800,000 requests a second and 8 MiB.
const IN_FLIGHT_MAX: usize = 8192;
/// Long polls of this node under way: they cost nearly nothing, so there may be more.
const WAITING_MAX: usize = 16_384;

/// Which limit a request counts against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Answered as soon as may be.
    Prompt,
    /// A long poll.
    Waiting,
    /// The node's own: subscriptions and their updates, bounded where they are made.
    Internal,
}

/// An answer, and what is needed to count a lease from it.
#[derive(Debug)]
pub(crate) struct Routed {
    pub(crate) answer: RelayAnswer,
    /// Who answered.
    pub(crate) node: NodeId,
    /// When it was asked.
    pub(crate) asked: Instant,
}

/// See the module.
pub(crate) struct Router {
    local: NodeId,
    service: Arc<Service>,
    peers: PeerClient,
    leaders: Arc<LeaderTable>,
    topology: watch::Receiver<Option<Arc<Topology>>>,
    surroundings: Surroundings,
    prompt: Semaphore,
    waiting: Semaphore,
}

impl Router {
    pub(crate) fn new(service: Arc<Service>) -> Self {
        let parts = &service.parts;
        Self {
            local: parts.local,
            peers: parts.peers.clone(),
            leaders: Arc::clone(&parts.leaders),
            topology: parts.topology.clone(),
            surroundings: parts.surroundings.clone(),
            prompt: Semaphore::new(IN_FLIGHT_MAX),
            waiting: Semaphore::new(WAITING_MAX),
            service,
        }
    }

    /// What the cluster agreed on, once it is formed.
    pub(crate) fn topology(&self) -> Result<Arc<Topology>, RelayError> {
        self.topology.borrow().clone().ok_or(RelayError::Unavailable)
    }

    /// Asks the leader of the mailbox's shard.
    pub(crate) async fn ask(
        &self,
        mailbox: &MailboxKey,
        kind: Kind,
        request: &RelayRequest,
        deadline: Instant,
    ) -> Result<Routed, RelayError> {
        let shard = self.topology()?.shard_of(mailbox.slot());
        self.ask_shard(shard, kind, request, deadline).await
    }

    /// Asks the leader of a shard, until the deadline.
    pub(crate) async fn ask_shard(
        &self,
        shard: ShardId,
        kind: Kind,
        request: &RelayRequest,
        deadline: Instant,
    ) -> Result<Routed, RelayError> {
        let _permit = self.admit(kind)?;
        let asking = self.ask_on(shard, request, deadline);
        tokio::time::timeout_at(deadline, asking).await.unwrap_or(Err(RelayError::Unavailable))
    }

    /// Asks one node once, whatever it leads.
    pub(crate) async fn ask_node(
        &self,
        node: NodeId,
        shard: ShardId,
        request: RelayRequest,
        deadline: Instant,
    ) -> Result<RelayAnswer, CallError> {
        if node == self.local {
            return Ok(self.service.serve(node, request, deadline).await);
        }
        let payload = wire::encode_outgoing(&request, 0);
        let answer = self.peers.call(node, shard, payload, deadline).await?;
        wire::decode(&answer).ok_or(CallError::Refused(node))
    }

    /// Tells a leader that there is no such connection here.
    pub(crate) fn orphan(&self, leader: NodeId, shard: ShardId, number: u64) {
        if leader == self.local {
            self.service.orphaned(leader, number);
        } else {
            self.tell(leader, shard, &RelayNotice::Orphaned { number });
        }
    }

    /// Sends a notice; it may be lost. Answers whether it left.
    pub(crate) fn tell(&self, to: NodeId, shard: ShardId, notice: &RelayNotice) -> bool {
        let content_bytes = match notice {
            RelayNotice::Live { payload, .. } => payload.len(),
            _ => 0,
        };
        let payload = wire::encode_outgoing(notice, content_bytes);
        self.peers.notify(to, shard, payload).is_ok()
    }

    /// This node.
    pub(crate) fn local(&self) -> NodeId {
        self.local
    }

    fn admit(&self, kind: Kind) -> Result<Option<Permit<'_>>, RelayError> {
        let semaphore = match kind {
            Kind::Prompt => &self.prompt,
            Kind::Waiting => &self.waiting,
            Kind::Internal => return Ok(None),
        };
        let Ok(permit) = semaphore.try_acquire() else {
            ::metrics::counter!(metrics::REQUESTS_SHED_TOTAL).increment(1);
            return Err(RelayError::Overloaded);
        };
        metrics::IN_FLIGHT.increment(1.0);
        Ok(Some(Permit { _permit: permit }))
    }

    async fn ask_on(
        &self,
        shard: ShardId,
        request: &RelayRequest,
        deadline: Instant,
    ) -> Result<Routed, RelayError> {
        let topology = self.topology()?;
        let mut plan = RoutePlan::new(&topology.replicas(shard), self.leader(shard));
        let mut payload = None;
        loop {
            let node = match plan.step(self.leader(shard)) {
                Step::Ask(node) => node,
                Step::Pause(pause) => {
                    let leader = self.leader(shard);
                    self.pause(shard, leader, pause).await;
                    plan.learned(self.leader(shard));
                    continue;
                }
            };
            let asked = Instant::now();
            let attempt = self.attempt(node, shard, request, &mut payload, deadline).await;
            let missed = match attempt {
                Attempt::Answered(RelayAnswer::Failed(failure)) => {
                    self.weigh(shard, node, failure)?
                }
                Attempt::Answered(answer) => return Ok(Routed { answer, node, asked }),
                Attempt::Busy => return Err(RelayError::Overloaded),
                Attempt::Lost => Missed::Lost,
            };
            ::metrics::counter!(metrics::REQUESTS_REROUTED_TOTAL).increment(1);
            plan.missed(node, missed, self.leader(shard));
        }
    }

    /// What a failure means for the plan, or for the caller.
    fn weigh(&self, shard: ShardId, node: NodeId, failure: Failure) -> Result<Missed, RelayError> {
        match failure {
            Failure::NotLeader { leader: Some((leader, term)) } if leader != node => {
                self.leaders.learn(shard, term, leader);
                Ok(Missed::NotLeader(Some(leader)))
            }
            Failure::NotLeader { .. } => {
                self.leaders.forget(shard, node);
                Ok(Missed::NotLeader(None))
            }
            Failure::NotActing | Failure::Unknown => Ok(Missed::NotActing),
            Failure::Overloaded => Err(RelayError::Overloaded),
            // That node steps down; the others will elect.
            Failure::Storage => Ok(Missed::Lost),
        }
    }

    async fn attempt(
        &self,
        node: NodeId,
        shard: ShardId,
        request: &RelayRequest,
        payload: &mut Option<Bytes>,
        deadline: Instant,
    ) -> Attempt {
        if node == self.local {
            return tokio::select! {
                biased; // an answer that is there counts, whoever leads by now
                // Boxed: it is large, and most requests go to other nodes.
                answer = Box::pin(self.service.serve(node, request.clone(), deadline)) => {
                    Attempt::Answered(answer)
                }
                () = self.superseded(shard, node) => Attempt::Lost,
            };
        }
        let payload = payload.get_or_insert_with(|| {
            let content_bytes = match request {
                RelayRequest::Enqueue(enqueue) => enqueue.content.len(),
                _ => 0,
            };
            wire::encode_outgoing(request, content_bytes)
        });
        let called = tokio::select! {
            biased; // an answer that is there counts, whoever leads by now
            called = self.peers.call(node, shard, payload.clone(), deadline) => called,
            () = self.superseded(shard, node) => return Attempt::Lost,
        };
        match called {
            Ok(answer) => wire::decode(&answer).map_or(Attempt::Lost, Attempt::Answered),
            Err(CallError::Overloaded(_)) => Attempt::Busy,
            Err(_) => Attempt::Lost,
        }
    }

    /// Waits until another node than `asked` is known to lead.
    async fn superseded(&self, shard: ShardId, asked: NodeId) {
        let mut changes = self.leaders.changes();
        let before = self.leaders.leader(shard);
        loop {
            if changes.changed().await.is_err() {
                return std::future::pending().await;
            }
            let leader = self.leaders.leader(shard);
            if leader != before && leader.is_some_and(|(node, _)| node != asked) {
                return;
            }
        }
    }

    /// Waits for `pause` with jitter, or until another leader than `known` is heard of.
    async fn pause(&self, shard: ShardId, known: Option<NodeId>, pause: std::time::Duration) {
        let permille = 500 + u32::try_from(self.surroundings.random() % 1000).unwrap_or(0);
        let jittered = pause * permille / 1000;
        let mut changes = self.leaders.changes();
        let heard = async {
            while changes.changed().await.is_ok() {
                let leader = self.leader(shard);
                if leader.is_some() && leader != known {
                    return;
                }
            }
            std::future::pending().await
        };
        // Whichever comes first.
        let _ = tokio::time::timeout(jittered, heard).await;
    }

    fn leader(&self, shard: ShardId) -> Option<NodeId> {
        self.leaders.leader(shard).map(|(node, _)| node)
    }
}

/// Room for a request under way.
struct Permit<'a> {
    _permit: SemaphorePermit<'a>,
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        metrics::IN_FLIGHT.decrement(1.0);
    }
}

enum Attempt {
    Answered(RelayAnswer),
    Busy,
    Lost,
}
