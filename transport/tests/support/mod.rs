//! What the transport's integration tests share.
#![allow(dead_code, unused_imports, missing_docs, unreachable_pub, clippy::unwrap_used)]

pub mod certs;
pub mod handler;
pub mod harness;
pub mod raw;

pub use self::{
    handler::{Seen, TestHandler, expect},
    harness::{Harness, QuicHarness, SimHarness},
};

use std::time::Duration;

use tokio::time::Instant;

/// How long anything may take in a test. Far above what it takes: reached only in failure.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A deadline that is not the point of the test.
pub fn patient() -> Instant {
    Instant::now() + PATIENCE
}
