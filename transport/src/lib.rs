//! Calls between the nodes of a cluster.
//!
//! `transport` knows nodes, lanes and bytes. It does not know what the bytes mean.
//! [`Network`] is the contract; it has a QUIC implementation and a simulated one, and both pass
//! the same contract suite.

#[cfg(test)]
mod allocations_test;
mod backoff;
#[cfg(test)]
mod fixtures_test;
mod frame;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
pub mod identity;
mod metrics;
mod network;
mod protocol;
pub mod quic;
pub mod sim;
mod tripwire;

pub use identity::{Identity, IdentityError};
pub use metrics::{METRIC_NAMES, describe_metrics};
pub use network::{
    BoxFuture, CallError, FRAME_BYTES_MAX, Handler, Lane, Network, NodeId, NotifyError, PeerEvent,
    SHARED_LANES,
};
pub use protocol::{Announcement, PROTOCOL_MAX, PROTOCOL_MIN, PeerInfo, Protocols};
pub use quic::{BindError, Limits, QuicConfig, QuicNetwork};
pub use sim::{SimConfig, SimFabric, SimNetwork};
