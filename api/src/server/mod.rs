//! The shared server of all HTTP front doors: listener, TLS, hyper, limits, graceful shutdown.
//!
//! Owns its tasks: one accepts, one a connection. Promises that no client can hold more than its
//! bounded share (head, body, time, connection), and that stopping finishes what is under way.

pub(crate) mod body;
mod config;
mod connection;
pub(crate) mod departure;
mod guarded;
pub(crate) mod handler;
mod listener;
mod step;
mod tls;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use heliograph_cluster::Relay;
use metrics_exporter_prometheus::PrometheusHandle;
use parking_lot::RwLock;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub use config::{Limits, Pem, Security, ServerConfig, TlsConfig};
pub use tls::TlsError;

use crate::{
    Clock, SystemClock,
    mosa::{ConfigError, Gateway},
};
use connection::Shared;
use departure::Departures;
use handler::{Handler, Scheme};
use listener::{Listener, Refuse};

/// How long the last WebSocket that is sent away may take: its own last words and the closing
/// handshake.
const SEND_OFF_PATIENCE: Duration = Duration::from_secs(5);

/// Why the server did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The address cannot be listened on.
    #[error("cannot listen on {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// The certificate cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// A setting makes no sense.
    #[error(transparent)]
    Config(#[from] ConfigError),
}

/// A running port. It stops by the token it was started with.
pub struct Server {
    local_addr: SocketAddr,
    connections: TaskTracker,
    departures: Arc<Departures>,
    kill: CancellationToken,
    drain: CancellationToken,
    tls: Option<Arc<RwLock<TlsAcceptor>>>,
    drain_timeout: Duration,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").field("local_addr", &self.local_addr).finish_non_exhaustive()
    }
}

impl Server {
    /// Listens and serves until `shutdown` falls: then the port closes, WebSockets get 1012,
    /// requests under way are finished. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// When the port, the certificate or a setting cannot be used.
    pub fn start(
        config: ServerConfig,
        relay: Arc<dyn Relay>,
        metrics: PrometheusHandle,
        shutdown: CancellationToken,
    ) -> Result<Self, StartError> {
        Self::start_with_clock(config, relay, metrics, shutdown, Arc::new(SystemClock))
    }

    /// As [`Server::start`], with another clock.
    ///
    /// # Errors
    /// As [`Server::start`].
    pub fn start_with_clock(
        config: ServerConfig,
        relay: Arc<dyn Relay>,
        metrics: PrometheusHandle,
        shutdown: CancellationToken,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, StartError> {
        let scheme = match &config.security {
            Security::Plain => Scheme::Plain,
            Security::Tls(_) => Scheme::Tls,
        };
        let departures = Departures::new(shutdown);
        let leaving = Arc::clone(&departures);
        let gateway = Gateway::new(&config, scheme, relay, metrics, leaving, clock)?;
        let (listen, limits) = (config.listen, config.limits);
        Self::open(listen, &config.security, limits, Arc::new(gateway), departures, "client port")
    }

    /// Opens a port over any front door; `name` is for the log. It stops when the departures do.
    pub(crate) fn open(
        address: SocketAddr,
        security: &Security,
        limits: Limits,
        door: Arc<dyn Handler>,
        departures: Arc<Departures>,
        name: &'static str,
    ) -> Result<Self, StartError> {
        let shutdown = departures.stop();
        let tls = match security {
            Security::Plain => None,
            Security::Tls(tls) => Some(Arc::new(RwLock::new(tls::acceptor(tls)?))),
        };
        let listen = |source| StartError::Listen { address, source };
        let socket = listener::bind(address).map_err(listen)?;
        let local_addr = socket.local_addr().map_err(listen)?;
        let kill = CancellationToken::new();
        let drain_timeout = limits.drain_timeout;
        let shared = |handler| {
            Arc::new(Shared {
                limits: limits.clone(),
                handler,
                drain: shutdown.clone(),
                departures: Arc::clone(&departures),
                kill: kill.clone(),
            })
        };
        let connections = TaskTracker::new();
        let listener = Listener {
            socket,
            shared: shared(door),
            refusing: shared(Arc::new(Refuse)),
            tls: tls.clone(),
            connections: connections.clone(),
        };
        connections.spawn(listener.run());
        tracing::info!(%local_addr, tls = tls.is_some(), "{name} open");
        Ok(Self { local_addr, connections, departures, kill, drain: shutdown, tls, drain_timeout })
    }

    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Tasks of open connections, and the one that accepts them while it does.
    pub fn tasks(&self) -> usize {
        self.connections.len()
    }

    /// Takes another certificate for connections to come. A server without TLS ignores it.
    ///
    /// # Errors
    /// When the certificate cannot be used; the old one stays.
    pub fn reload_tls(&self, config: &TlsConfig) -> Result<(), TlsError> {
        let acceptor = tls::acceptor(config)?;
        if let Some(tls) = &self.tls {
            *tls.write() = acceptor;
        }
        Ok(())
    }

    /// Begins to go away: HTTP clients are asked with each answer to close their connection, long
    /// polls are answered now. New requests and connections are still served.
    pub fn leave(&self) {
        self.departures.leave();
    }

    /// Sends WebSockets away, each with 1012 and a hint where to go on, one after the other, the
    /// last one after `over`. Answers once all are gone, or some time after that.
    pub async fn send_off(&self, over: Duration) {
        self.departures.send_off(over, SEND_OFF_PATIENCE).await;
    }

    /// Keeps clients again after [`Server::leave`]: the node stays.
    pub fn stay(&self) {
        self.departures.stay();
    }

    /// Waits for the shutdown token, then until every connection has ended, at most the drain
    /// timeout; what is left then is cut.
    pub async fn stopped(self) {
        self.drain.cancelled().await;
        self.connections.close();
        if timeout(self.drain_timeout, self.connections.wait()).await.is_err() {
            tracing::warn!(left = self.connections.len(), "connections did not drain in time");
            self.kill.cancel();
            self.connections.wait().await;
        }
    }
}
