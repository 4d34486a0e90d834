//! Wall-clock time, for `X-MOSA-Timestamp` alone. Histories use monotonic time.

use std::time::SystemTime;

/// Seconds since the Unix epoch.
#[expect(clippy::disallowed_methods, reason = "this is the outside that time comes from")]
pub fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
