//! How long to wait before the next attempt to reach a peer. Pure; randomness is passed in.

use std::time::Duration;

use rand::Rng;

/// The first pause. 50 ms: a process that was just restarted listens again by then, and a dead one
/// costs little.
const FIRST: Duration = Duration::from_millis(50);

/// The longest pause. 2 s: a node that comes back after a long absence is joined again within the
/// time an election takes.
const LONGEST: Duration = Duration::from_secs(2);

/// Doubling pauses, each jittered down to as little as half, so that nodes that lost the same peer
/// do not return to it in step.
#[derive(Clone, Debug, Default)]
pub(crate) struct Backoff {
    attempts: u32,
}

impl Backoff {
    /// The pause before the next attempt.
    pub(crate) fn next(&mut self, rng: &mut impl Rng) -> Duration {
        // 2^6 × 50 ms is past the longest pause.
        let doubled = FIRST * 2u32.pow(self.attempts.min(6));
        self.attempts = self.attempts.saturating_add(1);
        let ceiling = doubled.min(LONGEST);
        rng.random_range(ceiling / 2..=ceiling)
    }

    /// Tells that a connection was lost that had stood for `stood`. One that stood longer than the
    /// longest pause was good: the next pause is the first again. One that broke at once was not.
    pub(crate) fn lost_after(&mut self, stood: Duration) {
        if stood > LONGEST {
            self.attempts = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use rand::{SeedableRng, rngs::StdRng};

    use super::*;

    #[test]
    fn pauses_double_up_to_the_cap_within_their_jitter() {
        let mut rng = StdRng::seed_from_u64(1);
        let mut backoff = Backoff::default();
        for ceiling_ms in [50, 100, 200, 400, 800, 1_600, 2_000, 2_000, 2_000] {
            let ceiling = Duration::from_millis(ceiling_ms);
            let pause = backoff.next(&mut rng);
            assert!(ceiling / 2 <= pause && pause <= ceiling, "{pause:?} under {ceiling:?}");
        }
    }

    #[test]
    fn only_a_connection_that_stood_resets_the_pause() {
        let mut rng = StdRng::seed_from_u64(1);
        let mut backoff = Backoff::default();
        for _ in 0..8 {
            backoff.next(&mut rng);
        }
        backoff.lost_after(Duration::from_millis(10));
        assert!(backoff.next(&mut rng) >= LONGEST / 2);
        backoff.lost_after(LONGEST * 2);
        assert!(backoff.next(&mut rng) <= FIRST);
    }
}
