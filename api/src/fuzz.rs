//! What fuzzers feed: each function takes any bytes as a client would send them, and panics where a
//! promise is broken. `fuzz/` runs them under libFuzzer, the tests below on a kept corpus.

use crate::websocket::codec::{Decoder, Event, Flow, ProtocolError, Role};

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

/// Decodes the input as WebSocket frames: however they are cut, the same events come out, and no
/// more than the limit is held.
pub fn websocket(input: &[u8]) {
    let Some((piece, bytes)) = input.split_first() else { return };
    for role in [Role::Server, Role::Client] {
        let whole = decode(role, bytes, bytes.len().max(1));
        assert_eq!(decode(role, bytes, usize::from(*piece).max(1)), whole);
    }
}

/// Reads the input as the JSON of a MOSA request.
pub fn mosa(input: &[u8]) {
    crate::mosa::fuzz(input);
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;

    fn corpus(target: &str, run: impl Fn(&[u8])) {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(target);
        let mut files: Vec<_> =
            fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort();
        assert!(!files.is_empty(), "{} is empty", dir.display());
        for file in files {
            println!("{}", file.display());
            run(&fs::read(&file).unwrap());
        }
    }

    #[test]
    fn corpus_of_the_websocket_passes() {
        corpus("websocket", websocket);
    }

    #[test]
    fn corpus_of_mosa_passes() {
        corpus("mosa", mosa);
    }
}
