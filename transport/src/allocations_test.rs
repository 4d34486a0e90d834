//! How many allocations frames cost on their way through a lane. The same work gives the same count on
//! every machine: a regression guard, since times on shared machines mean nothing.

use allocation_counter::measure;
use bytes::Bytes;

use crate::frame::{FrameDecoder, FrameHead, FrameKind};

const FRAMES: usize = 128;

#[test]
fn a_frame_costs_one_allocation_and_its_head_none() {
    let payload = Bytes::from(vec![7; 256]);
    let mut lane = Vec::with_capacity(FRAMES * 512);
    let writing = measure(|| {
        for id in 0..FRAMES as u64 {
            let head = FrameHead { kind: FrameKind::Request, id, deadline_ms: 5000 };
            lane.extend_from_slice(&head.encode(payload.len()));
            lane.extend_from_slice(&payload);
        }
    });
    assert_eq!(writing.count_total, 0);
    let mut input = Bytes::from(lane);
    let mut decoder = FrameDecoder::default();
    let mut frames = Vec::with_capacity(FRAMES);
    let reading = measure(|| {
        while let Some(frame) = decoder.next(&mut input).unwrap() {
            frames.push(frame);
        }
    });
    assert_eq!(frames.len(), FRAMES);
    // The payload's own, and what counts the references to it.
    assert!(reading.count_total <= 2 * FRAMES as u64, "{reading:?}");
}
