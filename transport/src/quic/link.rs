//! A standing connection to a peer: its lanes, the calls under way on it, and the tasks that move
//! its bytes. Owned by the peer's actor; shared with whoever is sending.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::{StreamExt as _, stream::FuturesUnordered};
use quinn::{Connection, RecvStream, SendStream};
use tokio::{
    task::JoinSet,
    time::{Instant, timeout_at},
};
use tokio_util::sync::CancellationToken;

use super::{
    CloseCode,
    hello::LinkKind,
    lane::{self, LaneQueue, Rejected},
    pending::{Pending, Reply},
    reader::{self, Service},
};
use crate::{
    frame::{FrameHead, FrameKind},
    metrics::Metrics,
    network::{BoxFuture, CallError, Lane, NodeId, NotifyError, SHARED_LANES},
    protocol::PeerInfo,
};

/// Lanes of a control connection: urgent, then the shared ones.
const CONTROL_LANES: usize = 1 + SHARED_LANES as usize;

/// Lanes of a bulk connection. 2: answers have their own, so that one does not wait behind
/// megabytes of requests going the same way.
const BULK_LANES: usize = 2;

/// How many lanes a connection of this kind has.
pub(super) fn lane_count(kind: LinkKind) -> usize {
    match kind {
        LinkKind::Control => CONTROL_LANES,
        LinkKind::Bulk => BULK_LANES,
    }
}

/// The connection that carries `lane`, and the index of the lane in it.
pub(super) fn place(lane: Lane) -> (LinkKind, usize) {
    match lane {
        Lane::Bulk => (LinkKind::Bulk, 0),
        control => (LinkKind::Control, usize::from(control.number())),
    }
}

/// What the lane at `index` is.
pub(super) fn lane_at(kind: LinkKind, index: usize) -> Lane {
    match kind {
        LinkKind::Control => Lane::from_number(index as u8),
        LinkKind::Bulk => Lane::Bulk,
    }
}

/// The index of the lane that carries answers to requests of the lane at `index`.
fn answer_index(kind: LinkKind, index: usize) -> usize {
    match kind {
        LinkKind::Control => index,
        LinkKind::Bulk => 1,
    }
}

/// One standing connection.
pub(super) struct Link {
    /// Tells connections to the same peer apart.
    pub(super) id: u64,
    pub(super) peer: NodeId,
    pub(super) kind: LinkKind,
    /// Ends with the connection.
    pub(super) gone: CancellationToken,
    /// What the process at the other end said of itself.
    pub(super) info: PeerInfo,
    connection: Connection,
    lanes: Vec<LaneQueue>,
    pub(super) pending: Pending,
    metrics: Arc<Metrics>,
}

/// How large a lane's queue may become.
#[derive(Clone, Copy)]
pub(super) struct LaneLimits {
    pub(super) frames_max: usize,
    pub(super) bytes_max: usize,
}

impl Link {
    pub(super) fn new(
        id: u64,
        peer: NodeId,
        kind: LinkKind,
        connection: Connection,
        info: PeerInfo,
        limits: LaneLimits,
        metrics: Arc<Metrics>,
    ) -> Self {
        let lanes = (0..lane_count(kind))
            .map(|index| LaneQueue::new(lane_at(kind, index), limits.frames_max, limits.bytes_max))
            .collect();
        Self {
            id,
            peer,
            kind,
            gone: CancellationToken::new(),
            info,
            connection,
            lanes,
            pending: Pending::default(),
            metrics,
        }
    }

    /// Closes the connection; calls under way end as lost.
    pub(super) fn close(&self, code: CloseCode) {
        code.close(&self.connection);
        for lane in &self.lanes {
            lane.close(&self.metrics);
        }
        self.pending.close();
        self.gone.cancel();
    }

    /// The lanes, by index.
    pub(super) fn lanes(&self) -> &[LaneQueue] {
        &self.lanes
    }

    /// The lane for replies to what came on the lane at `index`.
    pub(super) fn reply_lane(&self, index: usize) -> &LaneQueue {
        &self.lanes[answer_index(self.kind, index)]
    }

    /// Queues a notice on the lane at `index`.
    pub(super) fn notify(&self, index: usize, payload: Bytes) -> Result<(), NotifyError> {
        let head = FrameHead { kind: FrameKind::Notice, id: 0, deadline_ms: 0 };
        self.lanes[index].push(head, payload, &self.metrics).map_err(|rejected| match rejected {
            Rejected::Full(_) => NotifyError::Overloaded(self.peer),
            Rejected::Closed => NotifyError::NotConnected(self.peer),
        })
    }

