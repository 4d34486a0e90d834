//! Calls between the nodes of a cluster.
//!
//! `transport` knows nodes, lanes and bytes. It does not know what the bytes mean.
//! [`Network`] is the contract; it has a QUIC implementation and a simulated one, and both pass
//! the same contract suite.

mod network;

pub use network::{
    BoxFuture, CallError, FRAME_BYTES_MAX, Handler, Lane, Network, NodeId, NotifyError, PeerEvent,
};
