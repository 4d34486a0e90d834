//! A WebSocket to a gateway, as an application sees it: what it sends and what comes.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use heliograph_cluster::{
    AckItem,
    model::{DeviceId, Priority},
};
use parking_lot::Mutex;
use serde_json::{Map, Value, json};
use tokio::{
    sync::{mpsc, oneshot},
    time::timeout,
};

use super::{
    Client, ClientError, Letter, Receipt, Received, Refusal,
    journey::Journey,
    line::{self, Leg},
    memory::Memory,
    types::ack_fields,
};
use crate::websocket::Acknowledgement;

/// Frames waiting for the socket; then senders wait.
const COMMANDS_MAX: usize = 256;
/// Events waiting for the application; then the socket is not read on.
const EVENTS_MAX: usize = 1_024;

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
    /// The node went away and the connection goes on at another one. Nothing was lost, and nothing
    /// comes again that came before.
    Resumed(Entry),
    /// The connection ended, with the gateway's code if it gave one. Nothing comes after.
    Closed(Option<u16>),
}

/// How a connection that goes on was let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entry {
    /// By the ticket that the former node gave it.
    Ticket,
    /// By the API key.
    Key,
}

/// What kind of live frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LiveKind {
    /// `audio_stream`.
    Audio,
    /// `video_signal`.
    Video,
}

/// A letter on its way: the frame, in case it must be sent again, and who waits.
pub(super) struct Waiting {
    /// Counts letters: they are sent again in the order in which they were sent.
    pub(super) number: u64,
    pub(super) frame: Vec<u8>,
    pub(super) answer: oneshot::Sender<Result<Receipt, ClientError>>,
}

/// What the application's side and the connection's share.
#[derive(Default)]
pub(super) struct Shared {
    /// Letters that are on their way; `None` once the connection has ended.
    pub(super) waiting: Mutex<Option<HashMap<String, Waiting>>>,
    pub(super) memory: Mutex<Memory>,
    letters: AtomicU64,
}

/// Sends over a WebSocket. The connection ends when the last clone is dropped. When its node goes
/// away it goes on at another one: letters on their way are sent again, which changes nothing for
/// those that had arrived.
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
        let mut frame = letter.to_json();
        frame["type"] = Value::from("message");
        let frame = frame.to_string().into_bytes();
        let number = self.shared.letters.fetch_add(1, Ordering::Relaxed);
        let waiting = Waiting { number, frame: frame.clone(), answer };
        self.shared.waiting.lock().as_mut().ok_or(ClientError::Lost)?.insert(id.clone(), waiting);
        let work = async {
            self.commands.send(frame).await.map_err(|_| ClientError::Lost)?;
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
        self.shared.memory.lock().acknowledged(items);
        self.write(&ack_frame(items)).await
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
    let key = client.key.as_ref().ok_or(ClientError::NoKey)?;
    let auth = auth_frame(json!({ "token": key.expose() }), acknowledgement);
    let (stream, read) = line::dial(client, &client.endpoint.at("/ws")).await?;
    let shared = Arc::new(Shared::default());
    *shared.waiting.lock() = Some(HashMap::new());
    let (commands, commanded) = mpsc::channel(COMMANDS_MAX);
    let (events, mut evented) = mpsc::channel(EVENTS_MAX);
    let (authenticated, authentication) = oneshot::channel();
    let journey = Journey {
        client: client.clone(),
        acknowledgement,
        shared: Arc::clone(&shared),
        commands: commanded,
        events,
    };
    let first = Leg {
        stream,
        read,
        opening: vec![auth],
        credential: Entry::Key,
        first: Some(authenticated),
    };
    tokio::spawn(journey.run(first));
    match authentication.await {
        Ok(Ok(())) => Ok((Sender { commands, shared, timeout: client.timeout }, Events(evented))),
        Ok(Err(error)) => Err(error),
        Err(_) => match evented.recv().await {
            Some(Event::Closed(Some(code))) => Err(ClientError::Closed(code)),
            _ => Err(ClientError::Lost),
        },
    }
}

/// An `auth` frame with these fields.
pub(super) fn auth_frame(mut fields: Value, acknowledgement: Acknowledgement) -> Vec<u8> {
    fields["type"] = Value::from("auth");
    if acknowledgement == Acknowledgement::Explicit {
        fields["ack"] = Value::from("explicit");
    }
    fields.to_string().into_bytes()
}

/// An `ack` frame.
pub(super) fn ack_frame(items: &[AckItem]) -> Value {
    let mut frame = ack_fields(items);
    frame["type"] = Value::from("ack");
    frame
}
