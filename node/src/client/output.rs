//! What the client's commands print: lines for people, or one JSON object a line.

use std::{
    io::{self, Write as _},
    time::{Duration, UNIX_EPOCH},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use heliograph_api::client::{Letter, Receipt, Received};
use serde_json::json;

use crate::cli::Output;

/// Prints that a letter was accepted.
pub(super) fn sent(output: Output, letter: &Letter, receipt: &Receipt) -> io::Result<()> {
    line(&match output {
        Output::Text => sent_text(letter, receipt),
        Output::Json => json!({
            "message_id": letter.message_id.as_str(),
            "status": "accepted",
            "duplicate": receipt.duplicate,
            "timestamp": receipt.timestamp,
        })
        .to_string(),
    })
}

fn sent_text(letter: &Letter, receipt: &Receipt) -> String {
    let id = letter.message_id.as_str();
    if receipt.duplicate {
        format!("{id}: had been accepted before")
    } else {
        format!("{id}: accepted, on disk on a majority")
    }
}

/// Prints a message. Only when this has succeeded may it be acknowledged.
pub(super) fn received(output: Output, message: &Received) -> io::Result<()> {
    line(&match output {
        Output::Text => received_text(message),
        Output::Json => received_json(message),
    })
}

/// Prints that numbers will never come.
pub(super) fn skipped(
    output: Output,
    priority: &str,
    [from, to]: [u64; 2],
    reason: &str,
) -> io::Result<()> {
    line(&match output {
        Output::Text => format!("{priority} #{from} to #{to}: {reason}"),
        Output::Json => json!({
            "skipped": { "priority": priority, "from": from, "to": to, "reason": reason }
        })
        .to_string(),
    })
}

fn received_text(message: &Received) -> String {
    let accepted = UNIX_EPOCH + Duration::from_secs(message.timestamp.min(MAX_TIMESTAMP));
    let at = humantime::format_rfc3339_seconds(accepted);
    let (priority, seq) = (message.priority.name(), message.seq);
    let content = printable(&message.content);
    let sender = printable(message.sender.as_str().as_bytes());
    format!("{at} {priority} #{seq} from {sender}: {content}")
}

/// The end of the year 9999: what RFC 3339 can write.
const MAX_TIMESTAMP: u64 = 253_402_300_799;

/// Text that cannot play with a terminal, or Base64.
fn printable(content: &[u8]) -> String {
    match std::str::from_utf8(content) {
        Ok(text) if !text.trim_end().contains(|c: char| c.is_control() && c != '\t') => {
            text.trim_end().to_owned()
        }
        _ => format!("base64:{}", STANDARD.encode(content)),
    }
}

fn received_json(message: &Received) -> String {
    json!({
        "message_id": message.message_id.as_str(),
        "sender_id": message.sender.as_str(),
        "recipient_id": message.recipient.as_str(),
        "priority": message.priority.name(),
        "seq": message.seq,
        "timestamp": message.timestamp,
        "content": STANDARD.encode(&message.content),
    })
    .to_string()
}

fn line(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{text}")?;
    out.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(content: &[u8]) -> Received {
        serde_json::from_value(json!({
            "message_id": "m1",
            "sender_id": "alice",
            "recipient_id": "bob",
            "content": STANDARD.encode(content),
            "priority": "high",
            "timestamp": 1_700_000_000,
            "seq": 7,
        }))
        .unwrap()
    }

    #[test]
    fn a_message_is_a_line_for_people() {
        assert_eq!(
            received_text(&message("grüß dich\n".as_bytes())),
            "2023-11-14T22:13:20Z high #7 from alice: grüß dich"
        );
    }

    #[test]
    fn nothing_a_sender_writes_reaches_the_terminal_raw() {
        for content in [&b"\x1b[2J"[..], b"a\nb", b"\xff\xfe", b"a\rb"] {
            let text = received_text(&message(content));
            assert!(text.contains("from alice: base64:"), "{text}");
        }
    }

    #[test]
    fn a_message_is_a_json_object_for_scripts() {
        let json: serde_json::Value =
            serde_json::from_str(&received_json(&message(b"\xff\n"))).unwrap();
        assert_eq!(json["content"], "/wo=");
        assert_eq!(json["seq"], 7);
        assert_eq!(json["priority"], "high");
    }
}
