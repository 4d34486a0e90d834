//! The `heliograph` binary: composition of the crates, configuration, command line.
//!
//! - [`serve`]: one node of a cluster.
//! - [`dev`]: a cluster of real processes on this machine, for people who try it.
//! - [`pki`]: `init-tls`, certificates for nodes and the client port.
//! - [`client`]: `send` and `receive`.
//! - [`cluster`]: `cluster`, for operators.
//! - [`backup`]: `backup` and `restore`.
//! - [`verify`]: whether the data of a stopped node is sound.
//! - [`config`]: the configuration file of `serve`.
//!
//! Every failure ends in an [`exit::Failure`]: a sentence for a person and an exit code for a
//! script.

mod backup;
mod cli;
mod client;
mod clock;
mod cluster;
mod config;
mod console;
mod data_dir;
mod dev;
mod exit;
mod files;
mod metrics;
mod pki;
mod serve;
mod signals;
mod state_digest;
mod telemetry;
mod verify;

use std::process::ExitCode;

use clap::Parser;

use crate::{
    cli::{Cli, Command, DevArgs},
    exit::Failure,
};

/// A node makes and drops small things in many threads at once: `docs/benchmarks.md` has what the
/// allocators cost.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    let cli = Cli::parse();
    // No command: what the README promises of `cargo run --release`.
    let command = cli.command.unwrap_or_else(|| Command::Dev(DevArgs::default()));
    match run(command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::Serve(args) => serve::run(&args),
        Command::Dev(args) => dev::run(&args),
        Command::InitTls(args) => pki::init_tls::run(&args),
        Command::Send(args) => client::send::run(&args),
        Command::Receive(args) => client::receive::run(&args),
        Command::Verify(args) => verify::run(&args),
        Command::Backup(args) => backup::take(&args),
        Command::Restore(args) => backup::restore(&args),
        Command::Cluster(args) => cluster::run(&args),
        Command::StateDigest(args) => state_digest::run(&args),
    }
}

#[cfg(test)]
mod tests {
    /// Else Linux reads the part of a file that fresh memory is written to: `docs/adr/0009-outlines.md`.
    #[test]
    fn what_is_large_begins_at_a_page() {
        let large: Vec<Vec<u8>> = (0..64).map(|_| vec![0; 8 << 20]).collect();
        let at = large.iter().map(|bytes| bytes.as_ptr().addr() % 4096);
        assert_eq!(at.collect::<Vec<_>>(), [0; 64]);
    }
}
