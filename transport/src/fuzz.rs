//! What fuzzers feed: each function takes any bytes as a stranger would send them, and panics where a
//! promise is broken. `fuzz/` runs them under libFuzzer, the tests below on a kept corpus.

use bytes::Bytes;

use crate::frame::{Frame, FrameDecoder, FrameError};

/// Decodes the input as frames of a lane: however it is cut, the same frames come out.
pub fn frame(input: &[u8]) {
    let Some((piece, bytes)) = input.split_first() else { return };
    let decode = |piece: usize| -> Result<Vec<Frame>, FrameError> {
        let mut decoder = FrameDecoder::default();
        let mut frames = Vec::new();
        for chunk in bytes.chunks(piece.max(1)) {
            let mut chunk = Bytes::copy_from_slice(chunk);
            while let Some(frame) = decoder.next(&mut chunk)? {
                frames.push(frame);
            }
            assert!(chunk.is_empty(), "a decoder that wants more has taken all");
        }
        Ok(frames)
    };
    let whole = decode(bytes.len());
    assert_eq!(decode(usize::from(*piece)), whole);
    let Ok(frames) = whole else { return };
    let mut encoded = Vec::new();
    for frame in &frames {
        encoded.extend_from_slice(&frame.head.encode(frame.payload.len()));
        encoded.extend_from_slice(&frame.payload);
    }
    assert_eq!(encoded, bytes[..encoded.len()], "frames are what their bytes were");
}

/// Decodes the input as a handshake frame without its length, in every version.
pub fn hello(input: &[u8]) {
    crate::quic::fuzz_hello(input);
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
    fn corpus_of_frames_passes() {
        corpus("frame", frame);
    }

    #[test]
    fn corpus_of_handshakes_passes() {
        corpus("hello", hello);
    }
}
