//! WebSocket: authenticated, with explicit acknowledgement or, as a stock client, by Pong alone.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use futures_util::{
    SinkExt as _, StreamExt as _,
    stream::{SplitSink, SplitStream},
};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::timeout;
use tokio_tungstenite::{
    WebSocketStream, client_async_with_config,
    tungstenite::{Message, Utf8Bytes, protocol::WebSocketConfig},
};

use super::{Security, WireError, door::Line};

/// Read buffer of a socket. The library's default of 128 KiB a socket would be what a measurement
/// with 10,000 of them shows; a frame of the workload has less than 4 KiB.
const READ_BUFFER_BYTES: usize = 4 * 1024;
/// What [`Socket::feed_text`] may hold back; the library takes the memory only when it is needed.
const WRITE_BUFFER_BYTES: usize = 32 * 1024;

/// How a device acknowledges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AckMode {
    /// It says nothing of it; its stack answers Pings.
    Pong,
    /// By `ack` frames.
    Explicit,
}

/// Where to connect.
#[derive(Clone, Debug)]
pub struct Dial {
    /// The node.
    pub node: SocketAddr,
    /// The source address, `None` for the system's choice: more than 28,000 connections to one
    /// port need several.
    pub source: Option<IpAddr>,
    /// Whether the node speaks TLS there.
    pub security: Security,
    /// For connecting and authenticating together.
    pub deadline: Duration,
}

impl Dial {
    /// Without TLS, from the system's choice of source address.
    pub fn to(node: SocketAddr, deadline: Duration) -> Self {
        Self { node, source: None, security: Security::Plain, deadline }
    }
}

/// A message as it comes out of a mailbox, over REST or WebSocket.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Received {
    /// The sender's id for it.
    pub message_id: String,
    /// Who sent it.
    pub sender_id: String,
    /// Base64.
    pub content: String,
    /// A word or a number.
    pub priority: Value,
    /// Its number in its mailbox and priority.
    pub seq: u64,
}

impl Received {
    /// The priority as 0 to 3, `None` when it is none.
    pub fn level(&self) -> Option<u8> {
        level(&self.priority)
    }
}

/// A priority as 0 to 3, from its word or number.
fn level(priority: &Value) -> Option<u8> {
    match priority {
        Value::String(word) => ["low", "normal", "high", "urgent"]
            .iter()
            .position(|name| name == word)?
            .try_into()
            .ok(),
        other => u8::try_from(other.as_u64()?).ok().filter(|level| *level < 4),
    }
}

/// What the server says.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Frame {
    /// A message for this device.
    Message(Received),
    /// A message of this device was accepted.
    Accepted {
        /// Its id.
        message_id: String,
    },
    /// Numbers that will never come.
    Skipped {
        /// 0 to 3.
        priority: u8,
        /// First number.
        from: u64,
        /// Last number.
        to: u64,
    },
    /// Anything else, errors too.
    Other(Value),
}

impl Frame {
    fn parse(text: &str) -> Result<Self, WireError> {
        let value: Value = serde_json::from_str(text).map_err(WireError::NotJson)?;
        let unexpected = |body| WireError::Unexpected { status: 0, body };
        match value["type"].as_str() {
            Some("message") => {
                let message = serde_json::from_value(value).map_err(WireError::NotJson)?;
                Ok(Self::Message(message))
            }
            Some("accepted") => match value["message_id"].as_str() {
                Some(message_id) => Ok(Self::Accepted { message_id: message_id.to_owned() }),
                None => Err(unexpected(value)),
            },
            Some("skipped") => {
                let range = (value["from"].as_u64(), value["to"].as_u64());
                match (level(&value["priority"]), range) {
                    (Some(priority), (Some(from), Some(to))) => {
                        Ok(Self::Skipped { priority, from, to })
                    }
                    _ => Err(unexpected(value)),
                }
            }
            _ => Ok(Self::Other(value)),
        }
    }
}

/// An authenticated WebSocket.
#[derive(Debug)]
pub struct Socket {
    stream: WebSocketStream<Line>,
}

impl Socket {
    /// Connects and authenticates.
    ///
    /// # Errors
    /// When that does not succeed before the deadline; a refused key is
    /// [`WireError::Unexpected`] with the `auth_error`.
    pub async fn connect(dial: Dial, key: &str, mode: AckMode) -> Result<Self, WireError> {
        let deadline = dial.deadline;
        let connect = async {
            let mut socket = Self::open(dial).await?;
            let mut auth = json!({"type": "auth", "token": key});
            if mode == AckMode::Explicit {
                auth["ack"] = json!("explicit");
            }
            socket.send(&auth).await?;
            match socket.next().await? {
                Frame::Other(answer) if answer["type"] == "auth_success" => Ok(socket),
                Frame::Other(body) => Err(WireError::Unexpected { status: 0, body }),
                frame => {
                    let body = json!(format!("{frame:?}"));
                    Err(WireError::Unexpected { status: 0, body })
                }
            }
        };
        timeout(deadline, connect).await.map_err(|_| WireError::Timeout)?
    }

