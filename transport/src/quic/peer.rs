//! What this node keeps of one peer, and the actor that owns it.
//!
//! [`Peer`] is read by whoever sends. One task ([`run`]) puts new connections in and takes ended
//! ones out, and is the only one that tells the handler of it: events come in order. The node with
//! the lower id has two more tasks that dial, the other one has one that knocks.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
};

use parking_lot::{Mutex, RwLock};
use tokio::{
    net::TcpStream,
    sync::{Notify, Semaphore, mpsc},
    time::{Duration, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    CloseCode, HANDSHAKE_TIMEOUT, Shared,
    close::is_disagreement,
    handshake::{self, Established, HandshakeError, WireSource},
    hello::LinkKind,
    link::{Link, place},
    reader::Service,
};
use crate::{
    backoff::Backoff,
    network::{Handler, Lane, NodeId, PeerEvent},
    protocol::{Announcement, PeerInfo},
    tripwire::{self, Ended},
};

/// Inputs waiting for a peer's actor. 16: each comes from a task that waits for room.
const INPUTS_MAX: usize = 16;

/// How long a tripwire is watched after its connection was closed by the peer: a process that
/// shuts down closes both. 1 s: its exit may take that long.
const WIRE_GRACE: Duration = Duration::from_secs(1);

/// After a knock that was heard, how long the peer has to dial: as long as that may take.
const KNOCK_AGAIN: Duration = HANDSHAKE_TIMEOUT;

/// One peer.
pub(super) struct Peer {
    pub(super) node: NodeId,
    /// Ends when the peer is removed or the network shuts down.
    pub(super) removed: CancellationToken,
    address: Mutex<String>,
    /// Tells who dials or knocks to begin anew at once: the peer is at another address, or has just
    /// shown that it is there.
    hurry: Notify,
    incarnation: AtomicU32,
    control: RwLock<Option<Arc<Link>>>,
    bulk: RwLock<Option<Arc<Link>>>,
    calls: Arc<Semaphore>,
    inputs: mpsc::Sender<Input>,
}

/// What a peer's actor is told.
pub(super) enum Input {
    Up(Established),
    Down(Arc<Link>),
    /// The tripwire of the control connection with this id broke.
    TripwireBroken(u64),
}

impl Peer {
    pub(super) fn new(
        node: NodeId,
        address: String,
        calls_max: usize,
        removed: CancellationToken,
    ) -> (Arc<Self>, mpsc::Receiver<Input>) {
        let (inputs, receiver) = mpsc::channel(INPUTS_MAX);
        let peer = Self {
            node,
            removed,
            address: Mutex::new(address),
            hurry: Notify::new(),
            incarnation: AtomicU32::new(0),
            control: RwLock::default(),
            bulk: RwLock::default(),
            calls: Arc::new(Semaphore::new(calls_max)),
            inputs,
        };
        (Arc::new(peer), receiver)
    }

    /// Changes where the peer is; a dial that waits starts at once.
    pub(super) fn set_address(&self, address: String) {
        let mut current = self.address.lock();
        if *current != address {
            *current = address;
            self.hurry.notify_waiters();
        }
    }

    /// The peer, which is dialled from here, is there and waits for it.
    pub(super) fn knocked(&self) {
        self.hurry.notify_waiters();
    }

    /// Whether a process may connect: of no older incarnation than one seen before, and no other
    /// than the one that is connected. One that ended breaks its tripwire, or times out; its
    /// successor waits for that.
    pub(super) fn admit(
        &self,
        incarnation: u32,
        announced: &Announcement,
    ) -> Result<(), CloseCode> {
        if self.info().is_some_and(|known| known.is_other_process(announced)) {
            return Err(CloseCode::Twin);
        }
        match self.incarnation.fetch_max(incarnation, Ordering::Relaxed) <= incarnation {
            true => Ok(()),
            false => Err(CloseCode::Incarnation),
        }
    }

    /// What is known of the process at the other end of the control connection.
    pub(super) fn info(&self) -> Option<PeerInfo> {
        self.control.read().as_ref().map(|link| link.info.clone())
    }

    /// Hands an event to the actor.
    pub(super) async fn tell(&self, input: Input) {
        // The actor may have ended with the peer: then the connection in the input is dropped.
        let _ = self.inputs.send(input).await;
    }

    /// The connection that carries `lane`, and the lane's index in it.
    pub(super) fn link(&self, lane: Lane) -> Option<(Arc<Link>, usize)> {
        let (kind, index) = place(lane);
        Some((self.slot(kind).read().clone()?, index))
    }

    pub(super) fn is_connected(&self) -> bool {
        self.control.read().is_some()
    }

    /// Closes the connections at once; the actor finds them closed.
    pub(super) fn disconnect(&self, code: CloseCode) {
        for slot in [&self.control, &self.bulk] {
            if let Some(link) = &*slot.read() {
                link.close(code);
            }
        }
    }

    fn slot(&self, kind: LinkKind) -> &RwLock<Option<Arc<Link>>> {
        match kind {
            LinkKind::Control => &self.control,
            LinkKind::Bulk => &self.bulk,
        }
    }
}

/// The actor: runs until the peer is removed.
pub(super) async fn run(
    shared: Arc<Shared>,
    peer: Arc<Peer>,
    mut inputs: mpsc::Receiver<Input>,
    handler: Arc<dyn Handler>,
) {
    let mut actor =
        Actor { shared: Arc::clone(&shared), peer: Arc::clone(&peer), handler, control_id: 0 };
    loop {
        // Removal first: nothing that comes after it matters.
        let input = tokio::select! {
            biased;
            () = peer.removed.cancelled() => break,
            input = inputs.recv() => input,
        };
        match input {
            Some(Input::Up(established)) => actor.up(established),
            Some(Input::Down(link)) => actor.down(&link),
            Some(Input::TripwireBroken(id)) => actor.tripwire_broken(id),
            None => break,
        }
    }
    let code = match shared.stop.is_cancelled() {
        true => CloseCode::Shutdown,
        false => CloseCode::NotAPeer,
    };
    actor.take(LinkKind::Bulk, code);
    if actor.take(LinkKind::Control, code) && code == CloseCode::NotAPeer {
        actor.handler.peer(PeerEvent::Disconnected(peer.node));
    }
}

struct Actor {
    shared: Arc<Shared>,
    peer: Arc<Peer>,
    handler: Arc<dyn Handler>,
    /// The last control connection there was.
    control_id: u64,
}

impl Actor {
    fn up(&mut self, established: Established) {
        static LINK_IDS: AtomicU64 = AtomicU64::new(1);
        let Established { connection, kind, streams, info, wire } = established;
        let shared = &self.shared;
        let link = Arc::new(Link::new(
            LINK_IDS.fetch_add(1, Ordering::Relaxed),
            self.peer.node,
            kind,
            connection,
            info,
            shared.lane_limits(),
            Arc::clone(&shared.metrics),
        ));
        let replaced = self.take(kind, CloseCode::Replaced);
        *self.peer.slot(kind).write() = Some(Arc::clone(&link));
        tracing::info!(
            peer = self.peer.node.0,
            connection = kind.name(),
            protocol = link.info.protocol,
            build = &*link.info.announced.build,
            "connected to a peer"
        );
        match kind {
            LinkKind::Control => {
                self.control_id = link.id;
                shared.metrics.control_connects.increment(1);
                shared.metrics.connected_peers.increment(1.0);
                if replaced {
                    self.handler.peer(PeerEvent::Disconnected(self.peer.node));
                }
                self.handler.peer(PeerEvent::Connected(self.peer.node));
            }
            LinkKind::Bulk => shared.metrics.bulk_connects.increment(1),
        }
        let service = Service {
            handler: Arc::clone(&self.handler),
            calls: Arc::clone(&self.peer.calls),
            metrics: Arc::clone(&shared.metrics),
        };
        let (peer, running) = (Arc::clone(&self.peer), Arc::clone(&link));
        shared.tasks.spawn(async move {
            running.run(streams, service).await;
            peer.tell(Input::Down(running)).await;
        });
        if let Some(wire) = wire {
            let (shared, peer) = (Arc::clone(&self.shared), Arc::clone(&self.peer));
            self.shared.tasks.spawn(guard(shared, peer, link, wire));
        }
    }

    fn down(&mut self, link: &Arc<Link>) {
        let is_current =
            self.peer.slot(link.kind).read().as_ref().is_some_and(|current| current.id == link.id);
        if is_current && self.take(link.kind, CloseCode::Internal) && link.kind == LinkKind::Control
        {
            self.handler.peer(PeerEvent::Disconnected(self.peer.node));
        }
    }

    fn tripwire_broken(&mut self, id: u64) {
        // A newer connection is with a newer process.
        if id != self.control_id {
            return;
        }
        tracing::warn!(peer = self.peer.node.0, "the process of a peer has ended");
        self.shared.metrics.tripwires_broken.increment(1);
        self.handler.peer(PeerEvent::TripwireBroken(self.peer.node));
        self.take(LinkKind::Bulk, CloseCode::ProcessEnded);
        if self.take(LinkKind::Control, CloseCode::ProcessEnded) {
            self.handler.peer(PeerEvent::Disconnected(self.peer.node));
        }
    }

    /// Takes a connection out and closes it; whether there was one.
    fn take(&self, kind: LinkKind, code: CloseCode) -> bool {
        let Some(link) = self.peer.slot(kind).write().take() else { return false };
        link.close(code);
        if kind == LinkKind::Control {
            self.shared.metrics.connected_peers.decrement(1.0);
        }
        true
    }
}

/// Keeps a connection of one kind to the peer up, from the side that dials.
pub(super) async fn keep_dialling(shared: Arc<Shared>, peer: Arc<Peer>, kind: LinkKind) {
    let mut backoff = Backoff::default();
    while !peer.removed.is_cancelled() {
        let address = peer.address.lock().clone();
        let dial = handshake::dial(&shared, &peer, &address, kind);
        // The packets of an attempt that is given up may have come before there was anybody.
        let Some(dialled) = unless_hurried(&peer, dial).await else { continue };
        match dialled {
            Ok(established) => {
                let connection = established.connection.clone();
                let since = tokio::time::Instant::now();
                peer.tell(Input::Up(established)).await;
                tokio::select! {
                    biased;
                    () = peer.removed.cancelled() => return,
                    _ = connection.closed() => {}
                }
                drop(connection);
                backoff.lost_after(since.elapsed());
            }
            Err(error) => {
                shared.metrics.dials_failed.increment(1);
                report_failed_dial(&peer, kind, &error);
            }
        }
        let pause = backoff.next(&mut *shared.rng.lock());
        unless_hurried(&peer, sleep(pause)).await;
    }
}

/// Asks the peer, which is the one to dial, to do so now. While nobody was here it has come to try
/// seldom, and an attempt into the void takes seconds.
pub(super) async fn keep_knocking(shared: Arc<Shared>, peer: Arc<Peer>) {
    let mut backoff = Backoff::default();
    while !peer.removed.is_cancelled() {
        let standing = peer.control.read().clone();
        let pause = if let Some(link) = standing {
            tokio::select! {
                biased;
                () = peer.removed.cancelled() => return,
                () = link.gone.cancelled() => {}
            }
            backoff = Backoff::default();
            backoff.next(&mut *shared.rng.lock())
        } else {
            let address = peer.address.lock().clone();
            let knock = handshake::knock(&shared, &peer, &address);
            let Some(heard) = unless_hurried(&peer, knock).await else { continue };
            match heard {
                Ok(()) => KNOCK_AGAIN,
                Err(error) => {
                    tracing::debug!(peer = peer.node.0, %error, "a knock was not heard");
                    backoff.next(&mut *shared.rng.lock())
                }
            }
        };
        unless_hurried(&peer, sleep(pause)).await;
    }
}

/// What `step` comes to; `None` where there was reason to begin anew, or none to go on.
async fn unless_hurried<T>(peer: &Peer, step: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        biased;
        () = peer.removed.cancelled() => None,
        () = peer.hurry.notified() => None,
        outcome = step => Some(outcome),
    }
}

