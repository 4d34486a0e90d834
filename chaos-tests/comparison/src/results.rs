//! What is kept of a visit to a system: a line of JSON, so that sittings can be put together.

use std::{fs::File, io::Write as _, path::Path};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use crate::{counts::Latency, measure::Machine};

/// One cluster, from its start to its end.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Visit {
    /// Which system, in which setting.
    pub system: String,
    /// Its version.
    pub version: String,
    /// Where.
    pub machine: Machine,
    /// What a write of 4 KiB with `fdatasync` took just before.
    pub sync: Latency,
    /// Resident memory of the nodes before there was any mailbox.
    pub fresh_bytes: Vec<u64>,
    /// After all loads of the visit.
    pub loaded_bytes: Option<Vec<u64>>,
    /// With mailboxes that hold a message each.
    pub filled: Option<Filled>,
    /// The loads.
    pub loads: Vec<LoadResult>,
    /// The kills.
    pub kills: Vec<KillResult>,
    /// Why the visit ended before its time: a node that did not come back after a kill.
    #[serde(default)]
    pub gave_up: Option<String>,
}

/// Memory with mailboxes that nobody reads.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Filled {
    /// How many, of one message.
    pub mailboxes: u32,
    /// Resident memory of the nodes.
    pub bytes: Vec<u64>,
}

/// One load.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LoadResult {
    /// Mailboxes and messages in flight, or rate.
    pub name: String,
    /// Messages accepted in the measured time, a second.
    pub accepted_per_second: f64,
    /// Messages delivered in the measured time, a second.
    pub delivered_per_second: f64,
    /// Messages refused, in all of the run.
    pub refused: u64,
    /// Messages that came twice or out of order.
    pub out_of_order: u64,
    /// From sending to the confirmation.
    pub accept: Latency,
    /// From sending to the consumer.
    pub deliver: Latency,
    /// Cores that the generator used.
    pub generator_cores: f64,
    /// Cores that all nodes together used.
    pub nodes_cores: f64,
    /// Cores that others used during the load: near nothing on a quiet machine.
    pub others_cores: Option<f64>,
}

impl LoadResult {
    /// Messages a second that went all the way.
    pub fn per_second(&self) -> f64 {
        self.accepted_per_second.min(self.delivered_per_second)
    }

    /// Processor seconds of all nodes for 100,000 of them.
    pub fn nodes_seconds(&self) -> f64 {
        self.nodes_cores / self.per_second() * 100_000.0
    }

    /// Processor seconds of the generator for 100,000 of them.
    pub fn generator_seconds(&self) -> f64 {
        self.generator_cores / self.per_second() * 100_000.0
    }
}

/// One `kill -9` of the node that leads most.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct KillResult {
    /// How many of the shards, queues or streams it led.
    pub led: u32,
    /// How many there are.
    pub of: u32,
    /// From the kill until all mailboxes that were watched had accepted a message sent after it.
    pub all_accept_ms: f64,
}

/// Adds a visit to a file.
///
/// # Errors
/// When it cannot be written.
pub fn append(path: &Path, visit: &Visit) -> Result<()> {
    let mut line = serde_json::to_string(visit)?;
    line.push('\n');
    let open = File::options().create(true).append(true).open(path);
    let mut file = open.with_context(|| format!("cannot open {}", path.display()))?;
    Ok(file.write_all(line.as_bytes())?)
}

/// Reads the visits of a file.
///
/// # Errors
/// When it is not as written.
pub fn read(path: &Path) -> Result<Vec<Visit>> {
    let text = std::fs::read_to_string(path);
    let text = text.with_context(|| format!("cannot read {}", path.display()))?;
    let visits = text.lines().map(serde_json::from_str).collect::<serde_json::Result<_>>();
    visits.with_context(|| format!("{} is not as agreed", path.display()))
}
