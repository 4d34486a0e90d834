//! An authenticated connection: frames in, pushes out, acknowledgements between.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures_util::{StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use heliograph_cluster::{
    Accepted, CloseReason, LiveFrame, LiveOutcome, Outgoing, Principal, Push, RelayError, Session,
    Window,
    model::{DeviceId, Message, MessageId, Priority},
};
use metrics::counter;
use tokio::time::Instant;

use super::{
    super::{
        Gateway,
        fields::Object,
        wire::{MessageRequest, generate_message_id, parse_acknowledgement, write_message},
    },
    frames,
    mailbox::Mailbox,
};
use crate::{
    entropy::Entropy,
    metrics::{DELIVERED, Held, WEBSOCKETS},
    problem::{Code, Problem},
    websocket::{
        Acknowledgement, Outbox,
        codec::{CloseCode, Flow},
    },
};

/// How long a live frame may take: later it is worth nothing.
const LIVE_TIMEOUT: Duration = Duration::from_secs(2);
/// How often a sender is told that nobody listens, for each recipient.
const UNAVAILABLE_PAUSE: Duration = Duration::from_secs(1);
/// Recipients remembered for that.
const UNAVAILABLE_MAX: usize = 64;
/// Delivered and not acknowledged messages of one connection; then it must answer Pings first.
const UNACKNOWLEDGED_MAX: usize = 4_096;
/// Pings after messages that may be under way; a Pong answers all before it.
const PINGS_MAX: usize = 16;

/// How something under way ended.
enum Outcome {
    Sent(MessageId, Result<Accepted, RelayError>),
    Live(DeviceId, Result<LiveOutcome, RelayError>),
}

type Flight = BoxFuture<'static, Outcome>;

/// A Ping that covers the messages written before it.
struct Cover {
    nonce: u64,
    /// How many of the unacknowledged messages it covers, counted from the connection's start.
    upto: u64,
}

/// What waits for a Pong.
#[derive(Default)]
struct Unacknowledged {
    items: VecDeque<(Priority, u64)>,
    /// How many were acknowledged before `items`.
    before: u64,
    pings: VecDeque<Cover>,
}

/// An authenticated connection.
pub(super) struct Open {
    gateway: Arc<Gateway>,
    device: DeviceId,
    session: Arc<dyn Session>,
    mailbox: Arc<Mailbox>,
    acknowledgement: Acknowledgement,
    unacknowledged: Unacknowledged,
    /// In the outbox, not yet taken by the socket.
    unwritten: Vec<(Priority, u64)>,
    /// Of a push that did not fit the outbox.
    rest: std::vec::IntoIter<Arc<Message>>,
    /// `None` while nothing is under way.
    flights: Option<Box<FuturesUnordered<Flight>>>,
    told_unavailable: HashMap<DeviceId, Instant>,
    entropy: Entropy,
    _held: Held,
}

impl Open {
    /// Subscribes the connection to its mailbox.
    pub(super) fn new(
        gateway: Arc<Gateway>,
        principal: &Principal,
        acknowledgement: Acknowledgement,
        entropy: Entropy,
    ) -> Self {
        let mailbox = Arc::new(Mailbox::default());
        let window = Window {
            messages: gateway.websocket.window_messages,
            bytes: gateway.websocket.window_bytes,
        };
        let session = gateway.relay.connect(principal, window, Arc::clone(&mailbox) as Arc<_>);
        Self {
            gateway,
            device: principal.device.clone(),
            session,
            mailbox,
            acknowledgement,
            unacknowledged: Unacknowledged::default(),
            unwritten: Vec::new(),
            rest: Vec::new().into_iter(),
            flights: None,
            told_unavailable: HashMap::new(),
            entropy,
            _held: Held::new(WEBSOCKETS),
        }
    }

    /// Whether one more may be under way.
    pub(super) fn takes_input(&self) -> bool {
        let flights = self.flights.as_ref().map_or(0, |flights| flights.len());
        flights < self.gateway.websocket.in_flight_max
    }