/// A peer that is down is no news; one that is up and does not agree with us is.
fn report_failed_dial(peer: &Peer, kind: LinkKind, error: &HandshakeError) {
    let (node, connection) = (peer.node.0, kind.name());
    let disagrees = match error {
        HandshakeError::Refused(_) | HandshakeError::Protocol(_) => true,
        HandshakeError::Connection(error) => is_disagreement(error),
        _ => false,
    };
    if disagrees {
        tracing::warn!(peer = node, connection, %error, "no connection to a peer");
    } else {
        tracing::debug!(peer = node, connection, %error, "no connection to a peer");
    }
}

/// Keeps the tripwire that belongs to a control connection, for as long as that stands.
async fn guard(shared: Arc<Shared>, peer: Arc<Peer>, link: Arc<Link>, mut source: WireSource) {
    let mut backoff = Backoff::default();
    loop {
        // The wire first: one that is there tells how the connection ended.
        let laid = tokio::select! {
            biased;
            laid = lay(&mut source, shared.local_addr) => laid,
            () = link.gone.cancelled() => return,
        };
        if let Some(mut wire) = laid {
            let ended = tokio::select! {
                biased;
                ended = tripwire::watch(&mut wire) => Some(ended),
                () = link.gone.cancelled() => None,
            };
            let ended = match ended {
                Some(ended) => ended,
                None => wind_up(&shared, &mut wire).await,
            };
            if ended == Ended::Broken {
                peer.tell(Input::TripwireBroken(link.id)).await;
                return;
            }
        }
        if link.gone.is_cancelled() {
            return;
        }
        tracing::debug!(peer = peer.node.0, "no tripwire to a peer");
        let pause = backoff.next(&mut *shared.rng.lock());
        tokio::select! {
            biased;
            () = link.gone.cancelled() => return,
            () = sleep(pause) => {}
        }
    }
}

