//! WebSocket connections: the RFC 6455 codec and the task that owns a socket.
//!
//! One connection is one lean actor: a task with a bounded mailbox, no buffers while it idles
//! (reads go through a buffer of the thread), and timers that exist once. What frames mean is a
//! [`Protocol`]'s business.

pub mod codec;
mod config;
mod connection;
mod handshake;
mod outbox;
mod scratch;

pub use config::{Acknowledgement, WebSocketConfig};
pub(crate) use connection::{Connection, Protocol};
pub(crate) use handshake::{SUBPROTOCOL, accept_handshake, accept_key};
pub(crate) use outbox::Outbox;
pub(crate) use scratch::{return_write_buffer as return_buffer, take_write_buffer as take_buffer};
