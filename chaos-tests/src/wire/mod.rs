//! A stock MOSA client in miniature, written against the published contract.
//!
//! It shares no code with the server, so that a mistake in an encoder is not undone by the same
//! mistake in the decoder. Plain HTTP and WS, or with TLS where a cluster's client ports have it.

mod device;
mod door;
mod error;
mod rest;
mod socket;

pub use self::{
    device::{Device, register},
    door::{Door, Security},
    error::WireError,
    rest::{Answer, Reply, Rest},
    socket::{AckMode, Dial, Frame, Received, Socket, SocketReader, SocketWriter},
};
