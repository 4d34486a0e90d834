//! Rates of devices at this node: GCRA, one timestamp a device.

use std::{
    collections::HashMap,
    hash::{BuildHasher as _, RandomState},
    time::Duration,
};

use heliograph_cluster::model::DeviceId;
use http::{HeaderMap, HeaderName, HeaderValue};
use metrics::counter;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::config::RateConfig;
use crate::{
    metrics::RATE_LIMITED,
    problem::{Code, Problem},
};

/// Locks are taken for well under a microsecond; 16 keep threads apart.
const PARTS: usize = 16;
/// Devices remembered a part. When a part is full of devices that are all above their long-time
/// rate, further ones pass uncounted: the limit guards against a few wild clients.
const DEVICES_PER_PART_MAX: usize = 8_192;

/// What one request did to its device's allowance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Allowance {
    /// Requests left at once.
    remaining: u32,
    /// Until everything is allowed again.
    full_after: Duration,
    /// Until one more is allowed; zero when this one was.
    retry_after: Duration,
    config: (u32, u32),
}

impl Allowance {
    /// Refuses what is over the rate.
    pub(crate) fn check(&self) -> Result<(), Problem> {
        if self.retry_after.is_zero() {
            return Ok(());
        }
        counter!(RATE_LIMITED).increment(1);
        Err(Problem::from(Code::RateLimited).retry_after(ceil_seconds(self.retry_after)))
    }

    /// Adds `RateLimit` and `RateLimit-Policy` (draft-ietf-httpapi-ratelimit-headers).
    pub(crate) fn write(&self, headers: &mut HeaderMap) {
        let (per_second, burst) = self.config;
        let window = burst.div_ceil(per_second);
        let policy = format!("\"device\";q={burst};w={window}");
        let state = format!("\"device\";r={};t={}", self.remaining, ceil_seconds(self.full_after));
        for (name, value) in [("ratelimit-policy", policy), ("ratelimit", state)] {
            let value = HeaderValue::from_str(&value).expect("digits and ASCII words");
            headers.insert(HeaderName::from_static(name), value);
        }
    }
}

fn ceil_seconds(duration: Duration) -> u32 {
    let seconds = duration.as_secs() + u64::from(duration.subsec_nanos() > 0);
    u32::try_from(seconds).unwrap_or(u32::MAX)
}

/// Counts requests of devices.
pub(crate) struct RateLimiter {
    config: RateConfig,
    /// The time one request takes from the allowance.
    interval: Duration,
    hasher: RandomState,
    parts: [Mutex<HashMap<DeviceId, Instant>>; PARTS],
}

impl RateLimiter {
    pub(crate) fn new(config: RateConfig) -> Self {
        Self {
            config,
            interval: Duration::from_secs(1) / config.per_second.max(1),
            hasher: RandomState::new(),
            parts: std::array::from_fn(|_| Mutex::new(HashMap::new())),
        }
    }

    /// Takes one request from the device's allowance, if there is one.
    pub(crate) fn take(&self, device: &DeviceId, now: Instant) -> Allowance {
        let capacity = self.interval * self.config.burst;
        let part = self.hasher.hash_one(device) as usize % PARTS;
        let mut part = self.parts[part].lock();
        let used_until = part.get(device).copied().unwrap_or(now).max(now);
        let next = used_until + self.interval;
        let used = next.duration_since(now);
        let config = (self.config.per_second, self.config.burst);
        if used > capacity {
            let retry_after = used - capacity;
            let full_after = used_until.duration_since(now);
            return Allowance { remaining: 0, full_after, retry_after, config };
        }
        if part.len() >= DEVICES_PER_PART_MAX && !part.contains_key(device) {
            part.retain(|_, until| *until > now);
        }
        if part.len() < DEVICES_PER_PART_MAX || part.contains_key(device) {
            part.insert(device.clone(), next);
        }
        let left = (capacity - used).as_nanos() / self.interval.as_nanos().max(1);
        let remaining = u32::try_from(left).unwrap_or(u32::MAX);
        Allowance { remaining, full_after: used, retry_after: Duration::ZERO, config }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limiter() -> RateLimiter {
        RateLimiter::new(RateConfig { per_second: 10, burst: 3 })
    }

    #[test]
    fn burst_passes_then_one_an_interval() {
        let limiter = limiter();
        let now = Instant::now();
        let device = DeviceId::new("a").unwrap();
        let remaining: Vec<_> = (0..3).map(|_| limiter.take(&device, now).remaining).collect();
        assert_eq!(remaining, [2, 1, 0]);
        let refused = limiter.take(&device, now);
        assert_eq!(refused.retry_after, Duration::from_millis(100));
        assert_eq!(refused.check().unwrap_err().code(), Code::RateLimited);
        let later = now + Duration::from_millis(100);
        assert!(limiter.take(&device, later).check().is_ok());
        assert!(limiter.take(&device, later).check().is_err());
    }

    #[test]
    fn devices_do_not_share() {
        let limiter = limiter();
        let now = Instant::now();
        let (a, b) = (DeviceId::new("a").unwrap(), DeviceId::new("b").unwrap());
        for _ in 0..4 {
            limiter.take(&a, now);
        }
        assert!(limiter.take(&a, now).check().is_err());
        assert!(limiter.take(&b, now).check().is_ok());
    }
}
