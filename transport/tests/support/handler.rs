//! A handler that records what it sees and does what the request says.

use std::sync::Arc;

use bytes::Bytes;
use heliograph_transport::{BoxFuture, FRAME_BYTES_MAX, Handler, Lane, NodeId, PeerEvent};
use tokio::{
    sync::{Semaphore, mpsc},
    time::{Instant, timeout},
};

use super::PATIENCE;

/// What a handler saw, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seen {
    Peer(PeerEvent),
    Notice(NodeId, Lane, Bytes),
    Call(NodeId, Lane, Bytes),
    /// The future of a call was dropped before it was done.
    Dropped(Bytes),
}

/// Answers by the first word of the request:
/// `wait…` when the test releases it, `refuse…` not at all, `huge…` over the limit, else at once
/// with the request itself.
pub struct TestHandler {
    seen: mpsc::UnboundedSender<Seen>,
    release: Arc<Semaphore>,
}

impl TestHandler {
    pub fn new() -> (Arc<Self>, mpsc::UnboundedReceiver<Seen>) {
        let (seen, receiver) = mpsc::unbounded_channel();
        (Arc::new(Self { seen, release: Arc::new(Semaphore::new(0)) }), receiver)
    }

    /// Lets `calls` waiting calls answer.
    pub fn release(&self, calls: usize) {
        self.release.add_permits(calls);
    }

    fn see(&self, seen: Seen) {
        // Nobody listens once the test is done.
        let _ = self.seen.send(seen);
    }
}

impl Handler for TestHandler {
    fn call(
        self: Arc<Self>,
        from: NodeId,
        lane: Lane,
        request: Bytes,
        _deadline: Instant,
    ) -> BoxFuture<'static, Option<Bytes>> {
        Box::pin(async move {
            self.see(Seen::Call(from, lane, request.clone()));
            if request.starts_with(b"refuse") {
                return None;
            }
            if request.starts_with(b"huge") {
                return Some(Bytes::from(vec![0; FRAME_BYTES_MAX + 1]));
            }
            if request.starts_with(b"wait") {
                let mut guard = DropGuard(Some((Arc::clone(&self), request.clone())));
                self.release.acquire().await.ok()?.forget();
                guard.0 = None;
            }
            Some(request)
        })
    }

    fn notify(&self, from: NodeId, lane: Lane, payload: Bytes) {
        self.see(Seen::Notice(from, lane, payload));
    }

    fn peer(&self, event: PeerEvent) {
        self.see(Seen::Peer(event));
    }
}

struct DropGuard(Option<(Arc<TestHandler>, Bytes)>);

impl Drop for DropGuard {
    fn drop(&mut self) {
        if let Some((handler, request)) = self.0.take() {
            handler.see(Seen::Dropped(request));
        }
    }
}

/// The next thing seen for which `matches` holds; what comes before it is skipped.
pub async fn expect(
    seen: &mut mpsc::UnboundedReceiver<Seen>,
    matches: impl Fn(&Seen) -> bool,
) -> Seen {
    let mut skipped = Vec::new();
    let found = timeout(PATIENCE, async {
        loop {
            let next = seen.recv().await.expect("the handler lives");
            if matches(&next) {
                return next;
            }
            skipped.push(next);
        }
    })
    .await;
    found.unwrap_or_else(|_| panic!("not seen; instead {skipped:?}"))
}
