//! The one place where the segment log looks at a clock: to space syncs and to measure them.
//!
//! The writer is a thread of its own that no simulation drives (simulations run on
//! [`MemoryLog`](crate::MemoryLog)), and nothing it promises depends on the time.

use std::time::Instant;

/// Now.
#[expect(clippy::disallowed_methods, reason = "spacing and measuring only; see the module")]
pub(super) fn now() -> Instant {
    Instant::now()
}
