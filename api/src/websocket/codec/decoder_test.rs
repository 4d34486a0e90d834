use proptest::prelude::*;

use super::*;
use crate::websocket::codec::{CloseCode, write_close, write_frame, write_masked_frame};

const MAX: usize = 64 * 1024;

/// An event that owns its payload.
#[derive(Debug, Clone, PartialEq)]
enum Owned {
    Text(String),
    Binary(Vec<u8>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(Option<u16>),
}

fn own(event: Event<'_>) -> Owned {
    match event {
        Event::Text(text) => Owned::Text(text.to_owned()),
        Event::Binary(bytes) => Owned::Binary(bytes.to_vec()),
        Event::Ping(bytes) => Owned::Ping(bytes.to_vec()),
        Event::Pong(bytes) => Owned::Pong(bytes.to_vec()),
        Event::Close(code) => Owned::Close(code),
    }
}

/// Feeds `bytes` in pieces of `piece`.
fn decode_with(role: Role, bytes: &[u8], piece: usize) -> Result<Vec<Owned>, ProtocolError> {
    let mut decoder = Decoder::new(role, MAX);
    let mut events = Vec::new();
    for chunk in bytes.chunks(piece.max(1)) {
        let mut chunk = chunk.to_vec();
        let used = decoder.feed(&mut chunk, |event| {
            events.push(own(event));
            Flow::Continue
        })?;
        assert_eq!(used, chunk.len());
    }
    Ok(events)
}

/// Decodes as a server, whole and in pieces; the outcome must not depend on that.
fn decode(bytes: &[u8]) -> Result<Vec<Owned>, ProtocolError> {
    let whole = decode_with(Role::Server, bytes, usize::MAX);
    for piece in [1, 2, 3, 7, 64] {
        assert_eq!(decode_with(Role::Server, bytes, piece), whole, "pieces of {piece}");
    }
    whole
}

fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mask = [0x12, 0x34, 0x56, 0x78];
    let mut out = vec![first, 0x80 | u8::try_from(payload.len()).unwrap().min(125)];
    assert!(payload.len() <= 125);
    out.extend_from_slice(&mask);
    let start = out.len();
    out.extend_from_slice(payload);
    apply_mask(&mut out[start..], mask, 0);
    out
}

const TEXT: u8 = 0x1;
const BINARY: u8 = 0x2;
const FIN: u8 = 0x80;

#[test]
fn examples_of_the_rfc_decode() {
    // Section 5.7.
    let hello = Owned::Text("Hello".into());
    let masked = hex::decode("818537fa213d7f9f4d5158").unwrap();
    assert_eq!(decode(&masked), Ok(vec![hello.clone()]));
    let unmasked = hex::decode("810548656c6c6f").unwrap();
    assert_eq!(decode_with(Role::Client, &unmasked, 1), Ok(vec![hello.clone()]));
    let fragments = hex::decode("010348656c80026c6f").unwrap();
    assert_eq!(decode_with(Role::Client, &fragments, 2), Ok(vec![hello]));
    let pong = hex::decode("8a8537fa213d7f9f4d5158").unwrap();
    assert_eq!(decode(&pong), Ok(vec![Owned::Pong(b"Hello".to_vec())]));
}

#[test]
fn fragments_are_joined_around_control_frames() {
    let bytes = [
        frame(TEXT, b"one "),
        frame(FIN | 0x9, b"ping"),
        frame(0, b""),
        frame(FIN | 0xA, b"pong"),
        frame(FIN, b"two"),
        frame(FIN | BINARY, b""),
    ]
    .concat();
    let expected = vec![
        Owned::Ping(b"ping".to_vec()),
        Owned::Pong(b"pong".to_vec()),
        Owned::Text("one two".into()),
        Owned::Binary(vec![]),
    ];
    assert_eq!(decode(&bytes), Ok(expected));
}

#[test]
fn characters_may_be_split_between_fragments() {
    let text = "κόσμε 😀".as_bytes();
    let mut bytes = frame(TEXT, &text[..1]);
    for byte in &text[1..] {
        bytes.extend(frame(0, &[*byte]));
    }
    bytes.extend(frame(FIN, b""));
    assert_eq!(decode(&bytes), Ok(vec![Owned::Text("κόσμε 😀".into())]));
}

