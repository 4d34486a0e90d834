//! The sending end of a lane: a bounded queue and the one task that writes it.
//!
//! Whoever sends appends to the queue and is gone; the writer takes all that is queued at once and
//! hands it to QUIC in one call, so that frames share packets and system calls while the previous
//! batch is on its way.

use std::mem;

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use quinn::SendStream;
use tokio::{
    sync::Notify,
    time::{Instant, timeout_at},
};

use super::CloseCode;
use crate::{
    frame::{FrameHead, HEAD_BYTES},
    metrics::Metrics,
    network::Lane,
};

/// Payloads up to this size are copied behind their head into a shared buffer, larger ones are
/// queued as they are. 4 KiB: copying that costs about what one more chunk costs in QUIC.
const COPY_BYTES_MAX: usize = 4 * 1024;

/// How much the shared buffer grows at a time. 16 KiB: some hundred small frames.
const TAIL_BYTES: usize = 16 * 1024;

/// Why a frame was not queued; the payload comes back.
#[derive(Debug)]
pub(super) enum Rejected {
    Full(Bytes),
    Closed,
}

/// The queue of a lane.
pub(super) struct LaneQueue {
    lane: Lane,
    frames_max: usize,
    bytes_max: usize,
    state: Mutex<State>,
    filled: Notify,
    taken: Notify,
}

#[derive(Default)]
struct State {
    chunks: Vec<Bytes>,
    tail: BytesMut,
    frames: usize,
    bytes: usize,
    closed: bool,
}

impl LaneQueue {
    pub(super) fn new(lane: Lane, frames_max: usize, bytes_max: usize) -> Self {
        let state = Mutex::default();
        Self { lane, frames_max, bytes_max, state, filled: Notify::new(), taken: Notify::new() }
    }

    pub(super) fn lane(&self) -> Lane {
        self.lane
    }

    /// Queues a frame. An empty queue takes any frame, so that a limit below the largest frame
    /// cannot block it for ever.
    pub(super) fn push(
        &self,
        head: FrameHead,
        payload: Bytes,
        metrics: &Metrics,
    ) -> Result<(), Rejected> {
        let bytes = HEAD_BYTES + payload.len();
        let was_empty = {
            let mut state = self.state.lock();
            if state.closed {
                return Err(Rejected::Closed);
            }
            let full = state.frames >= self.frames_max || state.bytes + bytes > self.bytes_max;
            if full && state.frames > 0 {
                return Err(Rejected::Full(payload));
            }
            if state.tail.capacity() - state.tail.len() < bytes.min(COPY_BYTES_MAX) {
                state.tail.reserve(TAIL_BYTES);
            }
            state.tail.extend_from_slice(&head.encode(payload.len()));
            if payload.len() <= COPY_BYTES_MAX {
                state.tail.extend_from_slice(&payload);
            } else {
                let tail = state.tail.split().freeze();
                state.chunks.push(tail);
                state.chunks.push(payload);
            }
            state.bytes += bytes;
            state.frames += 1;
            state.frames == 1
        };
        metrics.lane_queue_frames(self.lane).increment(1.0);
        if was_empty {
            self.filled.notify_one();
        }
        Ok(())
    }

    /// Queues a frame, waiting for room until `deadline`; then it is dropped.
    pub(super) async fn push_until(
        &self,
        head: FrameHead,
        mut payload: Bytes,
        deadline: Instant,
        metrics: &Metrics,
    ) {
        loop {
            let mut taken = std::pin::pin!(self.taken.notified());
            taken.as_mut().enable();
            match self.push(head, payload, metrics) {
                Ok(()) | Err(Rejected::Closed) => return,
                Err(Rejected::Full(back)) => payload = back,
            }
            if timeout_at(deadline, taken).await.is_err() {
                return;
            }
        }
    }

    /// Refuses all frames from now on and drops what is queued.
    pub(super) fn close(&self, metrics: &Metrics) {
        let dropped = {
            let mut state = self.state.lock();
            let dropped = mem::take(&mut *state);
            state.closed = true;
            dropped
        };
        metrics.lane_queue_frames(self.lane).decrement(dropped.frames as f64);
        self.filled.notify_one();
        self.taken.notify_waiters();
    }

    /// Waits for frames and takes all there are into `batch`, which must be empty. `None` once the
    /// queue is closed.
    async fn take(&self, batch: &mut Vec<Bytes>, metrics: &Metrics) -> Option<usize> {
        loop {
            {
                let mut state = self.state.lock();
                if state.closed {
                    return None;
                }
                if state.frames > 0 {
                    mem::swap(&mut state.chunks, batch);
                    if !state.tail.is_empty() {
                        batch.push(state.tail.split().freeze());
                    }
                    metrics.lane_queue_frames(self.lane).decrement(state.frames as f64);
                    state.frames = 0;
                    let bytes = mem::take(&mut state.bytes);
                    drop(state);
                    self.taken.notify_waiters();
                    return Some(bytes);
                }
            }
            self.filled.notified().await;
            // Whoever filled the queue woke this task, which would run next: all that is ready to run
            // has its say first. What that costs is a turn of the scheduler; what it saves is packets
            // and system calls.
            tokio::task::yield_now().await;
        }
    }
}

