//! The receiving end of a lane: decodes frames, hands notices and calls to the handler, replies to
//! their callers.

use std::{
    sync::{Arc, Weak},
    task::Poll,
};

use bytes::Bytes;
use quinn::RecvStream;
use tokio::{
    sync::Semaphore,
    time::{Duration, Instant, timeout_at},
};

use super::{CloseCode, link::Link, pending::Reply};
use crate::{
    frame::{
        Frame, FrameDecoder, FrameError, FrameHead, FrameKind, REFUSAL_BUSY, REFUSAL_DECLINED,
        REFUSAL_FAILED,
    },
    metrics::Metrics,
    network::{BoxFuture, Handler, Lane},
};

/// Chunks taken from QUIC at a time. 32: about one batch of received packets.
const CHUNKS: usize = 32;

/// What answers a peer.
pub(super) struct Service {
    pub(super) handler: Arc<dyn Handler>,
    /// One permit per call being served for this peer, over all its connections.
    pub(super) calls: Arc<Semaphore>,
    pub(super) metrics: Arc<Metrics>,
}

/// Reads the lane at `index` until its connection ends; the code is that of a violation.
pub(super) async fn read(
    link: &Arc<Link>,
    index: usize,
    mut stream: RecvStream,
    service: &Service,
) -> Option<CloseCode> {
    let lane = link.lanes()[index].lane();
    let mut decoder = FrameDecoder::default();
    let mut chunks: [Bytes; CHUNKS] = std::array::from_fn(|_| Bytes::new());
    loop {
        let filled = match stream.read_chunks(&mut chunks).await {
            Ok(Some(filled)) => filled,
            Err(quinn::ReadError::ConnectionLost(_)) => return None,
            Ok(None) | Err(_) => return Some(CloseCode::LaneClosed),
        };
        for chunk in &mut chunks[..filled] {
            let mut chunk = std::mem::take(chunk);
            service.metrics.received_bytes(lane).increment(chunk.len() as u64);
            loop {
                match decoder.next(&mut chunk) {
                    Ok(Some(frame)) => take(link, index, lane, frame, service).await,
                    Ok(None) => break,
                    Err(FrameError::Length) => return Some(CloseCode::FrameLength),
                    Err(FrameError::Version) => return Some(CloseCode::FrameVersion),
                    Err(FrameError::Kind) => return Some(CloseCode::FrameKind),
                }
            }
        }
    }
}

async fn take(link: &Arc<Link>, index: usize, lane: Lane, frame: Frame, service: &Service) {
    match frame.head.kind {
        FrameKind::Notice => service.handler.notify(link.peer, lane, frame.payload),
        FrameKind::Answer => link.pending.end(frame.head.id, Reply::Answer(frame.payload)),
        FrameKind::Refusal => {
            let reply = match frame.payload.first() {
                Some(&REFUSAL_DECLINED) => Reply::Declined,
                Some(&REFUSAL_BUSY) => Reply::Busy,
                // What a later version may say: all that is certain is that no answer comes.
                _ => Reply::Failed,
            };
            link.pending.end(frame.head.id, reply);
        }
        FrameKind::Request => serve(link, index, lane, frame, service).await,
    }
}

/// Begins a call here, so that calls of a lane begin in order; one that does not end at once goes
/// on in a task of its own.
async fn serve(link: &Arc<Link>, index: usize, lane: Lane, frame: Frame, service: &Service) {
    let FrameHead { id, deadline_ms, .. } = frame.head;
    let Ok(permit) = Arc::clone(&service.calls).try_acquire_owned() else {
        let (head, payload) = refusal(id, REFUSAL_BUSY);
        // With a full queue too, the caller is left to its deadline.
        let _ = link.reply_lane(index).push(head, payload, &service.metrics);
        return;
    };
    let deadline = Instant::now() + Duration::from_millis(deadline_ms.into());
    let handler = Arc::clone(&service.handler);
    let mut answer = handler.call(link.peer, lane, frame.payload, deadline);
    let early = futures_util::poll!(&mut answer);
    if let Poll::Ready(answer) = early {
        let (head, payload) = reply(id, answer);
        match link.reply_lane(index).push(head, payload, &service.metrics) {
            Ok(()) | Err(super::lane::Rejected::Closed) => {}
            Err(super::lane::Rejected::Full(payload)) => {
                let (link, metrics) = (Arc::clone(link), Arc::clone(&service.metrics));
                tokio::spawn(async move {
                    link.reply_lane(index).push_until(head, payload, deadline, &metrics).await;
                    drop(permit);
                });
            }
        }
        return;
    }
    // Not the connection itself: a call that outlives it must not keep its socket open.
    let (link, metrics) = (Arc::downgrade(link), Arc::clone(&service.metrics));
    metrics.served_calls.increment(1.0);
    tokio::spawn(async move {
        finish(&link, index, id, answer, deadline, &metrics).await;
        metrics.served_calls.decrement(1.0);
        drop(permit);
    });
}

async fn finish(
    link: &Weak<Link>,
    index: usize,
    id: u64,
    answer: BoxFuture<'static, Option<Bytes>>,
    deadline: Instant,
    metrics: &Metrics,
) {
    let Ok(answer) = timeout_at(deadline, answer).await else { return };
    let Some(link) = link.upgrade() else { return };
    let (head, payload) = reply(id, answer);
    link.reply_lane(index).push_until(head, payload, deadline, metrics).await;
}

/// The frame that ends a call. An answer over the limit cannot be sent: the handler broke its
/// contract, and all its caller can learn is that none will come.
fn reply(id: u64, answer: Option<Bytes>) -> (FrameHead, Bytes) {
    match answer {
        Some(payload) if payload.len() <= crate::network::FRAME_BYTES_MAX => {
            (FrameHead { kind: FrameKind::Answer, id, deadline_ms: 0 }, payload)
        }
        Some(payload) => {
            tracing::error!(bytes = payload.len(), "an answer exceeds the frame limit");
            refusal(id, REFUSAL_FAILED)
        }
        None => refusal(id, REFUSAL_DECLINED),
    }
}

fn refusal(id: u64, reason: u8) -> (FrameHead, Bytes) {
    let payload = Bytes::from_static(match reason {
        REFUSAL_BUSY => &[REFUSAL_BUSY],
        REFUSAL_FAILED => &[REFUSAL_FAILED],
        _ => &[REFUSAL_DECLINED],
    });
    (FrameHead { kind: FrameKind::Refusal, id, deadline_ms: 0 }, payload)
}
