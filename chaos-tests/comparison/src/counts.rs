//! What all clients of a run count, with the same rules as the project's own load generator.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::message::Header;

/// The longest time a histogram tells apart, in microseconds: a minute. Longer ones count as it.
const LONGEST_MICROS: u64 = 60_000_000;
/// Decimal digits a histogram keeps.
const DIGITS: u8 = 3;

/// Times, taken down by many tasks.
#[derive(Debug)]
pub struct Times(Mutex<Histogram<u64>>);

impl Default for Times {
    fn default() -> Self {
        let histogram = Histogram::new_with_max(LONGEST_MICROS, DIGITS);
        Self(Mutex::new(histogram.expect("the bounds are constant and valid")))
    }
}

impl Times {
    /// Takes down one.
    pub fn record(&self, time: Duration) {
        let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        self.0.lock().unwrap_or_else(PoisonError::into_inner).saturating_record(micros);
    }

    /// What they are like.
    pub fn summary(&self) -> Latency {
        let times = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let millis = |quantile| times.value_at_quantile(quantile) as f64 / 1000.0;
        Latency { p50_ms: millis(0.5), p99_ms: millis(0.99), max_ms: times.max() as f64 / 1000.0 }
    }
}

/// A distribution of times.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    /// The median.
    pub p50_ms: f64,
    /// 99 % are not longer.
    pub p99_ms: f64,
    /// The longest.
    pub max_ms: f64,
}

/// The counts of a run.
#[derive(Debug)]
pub struct Counts {
    /// Tells this run's messages.
    pub run: u32,
    /// Zero of the run's clock.
    pub started: Instant,
    /// What was sent before this time is not measured.
    pub measure_from: Duration,
    /// What happens after this time is not measured.
    pub measure_until: Duration,
    /// All messages that a publisher's confirmation came for.
    pub accepted: AtomicU64,
    /// Those of the measured time.
    pub accepted_measured: AtomicU64,
    /// All messages that a consumer got.
    pub delivered: AtomicU64,
    /// Those of the measured time.
    pub delivered_measured: AtomicU64,
    /// All messages that a consumer acknowledged.
    pub acknowledged: AtomicU64,
    /// Messages that were refused.
    pub refused: AtomicU64,
    /// Messages that came twice or after a later one of the same sender.
    pub out_of_order: AtomicU64,
    /// From sending to the confirmation.
    pub accept: Times,
    /// From sending to the consumer.
    pub deliver: Times,
}

impl Counts {
    /// Nothing yet.
    pub fn new(warm_up: Duration, time: Duration) -> Arc<Self> {
        Arc::new(Self {
            run: rand::random(),
            started: Instant::now(),
            measure_from: warm_up,
            measure_until: warm_up + time,
            accepted: AtomicU64::new(0),
            accepted_measured: AtomicU64::new(0),
            delivered: AtomicU64::new(0),
            delivered_measured: AtomicU64::new(0),
            acknowledged: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            out_of_order: AtomicU64::new(0),
            accept: Times::default(),
            deliver: Times::default(),
        })
    }

    /// The answer to a message that was sent at `sent`.
    pub fn note_answer(&self, sent: Duration, accepted: bool) {
        if !accepted {
            self.refused.fetch_add(1, Ordering::Relaxed);
            return;
        }
        self.accepted.fetch_add(1, Ordering::Relaxed);
        if let Some(age) = self.age(sent) {
            self.accepted_measured.fetch_add(1, Ordering::Relaxed);
            self.accept.record(age);
        }
    }

    /// How long ago a message was sent, if that is measured.
    fn age(&self, sent: Duration) -> Option<Duration> {
        let now = self.started.elapsed();
        let measured = sent >= self.measure_from && now < self.measure_until;
        measured.then(|| now.saturating_sub(sent))
    }
}

/// What the consumer of one mailbox has seen.
#[derive(Debug)]
pub struct Inbox {
    counts: Arc<Counts>,
    /// The number after the last one seen, of each sender: each sends its own in order.
    next: Vec<u64>,
}

impl Inbox {
    /// For messages that `senders` senders number in turn.
    pub fn new(counts: Arc<Counts>, senders: u32) -> Self {
        Self { counts, next: vec![0; senders.max(1) as usize] }
    }

    /// Takes down that so many of the messages that came were acknowledged.
    pub fn acknowledged(&self, messages: usize) {
        self.counts.acknowledged.fetch_add(messages as u64, Ordering::Relaxed);
    }

    /// Takes down a message that came; whether it was one of this run.
    pub fn take(&mut self, message: &[u8]) -> bool {
        let Some(header) = Header::read(message).filter(|header| header.run == self.counts.run)
        else {
            return false;
        };
        let sender = (header.number % self.next.len() as u64) as usize;
        if header.number < self.next[sender] {
            self.counts.out_of_order.fetch_add(1, Ordering::Relaxed);
        }
        self.next[sender] = header.number + 1;
        self.counts.delivered.fetch_add(1, Ordering::Relaxed);
        if let Some(age) = self.counts.age(header.sent) {
            self.counts.delivered_measured.fetch_add(1, Ordering::Relaxed);
            self.counts.deliver.record(age);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::MESSAGE_BYTES;

    fn message(counts: &Counts, number: u64) -> bytes::Bytes {
        Header { run: counts.run, sent: Duration::ZERO, number }.message(&[0; MESSAGE_BYTES])
    }

    #[test]
    fn quantiles_are_of_what_was_recorded() {
        let times = Times::default();
        for millis in 1..=100 {
            times.record(Duration::from_millis(millis));
        }
        let latency = times.summary();
        assert!((latency.p50_ms - 50.0).abs() < 0.1, "{latency:?}");
        assert!((latency.p99_ms - 99.0).abs() < 0.1, "{latency:?}");
        assert!((latency.max_ms - 100.0).abs() < 0.1, "{latency:?}");
    }

    #[test]
    fn order_is_that_of_each_sender() {
        let counts = Counts::new(Duration::ZERO, Duration::from_secs(1000));
        let mut inbox = Inbox::new(counts.clone(), 2);
        // Two senders: even and odd numbers.
        for number in [0, 2, 1, 4, 3] {
            assert!(inbox.take(&message(&counts, number)));
        }
        let wrong = || counts.out_of_order.load(Ordering::Relaxed);
        assert_eq!(wrong(), 0);
        inbox.take(&message(&counts, 4));
        assert_eq!(wrong(), 1, "a second time");
        inbox.take(&message(&counts, 1));
        assert_eq!(wrong(), 2, "after a later one");
        assert_eq!(counts.delivered.load(Ordering::Relaxed), 7);
    }

    #[test]
    fn messages_of_another_run_do_not_count() {
        let counts = Counts::new(Duration::ZERO, Duration::from_secs(1000));
        let mut inbox = Inbox::new(counts.clone(), 1);
        let other = Header { run: counts.run ^ 1, sent: Duration::ZERO, number: 0 };
        assert!(!inbox.take(&other.message(&[0; MESSAGE_BYTES])));
        assert!(!inbox.take(b"something else"));
        assert_eq!(counts.delivered.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn only_the_measured_time_is_measured() {
        let counts = Counts::new(Duration::from_secs(500), Duration::from_secs(500));
        counts.note_answer(Duration::from_secs(499), true);
        counts.note_answer(Duration::from_secs(501), true);
        counts.note_answer(Duration::from_secs(501), false);
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        assert_eq!((read(&counts.accepted), read(&counts.accepted_measured)), (2, 1));
        assert_eq!(read(&counts.refused), 1);
    }
}