    /// Connects without authenticating. The caller has the deadline.
    ///
    /// # Errors
    /// When there is no connection or the upgrade is refused.
    pub async fn open(dial: Dial) -> Result<Self, WireError> {
        let line = dial.security.connect(dial.node, dial.source).await;
        let line = line.map_err(WireError::NotConnected)?;
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BUFFER_BYTES)
            .write_buffer_size(WRITE_BUFFER_BYTES);
        // The connection is made: what the address says of TLS does not matter any more.
        let uri = format!("ws://{}/ws", dial.node);
        let (stream, _) = client_async_with_config(uri, line, Some(config)).await?;
        Ok(Self { stream })
    }

    /// Sends a JSON frame.
    ///
    /// # Errors
    /// When the connection is gone.
    pub async fn send(&mut self, frame: &Value) -> Result<(), WireError> {
        Ok(self.stream.send(Message::text(frame.to_string())).await?)
    }

    /// Sends a text that may be anything.
    ///
    /// # Errors
    /// When the connection is gone.
    pub async fn send_text(&mut self, text: String) -> Result<(), WireError> {
        Ok(self.stream.send(Message::text(text)).await?)
    }

    /// Takes a text that may be anything, to be written by [`Self::flush`] at the latest.
    ///
    /// # Errors
    /// When the connection is gone.
    pub async fn feed_text(&mut self, text: String) -> Result<(), WireError> {
        Ok(self.stream.feed(Message::text(text)).await?)
    }

    /// Writes what was taken and not yet written.
    ///
    /// # Errors
    /// When the connection is gone.
    pub async fn flush(&mut self) -> Result<(), WireError> {
        Ok(self.stream.flush().await?)
    }

    /// The next JSON frame; Pings are answered meanwhile. Safe to drop.
    ///
    /// # Errors
    /// When the connection is gone or closed, or the frame is not as agreed.
    pub async fn next(&mut self) -> Result<Frame, WireError> {
        Frame::parse(&self.next_text().await?)
    }

    /// The next text frame as it is. Safe to drop.
    ///
    /// # Errors
    /// When the connection is gone or closed.
    pub async fn next_text(&mut self) -> Result<Utf8Bytes, WireError> {
        next_text(&mut self.stream).await
    }

    /// Takes both directions apart. A Ping is then answered when the reader reads.
    pub fn split(self) -> (SocketWriter, SocketReader) {
        let (sink, stream) = self.stream.split();
        (SocketWriter { sink }, SocketReader { stream })
    }
}

/// The sending half.
#[derive(Debug)]
pub struct SocketWriter {
    sink: SplitSink<WebSocketStream<Line>, Message>,
}

impl SocketWriter {
    /// As [`Socket::feed_text`].
    ///
    /// # Errors
    /// When the connection is gone.
    pub async fn feed_text(&mut self, text: String) -> Result<(), WireError> {
        Ok(self.sink.feed(Message::text(text)).await?)
    }

    /// As [`Socket::flush`].
    ///
    /// # Errors
    /// When the connection is gone.
    pub async fn flush(&mut self) -> Result<(), WireError> {
        Ok(self.sink.flush().await?)
    }
}

/// The receiving half.
#[derive(Debug)]
pub struct SocketReader {
    stream: SplitStream<WebSocketStream<Line>>,
}

impl SocketReader {
    /// As [`Socket::next_text`].
    ///
    /// # Errors
    /// As [`Socket::next_text`].
    pub async fn next_text(&mut self) -> Result<Utf8Bytes, WireError> {
        next_text(&mut self.stream).await
    }
}

async fn next_text<S>(stream: &mut S) -> Result<Utf8Bytes, WireError>
where
    S: futures_util::Stream<Item = Result<Message, tokio_tungstenite::tungstenite::Error>> + Unpin,
{
    loop {
        match stream.next().await {
            Some(Ok(Message::Text(text))) => return Ok(text),
            Some(Ok(Message::Close(frame))) => {
                return Err(WireError::Closed { code: frame.map(|frame| frame.code.into()) });
            }
            Some(Ok(_)) => {}
            Some(Err(error)) => return Err(error.into()),
            None => return Err(WireError::Closed { code: None }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_of_the_contract_are_read() {
        let text = r#"{"type":"message","message_id":"m","sender_id":"a","recipient_id":"b",
            "content":"AA==","priority":"urgent","timestamp":1,"seq":9}"#;
        let Ok(Frame::Message(message)) = Frame::parse(text) else { panic!("a message") };
        assert_eq!((message.seq, message.level()), (9, Some(3)));
        let skipped = r#"{"type":"skipped","priority":2,"from":3,"to":4,"reason":"expired"}"#;
        let Ok(Frame::Skipped { priority: 2, from: 3, to: 4 }) = Frame::parse(skipped) else {
            panic!("a range");
        };
        let Ok(Frame::Accepted { message_id }) =
            Frame::parse(r#"{"type":"accepted","message_id":"x"}"#)
        else {
            panic!("accepted");
        };
        assert_eq!(message_id, "x");
    }

    #[test]
    fn frames_that_break_the_contract_are_errors() {
        for text in [
            "",
            "{",
            r#"{"type":"message","message_id":"m"}"#,
            r#"{"type":"accepted"}"#,
            r#"{"type":"skipped","priority":9,"from":1,"to":2}"#,
        ] {
            assert!(Frame::parse(text).is_err(), "{text}");
        }
        assert!(matches!(Frame::parse(r#"{"type":"error"}"#), Ok(Frame::Other(_))));
    }

    #[test]
    fn priorities_are_words_or_numbers() {
        assert_eq!(level(&json!("low")), Some(0));
        assert_eq!(level(&json!(3)), Some(3));
        for wrong in [json!("loud"), json!(4), json!(-1), json!(null)] {
            assert_eq!(level(&wrong), None);
        }
    }
}
