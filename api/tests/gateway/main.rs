//! The gateway from outside: a real server over real sockets, with a relay in memory.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod client;
mod idle;
mod limits;
mod rest;
mod socket;
mod support;
