//! A bulk connection that a test slows down and breaks.

use std::{
    collections::BTreeMap,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use heliograph_transport::{
    BoxFuture, CallError, Handler, Lane, Network, NodeId, NotifyError, PeerInfo, SimNetwork,
};
use parking_lot::Mutex;
use tokio::time::Instant;

#[derive(Default)]
struct State {
    pause: Duration,
    /// So many calls more succeed, then all are lost until that changes.
    breaks_after: Option<usize>,
    delivered: Vec<(usize, u64)>,
    /// Calls under way of each node, and the most there were.
    under_way: BTreeMap<NodeId, usize>,
    most_under_way: usize,
    lost: usize,
}

/// What becomes of calls on the bulk lane, for all nodes of a cluster.
#[derive(Clone, Default)]
pub(crate) struct Bulk(Arc<Mutex<State>>);

/// Enough of a call to see a repetition: its length and a hash.
fn digest(bytes: &[u8]) -> (usize, u64) {
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    (bytes.len(), hasher.finish())
}

impl Bulk {
    /// Each call takes this much longer.
    pub(crate) fn slow_down(&self, pause: Duration) {
        self.0.lock().pause = pause;
    }

    /// The connection breaks after so many calls, until it is mended.
    pub(crate) fn breaks_after(&self, calls: usize) {
        self.0.lock().breaks_after = Some(calls);
    }

    pub(crate) fn mend(&self) {
        self.0.lock().breaks_after = None;
    }

    /// Calls that were lost.
    pub(crate) fn lost(&self) -> usize {
        self.0.lock().lost
    }

    /// Large calls that arrived: pieces of snapshots. How many, and how many different ones.
    pub(crate) fn pieces(&self) -> (usize, usize) {
        let state = self.0.lock();
        let mut pieces: Vec<_> =
            state.delivered.iter().filter(|(bytes, _)| *bytes > 64 * 1024).collect();
        let all = pieces.len();
        pieces.sort();
        pieces.dedup();
        (all, pieces.len())
    }

    /// The most calls that one node had under way at a time.
    pub(crate) fn most_under_way(&self) -> usize {
        self.0.lock().most_under_way
    }

    fn begin(&self, node: NodeId) -> UnderWay {
        let mut state = self.0.lock();
        let count = state.under_way.entry(node).or_default();
        *count += 1;
        let count = *count;
        state.most_under_way = state.most_under_way.max(count);
        UnderWay { bulk: self.clone(), node }
    }

    fn breaks(&self) -> bool {
        let mut state = self.0.lock();
        let breaks = state.breaks_after == Some(0);
        state.lost += usize::from(breaks);
        breaks
    }

    fn arrived(&self, digest: (usize, u64)) {
        let mut state = self.0.lock();
        state.delivered.push(digest);
        if let Some(left) = &mut state.breaks_after {
            *left = left.saturating_sub(1);
        }
    }

    /// A node's network with this bulk lane.
    pub(crate) fn over(&self, inner: Arc<SimNetwork>) -> Arc<dyn Network> {
        Arc::new(Slowed { inner, bulk: self.clone() })
    }
}

/// A call that is under way until this is dropped.
struct UnderWay {
    bulk: Bulk,
    node: NodeId,
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        *self.bulk.0.lock().under_way.get_mut(&self.node).unwrap() -= 1;
    }
}

struct Slowed {
    inner: Arc<SimNetwork>,
    bulk: Bulk,
}

impl Network for Slowed {
    fn local(&self) -> NodeId {
        self.inner.local()
    }

    fn serve(&self, handler: Arc<dyn Handler>) {
        self.inner.serve(handler);
    }

    fn set_peers(&self, peers: Vec<(NodeId, String)>) {
        self.inner.set_peers(peers);
    }

    fn is_connected(&self, peer: NodeId) -> bool {
        self.inner.is_connected(peer)
    }

    fn peer_info(&self, peer: NodeId) -> Option<PeerInfo> {
        self.inner.peer_info(peer)
    }

    fn call(
        &self,
        to: NodeId,
        lane: Lane,
        request: Bytes,
        deadline: Instant,
    ) -> BoxFuture<'static, Result<Bytes, CallError>> {
        if lane != Lane::Bulk {
            return self.inner.call(to, lane, request, deadline);
        }
        let (inner, bulk) = (Arc::clone(&self.inner), self.bulk.clone());
        Box::pin(async move {
            let digest = digest(&request);
            let _under_way = bulk.begin(inner.local());
            let pause = bulk.0.lock().pause;
            tokio::time::sleep(pause).await;
            if bulk.breaks() {
                return Err(CallError::Lost(to));
            }
            let answer = inner.call(to, lane, request, deadline).await?;
            bulk.arrived(digest);
            Ok(answer)
        })
    }

    fn notify(&self, to: NodeId, lane: Lane, payload: Bytes) -> Result<(), NotifyError> {
        self.inner.notify(to, lane, payload)
    }

    fn shutdown(&self) -> BoxFuture<'static, ()> {
        self.inner.shutdown()
    }
}
