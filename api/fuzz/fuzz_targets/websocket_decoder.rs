//! Bytes from a hostile client: however they are cut, the decoder gives the same events and holds
//! no more than its limit.
//!
//! `cargo +nightly fuzz run websocket_decoder` in `api/`.
#![no_main]

use heliograph_api::websocket::codec::{Decoder, Event, Flow, ProtocolError, Role};
use libfuzzer_sys::fuzz_target;

const MESSAGE_BYTES_MAX: usize = 4096;

fn decode(role: Role, bytes: &[u8], piece: usize) -> (Vec<String>, Result<(), ProtocolError>) {
    let mut decoder = Decoder::new(role, MESSAGE_BYTES_MAX);
    let mut events = Vec::new();
    for chunk in bytes.chunks(piece) {
        let mut chunk = chunk.to_vec();
        let result = decoder.feed(&mut chunk, |event| {
            if let Event::Text(text) = event {
                assert!(text.len() <= MESSAGE_BYTES_MAX);
            }
            events.push(format!("{event:?}"));
            Flow::Continue
        });
        match result {
            Ok(used) => assert_eq!(used, chunk.len()),
            Err(error) => return (events, Err(error)),
        }
    }
    (events, Ok(()))
}

fuzz_target!(|input: (u8, Vec<u8>)| {
    let (piece, bytes) = input;
    for role in [Role::Server, Role::Client] {
        let whole = decode(role, &bytes, bytes.len().max(1));
        assert_eq!(decode(role, &bytes, usize::from(piece).max(1)), whole);
    }
});
