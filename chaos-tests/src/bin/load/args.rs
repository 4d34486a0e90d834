//! What the program is told: the cluster and what is to be measured on it.

use std::{path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand, value_parser};
use heliograph_chaos_tests::{
    cluster::ClientPort,
    load::{bars::Part, cold, crowd::At, kill, suite, target::Fresh},
};

use super::flags::{ClosedFlags, ColdFlags, KillFlags, Rates, Traffic};

/// Measure a cluster: throughput, latency, memory, failovers. Prints JSON.
#[derive(Debug, Parser)]
#[command(name = "load", max_term_width = 100)]
pub(crate) struct Cli {
    /// The data directory of a running `heliograph dev`; a fresh cluster is started when left out
    #[arg(long, global = true, value_name = "DIR")]
    pub(crate) cluster: Option<PathBuf>,
    /// Nodes of the fresh cluster
    #[arg(long, global = true, default_value_t = 3)]
    nodes: u16,
    /// Shards of the fresh cluster; by default as many as `heliograph dev` makes: one a node, three at
    /// least (ADR 6)
    #[arg(long, global = true)]
    shards: Option<u16>,
    /// What the fresh cluster speaks with clients
    #[arg(long, global = true, value_enum, default_value_t = ClientPort::Plain)]
    client: ClientPort,
    #[command(subcommand)]
    pub(crate) command: Command,
}

