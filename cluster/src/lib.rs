//! Sharded, replicated mailboxes.
//!
//! `cluster` knows what a relay is. Front doors see [`Relay`] and the words of [`model`], nothing
//! else.
//!
//! - `machine`: pure state machines, functions of (rows, command).
//! - `raft`: openraft over our log, rows and network.
//! - `placement`: which node holds which shard.
//! - `actors`: shard, meta, mailbox, node.
//! - `delivery`: router, subscriptions, live frames, key leases.

pub mod machine;
pub mod model;
mod relay;
mod shard_handle;
mod surroundings;
mod topology;

pub use relay::*;
pub use shard_handle::{
    Fence, Leadership, ProposeError, Role, ShardHandle, ShardObserver, ShardPort,
};
pub use surroundings::{Clock, Entropy, Surroundings};
pub use topology::{LeaderTable, LocalShards, Member, Settings, Topology};
