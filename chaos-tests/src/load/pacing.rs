//! What becomes of a message that was refused: its place in the window waits, so that a closed loop
//! does not flood a relay that has said no.

use std::{sync::atomic::Ordering, time::Duration};

use tokio::time::{Instant, sleep};

use super::counts::Counts;

/// How many messages must have been delivered before the next attempt at a full mailbox: three
/// quarters of the 10,000 that it may have. Each time that it is full all that is in flight is
/// refused, so that is to be seldom; and its recipient is not to idle meanwhile.
const ROOM: u64 = 7_500;
/// When a place is used again in any case: what the relay asks for (`Retry-After`) with a full
/// mailbox.
const FULL_MAX: Duration = Duration::from_secs(1);
/// How long a place waits after other refusals: an election, or a queue that was full.
const OTHER: Duration = Duration::from_millis(100);
/// Between two looks.
pub(super) const POLL: Duration = Duration::from_millis(2);

/// When a place in a window may be used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Release {
    delivered: u64,
    at: Instant,
}

impl Release {
    fn after(code: &str, delivered: u64, now: Instant) -> Self {
        match code {
            "mailbox_full" => Self { delivered: delivered + ROOM, at: now + FULL_MAX },
            _ => Self { delivered: u64::MAX, at: now + OTHER },
        }
    }

    fn is_due(&self, delivered: u64, now: Instant) -> bool {
        delivered >= self.delivered || now >= self.at
    }
}

/// The places of a window that wait.
#[derive(Debug, Default)]
pub(super) struct Parked(Vec<Release>);

impl Parked {
    /// One more waits, after an answer with `code`.
    pub(super) fn park(&mut self, code: &str, counts: &Counts) {
        let delivered = counts.delivered.load(Ordering::Relaxed);
        self.0.push(Release::after(code, delivered, Instant::now()));
    }

    /// Lets those go that have waited long enough; answers how many.
    pub(super) fn take_due(&mut self, counts: &Counts) -> u32 {
        if self.0.is_empty() {
            return 0;
        }
        let (delivered, now) = (counts.delivered.load(Ordering::Relaxed), Instant::now());
        let before = self.0.len();
        self.0.retain(|release| !release.is_due(delivered, now));
        (before - self.0.len()) as u32
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Waits as long as a place waits that was refused with `code`, or until the run is over.
pub(super) async fn pause(code: &str, counts: &Counts) {
    let mut parked = Parked::default();
    parked.park(code, counts);
    while parked.take_due(counts) == 0 && !counts.is_over() {
        sleep(POLL).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn after_a_full_mailbox_a_place_waits_for_room_or_a_second() {
        let now = Instant::now();
        let release = Release::after("mailbox_full", 500, now);
        assert!(!release.is_due(500 + ROOM - 1, now));
        assert!(release.is_due(500 + ROOM, now));
        assert!(release.is_due(500, now + FULL_MAX));
        let other = Release::after("overloaded", 500, now);
        assert!(!other.is_due(1 << 40, now));
        assert!(other.is_due(500, now + OTHER));
    }
}
