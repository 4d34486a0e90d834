//! `heliograph send` and `heliograph receive`: a small client over the typed one.
//!
//! - [`session`]: the device's key and API key, kept in files; registers where that is needed.
//! - [`send`], [`receive`]: the commands.
//! - [`output`]: lines for people, or one JSON object a line.

mod output;
pub(crate) mod receive;
pub(crate) mod send;
mod session;

use std::{fs, future::Future};

use anyhow::Context as _;
use heliograph_api::client::{Client, ClientConfig, ClientError};

use crate::{
    cli::GatewayArgs,
    exit::{Failure, OrExit as _, Reason},
};

/// A client for each address on the command line, without a key.
fn clients(args: &GatewayArgs) -> Result<Vec<Client>, Failure> {
    let mut config = ClientConfig::default();
    if let Some(path) = &args.ca_file {
        config.roots_pem = fs::read(path)
            .with_context(|| format!("--ca-file: cannot read {}", path.display()))
            .or_exit(Reason::Configuration)?;
    }
    let client = |url: &String| {
        Client::new(url, &config)
            .with_context(|| format!("--url {url}"))
            .or_exit(Reason::Configuration)
    };
    args.url.iter().map(client).collect()
}

/// A failure of the gateway, with the address that was tried.
fn remote(clients: &[Client], error: ClientError) -> Failure {
    let urls: Vec<String> = clients.iter().map(|client| client.endpoint().to_string()).collect();
    let context = format!("at {}", urls.join(", "));
    Failure::new(Reason::Remote, anyhow::Error::new(error).context(context))
}

/// Runs a command of the client.
fn block_on(work: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    runtime.block_on(work)
}
