//! The bounded mailbox of a connection: what the cluster pushes and the socket has not taken.

use std::{collections::VecDeque, task::Context};

use futures_util::task::AtomicWaker;
use heliograph_cluster::{CloseReason, Push, PushSink};
use metrics::counter;
use parking_lot::Mutex;

use crate::metrics::PUSHES_REFUSED;

/// Pushes that wait for a slow socket. Messages are bounded by the window as well; live frames and
/// skipped ranges by this alone.
const PUSHES_MAX: usize = 512;
/// Bytes of live frames that wait: half a second of video signalling and audio; older ones are
/// worth nothing.
const LIVE_BYTES_MAX: usize = 256 * 1024;
/// An emptied queue with more room than this gives it back.
const KEPT_MAX: usize = 16;

#[derive(Default)]
struct Queue {
    pushes: VecDeque<Push>,
    live_bytes: usize,
    close: Option<CloseReason>,
    gone: bool,
}

/// Where the cluster pushes to; the connection takes from it.
#[derive(Default)]
pub(super) struct Mailbox {
    queue: Mutex<Queue>,
    waker: AtomicWaker,
}

impl Mailbox {
    /// The next push, if there is one; else `cx` is woken by the next.
    pub(super) fn poll_take(&self, cx: &Context<'_>) -> Option<Push> {
        if let Some(push) = self.take() {
            return Some(push);
        }
        self.waker.register(cx.waker());
        // One may have come before the waker was there.
        self.take()
    }

    /// Why the cluster wants to close: overtakes what waits, which comes again later.
    pub(super) fn poll_close(&self, cx: &Context<'_>) -> Option<CloseReason> {
        self.waker.register(cx.waker());
        self.queue.lock().close
    }

    fn take(&self) -> Option<Push> {
        let mut queue = self.queue.lock();
        let push = queue.pushes.pop_front();
        match &push {
            Some(Push::Live(frame)) => queue.live_bytes -= frame.len(),
            None if queue.pushes.capacity() > KEPT_MAX => queue.pushes = VecDeque::new(),
            _ => {}
        }
        push
    }

    /// The connection is gone: further pushes are handed back.
    pub(super) fn close(&self) {
        let mut queue = self.queue.lock();
        queue.gone = true;
        queue.pushes = VecDeque::new();
    }
}

impl PushSink for Mailbox {
    fn push(&self, push: Push) -> Result<(), Push> {
        {
            let mut queue = self.queue.lock();
            let live = if let Push::Live(frame) = &push { frame.len() } else { 0 };
            let is_full = queue.pushes.len() >= PUSHES_MAX
                || (live > 0 && queue.live_bytes + live > LIVE_BYTES_MAX);
            match push {
                _ if queue.gone => return Err(push),
                Push::Close(reason) => queue.close = Some(reason),
                push if is_full => {
                    counter!(PUSHES_REFUSED).increment(1);
                    return Err(push);
                }
                push => {
                    queue.live_bytes += live;
                    queue.pushes.push_back(push);
                }
            }
        }
        self.waker.wake();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use bytes::Bytes;

    use super::*;

    fn live(bytes: usize) -> Push {
        Push::Live(Bytes::from(vec![0; bytes]))
    }

    #[test]
    fn full_queue_hands_back() {
        let mailbox = Mailbox::default();
        for _ in 0..PUSHES_MAX {
            assert!(mailbox.push(live(1)).is_ok());
        }
        assert!(matches!(mailbox.push(live(1)), Err(Push::Live(_))));
        let cx = Context::from_waker(Waker::noop());
        assert!(mailbox.poll_take(&cx).is_some());
        assert!(mailbox.push(live(1)).is_ok());
    }

    #[test]
    fn live_frames_are_bounded_in_bytes() {
        let mailbox = Mailbox::default();
        assert!(mailbox.push(live(LIVE_BYTES_MAX)).is_ok());
        assert!(mailbox.push(live(1)).is_err());
    }

    #[test]
    fn close_overtakes_and_always_fits() {
        let mailbox = Mailbox::default();
        while mailbox.push(live(1)).is_ok() {}
        assert!(mailbox.push(Push::Close(CloseReason::KeyRevoked)).is_ok());
        let cx = Context::from_waker(Waker::noop());
        assert_eq!(mailbox.poll_close(&cx), Some(CloseReason::KeyRevoked));
    }

    #[test]
    fn gone_connection_takes_nothing() {
        let mailbox = Mailbox::default();
        mailbox.close();
        assert!(mailbox.push(live(1)).is_err());
        assert!(mailbox.push(Push::Close(CloseReason::SlowReader)).is_err());
    }
}
