//! One connection of a client: the handshake, one half that reads, one that writes, neither waits
//! for the other.

use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt as _;
use heliograph_cluster::model::{DeviceId, Priority};
use http::{Request, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, ReadHalf, WriteHalf, split},
    sync::{Notify, mpsc, oneshot},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use super::{
    Client, ClientError, Entry, Event, Receipt, Received, Refusal, rest::refusal, socket::Shared,
    types::priority,
};
use crate::{
    entropy::Entropy,
    stream::Stream,
    websocket::{
        SUBPROTOCOL, accept_key,
        codec::{self, Decoder, Flow, Opcode, Role, write_masked_frame},
    },
};

/// The largest frame taken: a message of 60 KiB is 82 KiB; live frames are below 128 KiB.
const FRAME_BYTES_MAX: usize = 1024 * 1024;
/// How long the last frame may take: nobody waits for it.
const GOODBYE_TIMEOUT: Duration = Duration::from_secs(2);
/// Bytes read at once.
const READ_BYTES: usize = 64 * 1024;

/// That the gateway let the client in, or why not.
pub(super) type Answered = oneshot::Sender<Result<(), ClientError>>;

/// A connection after its upgrade.
pub(super) struct Leg {
    pub(super) stream: Stream,
    /// What was read beyond the upgrade.
    pub(super) read: Bytes,
    /// Frames to be sent before anything else.
    pub(super) opening: Vec<Vec<u8>>,
    /// What it shows.
    pub(super) credential: Entry,
    /// Who waits for the gateway's answer to that; nobody does where a connection goes on.
    pub(super) first: Option<Answered>,
}

/// Where to go on.
#[derive(Debug, Deserialize)]
pub(super) struct Hint {
    pub(super) url: String,
    pub(super) ticket: String,
}

/// How a connection ended.
pub(super) struct Ended {
    pub(super) code: Option<u16>,
    pub(super) hint: Option<Hint>,
    /// Whether the gateway let the client in.
    pub(super) was_let_in: bool,
    /// Whether the application has dropped its last sender.
    pub(super) is_done: bool,
}

/// Dials and upgrades.
pub(super) async fn dial(client: &Client, uri: &Uri) -> Result<(Stream, Bytes), ClientError> {
    let stream =
        client.connector.dial(uri).await.map_err(|error| ClientError::Connect(error.into()))?;
    upgrade(uri, stream).await
}