/// Writes the lane until its queue is closed or its connection ends. The writers of a connection run
/// in one task, so that what several lanes write in one turn shares packets.
pub(super) async fn write(
    queue: &LaneQueue,
    mut stream: SendStream,
    metrics: &Metrics,
) -> Option<CloseCode> {
    let mut batch = Vec::new();
    while let Some(bytes) = queue.take(&mut batch, metrics).await {
        metrics.sent_bytes(queue.lane).increment(bytes as u64);
        match stream.write_all_chunks(&mut batch).await {
            Ok(()) => batch.clear(),
            Err(quinn::WriteError::ConnectionLost(_)) => return None,
            Err(_) => return Some(CloseCode::LaneClosed),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use tokio::time::Duration;

    use super::*;
    use crate::frame::{FrameDecoder, FrameKind};

    fn head(id: u64) -> FrameHead {
        FrameHead { kind: FrameKind::Notice, id, deadline_ms: 0 }
    }

    fn push(queue: &LaneQueue, id: u64, bytes: usize) -> Result<(), Rejected> {
        queue.push(head(id), Bytes::from(vec![id as u8; bytes]), &Metrics::new())
    }

    /// The ids of the frames in a batch.
    fn ids(batch: &[Bytes]) -> Vec<u64> {
        let mut decoder = FrameDecoder::default();
        let mut ids = Vec::new();
        for chunk in batch {
            let mut chunk = chunk.clone();
            while let Some(frame) = decoder.next(&mut chunk).unwrap() {
                assert!(frame.payload.iter().all(|&byte| byte == frame.head.id as u8));
                ids.push(frame.head.id);
            }
        }
        ids
    }

    #[tokio::test]
    async fn batch_holds_all_frames_in_order_whatever_their_size() {
        let queue = LaneQueue::new(Lane::Urgent, 100, 1_000_000);
        let sizes = [0, 10, COPY_BYTES_MAX, COPY_BYTES_MAX + 1, 5, 100_000, 100_000, 1];
        for (id, bytes) in sizes.into_iter().enumerate() {
            push(&queue, id as u64, bytes).unwrap();
        }
        let mut batch = Vec::new();
        let bytes = queue.take(&mut batch, &Metrics::new()).await.unwrap();
        assert_eq!(bytes, batch.iter().map(Bytes::len).sum::<usize>());
        assert_eq!(ids(&batch), (0..sizes.len() as u64).collect::<Vec<_>>());
    }

    #[tokio::test]
    async fn full_queue_hands_the_payload_back_until_it_is_taken() {
        let metrics = Metrics::new();
        let by_count = LaneQueue::new(Lane::Urgent, 2, 1_000);
        let by_bytes = LaneQueue::new(Lane::Urgent, 100, 2 * (HEAD_BYTES + 10));
        for queue in [by_count, by_bytes] {
            push(&queue, 1, 10).unwrap();
            push(&queue, 2, 10).unwrap();
            let Err(Rejected::Full(payload)) = push(&queue, 3, 10) else { panic!("not full") };
            assert_eq!(payload, vec![3; 10]);
            let mut batch = Vec::new();
            queue.take(&mut batch, &metrics).await.unwrap();
            push(&queue, 4, 10).unwrap();
        }
    }

    #[test]
    fn empty_queue_takes_a_frame_over_its_limit() {
        let queue = LaneQueue::new(Lane::Bulk, 10, 100);
        push(&queue, 1, 1_000).unwrap();
        assert!(matches!(push(&queue, 2, 0), Err(Rejected::Full(_))));
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_frame_is_queued_when_there_is_room_or_dropped_at_its_deadline() {
        let metrics = Metrics::new();
        let queue = LaneQueue::new(Lane::Urgent, 1, 1_000);
        push(&queue, 1, 1).unwrap();
        let deadline = Instant::now() + Duration::from_secs(1);
        queue.push_until(head(2), Bytes::from_static(&[2]), deadline, &metrics).await;
        assert_eq!(Instant::now(), deadline);

        let deadline = deadline + Duration::from_secs(1);
        let mut batch = Vec::new();
        let (_, taken) = tokio::join!(
            queue.push_until(head(3), Bytes::from_static(&[3]), deadline, &metrics),
            queue.take(&mut batch, &metrics),
        );
        assert!(taken.is_some());
        assert_eq!(ids(&batch), [1]);
        batch.clear();
        queue.take(&mut batch, &metrics).await.unwrap();
        assert_eq!(ids(&batch), [3]);
    }

    #[tokio::test]
    async fn closed_queue_takes_and_gives_nothing() {
        let metrics = Metrics::new();
        let queue = LaneQueue::new(Lane::Urgent, 10, 1_000);
        push(&queue, 1, 1).unwrap();
        queue.close(&metrics);
        assert!(matches!(push(&queue, 2, 1), Err(Rejected::Closed)));
        assert_eq!(queue.take(&mut Vec::new(), &metrics).await, None);
    }
}