impl Cli {
    /// The fresh cluster.
    pub(crate) fn fresh(&self) -> Fresh {
        let shards = self.shards.unwrap_or(self.nodes.max(3));
        Fresh { nodes: self.nodes, shards, client: self.client }
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Keep a number of messages in flight: throughput
    Closed {
        #[command(flatten)]
        closed: ClosedFlags,
        /// Connections beside that do nothing
        #[arg(long, default_value_t = 0)]
        idle_connections: u32,
    },
    /// Send at a rate, whatever the answers: latency
    Open {
        /// Messages a second
        #[arg(long, default_value_t = 500)]
        rate: u32,
        #[command(flatten)]
        traffic: Traffic,
    },
    /// Send at rising rates until one cannot be kept: latency against rate
    Sweep {
        #[command(flatten)]
        rates: Rates,
        /// Where to draw it, as SVG
        #[arg(long, value_name = "FILE")]
        plot: Option<PathBuf>,
        #[command(flatten)]
        traffic: Traffic,
    },
    /// Hold connections that do nothing: memory
    Idle {
        /// How many; for more than 10,000 raise the limit of file descriptors
        #[arg(long, default_value_t = 10_000)]
        connections: u32,
        /// Where to
        #[arg(long, value_enum, default_value_t = At::First)]
        at: At,
        /// For how long; a connection has a Ping every 25 to 45 s
        #[arg(long, default_value_t = 60)]
        seconds: u64,
    },
    /// Do nothing: processor time of an idle cluster
    IdleCpu {
        /// For how long
        #[arg(long, default_value_t = 60, value_parser = value_parser!(u64).range(1..))]
        seconds: u64,
    },
    /// Kill leaders' nodes with SIGKILL under a steady load: how long until mailboxes accept again
    Kill {
        #[command(flatten)]
        kill: KillFlags,
    },
    /// Let messages wait: memory, and a closed loop beside a few of them and beside all
    Stored {
        /// How many wait in the end
        #[arg(long, default_value_t = 1_000_000)]
        messages: u64,
        /// How many wait at first, for comparison
        #[arg(long, default_value_t = 1_000)]
        baseline: u64,
        /// Mailboxes they wait in; the load goes to others
        #[arg(long, default_value_t = 10_000, value_parser = value_parser!(u32).range(1..))]
        stored_in: u32,
        /// Seconds until memory is read: longer than the 30 s after which changes go to the disk
        #[arg(long, default_value_t = 40)]
        settle: u64,
        /// Loads with each of both; 0 measures memory alone
        #[arg(long, default_value_t = 3)]
        runs: u32,
        #[command(flatten)]
        closed: ClosedFlags,
    },
    /// A closed loop beside idle connections and without them, in turns
    Beside {
        /// Idle connections
        #[arg(long, default_value_t = 10_000)]
        idle_connections: u32,
        /// Pairs of loads
        #[arg(long, default_value_t = 3, value_parser = value_parser!(u32).range(1..))]
        runs: u32,
        #[command(flatten)]
        closed: ClosedFlags,
    },
    /// Measure what one fdatasync takes
    Disk {
        /// How many
        #[arg(long, default_value_t = 2_000)]
        writes: u32,
    },
    /// Watch for how long the machine itself stands still: nothing else should run
    Stalls {
        /// For how long
        #[arg(long, default_value_t = 10, value_parser = value_parser!(u64).range(1..))]
        seconds: u64,
    },
    /// Fill a fresh cluster and start one of its nodes again and again: cold starts
    Cold {
        #[command(flatten)]
        cold: ColdFlags,
    },
    /// Everything that the product is held to: bars, what was seen, whether they are met
    ///
    /// Takes half an hour to three quarters. It is shorter with fewer parts (`--parts`), `--runs 1`,
    /// `--kills 5`, `--cold-mib 128`, `--stored 100000`.
    Suite(Suite),
}

#[derive(Debug, Args)]
pub(crate) struct Suite {
    /// Which parts, separated by commas
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = Part::ALL)]
    parts: Vec<Part>,
    /// Runs of each load; the median is what counts
    #[arg(long, default_value_t = 3, value_parser = value_parser!(u32).range(1..))]
    runs: u32,
    #[command(flatten)]
    traffic: Traffic,
    /// Seconds of the load in which bytes and processor time a message are measured
    #[arg(long, default_value_t = 60, value_parser = value_parser!(u64).range(1..))]
    long: u64,
    /// Idle connections
    #[arg(long, default_value_t = 10_000)]
    connections: u32,
    /// Seconds for which an idle cluster is measured
    #[arg(long, default_value_t = 60, value_parser = value_parser!(u64).range(1..))]
    idle_seconds: u64,
    /// Kills
    #[arg(long, default_value_t = kill::Plan::USUAL.kills, value_parser = value_parser!(u32).range(1..))]
    kills: u32,
    /// Content that waits before cold starts, in MiB
    #[arg(long, default_value_t = cold::Plan::USUAL.stored_bytes >> 20)]
    cold_mib: u64,
    /// Messages that wait where the rate beside them is measured
    #[arg(long, default_value_t = 1_000_000)]
    stored: u64,
}

impl Suite {
    pub(crate) fn plan(self, fresh: Fresh) -> suite::Plan {
        suite::Plan {
            fresh,
            parts: self.parts,
            runs: self.runs,
            traffic: self.traffic.plan(),
            long: Duration::from_secs(self.long),
            connections: self.connections,
            idle: Duration::from_secs(self.idle_seconds),
            kill: kill::Plan { kills: self.kills, ..kill::Plan::USUAL },
            cold: cold::Plan { stored_bytes: self.cold_mib << 20, ..cold::Plan::USUAL },
            stored: self.stored,
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn rates_are_a_list_or_steps() {
        let rates = |args: &[&str]| {
            let all = ["load", "sweep"].iter().chain(args);
            match Cli::try_parse_from(all).map(|cli| cli.command) {
                Ok(Command::Sweep { rates, .. }) => Some(rates.list()),
                _ => None,
            }
        };
        assert_eq!(rates(&["--rates", "100,200"]), Some(vec![100, 200]));
        let steps = ["--from", "100", "--to", "400", "--steps", "3"];
        assert_eq!(rates(&steps), Some(vec![100, 200, 400]));
        assert_eq!(rates(&["--rates", "100", "--from", "5"]), None);
    }
}