async fn upgrade(uri: &Uri, stream: Stream) -> Result<(Stream, Bytes), ClientError> {
    let lost = |_: hyper::Error| ClientError::Lost;
    let (mut requests, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(lost)?;
    // Ends with the upgrade, or with the request that was refused.
    tokio::spawn(connection.with_upgrades().map(drop));
    let mut nonce = [0; 16];
    getrandom::fill(&mut nonce).expect("the operating system has randomness");
    let key = crate::base64::encode(&nonce);
    let authority = uri.authority().ok_or(ClientError::Answer)?;
    let request = Request::get(uri.path())
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

#[derive(Default)]
struct Pings {
    /// The newest Ping not answered yet: one Pong answers all before it.
    newest: Mutex<Option<Vec<u8>>>,
    came: Notify,
    /// The reader has ended: the writer says goodbye.
    ended: CancellationToken,
}

/// Runs a connection to its end.
pub(super) async fn run(
    leg: Leg,
    shared: &Shared,
    commands: &mut mpsc::Receiver<Vec<u8>>,
    events: &mpsc::Sender<Event>,
) -> Ended {
    let (reader, writer) = split(leg.stream);
    let pings = Pings::default();
    let mut reader = Reader {
        reader,
        decoder: Decoder::new(Role::Client, FRAME_BYTES_MAX),
        shared,
        pings: &pings,
        events,
        gate: Gate { first: leg.first, was_passed: false, hint: None },
    };
    let (code, is_done) =
        tokio::join!(reader.run(&leg.read), write(writer, leg.opening, commands, &pings));
    let Gate { hint, was_passed: was_let_in, .. } = reader.gate;
    Ended { code, hint, was_let_in, is_done }
}

/// Writes commands and Pongs until the last sender is gone or the socket breaks; answers whether
/// it was the former.
async fn write(
    mut writer: WriteHalf<Stream>,
    opening: Vec<Vec<u8>>,
    commands: &mut mpsc::Receiver<Vec<u8>>,
    pings: &Pings,
) -> bool {
    let mut entropy = Entropy::from_system();
    let mut out = Vec::new();
    for frame in opening {
        let mask = (entropy.next() as u32).to_be_bytes();
        write_masked_frame(&mut out, Opcode::Text, &frame, mask);
    }
    let is_done = loop {
        if writer.write_all(&out).await.is_err() || writer.flush().await.is_err() {
            // The reader sees how it ends.
            return false;
        }
        out.clear();
        let mask = (entropy.next() as u32).to_be_bytes();
        tokio::select! {
            // A late Pong costs the connection; a letter can wait for it.
            biased;
            () = pings.ended.cancelled() => break false,
            () = pings.came.notified() => {
                let ping = pings.newest.lock().take();
                if let Some(payload) = ping {
                    write_masked_frame(&mut out, Opcode::Pong, &payload, mask);
                }
            }
            command = commands.recv() => match command {
                Some(frame) => write_masked_frame(&mut out, Opcode::Text, &frame, mask),
                None => break true,
            },
        }
    };
    let mask = (entropy.next() as u32).to_be_bytes();
    codec::write_close(&mut out, 1000, "", Some(mask));
    // Going away either way; the reader sees how it ends.
    let _ = timeout(GOODBYE_TIMEOUT, writer.write_all(&out)).await;
    let _ = timeout(GOODBYE_TIMEOUT, writer.shutdown()).await;
    is_done
}

struct Reader<'a> {
    reader: ReadHalf<Stream>,
    decoder: Decoder,
    shared: &'a Shared,
    pings: &'a Pings,
    events: &'a mpsc::Sender<Event>,
    gate: Gate,
}

/// How the client comes in and goes.
struct Gate {
    first: Option<Answered>,
    was_passed: bool,
    hint: Option<Hint>,
}

#[derive(Deserialize)]
struct Skipped {
    #[serde(deserialize_with = "priority")]
    priority: Priority,
    from: u64,
    to: u64,
    reason: String,
}

impl Reader<'_> {
    /// Reads to the end; answers the gateway's close code.
    async fn run(&mut self, first: &[u8]) -> Option<u16> {
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
        self.pings.ended.cancel();
        self.gate.first = None;
        code
    }

    /// The events in `input`, and the close code if the connection is to end.
    fn decode(&mut self, input: &mut [u8]) -> (Vec<Event>, Option<Option<u16>>) {
        let Self { decoder, shared, pings, gate, .. } = self;
        let mut events = Vec::new();
        let mut closed = None;
        let result = decoder.feed(input, |event| {
            match event {
                codec::Event::Text(text) => {
                    events.extend(take_frame(text, shared, gate));
                }
                codec::Event::Ping(payload) => {
                    *pings.newest.lock() = Some(payload.to_vec());
                    pings.came.notify_one();
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

fn take_frame(text: &str, shared: &Shared, gate: &mut Gate) -> Option<Event> {
    let frame: Value = serde_json::from_str(text).ok()?;
    let answer = |result: Result<Receipt, ClientError>| {
        let id = frame["message_id"].as_str().unwrap_or_default();
        let waiting = shared.waiting.lock().as_mut().and_then(|waiting| waiting.remove(id));
        match waiting {
            // Who asked may have given up meanwhile.
            Some(waiting) => waiting.answer.send(result).map_or((), drop),
            None => return Some(result),
        }
        None
    };
    match frame["type"].as_str()? {
        "message" => {
            let message = Received::deserialize(&frame).ok()?;
            shared.memory.lock().is_new(&message).then_some(Event::Message(message))
        }
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
            let entry = if frame["resumed"] == true { Entry::Ticket } else { Entry::Key };
            gate.was_passed = true;
            match gate.first.take() {
                // Who asked may have given up meanwhile.
                Some(first) => first.send(Ok(())).map_or(None, |()| None),
                None => Some(Event::Resumed(entry)),
            }
        }
        "auth_error" => {
            let refusal = Refusal::parse(0, text.as_bytes(), None);
            gate.first.take().map(|first| first.send(Err(ClientError::Refused(refusal))));
            None
        }
        "resume" => {
            gate.hint = Hint::deserialize(&frame).ok();
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
