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
use tokio::{
    net::{TcpSocket, TcpStream},
    time::timeout,
};
use tokio_tungstenite::{
    WebSocketStream, client_async_with_config,
    tungstenite::{Message, Utf8Bytes, protocol::WebSocketConfig},
};

use super::WireError;

/// Read buffer of a socket. The library's default of 128 KiB a socket would be what a measurement
/// with 10,000 of them shows; a frame of the workload has less than 4 KiB.
const READ_BUFFER_BYTES: usize = 4 * 1024;

/// How a device acknowledges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AckMode {
    /// It says nothing of it; its stack answers Pings.
    Pong,
    /// By `ack` frames.
    Explicit,
}

/// Where to connect.
#[derive(Clone, Copy, Debug)]
pub struct Dial {
    /// The node.
    pub node: SocketAddr,
    /// The source address, `None` for the system's choice: more than 28,000 connections to one
    /// port need several.
    pub source: Option<IpAddr>,
    /// For connecting and authenticating together.
    pub deadline: Duration,
}

impl Dial {
    /// From the system's choice of source address.
    pub fn to(node: SocketAddr, deadline: Duration) -> Self {
        Self { node, source: None, deadline }
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
    stream: WebSocketStream<TcpStream>,
}

impl Socket {
    /// Connects and authenticates.
    ///
    /// # Errors
    /// When that does not succeed before the deadline; a refused key is
    /// [`WireError::Unexpected`] with the `auth_error`.
    pub async fn connect(dial: Dial, key: &str, mode: AckMode) -> Result<Self, WireError> {
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
        timeout(dial.deadline, connect).await.map_err(|_| WireError::Timeout)?
    }

    /// Connects without authenticating. The caller has the deadline.
    ///
    /// # Errors
    /// When there is no connection or the upgrade is refused.
    pub async fn open(dial: Dial) -> Result<Self, WireError> {
        let stream = tcp(dial).await.map_err(WireError::NotConnected)?;
        stream.set_nodelay(true).map_err(WireError::NotConnected)?;
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BUFFER_BYTES)
            // Written at once: what is timed is the relay, not this buffer.
            .write_buffer_size(0);
        let uri = format!("ws://{}/ws", dial.node);
        let (stream, _) = client_async_with_config(uri, stream, Some(config)).await?;
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
    sink: SplitSink<WebSocketStream<TcpStream>, Message>,
}

impl SocketWriter {
    /// Sends a frame that is JSON already.
    ///
    /// # Errors
    /// When the connection is gone.
    pub async fn send_text(&mut self, text: String) -> Result<(), WireError> {
        Ok(self.sink.send(Message::text(text)).await?)
    }
}

/// The receiving half.
#[derive(Debug)]
pub struct SocketReader {
    stream: SplitStream<WebSocketStream<TcpStream>>,
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

async fn tcp(dial: Dial) -> std::io::Result<TcpStream> {
    let Some(source) = dial.source else { return TcpStream::connect(dial.node).await };
    let socket = match dial.node {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    socket.bind(SocketAddr::new(source, 0))?;
    socket.connect(dial.node).await
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
