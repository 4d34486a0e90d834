//! A WebSocket to a gateway: one task reads, one writes, neither waits for the other.

use std::{collections::HashMap, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::FutureExt as _;
use heliograph_cluster::{
    AckItem,
    model::{DeviceId, Priority},
};
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, ReadHalf, WriteHalf, split},
    sync::{Notify, mpsc, oneshot},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use super::{
    Client, ClientError, Letter, Receipt, Received, Refusal,
    rest::refusal,
    types::{ack_fields, priority},
};
use crate::{
    entropy::Entropy,
    stream::Stream,
    websocket::{
        Acknowledgement, SUBPROTOCOL, accept_key,
        codec::{self, Decoder, Flow, Opcode, Role, write_masked_frame},
    },
};

/// Frames waiting for the socket; then senders wait.
const COMMANDS_MAX: usize = 256;
/// Events waiting for the application; then the socket is not read on.
const EVENTS_MAX: usize = 1_024;
/// The largest frame taken: a message of 60 KiB is 82 KiB; live frames are below 128 KiB.
const FRAME_BYTES_MAX: usize = 1024 * 1024;
/// How long the last frame may take: nobody waits for it.
const GOODBYE_TIMEOUT: Duration = Duration::from_secs(2);
/// Bytes read at once.
const READ_BYTES: usize = 64 * 1024;

/// What comes from a gateway.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Event {
    /// A message.
    Message(Received),
    /// An `audio_stream` or `video_signal` frame, whole.
    Live(Value),
    /// Numbers that will never come.
    Skipped {
        /// The priority.
        priority: Priority,
        /// First number.
        from: u64,
        /// Last number.
        to: u64,
        /// Why: `expired` or `cancelled`.
        reason: String,
    },
    /// Nobody listens to live frames for this device.
    Unavailable(DeviceId),
    /// An error that belongs to no letter on its way.
    Refused(Refusal),
    /// The connection ended, with the gateway's code if it gave one. Nothing comes after.
    Closed(Option<u16>),
}

/// What kind of live frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LiveKind {
    /// `audio_stream`.
    Audio,
    /// `video_signal`.
    Video,
}

type Waiting = HashMap<String, oneshot::Sender<Result<Receipt, ClientError>>>;

#[derive(Default)]
struct Shared {
    /// Letters that are on their way; `None` once the connection has ended.
    waiting: Mutex<Option<Waiting>>,
    /// The newest Ping not answered yet: one Pong answers all before it.
    ping: Mutex<Option<Vec<u8>>>,
    pinged: Notify,
    /// The reader has ended: the writer says goodbye.
    ended: CancellationToken,
}

/// Sends over a WebSocket. The connection ends when the last clone is dropped.
#[derive(Clone)]
pub struct Sender {
    commands: mpsc::Sender<Vec<u8>>,
    shared: Arc<Shared>,
    timeout: Duration,
}

impl std::fmt::Debug for Sender {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Sender")
    }
}

impl Sender {
    /// Sends a letter; answers once it is accepted. Several may be on their way at once. Events
    /// must be read meanwhile.
    ///
    /// # Errors
    /// As [`Client::send`].
    pub async fn send(&self, letter: &Letter) -> Result<Receipt, ClientError> {
        let (answer, answered) = oneshot::channel();
        let id = letter.message_id.as_str().to_owned();
        self.shared.waiting.lock().as_mut().ok_or(ClientError::Lost)?.insert(id.clone(), answer);
        let mut frame = letter.to_json();
        frame["type"] = Value::from("message");
        let work = async {
            self.write(&frame).await?;
            answered.await.unwrap_or(Err(ClientError::Lost))
        };
        let result = timeout(self.timeout, work).await.unwrap_or(Err(ClientError::Deadline));
        if matches!(result, Err(ClientError::Deadline))
            && let Some(waiting) = self.shared.waiting.lock().as_mut()
        {
            waiting.remove(&id);
        }
        result
    }

    /// Sends a live frame with these fields; nobody says whether it arrives.
    ///
    /// # Errors
    /// [`ClientError::Lost`] when the connection has ended.
    pub async fn live(
        &self,
        kind: LiveKind,
        recipient: &DeviceId,
        mut fields: Map<String, Value>,
    ) -> Result<(), ClientError> {
        let kind = match kind {
            LiveKind::Audio => "audio_stream",
            LiveKind::Video => "video_signal",
        };
        fields.insert("type".to_owned(), Value::from(kind));
        fields.insert("recipient_id".to_owned(), Value::from(recipient.as_str()));
        self.write(&Value::Object(fields)).await
    }

    /// Acknowledges messages; from then on Pongs count for nothing.
    ///
    /// # Errors
    /// [`ClientError::Lost`] when the connection has ended.
    pub async fn acknowledge(&self, items: &[AckItem]) -> Result<(), ClientError> {
        let mut frame = ack_fields(items);
        frame["type"] = Value::from("ack");
        self.write(&frame).await
    }

