//! A local replica of a shard, as the rest of the node sees it.

use std::{fmt, sync::Arc};

use heliograph_storage::RowsRead;
use heliograph_transport::{BoxFuture, NodeId};
use tokio::time::Instant;

use crate::{
    machine::{Command, Effect, Outcome},
    model::ShardId,
    watch,
};

/// What a replica is to its shard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Role {
    /// It follows, or knows no leader.
    #[default]
    Follower,
    /// It was elected, but has not applied the first entry of its term yet: its rows may miss what
    /// an earlier leader accepted.
    Elected,
    /// It leads and its rows hold everything accepted before its term.
    Acting,
}

/// Who leads a shard, as one replica knows it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Leadership {
    /// Raft's term.
    pub term: u64,
    /// The leader's node, where known.
    pub leader: Option<NodeId>,
    /// What this replica is.
    pub role: Role,
}

/// A leader's licence to act: effects carry it, receivers drop those of an older term.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Fence {
    /// The shard.
    pub shard: ShardId,
    /// The leader's term.
    pub term: u64,
}

/// Why a command has no outcome.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProposeError {
    /// This replica does not lead: certainly not done. Ask `leader`.
    #[error("this replica does not lead")]
    NotLeader {
        /// Who leads, where known.
        leader: Option<NodeId>,
    },
    /// The shard's queue is full, or the deadline passed before the command was handed to Raft:
    /// certainly not done.
    #[error("the shard is overloaded")]
    Overloaded,
    /// The command was handed to Raft and its outcome is unknown: it may or may not be done.
    #[error("the outcome is unknown")]
    Unknown,
    /// This node's storage is fail-safe: certainly not done here.
    #[error("this node's storage failed")]
    Storage,
}

/// What a replica offers; implemented over Raft, and in tests over a state machine alone.
pub trait ShardPort: Send + Sync + 'static {
    /// See [`ShardHandle::id`].
    fn id(&self) -> ShardId;
    /// See [`ShardHandle::propose`].
    fn propose(
        &self,
        command: Command,
        deadline: Instant,
    ) -> BoxFuture<'static, Result<Outcome, ProposeError>>;
    /// See [`ShardHandle::leadership`].
    fn leadership(&self) -> watch::Receiver<Leadership>;
    /// See [`ShardHandle::fence`].
    fn fence(&self) -> Option<Fence>;
    /// Runs `reader` on the rows, which do not change meanwhile.
    fn rows(&self, reader: &mut dyn FnMut(&dyn RowsRead));
    /// See [`ShardHandle::time_ms`].
    fn time_ms(&self) -> u64;
    /// See [`ShardHandle::applied_index`].
    fn applied_index(&self) -> u64;
}

/// A local replica of a shard. Cloning shares it.
#[derive(Clone)]
pub struct ShardHandle(Arc<dyn ShardPort>);

impl fmt::Debug for ShardHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ShardHandle").field(&self.id().0).finish()
    }
}

impl ShardHandle {
    /// A handle to `port`.
    pub fn new(port: Arc<dyn ShardPort>) -> Self {
        Self(port)
    }

    /// The shard.
    pub fn id(&self) -> ShardId {
        self.0.id()
    }

    /// Puts `command` into the shard's next log entry and answers its outcome once that is on disk
    /// on a majority and applied here. It is queued when this returns, whether or not the outcome is
    /// waited for.
    ///
    /// # Errors
    /// See [`ProposeError`]: all but `Unknown` mean that nothing was done.
    pub fn propose(
        &self,
        command: Command,
        deadline: Instant,
    ) -> BoxFuture<'static, Result<Outcome, ProposeError>> {
        self.0.propose(command, deadline)
    }

    /// Who leads, and what this replica is; changes wake the receiver.
    pub fn leadership(&self) -> watch::Receiver<Leadership> {
        self.0.leadership()
    }

    /// The licence to act: only while this replica is [`Role::Acting`] and a quorum has answered
    /// it within the last second.
    pub fn fence(&self) -> Option<Fence> {
        self.0.fence()
    }

    /// Reads the rows; they do not change while `reader` runs, so it must be short.
    pub fn read<T>(&self, reader: impl FnOnce(&dyn RowsRead) -> T) -> T {
        let mut reader = Some(reader);
        let mut answer = None;
        self.0.rows(&mut |rows| {
            if let Some(reader) = reader.take() {
                answer = Some(reader(rows));
            }
        });
        answer.expect("a port runs the reader before it returns")
    }

    /// Shard time, milliseconds since the Unix epoch.
    pub fn time_ms(&self) -> u64 {
        self.0.time_ms()
    }

    /// The index of the last applied log entry.
    pub fn applied_index(&self) -> u64 {
        self.0.applied_index()
    }

    /// A digest of what the shard's rows say of devices and mailboxes: equal for replicas that have
    /// applied the same entries. Reads everything: for tests and scrubs, not for a hot path.
    ///
    /// # Errors
    /// When the rows cannot be read.
    pub fn digest(&self) -> Result<[u8; 32], heliograph_storage::Error> {
        self.read(|rows| crate::machine::queries::digest(rows))
    }
}

/// Hears what happens to the shards of this node. Called on the apply path: must not block.
pub trait ShardObserver: Send + Sync + 'static {
    /// An entry of `term` was applied here.
    fn applied(&self, shard: ShardId, term: u64, effects: Vec<Effect>);
    /// Leadership changed, as this replica sees it.
    fn leadership(&self, shard: ShardId, leadership: &Leadership);
}
