//! What a measurement tells, as JSON.

use std::{
    fs,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use hdrhistogram::Histogram;
use serde::Serialize;

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
        Latency {
            count: times.len(),
            p50_ms: millis(0.5),
            p90_ms: millis(0.9),
            p99_ms: millis(0.99),
            p999_ms: millis(0.999),
            max_ms: times.max() as f64 / 1000.0,
        }
    }
}

/// A distribution of times.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Latency {
    /// How many.
    pub count: u64,
    /// The median, in milliseconds.
    pub p50_ms: f64,
    /// 90 % are not longer.
    pub p90_ms: f64,
    /// 99 % are not longer.
    pub p99_ms: f64,
    /// 99.9 % are not longer.
    pub p999_ms: f64,
    /// The longest.
    pub max_ms: f64,
}

/// What a process used.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct NodeUse {
    /// The node's id; 0 is the load generator itself.
    pub id: u16,
    /// Processor time per elapsed time.
    pub cores: f64,
    /// Resident memory now.
    pub resident_bytes: u64,
    /// Of that, heap and stacks.
    pub anonymous_bytes: u64,
}

/// One run under load.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LoadReport {
    /// `closed` or `open`.
    pub mode: &'static str,
    /// How many messages were kept in flight (closed) or are sent a second (open).
    pub load: u32,
    /// To how many mailboxes.
    pub mailboxes: u32,
    /// Content of a message, in bytes before Base64.
    pub content_bytes: usize,
    /// How long was measured, after the warm-up.
    pub seconds: f64,
    /// Messages accepted in that time.
    pub accepted: u64,
    /// The same, a second.
    pub accepted_per_second: f64,
    /// Messages delivered in that time, a second.
    pub delivered_per_second: f64,
    /// Answers other than *accepted*; the message was sent again.
    pub errors: u64,
    /// Messages delivered more than once or with a number out of order: 0, or something is wrong.
    pub out_of_order: u64,
    /// How long after the last sending the last accepted message was delivered and acknowledged
    /// and every mailbox empty.
    pub drain_seconds: f64,
    /// From sending to *accepted* (open: from the time at which it was to be sent).
    pub accept: Latency,
    /// From sending to the recipient (open: from the time at which it was to be sent).
    pub deliver: Latency,
    /// The load generator.
    pub generator: NodeUse,
    /// The nodes.
    pub nodes: Vec<NodeUse>,
}

/// A run with idle connections.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct IdleReport {
    /// How many, all at the first node.
    pub connections: u32,
    /// How long it took to make them.
    pub connect_seconds: f64,
    /// How long they were held.
    pub held_seconds: f64,
    /// How many were still there at the end.
    pub alive: u32,
    /// The nodes before any of this run's devices was registered.
    pub fresh: Vec<NodeUse>,
    /// With the devices registered, before the first connection.
    pub registered: Vec<NodeUse>,
    /// With all connections.
    pub connected: Vec<NodeUse>,
    /// More resident memory at the first node than before the connections, a connection.
    pub bytes_a_connection: u64,
}

/// What one `fdatasync` takes.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct DiskReport {
    /// Bytes written before each.
    pub write_bytes: usize,
    /// Write and sync together.
    pub sync: Latency,
}

/// The machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Machine {
    /// The processor's name.
    pub processor: String,
    /// How many cores this process may use.
    pub cores: usize,
    /// Memory.
    pub memory_bytes: u64,
    /// Kernel release.
    pub kernel: String,
    /// Load average of the last minute when asked.
    pub load_average: String,
}

impl Machine {
    /// This one.
    pub fn this() -> Self {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        let field = |text: &str, name: &str| {
            let line = text.lines().find(|line| line.starts_with(name))?;
            Some(line.split_once(':')?.1.trim().to_owned())
        };
        let memory = field(&read("/proc/meminfo"), "MemTotal").unwrap_or_default();
        let kib = memory.split_whitespace().next().and_then(|kib| kib.parse::<u64>().ok());
        Self {
            processor: field(&read("/proc/cpuinfo"), "model name").unwrap_or_default(),
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            memory_bytes: kib.unwrap_or_default() * 1024,
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            load_average: read("/proc/loadavg").split_whitespace().next().unwrap_or("").to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_of_what_was_recorded() {
        let times = Times::default();
        for millis in 1..=100 {
            times.record(Duration::from_millis(millis));
        }
        let latency = times.summary();
        assert_eq!(latency.count, 100);
        assert!((latency.p50_ms - 50.0).abs() < 0.1, "{latency:?}");
        assert!((latency.p99_ms - 99.0).abs() < 0.1, "{latency:?}");
        times.record(Duration::from_secs(3600));
        assert!(times.summary().max_ms >= 59_000.0);
    }

    #[test]
    fn the_machine_is_described() {
        let machine = Machine::this();
        assert!(machine.cores > 0 && machine.memory_bytes > 0 && !machine.kernel.is_empty());
    }
}
