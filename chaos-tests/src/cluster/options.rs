//! What cluster to start.

use std::path::PathBuf;

use super::Wiring;

/// What cluster to start.
#[derive(Clone, Debug)]
pub struct Options {
    /// A word for the directory of kept logs.
    pub name: &'static str,
    /// How many nodes.
    pub nodes: u16,
    /// What their disks are.
    pub disks: Disks,
    /// How they reach each other.
    pub wiring: Wiring,
    /// What their wall clocks are.
    pub clocks: Clocks,
    /// What they speak with clients.
    pub client: ClientPort,
    /// The binary under test; [`super::heliograph_binary`] when not given.
    pub binary: Option<PathBuf>,
    /// Configuration of all nodes, as variables of the environment.
    pub settings: Vec<(String, String)>,
}

/// What the disks of a cluster are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disks {
    /// Those of this machine.
    Plain,
    /// Those of this machine, behind a library that can cut their power and make them fail.
    Faulty {
        /// Decides what chance decides.
        seed: u64,
    },
}

/// What the wall clocks of a cluster are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clocks {
    /// That of this machine.
    Plain,
    /// That of this machine, behind libfaketime.
    Faulty,
}

/// What nodes speak with clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum ClientPort {
    /// HTTP and WS.
    Plain,
    /// HTTPS and WSS, with certificates of the cluster's own authority.
    Tls,
}

impl Options {
    /// Three nodes.
    pub fn three(name: &'static str) -> Self {
        Self {
            name,
            nodes: 3,
            disks: Disks::Plain,
            wiring: Wiring::Direct,
            clocks: Clocks::Plain,
            client: ClientPort::Plain,
            binary: None,
            settings: Vec::new(),
        }
    }

    /// Three nodes whose disks can fail.
    pub fn three_faulty(name: &'static str, seed: u64) -> Self {
        Self { disks: Disks::Faulty { seed }, ..Self::three(name) }
    }
}
