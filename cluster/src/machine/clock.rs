//! Shard time, as its leader proposes it.
//!
//! The leader's apply loop owns a [`ShardClock`] for its term. Shard time runs with the leader's
//! monotonic clock and leans towards its wall clock while they are less than a minute apart. A
//! wall clock that is further off is followed only while a majority of the nodes agrees with it:
//! one node with a wrong clock must not expire everybody's messages.

/// Up to this difference the leader's wall clock is followed without asking anybody. A minute:
/// unsynchronised clocks drift by seconds a day, while mistakes are of hours and years.
pub const JUMP_MS: u64 = 60_000;

/// Shard time behind the wall clock catches up by this part of the time that passes (1/8), so
/// that time has no leaps below [`JUMP_MS`]; ahead of it, it runs slower by the same part.
const SLEW_DIVISOR: u64 = 8;

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardClock {
    time_ms: u64,
    monotonic_ms: u64,
}

/// What a leader knows of the time.
#[derive(Clone, Copy, Debug)]
pub struct Readings<'a> {
    /// The leader's monotonic clock, milliseconds since any fixed point.
    pub monotonic_ms: u64,
    /// The leader's wall clock, milliseconds since the Unix epoch.
    pub wall_ms: u64,
    /// The peers' wall clocks, as of now: of those heard of lately.
    pub peers_wall_ms: &'a [u64],
    /// How many nodes the cluster has, this one included.
    pub nodes: usize,
}

impl ShardClock {
    /// At the start of a term, from the shard time applied so far. A new shard has none (0): it
    /// begins at the median of the wall clocks known, since nothing waits yet that could expire,
    /// and messages accepted at the epoch would all be due at the first jump.
    pub fn new(time_ms: u64, monotonic_ms: u64) -> Self {
        Self { time_ms, monotonic_ms }
    }

    /// The time last proposed.
    pub fn time_ms(&self) -> u64 {
        self.time_ms
    }

    /// The time to propose now; never less than before.
    pub fn propose(&mut self, readings: Readings<'_>) -> u64 {
        let elapsed = readings.monotonic_ms.saturating_sub(self.monotonic_ms);
        self.monotonic_ms = self.monotonic_ms.max(readings.monotonic_ms);
        if self.time_ms == 0 {
            self.time_ms = median(&readings);
            return self.time_ms;
        }
        let run = self.time_ms.saturating_add(elapsed);
        let ahead = readings.wall_ms.saturating_sub(run);
        let behind = run.saturating_sub(readings.wall_ms);
        self.time_ms = if ahead >= JUMP_MS {
            if agrees(&readings) { readings.wall_ms } else { run }
        } else if ahead > 0 {
            run + ahead.min(elapsed.div_ceil(SLEW_DIVISOR))
        } else if behind < JUMP_MS || agrees(&readings) {
            // Time never goes back: a wall clock behind is met by running slower.
            run - behind.min(elapsed / SLEW_DIVISOR)
        } else {
            run
        };
        self.time_ms
    }
}

/// Whether a majority of the nodes has a wall clock less than [`JUMP_MS`] from the leader's.
fn agrees(readings: &Readings<'_>) -> bool {
    let peers = readings.peers_wall_ms.iter();
    let near = peers.filter(|peer| peer.abs_diff(readings.wall_ms) < JUMP_MS).count();
    (near + 1) * 2 > readings.nodes
}

/// The lower median of the wall clocks known.
fn median(readings: &Readings<'_>) -> u64 {
    let mut clocks = readings.peers_wall_ms.to_vec();
    clocks.push(readings.wall_ms);
    clocks.sort_unstable();
    clocks[(clocks.len() - 1) / 2]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOON: u64 = 1_000_000_000_000;

    fn readings(monotonic_ms: u64, wall_ms: u64, peers_wall_ms: &[u64]) -> Readings<'_> {
        Readings { monotonic_ms, wall_ms, peers_wall_ms, nodes: 3 }
    }

    #[test]
    fn runs_with_the_monotonic_clock() {
        let mut clock = ShardClock::new(NOON, 500);
        assert_eq!(clock.propose(readings(500, NOON, &[])), NOON);
        assert_eq!(clock.propose(readings(1_500, NOON + 1_000, &[])), NOON + 1_000);
    }

    #[test]
    fn leans_towards_the_wall_clock() {
        let mut clock = ShardClock::new(NOON, 0);
        // The wall clock is 100 ms ahead: met at an eighth of what passes.
        assert_eq!(clock.propose(readings(80, NOON + 180, &[])), NOON + 90);
        for step in 2..=10 {
            clock.propose(readings(80 * step, NOON + 80 * step + 100, &[]));
        }
        assert_eq!(clock.time_ms(), NOON + 900);
        // Then it is set back 10 s: shard time runs slower.
        assert_eq!(clock.propose(readings(1_600, NOON - 8_400, &[])), NOON + 900 + 700);
    }

    #[test]
    fn one_wrong_clock_moves_nothing() {
        let year = 365 * 24 * 3_600_000;
        let mut clock = ShardClock::new(NOON, 0);
        let peers = [NOON + 1_000, NOON + 1_000];
        assert_eq!(clock.propose(readings(1_000, NOON + year, &peers)), NOON + 1_000);
        assert_eq!(clock.propose(readings(2_000, NOON + year, &[])), NOON + 2_000);
        assert_eq!(clock.propose(readings(3_000, NOON - year, &peers)), NOON + 3_000);
    }

    #[test]
    fn majority_moves_time_on() {
        let mut clock = ShardClock::new(1, 0);
        assert_eq!(clock.propose(readings(10, NOON, &[])), 11);
        let two_of_three = [NOON + JUMP_MS - 1, 5];
        assert_eq!(clock.propose(readings(20, NOON, &two_of_three)), NOON);
        let mut clock = ShardClock::new(1, 0);
        assert_eq!(clock.propose(readings(20, NOON, &[NOON + JUMP_MS, 5])), 21);
    }

    #[test]
    fn node_alone_is_its_own_majority() {
        let mut clock = ShardClock::new(1, 0);
        let alone = Readings { monotonic_ms: 1, wall_ms: NOON, peers_wall_ms: &[], nodes: 1 };
        assert_eq!(clock.propose(alone), NOON);
    }

    #[test]
    fn new_shard_begins_at_the_median() {
        let mut clock = ShardClock::new(0, 0);
        assert_eq!(clock.propose(readings(9, u64::MAX, &[NOON, 7])), NOON);
        let mut clock = ShardClock::new(0, 0);
        assert_eq!(clock.propose(readings(9, NOON, &[])), NOON);
    }

    proptest! {
        #[test]
        fn never_goes_back_nor_leaps_alone(
            steps in prop::collection::vec((0..100_000u64, any::<u64>()), 1..50)
        ) {
            let mut clock = ShardClock::new(NOON, 0);
            let mut monotonic_ms = 0;
            let mut before = NOON;
            for (elapsed, wall_ms) in steps {
                monotonic_ms += elapsed;
                let time_ms = clock.propose(readings(monotonic_ms, wall_ms, &[]));
                prop_assert!(time_ms >= before + elapsed - elapsed / SLEW_DIVISOR);
                prop_assert!(time_ms <= before + elapsed + elapsed.div_ceil(SLEW_DIVISOR));
                before = time_ms;
            }
        }
    }
}
