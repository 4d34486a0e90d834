//! The gateway from outside: a real server over real sockets, with a relay in memory.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod client;
mod drain;
mod idle;
mod idle_counted;
mod limits;
mod registration;
mod rest;
mod socket;
mod socket_end;
mod support;

/// Every code a client can meet is explained.
#[test]
fn reference_names_every_code() {
    let reference = include_str!("../../../docs/reference/mosa-http.md");
    for code in heliograph_api::Code::ALL {
        assert!(reference.contains(&format!("`{}`", code.as_str())), "{}", code.as_str());
    }
}