    async fn write(&self, frame: &Value) -> Result<(), ClientError> {
        let frame = frame.to_string().into_bytes();
        self.commands.send(frame).await.map_err(|_| ClientError::Lost)
    }
}

/// What comes over a WebSocket, in order.
#[derive(Debug)]
pub struct Events(mpsc::Receiver<Event>);

impl Events {
    /// The next event; `None` after [`Event::Closed`].
    pub async fn next(&mut self) -> Option<Event> {
        self.0.recv().await
    }
}

/// Dials, upgrades, authenticates.
pub(super) async fn connect(
    client: &Client,
    acknowledgement: Acknowledgement,
) -> Result<(Sender, Events), ClientError> {
    let uri = client.endpoint.at("/ws");
    let stream =
        client.connector.dial(&uri).await.map_err(|error| ClientError::Connect(error.into()))?;
    let (stream, read) = upgrade(client, stream).await?;
    let (reader, writer) = split(stream);
    let shared = Arc::new(Shared::default());
    *shared.waiting.lock() = Some(HashMap::new());
    let (commands, commanded) = mpsc::channel(COMMANDS_MAX);
    let (events, mut evented) = mpsc::channel(EVENTS_MAX);
    let (authenticated, authentication) = oneshot::channel();
    let mut reader = Reader {
        reader,
        decoder: Decoder::new(Role::Client, FRAME_BYTES_MAX),
        shared: Arc::clone(&shared),
        events,
        authenticated: Some(authenticated),
    };
    tokio::spawn(async move { reader.run(&read).await });
    tokio::spawn(write(writer, commanded, Arc::clone(&shared)));
    let key = client.key.as_ref().ok_or(ClientError::NoKey)?;
    let mut auth = json!({ "type": "auth", "token": key.expose() });
    if acknowledgement == Acknowledgement::Explicit {
        auth["ack"] = Value::from("explicit");
    }
    let sender = Sender { commands, shared, timeout: client.timeout };
    sender.write(&auth).await?;
    match authentication.await {
        Ok(Ok(())) => Ok((sender, Events(evented))),
        Ok(Err(error)) => Err(error),
        Err(_) => match evented.recv().await {
            Some(Event::Closed(Some(code))) => Err(ClientError::Closed(code)),
            _ => Err(ClientError::Lost),
        },
    }
}

async fn upgrade(client: &Client, stream: Stream) -> Result<(Stream, Bytes), ClientError> {
    let lost = |_: hyper::Error| ClientError::Lost;
    let (mut requests, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(lost)?;
    // Ends with the upgrade, or with the request that was refused.
    tokio::spawn(connection.with_upgrades().map(drop));
    let mut nonce = [0; 16];
    getrandom::fill(&mut nonce).expect("the operating system has randomness");
    let key = crate::base64::encode(&nonce);
    let authority = client.endpoint.uri.authority().ok_or(ClientError::Answer)?;
    let request = Request::get("/ws")
        .header(header::HOST, authority.as_str())
        .header(header::CONNECTION, "Upgrade")
        .header(header::UPGRADE, "websocket")
        .header(header::SEC_WEBSOCKET_VERSION, "13")
        .header(header::SEC_WEBSOCKET_KEY, &key)
        .header(header::SEC_WEBSOCKET_PROTOCOL, SUBPROTOCOL)
        .body(Full::<Bytes>::default())
        .map_err(|_| ClientError::Answer)?;
    let response = requests.send_request(request).await.map_err(lost)?;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        let (head, body) = response.into_parts();
        let body = Limited::new(body, FRAME_BYTES_MAX).collect().await;
        let body = body.map_err(|_| ClientError::Lost)?.to_bytes();
        return Err(ClientError::Refused(refusal(head.status, &head.headers, &body)));
    }
    let accept = response.headers().get(header::SEC_WEBSOCKET_ACCEPT);
    if accept.is_none_or(|accept| accept != accept_key(key.as_bytes()).as_str()) {
        return Err(ClientError::Answer);
    }
    let upgraded = hyper::upgrade::on(response).await.map_err(lost)?;
    let parts = upgraded.downcast::<TokioIo<Stream>>().map_err(|_| ClientError::Answer)?;
    Ok((parts.io.into_inner(), parts.read_buf))
}

