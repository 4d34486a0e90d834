//! The WebSocket path: what the codec and a whole connection cost, on one core.
//!
//! `cargo bench -p heliograph-api --bench websocket`; figures are in `docs/benchmarks.md`.

use std::hint::black_box;

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use heliograph_api::websocket::codec::{
    Decoder, Event, Flow, Opcode, Role, apply_mask, write_frame, write_masked_frame,
};

/// Frames in a buffer: what a socket holds after a few milliseconds of 128 in flight.
const FRAMES: usize = 64;
const MESSAGE_BYTES_MAX: usize = 256 << 10;
const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// A `message` frame as a client sends it, with so many bytes of content.
fn text(content_bytes: usize) -> String {
    let content = "A".repeat(content_bytes.div_ceil(3) * 4);
    format!(
        r#"{{"type":"message","recipient_id":"device-0123456789","message_id":"0123456789abcdef0123456789abcdef","content":"{content}"}}"#
    )
}

fn masked(content_bytes: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    for _ in 0..FRAMES {
        write_masked_frame(&mut bytes, Opcode::Text, text(content_bytes).as_bytes(), MASK);
    }
    bytes
}

fn decode(bytes: &mut [u8], piece: usize) -> usize {
    let mut decoder = Decoder::new(Role::Server, MESSAGE_BYTES_MAX);
    let mut seen = 0;
    for chunk in bytes.chunks_mut(piece) {
        let fed = decoder.feed(chunk, |event| {
            if let Event::Text(text) = event {
                seen += text.len();
            }
            Flow::Continue
        });
        fed.expect("the frames are sound");
    }
    seen
}

fn decoding(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("websocket_decode");
    for content_bytes in [256, 16 << 10] {
        let bytes = masked(content_bytes);
        group.throughput(Throughput::Elements(FRAMES as u64));
        // Whole frames in one read, and frames in the pieces that a full socket gives.
        for (how, piece) in [("whole", bytes.len()), ("pieces", 1400)] {
            let name = BenchmarkId::new(how, content_bytes);
            group.bench_function(name, |bencher| {
                // Decoding unmasks in place.
                bencher.iter_batched(
                    || bytes.clone(),
                    |mut bytes| black_box(decode(&mut bytes, piece)),
                    BatchSize::LargeInput,
                );
            });
        }
    }
    group.finish();
}

fn encoding(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("websocket_encode");
    for content_bytes in [256, 16 << 10] {
        let text = text(content_bytes);
        let mut out = Vec::with_capacity(FRAMES * (text.len() + 16));
        group.throughput(Throughput::Elements(FRAMES as u64));
        group.bench_function(BenchmarkId::from_parameter(content_bytes), |bencher| {
            bencher.iter(|| {
                out.clear();
                for _ in 0..FRAMES {
                    write_frame(&mut out, Opcode::Text, text.as_bytes());
                }
                black_box(out.len())
            });
        });
    }
    group.finish();
}

fn masking(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("websocket_mask");
    let mut payload = vec![7; 64 << 10];
    group.throughput(Throughput::Bytes(payload.len() as u64));
    group.bench_function("64 KiB", |bencher| {
        bencher.iter(|| apply_mask(black_box(&mut payload), MASK, 0));
    });
    group.finish();
}

criterion_group!(benches, decoding, encoding, masking);
criterion_main!(benches);
