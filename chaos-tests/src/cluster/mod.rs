//! Clusters of real processes on this machine.
//!
//! [`LocalCluster`] owns everything it starts: whatever way it is dropped, its processes are gone
//! afterwards. It signals only processes that it holds a pidfd of, so that a reused process id is
//! never hit.

mod binary;
mod exposition;
mod layout;
mod local;
mod manifest;
mod membership;
mod options;
mod ports;
mod process;
mod replicas;
mod standing;

pub use self::{
    binary::{heliograph_binary, run_directory},
    exposition::metric_sum,
    layout::{Wiring, address_of, proxy_of},
    local::LocalCluster,
    manifest::{NodeInfo, read as read_manifest},
    options::{ClientPort, Clocks, Disks, Options},
    process::{Grip, Usage, usage_of},
    replicas::Replica,
    standing::Standing,
};
