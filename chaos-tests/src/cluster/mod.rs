//! Clusters of real processes on this machine.
//!
//! [`LocalCluster`] owns everything it starts: whatever way it is dropped, its processes are gone
//! afterwards. It signals only processes that it holds a pidfd of, so that a reused process id is
//! never hit.

mod binary;
mod local;
mod manifest;
mod ports;
mod process;
mod replicas;

pub use self::{
    binary::{heliograph_binary, run_directory},
    local::{Disks, LocalCluster, Options},
    manifest::{NodeInfo, read as read_manifest},
    process::{Usage, usage_of},
    replicas::Replica,
};
