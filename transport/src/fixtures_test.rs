//! The bytes of this crate's formats that releases wrote.

#[path = "../../fixtures/kept.rs"]
mod kept;

use bytes::Bytes;

use self::kept::Format;
use crate::{
    frame::{Frame, FrameDecoder, FrameHead, FrameKind},
    quic::hello_samples,
};

#[test]
fn bytes_of_kept_releases_are_read_and_those_of_this_one_are_written() {
    kept::check(&formats());
}

fn frames() -> Vec<Frame> {
    let kinds = [FrameKind::Request, FrameKind::Answer, FrameKind::Refusal, FrameKind::Notice];
    let frame = |(id, kind)| {
        let head = FrameHead { kind, id, deadline_ms: 5_000 };
        Frame { head, payload: Bytes::from_static(b"ping") }
    };
    (7..).zip(kinds).map(frame).collect()
}

fn formats() -> Vec<Format> {
    let frames = frames();
    let encode = |frame: &Frame| [&frame.head.encode(4)[..], &frame.payload].concat();
    let written = frames.iter().map(encode).collect();
    let reads = Box::new(move |number: usize, bytes: &[u8]| {
        let mut input = Bytes::copy_from_slice(bytes);
        FrameDecoder::default().next(&mut input) == Ok(Some(frames[number].clone()))
    });
    let mut formats = vec![Format { name: "frame", written, reads }];
    for (name, written, reads) in hello_samples() {
        formats.push(Format {
            name,
            written: vec![written],
            reads: Box::new(move |_, b| reads(b)),
        });
    }
    formats
}
