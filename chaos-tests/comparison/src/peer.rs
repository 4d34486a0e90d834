//! What the loops need of a system: a cluster of three nodes, publishers, consumers.

use std::{future::Future, path::Path, pin::Pin, sync::Arc};

use anyhow::Result;
use bytes::Bytes;
use tokio::task::JoinSet;

use crate::counts::Counts;

/// Nodes of each cluster, as many as there are replicas.
pub const NODES: usize = 3;
/// How many messages are acknowledged at once at most, where a system can do several.
pub const ACK_BATCH_MAX: usize = 64;

/// The answer to a message: whether it was accepted. An error means that nobody knows.
pub type Answer = Pin<Box<dyn Future<Output = Result<bool>> + Send>>;

/// A connection that publishes.
pub trait Publisher: Send + Sync + 'static {
    /// Hands a message to the connection; the answer comes later. Messages that are handed over one
    /// after another are sent in that order.
    fn send(&self, mailbox: u32, message: Bytes) -> impl Future<Output = Result<Answer>> + Send;
}

/// Connections whose consumers read and acknowledge everything.
pub struct Consumers<K> {
    /// Each ends only with an error.
    pub tasks: JoinSet<Result<()>>,
    /// What the tasks read from.
    pub connections: K,
}

/// The cluster of a system under test. Its processes end with it.
pub trait Cluster: Sized + Send + Sync + 'static {
    /// A publishing connection.
    type Publisher: Publisher;

    /// The version that runs.
    async fn version(&self) -> Result<String>;

    /// The processes that nodes were started as.
    fn pids(&self) -> Vec<u32>;

    /// Makes mailboxes 0 to `mailboxes`, replicated to all nodes, as far as they are not there yet.
    async fn prepare(&mut self, mailboxes: u32) -> Result<()>;

    /// Connects a publisher to a node.
    async fn publisher(&self, node: usize) -> Result<Self::Publisher>;

    /// How much each node leads (shards, queues or streams), as node `through` knows.
    async fn leaders(&self, through: usize) -> Result<[u32; NODES]>;

    /// `kill -9` to a node.
    ///
    /// # Errors
    /// When it does not end.
    fn kill(&mut self, node: usize) -> Result<()>;

    /// Starts a killed node and waits until it serves and its replicas have caught up.
    async fn restart(&mut self, node: usize) -> Result<()>;
}

/// A cluster whose mailboxes are read by this program.
pub trait Consume: Cluster {
    /// What consumers hold.
    type Connections: Send;

    /// Consumers of mailboxes 0 to `mailboxes`, which `senders` senders write to.
    async fn consume(
        &self,
        mailboxes: u32,
        senders: u32,
        counts: Arc<Counts>,
    ) -> Result<Consumers<Self::Connections>>;

    /// Ends consumers in order: what they acknowledged is acknowledged.
    async fn stop(&self, connections: Self::Connections) -> Result<()>;

    /// How many messages are still stored in those mailboxes.
    async fn stored(&self, mailboxes: u32) -> Result<u64>;
}

/// What a cluster is started with.
#[derive(Clone, Debug)]
pub struct Setting<'a> {
    /// An empty directory of its own.
    pub directory: &'a Path,
    /// The first of 32 ports on loopback that are its own.
    pub first_port: u16,
}