/// Writes commands and Pongs until the last sender is gone or the socket breaks.
async fn write(
    mut writer: WriteHalf<Stream>,
    mut commands: mpsc::Receiver<Vec<u8>>,
    shared: Arc<Shared>,
) {
    let mut entropy = Entropy::from_system();
    let mut out = Vec::new();
    loop {
        let mask = (entropy.next() as u32).to_be_bytes();
        tokio::select! {
            // A late Pong costs the connection; a letter can wait for it.
            biased;
            () = shared.ended.cancelled() => break,
            () = shared.pinged.notified() => {
                let ping = shared.ping.lock().take();
                if let Some(payload) = ping {
                    write_masked_frame(&mut out, Opcode::Pong, &payload, mask);
                }
            }
            command = commands.recv() => match command {
                Some(frame) => write_masked_frame(&mut out, Opcode::Text, &frame, mask),
                None => break,
            },
        }
        if writer.write_all(&out).await.is_err() || writer.flush().await.is_err() {
            return;
        }
        out.clear();
    }
    let mask = (entropy.next() as u32).to_be_bytes();
    codec::write_close(&mut out, 1000, "", Some(mask));
    // Going away either way; the reader sees how it ends.
    let _ = timeout(GOODBYE_TIMEOUT, writer.write_all(&out)).await;
    let _ = timeout(GOODBYE_TIMEOUT, writer.shutdown()).await;
}

struct Reader {
    reader: ReadHalf<Stream>,
    decoder: Decoder,
    shared: Arc<Shared>,
    events: mpsc::Sender<Event>,
    authenticated: Option<oneshot::Sender<Result<(), ClientError>>>,
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.shared.ended.cancel();
        // Whoever waits for an answer learns that none comes.
        *self.shared.waiting.lock() = None;
    }
}

#[derive(Deserialize)]
struct Skipped {
    #[serde(deserialize_with = "priority")]
    priority: Priority,
    from: u64,
    to: u64,
    reason: String,
}

impl Reader {
    async fn run(&mut self, first: &[u8]) {
        let mut buffer = first.to_vec();
        let mut bytes = buffer.len();
        buffer.resize(READ_BYTES.max(bytes), 0);
        let code = loop {
            let (events, closed) = self.decode(&mut buffer[..bytes]);
            for event in events {
                // Nobody reads events any more: only answers to letters matter then.
                let _ = self.events.send(event).await;
            }
            if let Some(code) = closed {
                break code;
            }
            match self.reader.read(&mut buffer).await {
                Ok(0) | Err(_) => break None,
                Ok(read) => bytes = read,
            }
        };
        self.shared.ended.cancel();
        *self.shared.waiting.lock() = None;
        self.authenticated = None;
        let _ = self.events.send(Event::Closed(code)).await;
    }

    /// The events in `input`, and the close code if the connection is to end.
    fn decode(&mut self, input: &mut [u8]) -> (Vec<Event>, Option<Option<u16>>) {
        let Self { decoder, shared, authenticated, .. } = self;
        let mut events = Vec::new();
        let mut closed = None;
        let result = decoder.feed(input, |event| {
            match event {
                codec::Event::Text(text) => {
                    events.extend(take_frame(text, shared, authenticated));
                }
                codec::Event::Ping(payload) => {
                    *shared.ping.lock() = Some(payload.to_vec());
                    shared.pinged.notify_one();
                }
                codec::Event::Close(code) => closed = Some(code),
                codec::Event::Pong(_) | codec::Event::Binary(_) => {}
            }
            Flow::Continue
        });
        if result.is_err() {
            closed = Some(None);
        }
        (events, closed)
    }
}

fn take_frame(
    text: &str,
    shared: &Shared,
    authenticated: &mut Option<oneshot::Sender<Result<(), ClientError>>>,
) -> Option<Event> {
    let frame: Value = serde_json::from_str(text).ok()?;
    let answer = |result: Result<Receipt, ClientError>| {
        let id = frame["message_id"].as_str().unwrap_or_default();
        let waiting = shared.waiting.lock().as_mut().and_then(|waiting| waiting.remove(id));
        match waiting {
            // Who asked may have given up meanwhile.
            Some(waiting) => waiting.send(result).map_or((), drop),
            None => return Some(result),
        }
        None
    };
    match frame["type"].as_str()? {
        "message" => Received::deserialize(&frame).ok().map(Event::Message),
        "accepted" => {
            answer(Receipt::deserialize(&frame).map_err(|_| ClientError::Answer));
            None
        }
        "error" => {
            match answer(Err(ClientError::Refused(Refusal::parse(0, text.as_bytes(), None)))) {
                Some(Err(ClientError::Refused(refusal))) => Some(Event::Refused(refusal)),
                _ => None,
            }
        }
        "auth_success" => {
            authenticated.take().map(|waiting| waiting.send(Ok(())));
            None
        }
        "auth_error" => {
            let refusal = Refusal::parse(0, text.as_bytes(), None);
            authenticated.take().map(|waiting| waiting.send(Err(ClientError::Refused(refusal))));
            None
        }
        "skipped" => {
            let Skipped { priority, from, to, reason } = Skipped::deserialize(&frame).ok()?;
            Some(Event::Skipped { priority, from, to, reason })
        }
        "unavailable" => {
            DeviceId::new(frame["recipient_id"].as_str()?).ok().map(Event::Unavailable)
        }
        "audio_stream" | "video_signal" => Some(Event::Live(frame)),
        // Frames of later versions.
        _ => None,
    }
}
