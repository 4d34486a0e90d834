//! The runtime openraft runs on: tokio, with randomness that a simulation can seed, and watched
//! values that wake in order.

use std::{cell::Cell, convert::Infallible, future::Future, sync::LazyLock, time::Duration};

use openraft::{AsyncRuntime, Instant as _, OptionalSend};
use openraft_rt_tokio::{TokioInstant, TokioMpsc, TokioMutex, TokioOneshot, TokioRuntime};
use rand::RngCore;

use super::runtime_watch::OrderedWatch;

thread_local! {
    /// The state of this thread's seeded generator; none outside simulations.
    static SEED: Cell<Option<u64>> = const { Cell::new(None) };
}

/// Makes all randomness that Raft draws on this thread follow from `seed`.
pub(crate) fn seed_this_thread(seed: u64) {
    SEED.set(Some(seed));
}

/// Randomness for election timeouts: the thread's generator, or the seeded one of a simulation.
#[derive(Debug)]
pub(crate) struct RaftRng;

impl RaftRng {
    fn next(&self) -> u64 {
        let Some(state) = SEED.get() else { return rand::rng().next_u64() };
        // SplitMix64 (Steele, Lea, Flood 2014): any seed gives a full-period sequence.
        let state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        SEED.set(Some(state));
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }
}

impl rand_core::TryRng for RaftRng {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        Ok((self.next() >> 32) as u32)
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        Ok(self.next())
    }

    fn try_fill_bytes(&mut self, dst: &mut [u8]) -> Result<(), Infallible> {
        for chunk in dst.chunks_mut(8) {
            chunk.copy_from_slice(&self.next().to_le_bytes()[..chunk.len()]);
        }
        Ok(())
    }
}

/// Where sleeps end together. 100 ms: openraft looks at each group's clock ten times a second, at
/// another moment in each, and a node with 16 groups would wake 160 times a second for nothing. Looked
/// at together their heartbeats share packets and system calls, too.
const GRID: Duration = Duration::from_millis(100);

/// Where the grid begins.
static ORIGIN: LazyLock<TokioInstant> = LazyLock::new(TokioInstant::now);

/// The first point of the grid at or after `deadline`; the deadline itself where it is near, and in
/// simulations, whose clocks begin anew.
fn on_grid(deadline: TokioInstant) -> TokioInstant {
    let is_near = deadline.saturating_duration_since(TokioInstant::now()) < GRID / 2;
    if is_near || SEED.get().is_some() || deadline < *ORIGIN {
        return deadline;
    }
    let points = deadline.saturating_duration_since(*ORIGIN).as_nanos().div_ceil(GRID.as_nanos());
    *ORIGIN + GRID * u32::try_from(points).unwrap_or(u32::MAX)
}

/// tokio, but for [`RaftRng`], [`OrderedWatch`], and sleeps that end together.
#[derive(Debug)]
pub(crate) struct Runtime(TokioRuntime);

impl AsyncRuntime for Runtime {
    type JoinError = tokio::task::JoinError;
    type JoinHandle<T: OptionalSend + 'static> = tokio::task::JoinHandle<T>;
    type Sleep = tokio::time::Sleep;
    type Instant = TokioInstant;
    type TimeoutError = tokio::time::error::Elapsed;
    type Timeout<R, T: Future<Output = R> + OptionalSend> = tokio::time::Timeout<T>;
    type ThreadLocalRng = RaftRng;
    type Mpsc = TokioMpsc;
    type Watch = OrderedWatch;
    type Oneshot = TokioOneshot;
    type Mutex<T: OptionalSend + 'static> = TokioMutex<T>;

    fn spawn<T>(future: T) -> Self::JoinHandle<T::Output>
    where
        T: Future + OptionalSend + 'static,
        T::Output: OptionalSend + 'static,
    {
        TokioRuntime::spawn(future)
    }

    fn sleep(duration: Duration) -> Self::Sleep {
        TokioRuntime::sleep(duration)
    }

    fn sleep_until(deadline: Self::Instant) -> Self::Sleep {
        TokioRuntime::sleep_until(on_grid(deadline))
    }

    fn timeout<R, F: Future<Output = R> + OptionalSend>(
        duration: Duration,
        future: F,
    ) -> Self::Timeout<R, F> {
        TokioRuntime::timeout(duration, future)
    }

    fn timeout_at<R, F: Future<Output = R> + OptionalSend>(
        deadline: Self::Instant,
        future: F,
    ) -> Self::Timeout<R, F> {
        TokioRuntime::timeout_at(deadline, future)
    }

    fn is_panic(join_error: &Self::JoinError) -> bool {
        TokioRuntime::is_panic(join_error)
    }

    fn thread_rng() -> Self::ThreadLocalRng {
        RaftRng
    }

    fn new(threads: usize) -> Self {
        Self(TokioRuntime::new(threads))
    }

    fn block_on<F, T>(&mut self, future: F) -> T
    where
        F: Future<Output = T>,
    {
        self.0.block_on(future)
    }
}

#[cfg(test)]
mod tests {
    use rand_core::TryRng;

    use super::*;

    #[test]
    fn one_seed_gives_one_sequence() {
        let draw = |seed| {
            seed_this_thread(seed);
            [RaftRng.try_next_u64().unwrap(), RaftRng.try_next_u64().unwrap()]
        };
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
    }

    #[test]
    fn sleeps_end_together_and_never_early() {
        let now = TokioInstant::now();
        let near = now + GRID / 10;
        assert_eq!(on_grid(near), near);
        for millis in [101, 150, 199, 1_234] {
            let deadline = now + Duration::from_millis(millis);
            let end = on_grid(deadline);
            assert!(end >= deadline && end - deadline < GRID);
            assert_eq!(end.saturating_duration_since(*ORIGIN).as_nanos() % GRID.as_nanos(), 0);
        }
    }

    #[test]
    fn openraft_accepts_the_runtime() {
        openraft_rt::testing::Suite::<Runtime>::test_all();
    }
}