    /// One frame of the client.
    pub(super) fn frame(
        &mut self,
        object: &Object<'_>,
        out: &mut Outbox,
        cx: &mut Context<'_>,
    ) -> Flow {
        let kind = object.text("type").ok().flatten();
        let result = match kind.as_deref() {
            Some("message") => self.message(object, out, cx),
            Some("audio_stream" | "video_signal") => self.live(object, out, cx),
            Some("ack") => self.ack(object),
            Some("auth") => Err(Code::AlreadyAuthenticated.into()),
            Some("attach" | "detach" | "subscribe_presence") => Err(Code::NotSupported.into()),
            _ => Err(Code::UnknownType.into()),
        };
        if let Err(problem) = result {
            let id = object.text("message_id").ok().flatten();
            out.text(&frames::error(&problem, id.as_deref()));
        }
        if self.takes_input() { Flow::Continue } else { Flow::Pause }
    }

    fn allow(&self) -> Result<(), Problem> {
        self.gateway.limiter.take(&self.device, Instant::now()).check()
    }

    fn message(
        &mut self,
        object: &Object<'_>,
        out: &mut Outbox,
        cx: &mut Context<'_>,
    ) -> Result<(), Problem> {
        self.allow()?;
        let relay = Arc::clone(&self.gateway.relay);
        let request = MessageRequest::parse(object, || relay.status().ttl_max)?;
        let id = request.message_id.unwrap_or_else(generate_message_id);
        let outgoing = Outgoing {
            sender: self.device.clone(),
            recipient: request.recipient,
            message_id: id.clone(),
            priority: request.priority,
            ttl: request.ttl,
            content: request.content,
        };
        let deadline = self.gateway.deadline();
        let flight =
            Box::pin(async move { Outcome::Sent(id, relay.send(outgoing, deadline).await) });
        self.start(flight, out, cx);
        Ok(())
    }

    fn live(
        &mut self,
        object: &Object<'_>,
        out: &mut Outbox,
        cx: &mut Context<'_>,
    ) -> Result<(), Problem> {
        self.allow()?;
        let recipient = object.device("recipient_id").map_err(|error| vec![error])?;
        let frame = LiveFrame {
            sender: self.device.clone(),
            recipient: recipient.clone(),
            payload: frames::live(object, &self.device).into(),
        };
        let relay = Arc::clone(&self.gateway.relay);
        let deadline = Instant::now() + LIVE_TIMEOUT;
        let flight =
            Box::pin(async move { Outcome::Live(recipient, relay.live(frame, deadline).await) });
        self.start(flight, out, cx);
        Ok(())
    }

    fn ack(&mut self, object: &Object<'_>) -> Result<(), Problem> {
        let items = parse_acknowledgement(object)?;
        self.acknowledgement = Acknowledgement::Explicit;
        self.unacknowledged = Unacknowledged::default();
        self.session.acknowledge(&items);
        Ok(())
    }

    /// Starts something. It is polled at once, so that the cluster gets what one connection sends
    /// in the order in which it came.
    fn start(&mut self, mut flight: Flight, out: &mut Outbox, cx: &mut Context<'_>) {
        match flight.as_mut().poll(cx) {
            Poll::Ready(outcome) => self.land(outcome, out),
            Poll::Pending => self.flights.get_or_insert_default().push(flight),
        }
    }

    fn land(&mut self, outcome: Outcome, out: &mut Outbox) {
        match outcome {
            Outcome::Sent(id, Ok(accepted)) => {
                let (at, duplicate) = (accepted.accepted_ms, accepted.duplicate);
                out.text(&frames::accepted(id.as_str(), at, duplicate));
            }
            Outcome::Sent(id, Err(error)) => {
                out.text(&frames::error(&error.into(), Some(id.as_str())));
            }
            Outcome::Live(_, Ok(LiveOutcome::Forwarded)) => {}
            Outcome::Live(recipient, Ok(LiveOutcome::Unavailable) | Err(_)) => {
                self.tell_unavailable(recipient, out);
            }
        }
    }

    fn tell_unavailable(&mut self, recipient: DeviceId, out: &mut Outbox) {
        let now = Instant::now();
        let told = &mut self.told_unavailable;
        told.retain(|_, at| now.duration_since(*at) < UNAVAILABLE_PAUSE);
        if told.contains_key(&recipient) || told.len() >= UNAVAILABLE_MAX {
            return;
        }
        out.text(&frames::unavailable(&recipient));
        told.insert(recipient, now);
    }

