//! From a front door to a mailbox and back: router, sessions, subscriptions, live frames, keys.
//!
//! Two sides meet here. The *node of a connection* has the [`router::Router`], the
//! [`sessions::Sessions`], the cached keys and the [`live::Live`] frames. The *leader of a shard*
//! has the [`service::Service`] with its mailbox actors and the [`leases::Leases`] it granted.
//! Every node is both; they speak [`wire`] with each other, over the network or directly.

mod farewell;
mod fingerprint;
mod handle;
mod keys;
mod leases;
mod links;
mod live;
mod mailboxes;
mod route_plan;
mod router;
mod service;
mod service_events;
mod service_grants;
mod session_core;
mod sessions;
mod shard_link;
mod tickets;
pub(crate) mod wire;

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use bytes::Bytes;
use handle::ClusterHandle;
use heliograph_transport::{BoxFuture, NodeId, PeerEvent};
use live::Live;
use router::Router;
use service::{NoticeSink, Service, ServiceParts};
use sessions::{SessionParts, Sessions};
use tickets::Tickets;
use tokio::time::Instant;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use wire::{RelayNotice, RelayRequest};

use crate::{
    CloseReason, Leadership, Relay, ShardObserver, context::Context, machine::Effect,
    model::ShardId, peer_client::PeerClient,
};

/// The delivery side of a node: serves peers, and front doors through [`Delivery::relay`].
pub(crate) struct Delivery {
    service: Arc<Service>,
    sessions: Arc<Sessions>,
    live: Arc<Live>,
    handle: Arc<ClusterHandle>,
    tasks: TaskTracker,
    stopping: CancellationToken,
}

impl std::fmt::Debug for Delivery {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Delivery")
    }
}

impl Delivery {
    /// Starts delivery; called before any shard runs, within a Tokio runtime.
    pub(crate) fn start(context: &Arc<Context>) -> Arc<Self> {
        let surroundings = context.surroundings.clone();
        let service = Service::new(ServiceParts {
            local: context.local(),
            shards: Arc::clone(&context.shards),
            leaders: Arc::clone(&context.leaders),
            topology: context.topology.subscribe(),
            peers: PeerClient::new(Arc::clone(&context.network)),
            surroundings: surroundings.clone(),
        });
        let (tasks, stopping) = (TaskTracker::new(), CancellationToken::new());
        let router = Arc::new(Router::new(Arc::clone(&service)));
        let sessions = Sessions::new(SessionParts {
            router: Arc::clone(&router),
            tasks: tasks.clone(),
            stopping: stopping.clone(),
            boot: surroundings.random(),
        });
        let sink: Weak<Sessions> = Arc::downgrade(&sessions);
        service.set_local_sink(sink);
        let live = Arc::new(Live::new(Arc::clone(&router), Arc::clone(&sessions)));
        sessions.spawn(Arc::clone(&service).sweep());
        sessions.spawn(Sessions::renew(Arc::downgrade(&sessions)));
        let leaders = Arc::clone(&context.leaders);
        sessions.spawn(Sessions::follow_leaders(Arc::downgrade(&sessions), leaders));
        let handle = Arc::new(ClusterHandle {
            router,
            sessions: Arc::clone(&sessions),
            live: Arc::clone(&live),
            tickets: Tickets::new(context.local(), context.boot),
            context: Arc::clone(context),
        });
        Arc::new(Self { service, sessions, live, handle, tasks, stopping })
    }

    /// What front doors use.
    pub(crate) fn relay(&self) -> Arc<dyn Relay> {
        Arc::clone(&self.handle) as Arc<dyn Relay>
    }

    /// The node is going away: connections that are left are told to go elsewhere, and what they
    /// acknowledged last is brought to its end, for `patience` at most.
    pub(crate) async fn drain(&self, patience: Duration) {
        self.sessions.close_all(CloseReason::NodeRestarts);
        if !self.sessions.last_words(patience).await {
            tracing::info!("last acknowledgements are unconfirmed: their messages come again");
        }
    }

    /// Ends all tasks and actors.
    pub(crate) async fn stop(&self) {
        self.stopping.cancel();
        self.service.stop();
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// Answers a peer's request (without its envelope); `None` for bytes this build does not know.
    pub(crate) fn call(
        self: Arc<Self>,
        from: NodeId,
        request: Bytes,
        deadline: Instant,
    ) -> BoxFuture<'static, Option<Bytes>> {
        Box::pin(async move {
            let request: RelayRequest = wire::decode(&request)?;
            let answer = self.service.serve(from, request, deadline).await;
            Some(wire::encode_answer(&answer))
        })
    }

    /// Takes a peer's notice (without its envelope).
    pub(crate) fn notify(&self, from: NodeId, payload: Bytes) {
        match wire::decode(&payload) {
            Some(RelayNotice::Orphaned { number }) => self.service.orphaned(from, number),
            Some(RelayNotice::Live { mailbox, payload }) => {
                self.live.arrived(from, mailbox, &payload);
            }
            Some(RelayNotice::LiveGone { mailbox }) => self.live.forget(&mailbox),
            Some(notice) => self.sessions.notice(from, notice),
            None => tracing::warn!(peer = %from, "a relay notice is not of this version"),
        }
    }

    /// Takes a change of a peer's connection.
    pub(crate) fn peer(&self, event: PeerEvent) {
        match event {
            PeerEvent::Disconnected(node) | PeerEvent::TripwireBroken(node) => {
                self.sessions.peer_lost(node);
            }
            PeerEvent::Connected(_) => {}
        }
    }
}

impl ShardObserver for Delivery {
    fn applied(&self, shard: ShardId, term: u64, effects: Vec<Effect>) {
        self.service.applied(shard, term, effects);
    }

    fn leadership(&self, shard: ShardId, leadership: &Leadership) {
        self.service.leadership(shard, leadership);
    }
}
