//! The meta group: node registry, shard map, settings. One more Raft group, group 0.

mod command;
mod machine;
#[cfg(test)]
mod machine_test;
mod version_one;

pub(crate) use command::{MetaCommand, MetaOutcome};
pub(crate) use machine::MetaMachine;
