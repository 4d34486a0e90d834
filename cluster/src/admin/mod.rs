//! What an operator sees of the cluster and asks of it.
//!
//! - [`types`](ClusterStatus): what status tells, plain data.
//! - `report`: what one node tells of itself; `compose`: the cluster out of all reports, pure.
//! - `wire`: what nodes ask each other for it.
//! - `service`: the node's [`ClusterAdmin`].

mod compose;
mod error;
mod report;
mod service;
mod types;
mod wire;

use heliograph_transport::BoxFuture;
use tokio::time::Instant;

pub use error::AdminError;
pub use types::*;

pub(crate) use service::{Admin, answer};

/// The cluster as its operators see it. Any node answers for the whole cluster. Every call has a
/// deadline, passed down and never reset.
pub trait ClusterAdmin: Send + Sync + 'static {
    /// Nodes, groups and moves, as far as nodes answer: those that do not are reported as such, so
    /// that this works without a quorum.
    fn status(&self, deadline: Instant) -> BoxFuture<'_, Result<ClusterStatus, AdminError>>;
}
