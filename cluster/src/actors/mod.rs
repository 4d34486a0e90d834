//! The actors of a node: shard, checkpointer, keys, pulse, controller, reconciler, scrubber, mailbox,
//! and the node that supervises them.

pub(crate) mod checkpointer;
mod company;
pub(crate) mod controller;
pub(crate) mod election;
pub(crate) mod keys;
pub(crate) mod mailbox;
pub(crate) mod mailbox_handle;
pub(crate) mod mailbox_rest;
pub(crate) mod node;
pub(crate) mod pulse;
pub(crate) mod reconciler;
pub(crate) mod scrubber;
pub(crate) mod shard;
pub(crate) mod shard_inbox;
pub(crate) mod time;