#[test]
fn broken_frames_are_refused() {
    use ProtocolError as E;
    let long_control = [vec![FIN | 0x9, 0xFE, 0, 126, 0, 0, 0, 0], vec![0; 126]].concat();
    let cases: Vec<(Vec<u8>, ProtocolError)> = vec![
        (frame(FIN | 0x40 | TEXT, b"x"), E::ReservedBits),
        (frame(FIN | 0x20 | TEXT, b"x"), E::ReservedBits),
        (frame(FIN | 0x10 | 0x9, b"x"), E::ReservedBits),
        (frame(FIN | 0x3, b""), E::UnknownOpcode),
        (frame(FIN | 0x7, b""), E::UnknownOpcode),
        (frame(FIN | 0xB, b""), E::UnknownOpcode),
        (frame(FIN | 0xF, b""), E::UnknownOpcode),
        (frame(0x9, b"x"), E::FragmentedControl),
        (frame(0x8, b""), E::FragmentedControl),
        (long_control, E::ControlTooLong),
        (vec![FIN | TEXT, 0x01, b'x'], E::Unmasked),
        (frame(FIN, b"x"), E::NothingToContinue),
        (frame(0, b"x"), E::NothingToContinue),
        ([frame(TEXT, b"a"), frame(FIN | TEXT, b"b")].concat(), E::ExpectedContinuation),
        ([frame(TEXT, b"a"), frame(BINARY, b"b")].concat(), E::ExpectedContinuation),
        (vec![FIN | TEXT, 0xFE, 0, 5, 0, 0, 0, 0], E::LengthNotShortest),
        (vec![FIN | TEXT, 0xFF, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF], E::LengthNotShortest),
        (vec![FIN | TEXT, 0xFF, 0x80, 0, 0, 0, 0, 0, 0, 0], E::LengthNotShortest),
        (frame(FIN | TEXT, b"\xC0\x80"), E::NotUtf8),
        (frame(FIN | TEXT, b"\xED\xA0\x80"), E::NotUtf8),
        (frame(FIN | TEXT, b"abc\xE2\x82"), E::NotUtf8),
        ([frame(TEXT, b"a\xE2"), frame(FIN, b"")].concat(), E::NotUtf8),
        // Invalid before the message ends: refused at once.
        ([frame(TEXT, b"a\xFF")].concat(), E::NotUtf8),
    ];
    for (bytes, error) in cases {
        assert_eq!(decode(&bytes), Err(error), "{}", hex::encode(&bytes));
    }
    let masked = frame(FIN | TEXT, b"x");
    assert_eq!(decode_with(Role::Client, &masked, 1), Err(E::Masked));
}

#[test]
fn close_codes_are_judged() {
    let close = |payload: &[u8]| decode(&frame(FIN | 0x8, payload));
    assert_eq!(close(b""), Ok(vec![Owned::Close(None)]));
    for code in [1000u16, 1001, 1003, 1007, 1011, 1012, 1013, 1014, 3000, 3999, 4000, 4999] {
        assert_eq!(close(&code.to_be_bytes()), Ok(vec![Owned::Close(Some(code))]), "{code}");
    }
    for code in [0u16, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535] {
        assert_eq!(close(&code.to_be_bytes()), Err(ProtocolError::BadClose), "{code}");
    }
    assert_eq!(close(&[3]), Err(ProtocolError::BadClose));
    assert_eq!(close(b"\x03\xE8\xFF"), Err(ProtocolError::NotUtf8));
    let longest = [&[0x03, 0xE8][..], &[b'x'; 123]].concat();
    assert_eq!(close(&longest), Ok(vec![Owned::Close(Some(1000))]));
}

#[test]
fn too_large_is_refused_by_its_header() {
    let mut head = vec![FIN | TEXT, 0xFF];
    head.extend_from_slice(&(1u64 << 40).to_be_bytes());
    head.extend_from_slice(&[0; 4]);
    assert_eq!(decode(&head), Err(ProtocolError::MessageTooLarge));
    let fragment = |first| {
        let mut out = vec![];
        write_masked_frame(&mut out, Opcode::Binary, &vec![0; MAX / 2 + 1], [1, 2, 3, 4]);
        out[0] = first;
        out
    };
    let bytes = [fragment(BINARY), fragment(FIN)].concat();
    assert_eq!(decode_with(Role::Server, &bytes, 4096), Err(ProtocolError::MessageTooLarge));
}

#[test]
fn pause_leaves_the_rest() {
    let mut bytes = [frame(FIN | TEXT, b"a"), frame(FIN | TEXT, b"b")].concat();
    let mut decoder = Decoder::new(Role::Server, MAX);
    let mut seen = Vec::new();
    let used = decoder
        .feed(&mut bytes, |event| {
            seen.push(own(event));
            Flow::Pause
        })
        .unwrap();
    assert_eq!(used, bytes.len() / 2);
    let rest = decoder.feed(&mut bytes[used..], |event| {
        seen.push(own(event));
        Flow::Continue
    });
    assert_eq!(rest, Ok(used));
    assert_eq!(seen, [Owned::Text("a".into()), Owned::Text("b".into())]);
    assert!(decoder.is_idle());
}