    /// Queues a request on the lane at `index`; the future waits for its reply.
    pub(super) fn call(
        self: Arc<Self>,
        index: usize,
        request: Bytes,
        now: Instant,
        deadline: Instant,
    ) -> Result<BoxFuture<'static, Result<Bytes, CallError>>, CallError> {
        let peer = self.peer;
        let (id, reply) = self.pending.begin().ok_or(CallError::NotConnected(peer))?;
        let waiting = Waiting { link: self, id };
        let deadline_ms = deadline_ms(deadline.saturating_duration_since(now));
        let head = FrameHead { kind: FrameKind::Request, id, deadline_ms };
        let link = &waiting.link;
        link.lanes[index].push(head, request, &link.metrics).map_err(
            |rejected| match rejected {
                Rejected::Full(_) => CallError::Overloaded(peer),
                Rejected::Closed => CallError::NotConnected(peer),
            },
        )?;
        Ok(Box::pin(async move {
            let result = match timeout_at(deadline, reply).await {
                Err(_) => Err(CallError::Deadline(peer)),
                Ok(Err(_) | Ok(Reply::Failed)) => Err(CallError::Lost(peer)),
                Ok(Ok(Reply::Answer(answer))) => Ok(answer),
                Ok(Ok(Reply::Declined)) => Err(CallError::Refused(peer)),
                Ok(Ok(Reply::Busy)) => Err(CallError::Overloaded(peer)),
            };
            let link = &waiting.link;
            let lane = link.lanes[index].lane();
            link.metrics.call_ended(lane, now.elapsed().as_secs_f64(), &result);
            result
        }))
    }

    /// Moves the connection's bytes until it ends; then all of it has ended.
    pub(super) async fn run(
        self: &Arc<Self>,
        streams: Vec<(SendStream, RecvStream)>,
        service: Service,
    ) {
        let mut tasks = JoinSet::new();
        let service = Arc::new(service);
        let mut sends = Vec::with_capacity(streams.len());
        for (index, (send, receive)) in streams.into_iter().enumerate() {
            sends.push(send);
            let (link, service) = (Arc::clone(self), Arc::clone(&service));
            tasks.spawn(async move { reader::read(&link, index, receive, &service).await });
        }
        tasks.spawn(Arc::clone(self).write(sends));
        let link = Arc::clone(self);
        tasks.spawn(async move {
            // All lanes are open: one more stream is one too many.
            match link.connection.accept_bi().await {
                Ok(_) => Some(CloseCode::StreamFlood),
                Err(_) => None,
            }
        });
        let code = match tasks.join_next().await {
            Some(Ok(code)) => code,
            // A panic in a handler ends its lane.
            Some(Err(_)) | None => Some(CloseCode::Internal),
        };
        if let Some(code) = code {
            if code.is_violation() {
                self.metrics.violations.increment(1);
            }
            tracing::warn!(
                peer = self.peer.0,
                connection = self.kind.name(),
                reason = code.reason(),
                "closing a connection to a peer"
            );
            code.close(&self.connection);
        }
        self.close(CloseCode::Internal);
        while tasks.join_next().await.is_some() {}
        let reason = self.connection.close_reason();
        tracing::info!(
            peer = self.peer.0,
            connection = self.kind.name(),
            reason = reason.map(tracing::field::display),
            "connection to a peer ended"
        );
    }

    /// Writes all lanes until the first of them ends.
    async fn write(self: Arc<Self>, streams: Vec<SendStream>) -> Option<CloseCode> {
        let lanes = self.lanes.iter().zip(streams);
        let mut writers: FuturesUnordered<_> =
            lanes.map(|(lane, stream)| lane::write(lane, stream, &self.metrics)).collect();
        writers.next().await.flatten()
    }
}

/// Whole milliseconds, rounded up: a deadline is never shortened to nothing.
fn deadline_ms(remaining: std::time::Duration) -> u32 {
    u32::try_from(remaining.as_micros().div_ceil(1_000)).unwrap_or(u32::MAX)
}

/// Forgets the call when its caller does.
struct Waiting {
    link: Arc<Link>,
    id: u64,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.link.pending.forget(self.id);
    }
}
