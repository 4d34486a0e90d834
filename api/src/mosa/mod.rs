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

pub(crate) use auth::registration_text;
pub use config::{ConfigError, MosaConfig, RateConfig, RegistrationMode};
pub(crate) use gateway::{Gateway, json};
pub(crate) use headers::bearer;
pub(crate) use rate::RateLimiter;
pub(crate) use wire::generate_message_id;
