//! A stock MOSA client in miniature, written against the published contract.
//!
//! It shares no code with the server, so that a mistake in an encoder is not undone by the same
//! mistake in the decoder. Plain HTTP and WS: the clusters here are on loopback.

mod device;
mod error;
mod rest;
mod socket;

pub use self::{
    device::{Device, register},
    error::WireError,
    rest::{Reply, Rest},
    socket::{AckMode, Dial, Frame, Received, Socket, SocketReader, SocketWriter},
};