#[test]
fn idle_decoder_holds_no_heap() {
    let mut decoder = Decoder::new(Role::Server, MAX);
    let mut bytes = Vec::new();
    write_masked_frame(&mut bytes, Opcode::Text, "x".repeat(5000).as_bytes(), [9, 8, 7, 6]);
    for chunk in bytes.chunks_mut(1000) {
        decoder.feed(chunk, |_| Flow::Continue).unwrap();
    }
    assert!(decoder.is_idle());
    assert_eq!((decoder.data.capacity(), decoder.control.capacity()), (0, 0));
}

#[test]
fn close_frames_of_ours_decode() {
    let codes = [CloseCode::Restart, CloseCode::KeyRevoked, CloseCode::SlowReader];
    for code in codes {
        let mut out = Vec::new();
        write_close(&mut out, code.code(), code.reason(), None);
        let events = decode_with(Role::Client, &out, 3);
        assert_eq!(events, Ok(vec![Owned::Close(Some(code.code()))]));
    }
}

/// Pseudo-random bytes must never panic, loop, or hold more than the limit.
#[test]
fn garbage_is_harmless() {
    let mut entropy = 0x2545_F491_4F6C_DD1D_u64;
    let mut next = || {
        entropy ^= entropy << 13;
        entropy ^= entropy >> 7;
        entropy ^= entropy << 17;
        entropy
    };
    for _ in 0..20_000 {
        let length = (next() % 200) as usize;
        let mut bytes: Vec<u8> = (0..length).map(|_| next() as u8).collect();
        // Half of them with a plausible start, to get past the header.
        if length > 6 && next() % 2 == 0 {
            bytes[0] = FIN | (next() % 3) as u8;
            bytes[1] = 0x80 | (next() % 126) as u8;
        }
        let mut decoder = Decoder::new(Role::Server, 1024);
        for chunk in bytes.chunks_mut(1 + (next() % 50) as usize) {
            if decoder.feed(chunk, |_| Flow::Continue).is_err() {
                break;
            }
        }
        assert!(decoder.data.len() <= 1024 && decoder.control.len() <= CONTROL_BYTES_MAX);
    }
}

fn messages() -> impl Strategy<Value = Vec<Owned>> {
    let control = || proptest::collection::vec(any::<u8>(), 0..=125);
    let message = prop_oneof![
        ".{0,300}".prop_map(Owned::Text),
        proptest::collection::vec(any::<u8>(), 0..70_000 / 2).prop_map(Owned::Binary),
        control().prop_map(Owned::Ping),
        control().prop_map(Owned::Pong),
    ];
    proptest::collection::vec(message, 0..6)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn what_is_written_is_read(
        messages in messages(),
        mask in any::<[u8; 4]>(),
        piece in 1usize..5000,
    ) {
        let mut masked = Vec::new();
        let mut plain = Vec::new();
        for message in &messages {
            let (opcode, payload) = match message {
                Owned::Text(text) => (Opcode::Text, text.as_bytes()),
                Owned::Binary(bytes) => (Opcode::Binary, bytes.as_slice()),
                Owned::Ping(bytes) => (Opcode::Ping, bytes.as_slice()),
                Owned::Pong(bytes) => (Opcode::Pong, bytes.as_slice()),
                Owned::Close(_) => unreachable!("none is made"),
            };
            write_masked_frame(&mut masked, opcode, payload, mask);
            write_frame(&mut plain, opcode, payload);
        }
        prop_assert_eq!(decode_with(Role::Server, &masked, piece).unwrap(), messages.clone());
        prop_assert_eq!(decode_with(Role::Client, &plain, piece).unwrap(), messages);
    }

    #[test]
    fn masking_twice_is_nothing(
        mut bytes in proptest::collection::vec(any::<u8>(), 0..200),
        mask in any::<[u8; 4]>(),
        cut in 0usize..200,
    ) {
        let before = bytes.clone();
        let cut = cut.min(bytes.len());
        apply_mask(&mut bytes, mask, 0);
        let (left, right) = bytes.split_at_mut(cut);
        apply_mask(left, mask, 0);
        apply_mask(right, mask, cut as u64);
        prop_assert_eq!(bytes, before);
    }
}
