//! openraft over our log, rows and network.

mod acquaintance;
#[cfg(test)]
pub(crate) mod allocations_test;
mod bare_commits;
mod core;
#[cfg(test)]
mod core_test;
mod group;
mod log_adapter;
mod network_adapter;
pub(crate) mod offload;
mod rpc;
mod runtime;
mod runtime_watch;
#[cfg(test)]
pub(crate) mod samples_test;
mod soundness;
mod state_adapter;
#[cfg(test)]
mod suite_test;
mod types;

pub(crate) use self::{
    core::{Applied, GroupCore, GroupKind},
    group::RaftGroup,
    log_adapter::{GroupLog, durably, log_id, position},
    network_adapter::GroupNetworkFactory,
    offload::offload,
    rpc::decode_head,
    runtime::seed_this_thread,
    soundness::Soundness,
    types::{EntryAnswer, EntryData, Payload, forced_membership, incarnation_of, node_of, raft_id},
};
#[cfg(any(test, fuzzing))]
pub(crate) use self::{log_adapter::fuzz as fuzz_payload, rpc::fuzz as fuzz_rpc};
