//! How clients leave a node that goes away: HTTP clients with their next answer, WebSockets one
//! after the other, so that their herd meets the other nodes at a bounded rate.

use std::{sync::Arc, time::Duration};

use parking_lot::{Mutex, RwLock};
use tokio::time::{Instant, timeout_at};
use tokio_util::{
    sync::{CancellationToken, WaitForCancellationFutureOwned},
    task::{TaskTracker, task_tracker::TaskTrackerToken},
};

use crate::entropy::Entropy;

/// The pause between two WebSockets that are sent away, where there is time: 100 a second are
/// nothing to a node, and a few connections are gone at once.
const PACE: Duration = Duration::from_millis(10);

/// When the next WebSocket goes.
struct Turns {
    next: Instant,
    pause: Duration,
}

/// One going away; a node that stays after all begins anew with the next.
pub(crate) struct Departure {
    /// HTTP clients are to go.
    leaving: CancellationToken,
    /// WebSockets are to go.
    called: CancellationToken,
    /// None: all at once.
    turns: Mutex<Option<Turns>>,
}

impl Departure {
    fn new(stop: &CancellationToken) -> Arc<Self> {
        let (leaving, called) = (stop.child_token(), stop.child_token());
        Arc::new(Self { leaving, called, turns: Mutex::default() })
    }

    /// Falls when WebSockets are to go, each at its turn.
    pub(crate) fn called(&self) -> WaitForCancellationFutureOwned {
        self.called.clone().cancelled_owned()
    }

    /// The next turn, somewhere within its pause.
    pub(crate) fn turn(&self, entropy: &mut Entropy) -> Instant {
        let now = Instant::now();
        let mut turns = self.turns.lock();
        let Some(turns) = turns.as_mut() else { return now };
        let begins = turns.next.max(now);
        turns.next = begins + turns.pause;
        let micros = u64::try_from(turns.pause.as_micros()).unwrap_or(u64::MAX);
        begins + Duration::from_micros(entropy.between(0, micros))
    }
}

/// Who is there and who has to go. Shared by all connections of a server.
pub(crate) struct Departures {
    stop: CancellationToken,
    current: RwLock<Arc<Departure>>,
    websockets: TaskTracker,
}

impl Departures {
    /// Once `stop` falls everybody leaves at once.
    pub(crate) fn new(stop: CancellationToken) -> Arc<Self> {
        let current = RwLock::new(Departure::new(&stop));
        Arc::new(Self { stop, current, websockets: TaskTracker::new() })
    }

    pub(crate) fn current(&self) -> Arc<Departure> {
        Arc::clone(&self.current.read())
    }

    /// Counts a WebSocket for as long as the token lives.
    pub(crate) fn websocket(&self) -> TaskTrackerToken {
        self.websockets.token()
    }

    /// Whether HTTP clients are to go.
    pub(crate) fn is_leaving(&self) -> bool {
        self.current.read().leaving.is_cancelled()
    }

    /// Falls when HTTP clients are to go.
    pub(crate) fn leaving(&self) -> WaitForCancellationFutureOwned {
        self.current.read().leaving.clone().cancelled_owned()
    }

    /// Falls when the server stops.
    pub(crate) fn stop(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// Whether the server stops.
    pub(crate) fn is_stopping(&self) -> bool {
        self.stop.is_cancelled()
    }

    /// Sends HTTP clients away.
    pub(crate) fn leave(&self) {
        self.current.read().leaving.cancel();
    }

    /// Sends WebSockets away, the last one after `over`; answers once all are gone, or `patience`
    /// after that.
    pub(crate) async fn send_off(&self, over: Duration, patience: Duration) {
        let now = Instant::now();
        let current = self.current();
        let count = u32::try_from(self.websockets.len()).unwrap_or(u32::MAX).max(1);
        let pause = PACE.min(over / count);
        current.turns.lock().get_or_insert(Turns { next: now, pause });
        current.called.cancel();
        self.websockets.close();
        let last = now + pause * count + patience;
        if timeout_at(last, self.websockets.wait()).await.is_err() {
            tracing::warn!(left = self.websockets.len(), "WebSockets that do not go in time");
        }
    }

    /// The node stays after all: connections to come are kept.
    pub(crate) fn stay(&self) {
        *self.current.write() = Departure::new(&self.stop);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn a_herd_is_spread_and_a_few_are_gone_at_once() {
        for (count, over, bound) in [(100_u32, SECOND, 1000), (1000, SECOND, 1000), (5, SECOND, 50)]
        {
            let departures = Departures::new(CancellationToken::new());
            let (departure, begun) = (departures.current(), Instant::now());
            let sockets: Vec<_> = (0..count).map(|_| departures.websocket()).collect();
            let mut entropy = Entropy::from_system();
            let leaving = async {
                departure.called().await;
                let mut before = begun;
                let pause = PACE.min(over / count);
                for (index, socket) in (0..count).zip(sockets) {
                    let turn = departure.turn(&mut entropy);
                    assert!(turn >= begun + pause * index, "not before its turn");
                    assert!(turn <= begun + pause * (index + 1), "not after it");
                    before = before.max(turn);
                    drop(socket);
                }
                before
            };
            let (last, ()) = tokio::join!(leaving, departures.send_off(over, SECOND));
            assert!(last <= begun + Duration::from_millis(bound));
            assert_eq!(Instant::now(), begun, "over as soon as all are gone");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_does_not_go_is_not_waited_for() {
        let departures = Departures::new(CancellationToken::new());
        let (socket, begun) = (departures.websocket(), Instant::now());
        departures.send_off(SECOND, SECOND).await;
        assert_eq!(begun.elapsed(), SECOND + PACE);
        drop(socket);
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_stops_sends_all_away_and_one_that_stays_none() {
        let stop = CancellationToken::new();
        let departures = Departures::new(stop.clone());
        departures.leave();
        assert!(departures.is_leaving());
        departures.stay();
        assert!(!departures.is_leaving());
        let departure = departures.current();
        stop.cancel();
        departure.called().await;
        assert!(departures.is_leaving());
        assert_eq!(departure.turn(&mut Entropy::from_system()), Instant::now());
    }
}