    /// Adds what waits to the outbox.
    pub(super) fn poll(&mut self, out: &mut Outbox, cx: &mut Context<'_>) {
        // A revoked key ends the connection even while its socket takes nothing.
        if let Some(reason) = self.mailbox.poll_close(cx) {
            out.close(close_code(reason));
            return;
        }
        if !out.is_empty() {
            return;
        }
        self.poll_flights(out, cx);
        while out.has_room() && self.unacknowledged.items.len() < UNACKNOWLEDGED_MAX {
            if let Some(message) = self.rest.next() {
                self.deliver(&message, out);
                continue;
            }
            match self.mailbox.poll_take(cx) {
                None => break,
                Some(push) => self.take(push, out),
            }
        }
        self.cover(out);
    }

    fn poll_flights(&mut self, out: &mut Outbox, cx: &mut Context<'_>) {
        while let Some(flights) = &mut self.flights {
            match flights.poll_next_unpin(cx) {
                Poll::Ready(Some(outcome)) => self.land(outcome, out),
                Poll::Ready(None) => self.flights = None,
                Poll::Pending => break,
            }
        }
    }

    fn take(&mut self, push: Push, out: &mut Outbox) {
        match push {
            Push::Messages(messages) => self.rest = messages.into_iter(),
            Push::Skipped { priority, from, to, reason } => {
                out.text(&frames::skipped(priority, from, to, reason));
            }
            Push::Live(frame) => out.text(&frame),
            Push::Close(reason) => out.close(close_code(reason)),
            // A kind of push that this front door does not know says nothing to its clients.
            _ => {}
        }
    }

    fn deliver(&mut self, message: &Message, out: &mut Outbox) {
        let mut frame = crate::websocket::take_buffer();
        write_message(&mut frame, message, &self.device);
        out.text(&frame);
        crate::websocket::return_buffer(frame);
        let item = (message.priority, message.seq);
        self.unwritten.push(item);
        if self.acknowledgement == Acknowledgement::Pong {
            self.unacknowledged.items.push_back(item);
        }
    }

    /// Adds a Ping whose Pong acknowledges all messages before it.
    fn cover(&mut self, out: &mut Outbox) {
        let waiting = &mut self.unacknowledged;
        let upto = waiting.before + waiting.items.len() as u64;
        let covered = waiting.pings.back().map_or(waiting.before, |ping| ping.upto);
        if upto == covered || waiting.pings.len() >= PINGS_MAX {
            return;
        }
        let nonce = self.entropy.next();
        waiting.pings.push_back(Cover { nonce, upto });
        out.ping(nonce);
    }

    /// The socket has taken everything.
    pub(super) fn flushed(&mut self) {
        if self.unwritten.is_empty() {
            return;
        }
        let written = std::mem::take(&mut self.unwritten);
        counter!(DELIVERED).increment(written.len() as u64);
        self.session.written(&written);
    }

    /// A Pong came; only one with the nonce of a Ping of ours counts.
    pub(super) fn pong(&mut self, nonce: u64) {
        let waiting = &mut self.unacknowledged;
        let Some(index) = waiting.pings.iter().position(|ping| ping.nonce == nonce) else { return };
        let upto = waiting.pings[index].upto;
        waiting.pings.drain(..=index);
        let count = usize::try_from(upto - waiting.before).expect("bounded by what is waiting");
        let items: Vec<_> = waiting
            .items
            .drain(..count)
            .map(|(priority, seq)| heliograph_cluster::AckItem::Seq(priority, seq))
            .collect();
        waiting.before = upto;
        if waiting.items.is_empty() {
            // An idle connection owns no queue.
            waiting.items = VecDeque::new();
            waiting.pings = VecDeque::new();
        }
        self.session.acknowledge(&items);
    }
}

fn close_code(reason: CloseReason) -> CloseCode {
    match reason {
        CloseReason::KeyRevoked => CloseCode::KeyRevoked,
        CloseReason::SlowReader => CloseCode::SlowReader,
        CloseReason::NodeRestarts => CloseCode::Restart,
        _ => CloseCode::TryAgainLater,
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.mailbox.close();
    }
}
