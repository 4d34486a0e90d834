//! HTTP and WebSocket front doors, and the typed client.
//!
//! - `server`: listener, TLS, hyper, limits, graceful shutdown; knows nothing of MOSA.
//! - `websocket`: RFC 6455 codec and the connection actor.
//! - `mosa`: the MOSA gateway: REST routes and WebSocket frames.
//! - `admin`: the operators' port.
//! - `client`: what `heliograph send` and the chaos tests speak to a cluster with.
//!
//! The cluster is seen through [`heliograph_cluster::Relay`] and
//! [`heliograph_cluster::ClusterAdmin`] alone.

pub mod admin;
mod base64;
pub mod client;
mod clock;
mod entropy;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
pub mod metrics;
mod mosa;
mod problem;
pub mod server;
mod stream;
pub mod websocket;

pub use clock::{Clock, SystemClock};
pub use mosa::{ConfigError, MosaConfig, RateConfig, RegistrationMode};
pub use problem::{Code, FieldError, Problem};
pub use server::{Server, ServerConfig, StartError};
