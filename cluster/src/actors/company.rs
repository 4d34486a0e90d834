//! How many commands a shard's next entry waits for. Pure: time comes in.
//!
//! An entry costs nearly the same whether it carries one command or a hundred: two calls, three syncs,
//! some twenty wake-ups. Who sends message after message comes back soon after its answer, so those
//! whom the last entry answered, and those who came while it flew, are expected for the next one. Who
//! sends now and then finds nobody expected, and waits for nothing.

use std::time::Duration;

use tokio::time::Instant;

/// The shortest wait. 1 ms: timers are no finer.
const WAIT_MIN: Duration = Duration::from_millis(1);
/// The longest wait. 5 ms: as long as acknowledgements wait.
const WAIT_MAX: Duration = Duration::from_millis(5);
/// Of so many that are expected, one is not waited for.
const STRAGGLERS: usize = 16;

/// See the module.
#[derive(Debug)]
pub(super) struct Company {
    /// How many entries have departed.
    entries: u64,
    /// How many commands the last one carried.
    carried: usize,
    departed: Instant,
    /// How long the last one took.
    took: Duration,
    /// How many commands the next one may carry.
    expected: usize,
}

impl Company {
    pub(super) fn new(now: Instant) -> Self {
        Self { entries: 0, carried: 0, departed: now, took: Duration::ZERO, expected: 0 }
    }

    /// An entry with so many commands was handed to Raft.
    pub(super) fn departed(&mut self, carried: usize, now: Instant) {
        self.entries += 1;
        self.carried = carried;
        self.departed = now;
    }

    /// The entry has its outcome; `queued` commands came meanwhile.
    pub(super) fn landed(&mut self, queued: usize, now: Instant) {
        self.took = now.saturating_duration_since(self.departed);
        self.expected = self.carried + queued;
    }

    /// Whether those are there who are worth a wait.
    pub(super) fn is_complete(&self, queued: usize) -> bool {
        queued >= self.expected - self.expected / STRAGGLERS
    }

    /// How long the rest are waited for: as long as the last entry took, since answers and what follows
    /// on them go through the same queues.
    pub(super) fn wait(&self) -> Duration {
        self.took.clamp(WAIT_MIN, WAIT_MAX)
    }

    /// How many entries have departed: tells one wait from the next.
    pub(super) fn entries(&self) -> u64 {
        self.entries
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flown(company: &mut Company, carried: usize, queued: usize, took: Duration) {
        let now = Instant::now();
        company.departed(carried, now);
        company.landed(queued, now + took);
    }

    #[test]
    fn nobody_is_expected_at_first() {
        assert!(Company::new(Instant::now()).is_complete(1));
    }

    #[test]
    fn one_sender_never_waits() {
        let mut company = Company::new(Instant::now());
        flown(&mut company, 1, 0, WAIT_MIN);
        assert!(company.is_complete(1));
    }

    #[test]
    fn two_halves_become_one() {
        let mut company = Company::new(Instant::now());
        flown(&mut company, 4, 4, WAIT_MIN);
        assert!(!company.is_complete(4));
        assert!(company.is_complete(8));
    }

    #[test]
    fn one_wait_in_vain_is_the_last() {
        let mut company = Company::new(Instant::now());
        flown(&mut company, 64, 0, WAIT_MIN);
        assert!(!company.is_complete(1));
        // The wait ended with one command.
        flown(&mut company, 1, 0, WAIT_MIN);
        assert!(company.is_complete(1));
    }

    #[test]
    fn stragglers_hold_up_nobody() {
        let mut company = Company::new(Instant::now());
        flown(&mut company, 160, 0, WAIT_MIN);
        assert!(!company.is_complete(149));
        assert!(company.is_complete(150));
    }

    #[test]
    fn a_wait_is_as_long_as_the_last_flight_within_bounds() {
        let mut company = Company::new(Instant::now());
        for (took, wait) in [(0, WAIT_MIN), (3, Duration::from_millis(3)), (900, WAIT_MAX)] {
            flown(&mut company, 2, 0, Duration::from_millis(took));
            assert_eq!(company.wait(), wait);
        }
    }
}
