//! What an operator sees of the cluster and asks of it.
//!
//! - [`types`](ClusterStatus): what status tells, plain data.
//! - [`command`](AdminCommand): what may be changed; `change`: brings it to the meta leader.
//! - [`copy`](GroupCopy): copies of groups, for backups.
//! - `rebalance`: has the meta leader even the load out.
//! - `report`: what one node tells of itself; `compose`: the cluster out of all reports, pure.
//! - `wire`: what nodes ask each other for it.
//! - `service`: the node's [`ClusterAdmin`].

mod ask;
mod change;
mod command;
mod compose;
mod copy;
mod error;
mod rebalance;
mod report;
mod service;
mod types;
mod wire;

use std::time::Duration;

use bytes::Bytes;
use heliograph_transport::BoxFuture;
use tokio::time::Instant;

pub use command::{AdminCommand, AdminOutcome};
pub use copy::GroupCopy;
pub use error::AdminError;
pub use types::*;

pub(crate) use service::{Admin, answer};

/// The pause before a group's leader is looked for again: an election takes a few of them.
const LEADER_PAUSE: Duration = Duration::from_millis(100);

/// The cluster as its operators see it. Any node answers for the whole cluster. Every call has a
/// deadline, passed down and never reset.
pub trait ClusterAdmin: Send + Sync + 'static {
    /// Nodes, groups and moves, as far as nodes answer: those that do not are reported as such, so
    /// that this works without a quorum.
    fn status(&self, deadline: Instant) -> BoxFuture<'_, Result<ClusterStatus, AdminError>>;

    /// Changes the registry; answers once a majority of the meta group has that on disk. Safe to
    /// repeat, except that a repeated invitation or replacement makes another token.
    fn change(
        &self,
        command: AdminCommand,
        deadline: Instant,
    ) -> BoxFuture<'_, Result<AdminOutcome, AdminError>>;

    /// Has the load evened out now, and not slowly and later: replicas and leaders. Ends by itself;
    /// a change of the leader of meta ends it early. Safe to repeat.
    fn rebalance(&self, deadline: Instant) -> BoxFuture<'_, Result<(), AdminError>>;

    /// Lets the leader of a group (0: the registry, `shard + 1`: a shard) write a copy of it, which
    /// holds all that was accepted before. Takes as long as its disk takes.
    fn copy(&self, group: u32, deadline: Instant) -> BoxFuture<'_, Result<GroupCopy, AdminError>>;

    /// Reads a piece of a copy, from `offset` on; empty at its end. A copy is kept while it is read.
    fn piece(
        &self,
        copy: GroupCopy,
        offset: u64,
        deadline: Instant,
    ) -> BoxFuture<'_, Result<Bytes, AdminError>>;
}
