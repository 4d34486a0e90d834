//! A relay in memory, a server over it, and raw clients. Shared by this crate's tests.
#![allow(unreachable_pub, reason = "a test binary exports nothing")]

pub mod http;
pub mod relay;
pub mod ws;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use heliograph_api::{RegistrationMode, Server, ServerConfig, server::Security};
use metrics_exporter_prometheus::PrometheusBuilder;
use tokio_util::sync::CancellationToken;

pub use relay::FakeRelay;

/// How long anything in a test may take.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A server over a fake relay.
pub struct Rig {
    pub relay: Arc<FakeRelay>,
    pub address: SocketAddr,
    pub shutdown: CancellationToken,
    server: Option<Server>,
}

/// Plain text on a free port, open registration.
pub fn config() -> ServerConfig {
    let listen = "127.0.0.1:0".parse().unwrap();
    let mut config = ServerConfig::new(listen, Security::Plain);
    config.mosa.registration = RegistrationMode::Open;
    config
}

impl Rig {
    pub fn start() -> Self {
        Self::with(config())
    }

    pub fn with(config: ServerConfig) -> Self {
        Self::over(Arc::default(), config)
    }

    /// Another node of the same cluster.
    pub fn beside(&self) -> Self {
        Self::over(Arc::clone(&self.relay), config())
    }

    fn over(relay: Arc<FakeRelay>, config: ServerConfig) -> Self {
        let shutdown = CancellationToken::new();
        let metrics = PrometheusBuilder::new().build_recorder().handle();
        let server =
            Server::start(config, Arc::clone(&relay) as _, metrics, shutdown.clone()).unwrap();
        Self { relay, address: server.local_addr(), shutdown, server: Some(server) }
    }

    /// Stops the server and waits until it has.
    pub async fn stop(mut self) {
        self.shutdown.cancel();
        let server = self.server.take().unwrap();
        tokio::time::timeout(PATIENCE, server.stopped()).await.expect("the server stops");
    }

    /// The server itself.
    pub fn server(&self) -> &Server {
        self.server.as_ref().unwrap()
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

/// Runs `work` with a deadline.
pub async fn within<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, work).await.expect("in time")
}

/// Now, in Unix seconds.
#[expect(clippy::disallowed_methods, reason = "the server judges by the machine's clock")]
pub fn unix_seconds() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs()
}
