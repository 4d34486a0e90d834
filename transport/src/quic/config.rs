//! What a QUIC network is made from, and why it may not be made.

use std::{io, net::SocketAddr, time::Duration};

use rustls::server::VerifierBuilderError;

use crate::{
    identity::{Identity, IdentityError},
    network::NodeId,
    protocol::Announcement,
};

/// When a connection on which nothing is heard is given up. 5 s: above any pause of a healthy node;
/// process death is told by the tripwire, hangs by the beats of the layer above.
pub(crate) const IDLE_TIMEOUT: Duration = Duration::from_secs(5);

/// Frames queued on one lane. 16,384: more than the calls all shards of a node keep under way.
pub(crate) const LANE_FRAMES_MAX: usize = 16_384;

/// Bytes queued on one lane. 16 MiB: four of the largest frames.
const LANE_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Calls of one peer being served. 8,192: at 100,000 calls a second, 80 ms of them.
pub(crate) const CALLS_PER_PEER_MAX: usize = 8_192;

/// Size of the UDP socket's buffers. 4 MiB: some 30 ms at 1 Gbit/s, during which the process may
/// not run. The kernel caps it at `net.core.rmem_max` and `wmem_max`.
const UDP_BUFFER_BYTES: usize = 4 * 1024 * 1024;

/// The bounds of a network.
#[derive(Clone, Debug)]
pub struct Limits {
    /// When a connection on which nothing is heard is given up. A fifth of it is the keep-alive
    /// interval.
    pub idle_timeout: Duration,
    /// Frames queued on one lane; more are [`crate::CallError::Overloaded`].
    pub lane_frames_max: usize,
    /// Bytes queued on one lane; more are [`crate::CallError::Overloaded`].
    pub lane_bytes_max: usize,
    /// Calls of one peer being served at once; more are refused as overloaded.
    pub calls_per_peer_max: usize,
    /// Size asked of the kernel for the UDP socket's receive and send buffers.
    pub udp_buffer_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            idle_timeout: IDLE_TIMEOUT,
            lane_frames_max: LANE_FRAMES_MAX,
            lane_bytes_max: LANE_BYTES_MAX,
            calls_per_peer_max: CALLS_PER_PEER_MAX,
            udp_buffer_bytes: UDP_BUFFER_BYTES,
        }
    }
}

/// What a QUIC network is made from.
#[derive(Debug)]
pub struct QuicConfig {
    /// This node.
    pub node: NodeId,
    /// The cluster: part of every certificate name and handshake.
    pub cluster_id: [u8; 16],
    /// Counts the lives of this node's disk; peers refuse a lower one than they have seen.
    pub incarnation: u32,
    /// Where to listen, UDP and TCP; port 0 takes one that is free for both.
    pub listen: SocketAddr,
    /// Certificate, key and CA.
    pub identity: Identity,
    /// The bounds.
    pub limits: Limits,
    /// What this process says of itself.
    pub announced: Announcement,
}

/// Why a network cannot be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BindError {
    /// The certificate is not that of this node.
    #[error("the node's identity: {0}")]
    Identity(#[from] IdentityError),
    /// Key, certificate and CA do not fit together, or are not supported.
    #[error("TLS: {0}")]
    Tls(#[from] rustls::Error),
    /// The CA certificates are of no use.
    #[error("the CA: {0}")]
    Roots(#[from] VerifierBuilderError),
    /// The TLS provider lacks the cipher suite QUIC begins with.
    #[error("no cipher suite for QUIC")]
    CipherSuite,
    /// The idle timeout is longer than QUIC can say.
    #[error("the idle timeout is out of range")]
    IdleTimeout,
    /// The address cannot be used.
    #[error("{operation}: {source}")]
    Socket {
        /// What was tried.
        operation: &'static str,
        /// The operating system's answer.
        source: io::Error,
    },
}
