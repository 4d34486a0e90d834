//! Recipients: they read and acknowledge by themselves, by either way.

use std::{fmt::Write as _, sync::Arc, time::Duration};

use anyhow::{Context as _, Result, bail};
use futures_util::FutureExt as _;
use hyper::StatusCode;

use super::counts::{Counts, Glance, glance};
use crate::wire::{Rest, Socket};

/// How many messages are acknowledged with one frame at most.
const ACK_BATCH_MAX: usize = 64;
/// The most messages of one answer: what the contract allows.
const POLL_MESSAGES_MAX: usize = 1_000;
/// How long a poll waits for messages, in seconds.
const POLL_SECONDS: u64 = 30;
/// How long one request may take beyond that.
const DEADLINE: Duration = Duration::from_secs(60);

/// Reads from a WebSocket and acknowledges: at once when nothing more has come, else in batches.
pub(super) async fn over_socket(mut socket: Socket, counts: Arc<Counts>) -> Result<()> {
    let mut acknowledgement = Acknowledgement::frame();
    let mut due = 1;
    loop {
        let is_full = acknowledgement.count == ACK_BATCH_MAX;
        let ready = if is_full { None } else { socket.next_text().now_or_never() };
        let text = match ready {
            Some(text) => text?,
            None if acknowledgement.count == 0 => socket.next_text().await?,
            None => {
                socket.send_text(acknowledgement.take()).await?;
                continue;
            }
        };
        let frame = glance(&text)?;
        match (&*frame.kind, frame.message_id) {
            ("message", Some(id)) => {
                due = counts.note_delivered(&id, frame.seq, due);
                acknowledgement.add(&id);
            }
            _ => bail!("a recipient got {text}"),
        }
    }
}

/// Polls over REST, and acknowledges all that an answer brought with one request.
pub(super) async fn over_rest(mut rest: Rest, device: String, counts: Arc<Counts>) -> Result<()> {
    let path =
        format!("/api/v1/messages/receive/{device}?limit={POLL_MESSAGES_MAX}&wait={POLL_SECONDS}");
    let mut acknowledgement = Acknowledgement::body();
    let mut due = 1;
    loop {
        let answer = rest.fetch(&path, DEADLINE).await.context("a recipient cannot poll")?;
        if answer.status != StatusCode::OK {
            return Err(answer.read()?.unexpected()).context("a recipient was refused");
        }
        let messages: Vec<Glance<'_>> = serde_json::from_slice(&answer.bytes)?;
        for message in &messages {
            let id = message.message_id.as_deref().context("a message without an id")?;
            due = counts.note_delivered(id, message.seq, due);
            acknowledgement.add(id);
        }
        if messages.is_empty() {
            continue;
        }
        let body = acknowledgement.take();
        let answer = rest.post_text("/api/v1/messages/acknowledge", body, DEADLINE).await?;
        if answer.status != StatusCode::OK {
            return Err(answer.read()?.unexpected()).context("an acknowledgement was refused");
        }
    }
}

/// An acknowledgement that is being written, as JSON. Ids of a run need no escapes.
struct Acknowledgement {
    head: &'static str,
    text: String,
    count: usize,
}

impl Acknowledgement {
    /// Over WebSocket.
    fn frame() -> Self {
        Self::new(r#"{"type":"ack","message_ids":["#)
    }

    /// Over REST.
    fn body() -> Self {
        Self::new(r#"{"message_ids":["#)
    }

    fn new(head: &'static str) -> Self {
        Self { head, text: head.to_owned(), count: 0 }
    }

    fn add(&mut self, id: &str) {
        let comma = if self.count == 0 { "" } else { "," };
        // Writing to a string cannot fail.
        let _ = write!(self.text, "{comma}\"{id}\"");
        self.count += 1;
    }

    /// What was written; the next one begins.
    fn take(&mut self) -> String {
        self.count = 0;
        let mut text = std::mem::replace(&mut self.text, self.head.to_owned());
        text.push_str("]}");
        text
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn acknowledgements_are_json() {
        let mut acknowledgement = Acknowledgement::frame();
        for ids in [vec!["a"], vec!["b", "c"]] {
            for id in &ids {
                acknowledgement.add(id);
            }
            let text: Value = serde_json::from_str(&acknowledgement.take()).unwrap();
            assert_eq!(text, json!({"type": "ack", "message_ids": ids}));
        }
    }
}
