//! The operators' front door: its own port, its own token, JSON over HTTP.
//!
//! - `door`: routes, and what all answers have in common.
//! - [`AdminToken`]: who may enter.
//!
//! The paths are in `docs/reference/admin-http.md`.

mod backup;
mod door;
mod token;

use std::{net::SocketAddr, sync::Arc};

use heliograph_cluster::ClusterAdmin;
use tokio_util::sync::CancellationToken;

pub use token::{AdminToken, TokenError};

use self::door::Door;
use crate::server::{Limits, Security, Server, StartError, departure::Departures};

/// Connections at once: a few people, their scripts and a dashboard.
const CONNECTIONS_MAX: usize = 64;
/// Bytes of a request's body: an address and a zone are a few hundred.
const BODY_BYTES_MAX: usize = 16 * 1024;

/// The operators' port.
#[derive(Debug)]
pub struct AdminConfig {
    /// Where to listen; port 0 takes any free one.
    pub listen: SocketAddr,
    /// TLS, or plain text on loopback.
    pub security: Security,
    /// Who may enter.
    pub token: AdminToken,
}

/// Listens and serves operators until `shutdown` falls. Must be called within a tokio runtime.
///
/// # Errors
/// When the port or the certificate cannot be used.
pub fn start(
    config: AdminConfig,
    admin: Arc<dyn ClusterAdmin>,
    shutdown: CancellationToken,
) -> Result<Server, StartError> {
    let limits = Limits {
        connections_max: CONNECTIONS_MAX,
        body_bytes_max: BODY_BYTES_MAX,
        ..Limits::default()
    };
    let door = Arc::new(Door::new(config.token, limits.clone(), admin));
    let departures = Departures::new(shutdown);
    Server::open(config.listen, &config.security, limits, door, departures, "admin port")
}
