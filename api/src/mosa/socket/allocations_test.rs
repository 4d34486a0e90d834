//! How many allocations the WebSocket path costs a message: from the bytes of a client's frame to what
//! the cluster is asked, and from what it pushes to the bytes of a frame. The same work gives the same
//! count on every machine: a regression guard, since times on shared machines mean nothing. Where a
//! change lowers a figure, its bound goes down as well.

use std::time::Duration;

use allocation_counter::measure;
use heliograph_cluster::model::{DeviceId, Message, MessageId, Priority};

use super::{
    super::{
        fields::Object,
        wire::{MessageRequest, parse_acknowledgement, write_message},
    },
    frames,
};
use crate::websocket::{
    Outbox,
    codec::{Decoder, Event, Flow, Opcode, Role, write_masked_frame},
};

const MESSAGES: usize = 128;
const MESSAGE_BYTES_MAX: usize = 256 << 10;

/// Asserts that `work` on a batch takes no more than so many allocations.
fn at_most(bound: u64, what: &str, work: impl FnOnce()) {
    let counted = measure(work).count_total;
    println!("{what}: {counted} allocations, bound {bound}");
    assert!(counted <= bound, "{what}: {counted} allocations for {MESSAGES} messages, not {bound}");
}

/// Frames of a client, as they come from its socket.
fn masked(text: impl Fn(usize) -> String) -> Vec<u8> {
    let mut bytes = Vec::new();
    for number in 0..MESSAGES {
        write_masked_frame(&mut bytes, Opcode::Text, text(number).as_bytes(), [1, 2, 3, 4]);
    }
    bytes
}

/// Hands each message of `bytes` to `take`.
fn decode(bytes: &mut [u8], mut take: impl FnMut(&str)) {
    let mut decoder = Decoder::new(Role::Server, MESSAGE_BYTES_MAX);
    let used = decoder.feed(bytes, |event| {
        let Event::Text(text) = event else { panic!("not a text: {event:?}") };
        take(text);
        Flow::Continue
    });
    assert_eq!(used.unwrap(), bytes.len());
}

#[test]
fn messages_come_in_with_no_more_allocations() {
    let content = "A".repeat(344);
    let mut bytes = masked(|number| {
        format!(
            r#"{{"type":"message","recipient_id":"box-{number}","message_id":"{number:032x}","content":"{content}"}}"#
        )
    });
    let mut requests = Vec::with_capacity(MESSAGES);
    at_most(512, "taking 128 messages in", || {
        decode(&mut bytes, |text| {
            let object = Object::parse(text.as_bytes()).unwrap();
            assert_eq!(object.text("type").unwrap().as_deref(), Some("message"));
            let request = MessageRequest::parse(&object, || Duration::from_secs(1)).unwrap();
            requests.push(request);
        });
    });
    assert_eq!(requests.len(), MESSAGES);
}

#[test]
fn acknowledgements_come_in_with_no_more_allocations() {
    let mut bytes = masked(|number| format!(r#"{{"type":"ack","message_ids":["{number:032x}"]}}"#));
    let mut count = 0;
    at_most(640, "taking 128 acknowledgements in", || {
        decode(&mut bytes, |text| {
            let object = Object::parse(text.as_bytes()).unwrap();
            count += parse_acknowledgement(&object).unwrap().len();
        });
    });
    assert_eq!(count, MESSAGES);
}

#[test]
fn messages_and_answers_go_out_with_no_more_allocations() {
    let recipient = DeviceId::new("box-7").unwrap();
    let message = |number: usize| Message {
        seq: number as u64,
        priority: Priority::Normal,
        sender: DeviceId::new("device-0123456789").unwrap(),
        message_id: MessageId::new(&format!("{number:032x}")).unwrap(),
        accepted_ms: 1_800_000_000_000,
        expires_ms: 1_900_000_000_000,
        content: vec![7; 256].into(),
    };
    let messages: Vec<_> = (0..MESSAGES).map(message).collect();
    let mut out = Outbox::default();
    let mut buffer = Vec::with_capacity(1024);
    at_most(150, "writing 128 messages", || {
        for message in &messages {
            buffer.clear();
            write_message(&mut buffer, message, &recipient);
            out.text(&buffer);
        }
    });
    at_most(900, "writing 128 answers", || {
        for message in &messages {
            out.text(&frames::accepted(message.message_id.as_str(), message.accepted_ms, false));
        }
    });
    assert!(!out.is_empty());
}
