//! What an operator can set of the client port.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use serde::Deserialize;

use crate::{mosa::MosaConfig, websocket::WebSocketConfig};

/// The client port. Only `listen` and `security` have no default.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
#[non_exhaustive]
pub struct ServerConfig {
    /// Where to listen; port 0 takes any free one.
    pub listen: SocketAddr,
    /// TLS, or plain text where that was decided.
    pub security: Security,
    /// Limits of connections and requests.
    #[serde(default)]
    pub limits: Limits,
    /// The MOSA front door.
    #[serde(default)]
    pub mosa: MosaConfig,
    /// WebSocket connections.
    #[serde(default)]
    pub websocket: WebSocketConfig,
}

impl ServerConfig {
    /// A configuration with defaults.
    pub fn new(listen: SocketAddr, security: Security) -> Self {
        Self {
            listen,
            security,
            limits: Limits::default(),
            mosa: MosaConfig::default(),
            websocket: WebSocketConfig::default(),
        }
    }
}

/// Whether the client port is encrypted.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Security {
    /// HTTPS and WSS.
    Tls(TlsConfig),
    /// HTTP and WS: for loopback, and behind a proxy that ends TLS.
    Plain,
}

/// The server's certificate.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct TlsConfig {
    /// The certificate chain, PEM, the server's own first.
    pub certificate: Pem,
    /// Its private key, PEM (PKCS #8, PKCS #1 or SEC1).
    pub key: Pem,
}

/// Where PEM text comes from.
#[derive(Clone, Deserialize)]
#[serde(from = "PathBuf")]
pub enum Pem {
    /// A file, read at start and at each reload.
    File(PathBuf),
    /// The text itself.
    Bytes(Vec<u8>),
}

impl From<PathBuf> for Pem {
    fn from(path: PathBuf) -> Self {
        Self::File(path)
    }
}

impl std::fmt::Debug for Pem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
            Self::Bytes(_) => f.write_str("Bytes(…)"),
        }
    }
}

/// Limits of connections and requests.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Limits {
    /// Connections at once; more are answered 503 and closed.
    pub connections_max: usize,
    /// Bytes of request line and header fields.
    pub head_bytes_max: usize,
    /// Header fields.
    pub header_fields_max: usize,
    /// Bytes of a request body.
    pub body_bytes_max: usize,
    /// How long a TLS handshake may take.
    #[serde(with = "humantime_serde")]
    pub tls_timeout: Duration,
    /// How long a request's head may take; also how long a connection may idle between requests.
    #[serde(with = "humantime_serde")]
    pub head_timeout: Duration,
    /// How long a request's body may take.
    #[serde(with = "humantime_serde")]
    pub body_timeout: Duration,
    /// How long a client may take nothing of its response.
    #[serde(with = "humantime_serde")]
    pub write_timeout: Duration,
    /// How long connections may take to end when the server stops.
    #[serde(with = "humantime_serde")]
    pub drain_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            // 50,000 idle connections take about 0.5 GB with TLS.
            connections_max: 50_000,
            // Ids of 10 kB still get their own answer; headers of browsers take 1–2 KiB.
            head_bytes_max: 32 * 1024,
            // Browsers and proxies send 10–30.
            header_fields_max: 64,
            // 60 KiB of content are 80 KiB of Base64; 1,000 ids of 128 bytes are 131 KiB.
            body_bytes_max: 256 * 1024,
            tls_timeout: Duration::from_secs(10),
            head_timeout: Duration::from_secs(15),
            // 256 KiB over a 100 kbit/s uplink take 21 s.
            body_timeout: Duration::from_secs(30),
            write_timeout: Duration::from_secs(30),
            drain_timeout: Duration::from_secs(10),
        }
    }
}
