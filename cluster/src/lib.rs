//! Sharded, replicated mailboxes.
//!
//! `cluster` knows what a relay is. Front doors see [`Relay`] and the words of [`model`], nothing
//! else.
//!
//! - `machine`: pure state machines, functions of (rows, command); `meta`: the meta group's.
//! - `raft`: openraft over our log, rows and network.
//! - `placement`, `detector`, `formation`: which node holds what, who seems dead, how it began.
//! - `actors`: shard, checkpointer, pulse, mailbox, and the node that supervises them.
//! - `admin`: what operators see and ask: [`ClusterAdmin`].
//! - [`recovery`]: new quorums out of what is left, offline.
//! - `delivery`: router, subscriptions, live frames, key leases.

mod actors;
mod admin;
#[cfg(test)]
mod allocations_test;
pub mod backup;
#[cfg(test)]
mod capacity_test;
mod config;
mod context;
mod delivery;
mod detector;
mod disk_mark;
mod drain;
mod envelope;
mod fail_safe;
mod features;
#[cfg(test)]
mod fixtures_test;
mod formation;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod inspect;
mod join_token;
mod key_retirement;
pub mod machine;
mod member;
mod meta;
mod metrics;
pub mod model;
mod neighbours;
mod node;
mod node_handler;
mod node_wire;
mod peer_client;
mod placement;
mod raft;
mod readiness;
mod reconcile;
pub mod recovery;
mod registry;
mod relay;
mod replica;
mod residence;
mod shard_handle;
mod surroundings;
mod topology;
pub mod watch;

pub use admin::{
    AdminCommand, AdminError, AdminOutcome, ClusterAdmin, ClusterHealth, ClusterStatus, DiskUse,
    GroupCopy, GroupStatus, Host, LearnerStatus, Liveness, MoveStatus, NoHost, NodeState,
    NodeStatus, ReplicaStatus,
};
pub use heliograph_transport::NodeId;

pub use config::{
    CheckpointConfig, Config, ConfigError, FirstMember, RaftConfig, ScrubConfig, Storages,
};
pub use context::{JoinRefusal, NodeFailure};
pub use features::{FEATURES_KNOWN, Feature};
pub use inspect::{ReplicaDigest, applied_index, group_name, replica_digests};
pub use join_token::{JoinToken, NotAToken};
pub use member::{Member, MemberState};
pub use node::{Node, StartError};
pub use placement::Progress;
pub use relay::*;

pub use replica::{Placement, Replica};
pub use shard_handle::{
    Fence, Leadership, ProposeError, Role, ShardHandle, ShardObserver, ShardPort,
};
pub use surroundings::{Clock, Entropy, Surroundings};
pub use topology::{LeaderTable, LocalShards, Settings, Topology};

/// What deterministic simulations need beyond a node's public face.
pub mod simulation {
    /// Makes all randomness that Raft draws on this thread follow from `seed`. Only for
    /// simulations on a single-threaded runtime.
    pub fn seed_raft(seed: u64) {
        crate::raft::seed_this_thread(seed);
    }
}
