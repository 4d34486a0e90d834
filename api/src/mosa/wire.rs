//! The JSON of messages and acknowledgements, the same over REST and WebSocket.

use std::time::Duration;

use bytes::Bytes;
use heliograph_cluster::{
    AckItem,
    model::{CONTENT_BYTES_MAX, DeviceId, Message, MessageId, Priority},
};
use serde_json::value::RawValue;

use super::fields::{Gather, Object, field, message_id, missing};
use crate::{
    base64,
    problem::{Code, FieldError, Problem},
};

/// Messages that one acknowledgement names at most; a receive answers 1,000 at most.
pub(crate) const ACK_ITEMS_MAX: usize = 1_000;

/// A message a client wants stored.
#[derive(Debug)]
pub(crate) struct MessageRequest {
    pub(crate) recipient: DeviceId,
    /// `None` where the client leaves it to us.
    pub(crate) message_id: Option<MessageId>,
    pub(crate) priority: Priority,
    pub(crate) ttl: Option<Duration>,
    pub(crate) content: Bytes,
}

impl MessageRequest {
    /// Checks every field. `ttl_max` is asked only when the client sets a time to live.
    pub(crate) fn parse(
        object: &Object<'_>,
        ttl_max: impl FnOnce() -> Duration,
    ) -> Result<Self, Problem> {
        let mut errors = Gather::default();
        let recipient = errors.take(object.device("recipient_id"));
        let message_id = errors.take(object.message_id("message_id"));
        let priority = errors.take(object.priority("priority"));
        let ttl = errors.take(ttl(object, ttl_max));
        let content = match content(object) {
            Ok(content) => Some(content),
            Err(ContentError::Field(error)) => errors.take(Err(error)),
            Err(ContentError::TooLarge) => {
                let detail = format!("Send at most {CONTENT_BYTES_MAX} bytes of content.");
                return Err(Problem::from(Code::ContentTooLarge).detail(detail));
            }
        };
        errors.finish()?;
        match (recipient, message_id, priority, ttl, content) {
            (Some(recipient), Some(message_id), Some(priority), Some(ttl), Some(content)) => {
                Ok(Self { recipient, message_id, priority, ttl, content })
            }
            _ => unreachable!("a missing value has noted an error"),
        }
    }
}

enum ContentError {
    Field(FieldError),
    TooLarge,
}

fn content(object: &Object<'_>) -> Result<Bytes, ContentError> {
    /// The Base64 of the largest content, padded.
    const TEXT_BYTES_MAX: usize = CONTENT_BYTES_MAX.div_ceil(3) * 4;
    let text = object.required_text("content").map_err(ContentError::Field)?;
    if text.is_empty() {
        return Err(ContentError::Field(field("content", "invalid", "must not be empty")));
    }
    if text.len() > TEXT_BYTES_MAX {
        return Err(ContentError::TooLarge);
    }
    let content = base64::decode(&text)
        .map_err(|error| ContentError::Field(field("content", "invalid", error.to_string())))?;
    if content.len() > CONTENT_BYTES_MAX {
        return Err(ContentError::TooLarge);
    }
    Ok(content.into())
}

fn ttl(
    object: &Object<'_>,
    ttl_max: impl FnOnce() -> Duration,
) -> Result<Option<Duration>, FieldError> {
    let name = "ttl_seconds";
    let Some(seconds) = object.optional::<u64>(name, "must be a whole number of seconds")? else {
        return Ok(None);
    };
    let ttl_max = ttl_max();
    let ttl = Duration::from_secs(seconds);
    if seconds == 0 || ttl > ttl_max {
        let detail = format!("must be 1 to {}", ttl_max.as_secs());
        return Err(field(name, "out_of_range", detail));
    }
    Ok(Some(ttl))
}

