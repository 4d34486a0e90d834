//! The MOSA gateway: REST routes, header rules, WebSocket frames.

mod auth;
mod config;
mod fields;
mod gateway;
mod headers;
mod messages;
mod rate;
mod route;
mod socket;
mod status;
mod wire;

pub use config::{ConfigError, MosaConfig, RateConfig, RegistrationMode};
pub(crate) use gateway::Gateway;