async fn lay(source: &mut WireSource, local: SocketAddr) -> Option<TcpStream> {
    match source {
        WireSource::Accept(expectation) => expectation.wire().await,
        WireSource::Dial(address, token, laid) => match laid.take() {
            Some(wire) => Some(wire),
            None => tripwire::dial(*address, local, token).await.ok(),
        },
    }
}

/// The connection is gone and the wire stands: unless this process ends, the peer is told that it
/// does not; and the peer's end may still be seen.
async fn wind_up(shared: &Shared, wire: &mut TcpStream) -> Ended {
    if shared.stop.is_cancelled() {
        return Ended::Lost;
    }
    tripwire::bye(wire).await;
    timeout(WIRE_GRACE, tripwire::watch(wire)).await.unwrap_or(Ended::Lost)
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    fn peer() -> Arc<Peer> {
        Peer::new(NodeId(2), "peer:1".to_owned(), 1, CancellationToken::new()).0
    }

    #[tokio::test(start_paused = true)]
    async fn a_knock_ends_the_pause_between_dials() {
        let peer = peer();
        let pause = Duration::from_secs(2);
        let began = Instant::now();
        let (paused, ()) = tokio::join!(unless_hurried(&peer, sleep(pause)), async {
            peer.knocked();
        });
        assert!(paused.is_none());
        assert_eq!(began.elapsed(), Duration::ZERO);
        assert!(unless_hurried(&peer, sleep(pause)).await.is_some(), "a knock counts once");
        assert_eq!(began.elapsed(), pause);
    }

    #[tokio::test(start_paused = true)]
    async fn a_knock_ends_an_attempt_that_nobody_answers() {
        let peer = peer();
        let attempt = unless_hurried(&peer, std::future::pending::<()>());
        let (dialled, ()) = tokio::join!(attempt, async { peer.knocked() });
        assert!(dialled.is_none(), "the dialler begins anew");
    }

    #[tokio::test(start_paused = true)]
    async fn a_removed_peer_is_not_waited_for() {
        let peer = peer();
        peer.removed.cancel();
        assert!(unless_hurried(&peer, std::future::pending::<()>()).await.is_none());
    }
}