/// Reads `message_ids`, `message_id` and `seqs`.
pub(crate) fn parse_acknowledgement(object: &Object<'_>) -> Result<Vec<AckItem>, Problem> {
    let mut errors = Gather::default();
    let mut items = Vec::new();
    if !["message_ids", "message_id", "seqs"].into_iter().any(|name| object.has(name)) {
        errors.push(missing("message_ids"));
    }
    let list = "must be an array of strings";
    if let Some(Some(ids)) = errors.take(object.optional::<Vec<String>>("message_ids", list)) {
        for id in ids.iter().take(ACK_ITEMS_MAX + 1) {
            items.extend(errors.take(message_id("message_ids", id)).map(AckItem::Id));
        }
    }
    if let Some(Some(id)) = errors.take(object.message_id("message_id")) {
        items.push(AckItem::Id(id));
    }
    let seqs = parse_seqs("seqs", object, &mut errors);
    items.extend(seqs.into_iter().map(|(priority, seq)| AckItem::Seq(priority, seq)));
    if items.len() > ACK_ITEMS_MAX {
        let detail = format!("must name at most {ACK_ITEMS_MAX} messages in all");
        errors.push(field("message_ids", "too_many", detail));
    }
    errors.finish()?;
    Ok(items)
}

/// Reads what a device got over an earlier connection: `received` of its `auth` frame.
pub(crate) fn parse_received(object: &Object<'_>) -> Result<Vec<(Priority, u64)>, Problem> {
    let mut errors = Gather::default();
    let received = parse_seqs("received", object, &mut errors);
    if received.len() > ACK_ITEMS_MAX {
        let detail = format!("must name at most {ACK_ITEMS_MAX} messages");
        errors.push(field("received", "too_many", detail));
    }
    errors.finish()?;
    Ok(received)
}

/// Reads an optional array of `{priority, seq}`, up to one more than may be.
fn parse_seqs(
    name: &'static str,
    object: &Object<'_>,
    errors: &mut Gather,
) -> Vec<(Priority, u64)> {
    let list = "must be an array of {priority, seq}";
    let seqs = errors.take(object.optional::<Vec<&RawValue>>(name, list));
    let seqs = seqs.flatten().unwrap_or_default().into_iter().take(ACK_ITEMS_MAX + 1);
    seqs.filter_map(|seq| errors.take(parse_seq(name, seq))).collect()
}

fn parse_seq(name: &'static str, value: &RawValue) -> Result<(Priority, u64), FieldError> {
    let wrong = |_| field(name, "wrong_type", "must be an array of {priority, seq}");
    let object: Object<'_> = serde_json::from_str(value.get()).map_err(wrong)?;
    let in_list = |error: FieldError| FieldError { field: name, ..error };
    let priority = object.priority("priority").map_err(in_list)?;
    let seq = object.optional::<u64>("seq", "seq must be a whole number").map_err(in_list)?;
    let seq = seq.ok_or_else(|| field(name, "missing", "seq must be present"))?;
    Ok((priority, seq))
}

/// Appends a JSON string.
pub(crate) fn write_text(out: &mut Vec<u8>, text: &str) {
    serde_json::to_writer(out, text).expect("a string is JSON, and a vector takes it");
}

/// Appends a message as its recipient gets it.
pub(crate) fn write_message(out: &mut Vec<u8>, message: &Message, recipient: &DeviceId) {
    out.extend_from_slice(b"{\"type\":\"message\",\"message_id\":");
    write_text(out, message.message_id.as_str());
    out.extend_from_slice(b",\"sender_id\":");
    write_text(out, message.sender.as_str());
    out.extend_from_slice(b",\"recipient_id\":");
    write_text(out, recipient.as_str());
    out.extend_from_slice(b",\"content\":\"");
    base64::encode_into(&message.content, out);
    let rest = format!(
        "\",\"priority\":\"{}\",\"timestamp\":{},\"timestamp_ms\":{},\"seq\":{}}}",
        message.priority.name(),
        message.accepted_ms / 1000,
        message.accepted_ms,
        message.seq
    );
    out.extend_from_slice(rest.as_bytes());
}

/// A message id where the client gave none: 128 random bits.
pub(crate) fn generate_message_id() -> MessageId {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).expect("the operating system has randomness");
    MessageId::new(&hex::encode(bytes)).expect("32 hex digits are a message id")
}
