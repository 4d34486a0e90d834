//! The JSON frames a gateway sends.

use heliograph_cluster::{
    ResumeHint,
    model::{DeviceId, Priority},
};
use serde_json::{Value, json};

use super::{
    super::{fields::Object, wire::write_text},
    open::Entry,
};
use crate::problem::Problem;

/// `{"type":"auth_success",…}`.
pub(super) fn auth_success(
    device: &DeviceId,
    ack: &str,
    server_time: u64,
    entry: Entry,
) -> Vec<u8> {
    let mut frame = json!({
        "type": "auth_success",
        "device_id": device.as_str(),
        "ack": ack,
        "server_time": server_time,
    });
    if entry == Entry::Ticket {
        frame["resumed"] = Value::Bool(true);
    }
    encode(&frame)
}

/// `{"type":"resume",…}`: the node goes away; where to go on, and what to show there.
pub(super) fn resume(hint: &ResumeHint) -> Vec<u8> {
    encode(&json!({
        "type": "resume",
        "url": hint.url,
        "ticket": hint.ticket.expose(),
        "expires_in": hint.expires_in.as_secs(),
    }))
}

/// `{"type":"auth_error",…}`.
pub(super) fn auth_error(problem: &Problem) -> Vec<u8> {
    encode(&of_problem("auth_error", problem))
}

/// `{"type":"error",…}`, with the message it is about where there is one.
pub(super) fn error(problem: &Problem, message_id: Option<&str>) -> Vec<u8> {
    let mut frame = of_problem("error", problem);
    if let Some(id) = message_id {
        frame["message_id"] = Value::from(id);
    }
    encode(&frame)
}

/// `{"type":"accepted",…}`: the message is on disk on a majority.
pub(super) fn accepted(message_id: &str, accepted_ms: u64, duplicate: bool) -> Vec<u8> {
    let mut frame = json!({
        "type": "accepted",
        "message_id": message_id,
        "timestamp": accepted_ms / 1000,
    });
    if duplicate {
        frame["duplicate"] = Value::Bool(true);
    }
    encode(&frame)
}

/// `{"type":"unavailable",…}`: nobody listens to live frames.
pub(super) fn unavailable(recipient: &DeviceId) -> Vec<u8> {
    encode(&json!({ "type": "unavailable", "recipient_id": recipient.as_str() }))
}

/// `{"type":"skipped",…}`: these numbers never come.
pub(super) fn skipped(priority: Priority, from: u64, to: u64, reason: &str) -> Vec<u8> {
    encode(&json!({
        "type": "skipped",
        "priority": priority.name(),
        "from": from,
        "to": to,
        "reason": reason,
    }))
}

/// A live frame as it is forwarded: all that the client sent, with the sender we know.
pub(super) fn live(object: &Object<'_>, sender: &DeviceId) -> Vec<u8> {
    let mut out = Vec::with_capacity(256);
    out.extend_from_slice(b"{\"sender_id\":");
    write_text(&mut out, sender.as_str());
    for (name, value) in object.fields() {
        if name == "sender_id" {
            continue;
        }
        out.push(b',');
        write_text(&mut out, name);
        out.push(b':');
        out.extend_from_slice(value.get().as_bytes());
    }
    out.push(b'}');
    out
}

fn of_problem(kind: &str, problem: &Problem) -> Value {
    let mut frame = json!({
        "type": kind,
        "code": problem.code().as_str(),
        "detail": problem.detail_text(),
    });
    if !problem.errors().is_empty() {
        frame["errors"] = json!(problem.errors());
    }
    if let Some(seconds) = problem.retry_after_seconds() {
        frame["retry_after"] = Value::from(seconds);
    }
    frame
}

fn encode(frame: &Value) -> Vec<u8> {
    serde_json::to_vec(frame).expect("frames are plain JSON")
}
