//! A device's keys, kept in two files: the key that proves the device (`--key-file`), and beside it
//! the API key that a gateway gave for it. Both are readable by their owner alone.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use heliograph_api::client::{ApiKey, Client, ClientError, DeviceKey};
use heliograph_cluster::model::DeviceId;
use serde::{Deserialize, Serialize};

use super::remote;
use crate::{
    cli::GatewayArgs,
    exit::{Failure, OrExit as _, Reason},
    files::{self, Access},
};

/// What a gateway says to a key that it does not know (any more).
const UNAUTHENTICATED: u16 = 401;

/// The file beside the key file.
#[derive(Serialize, Deserialize)]
struct Kept {
    device: DeviceId,
    api_key: String,
}

/// A device at its gateways.
pub(super) struct Session {
    /// One client for each address, with the API key.
    pub(super) clients: Vec<Client>,
    /// The device.
    pub(super) device: DeviceId,
    key: DeviceKey,
    path: PathBuf,
}

impl Session {
    /// Reads the device's keys; makes the key and registers the device where that was not done.
    pub(super) async fn open(args: &GatewayArgs) -> Result<Self, Failure> {
        let device = DeviceId::new(&args.device)
            .with_context(|| format!("--device {:?}", args.device))
            .or_exit(Reason::Configuration)?;
        let key = DeviceKey::load_or_generate(&args.key_file)
            .with_context(|| format!("--key-file {}", args.key_file.display()))
            .or_exit(Reason::Configuration)?;
        let path = beside(&args.key_file);
        let mut session = Self { clients: super::clients(args)?, device, key, path };
        match session.read()? {
            Some(api_key) => session.use_key(&api_key),
            None => session.register().await?,
        }
        Ok(session)
    }

    /// Registers (again): a known device that proves its key gets a fresh API key.
    pub(super) async fn register(&mut self) -> Result<(), Failure> {
        let mut last = None;
        for client in &self.clients {
            match client.register(&self.device, &self.key).await {
                Ok(api_key) => {
                    self.write(&api_key)?;
                    self.use_key(&api_key);
                    return Ok(());
                }
                Err(error) if !error.is_retryable() => return Err(remote(&self.clients, error)),
                Err(error) => last = Some(error),
            }
        }
        Err(remote(&self.clients, last.unwrap_or(ClientError::NoKey)))
    }

    fn use_key(&mut self, api_key: &ApiKey) {
        self.clients = self.clients.iter().map(|client| client.with_key(api_key.clone())).collect();
    }

    fn read(&self) -> Result<Option<ApiKey>, Failure> {
        let bytes = match fs::read(&self.path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => {
                return Err(error)
                    .with_context(|| format!("cannot read {}", self.path.display()))
                    .or_exit(Reason::Configuration);
            }
        };
        // Of another device, or no such file: registering makes it anew.
        let kept = serde_json::from_slice::<Kept>(&bytes).ok();
        let kept = kept.filter(|kept| kept.device == self.device);
        Ok(kept.map(|kept| ApiKey::from_text(&kept.api_key)))
    }

    fn write(&self, api_key: &ApiKey) -> Result<(), Failure> {
        let kept = Kept { device: self.device.clone(), api_key: api_key.expose().to_owned() };
        let json = serde_json::to_vec(&kept).context("cannot write JSON")?;
        files::replace(&self.path, &json, Access::Private)
            .with_context(|| format!("cannot write {}", self.path.display()))
            .or_exit(Reason::Configuration)
    }
}

/// Whether the API key is to blame: it was revoked, or is of another cluster.
pub(super) fn is_unauthenticated(error: &ClientError) -> bool {
    match error {
        ClientError::Refused(refusal) => {
            refusal.status == UNAUTHENTICATED && refusal.server_time.is_none()
        }
        ClientError::Closed(code) => [3000, 4401].contains(code),
        _ => false,
    }
}

fn beside(key_file: &Path) -> PathBuf {
    let mut path = key_file.as_os_str().to_owned();
    path.push(".api-key");
    PathBuf::from(path)
}
