//! The accept loop: one task that admits, refuses and supervises connections.

use std::{net::SocketAddr, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures_util::{FutureExt as _, future::BoxFuture};
use http::Request;
use hyper::body::Incoming;
use metrics::counter;
use parking_lot::RwLock;
use socket2::{SockRef, TcpKeepalive};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::{sleep, timeout},
};
use tokio_rustls::TlsAcceptor;
use tokio_util::task::TaskTracker;

use super::{
    connection::{Shared, serve},
    handler::{Handler, Reply},
    step::Step,
};
use crate::{
    metrics::{ACCEPT_ERRORS, CONNECTIONS, CONNECTIONS_REFUSED, Held, PANICS, TLS_FAILURES},
    problem::{Code, Problem},
    stream::Stream,
};

/// First and longest pause after `accept` failed for want of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(10);
const ACCEPT_PAUSE_MAX: Duration = Duration::from_secs(1);
/// Connections over the limit that get a 503 at once; further ones are closed without a word.
const REFUSALS_MAX: usize = 64;
/// How long such a connection may take.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(3);
/// A peer's machine that vanished is found by TCP after 60 + 4 × 15 s at the latest.
const KEEPALIVE_TIME: Duration = Duration::from_secs(60);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);
const KEEPALIVE_RETRIES: u32 = 4;

/// Accepts connections until the drain token falls.
pub(crate) struct Listener {
    pub(crate) socket: TcpListener,
    pub(crate) shared: Arc<Shared>,
    /// For connections over the limit: answers 503 alone.
    pub(crate) refusing: Arc<Shared>,
    pub(crate) tls: Option<Arc<RwLock<TlsAcceptor>>>,
    pub(crate) connections: TaskTracker,
}

impl Listener {
    pub(crate) async fn run(self) {
        let places = Arc::new(Semaphore::new(self.shared.limits.connections_max));
        let refusals = Arc::new(Semaphore::new(REFUSALS_MAX));
        let mut pause = ACCEPT_PAUSE;
        loop {
            let accepted = tokio::select! {
                // Stopping comes first: a busy port must not keep the node up.
                biased;
                () = self.shared.drain.cancelled() => break,
                accepted = self.socket.accept() => accepted,
            };
            match accepted {
                Ok((tcp, _peer)) => {
                    pause = ACCEPT_PAUSE;
                    if let Ok(place) = Arc::clone(&places).try_acquire_owned() {
                        self.spawn(tcp, Arc::clone(&self.shared), place, None);
                        continue;
                    }
                    counter!(CONNECTIONS_REFUSED).increment(1);
                    if let Ok(place) = Arc::clone(&refusals).try_acquire_owned() {
                        self.spawn(tcp, Arc::clone(&self.refusing), place, Some(REFUSAL_TIMEOUT));
                    }
                }
                Err(error) if is_of_one_connection(&error) => {}
                Err(error) => {
                    counter!(ACCEPT_ERRORS).increment(1);
                    tracing::warn!(%error, ?pause, "cannot accept connections, pausing");
                    sleep(pause).await;
                    pause = (pause * 2).min(ACCEPT_PAUSE_MAX);
                }
            }
        }
    }

    fn spawn(
        &self,
        tcp: TcpStream,
        shared: Arc<Shared>,
        place: tokio::sync::OwnedSemaphorePermit,
        time_max: Option<Duration>,
    ) {
        tune(&tcp);
        let tls = self.tls.as_ref().map(|tls| tls.read().clone());
        self.connections.spawn(async move {
            let _place = place;
            let _held = Held::new(CONNECTIONS);
            let served = Step::new(secure_and_serve(tcp, tls, shared));
            let served = AssertUnwindSafe(served).catch_unwind();
            let ended = match time_max {
                None => served.await,
                Some(time_max) => Box::pin(timeout(time_max, served)).await.unwrap_or(Ok(())),
            };
            if ended.is_err() {
                counter!(PANICS).increment(1);
                tracing::error!("a connection's task panicked; this is a defect");
            }
        });
    }
}

async fn secure_and_serve(
    tcp: TcpStream,
    tls: Option<TlsAcceptor>,
    shared: Arc<Shared>,
) -> Option<Step> {
    let stream = secure(tcp, tls, shared.limits.tls_timeout).await?;
    Some(serve(stream, shared))
}

async fn secure(tcp: TcpStream, tls: Option<TlsAcceptor>, time_max: Duration) -> Option<Stream> {
    let Some(tls) = tls else { return Some(Stream::Plain(tcp)) };
    match timeout(time_max, tls.accept(tcp)).await {
        Ok(Ok(stream)) => Some(Stream::Tls(Box::new(stream.into()))),
        Ok(Err(error)) => {
            counter!(TLS_FAILURES).increment(1);
            tracing::debug!(%error, "TLS handshake failed");
            None
        }
        Err(_elapsed) => {
            counter!(TLS_FAILURES).increment(1);
            None
        }
    }
}

/// Best effort: a socket without these options still works.
fn tune(tcp: &TcpStream) {
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE_TIME)
        .with_interval(KEEPALIVE_INTERVAL)
        .with_retries(KEEPALIVE_RETRIES);
    let tuned = tcp.set_nodelay(true).and(SockRef::from(tcp).set_tcp_keepalive(&keepalive));
    if let Err(error) = tuned {
        tracing::debug!(%error, "cannot set socket options");
    }
}

/// Whether `accept` failed for the one connection only.
fn is_of_one_connection(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

/// Answers 503 to everything.
pub(crate) struct Refuse;

impl Handler for Refuse {
    fn handle(self: Arc<Self>, _request: Request<Incoming>) -> BoxFuture<'static, Reply> {
        Box::pin(async { Reply::Answer(Problem::from(Code::ConnectionLimit).into_response()) })
    }
}

/// Binds the port, with room for a herd that reconnects after a failover.
pub(crate) fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
    /// As many as the kernel's usual `somaxconn` allows.
    const BACKLOG: i32 = 4096;
    let socket = socket2::Socket::new(
        socket2::Domain::for_address(address),
        socket2::Type::STREAM,
        Some(socket2::Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}
