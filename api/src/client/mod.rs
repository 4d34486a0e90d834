//! The typed client of a gateway: REST over a pooled hyper client, WebSocket over our own codec.
//!
//! A [`Client`] speaks to one endpoint; every call has a deadline and a typed error that says
//! whether the same request may be repeated. [`send_until_accepted`] does repeat it, at one
//! endpoint after the other, with the same message id, until the message is accepted.
//!
//! ```no_run
//! use heliograph_api::client::{Client, ClientConfig, DeviceKey, Fetch, Letter};
//! use heliograph_cluster::model::DeviceId;
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let client = Client::new("http://127.0.0.1:8080", &ClientConfig::default())?;
//! let alice = DeviceId::new("alice")?;
//! let key = client.register(&alice, &DeviceKey::generate()).await?;
//! let client = client.with_key(key);
//! client.send(&Letter::new(alice.clone(), "sealed elsewhere")).await?;
//! let messages = client.receive(&alice, Fetch::default()).await?;
//! client.acknowledge(&messages.iter().map(|m| m.ack()).collect::<Vec<_>>()).await?;
//! # Ok(())
//! # }
//! ```

mod admin;
mod connector;
mod endpoint;
mod error;
mod identity;
mod journey;
mod line;
mod memory;
mod rest;
mod retry;
mod socket;
mod types;

pub use admin::{AdminClient, Changed, NodeChange};
pub use endpoint::{Endpoint, EndpointError};
pub use error::{ClientError, Refusal};
pub use identity::{DeviceKey, KeyFileError};
pub use rest::{Client, ClientConfig};
pub use retry::send_until_accepted;
pub use socket::{Entry, Event, Events, LiveKind, Sender};
pub use types::{Capabilities, Fetch, GatewayStatus, Letter, Receipt, Received};

pub use heliograph_cluster::{AckItem, ApiKey, RevokeScope};
