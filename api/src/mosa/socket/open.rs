//! An authenticated connection: frames in, pushes out, acknowledgements between.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures_util::{StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use heliograph_cluster::{
    Accepted, AckItem, CloseReason, LiveFrame, LiveOutcome, Outgoing, Principal, Push, RelayError,
    Session, Window,
    model::{DeviceId, Message, MessageId, Priority},
};
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
    metrics::{self, Held, WEBSOCKETS},
    problem::{Code, Problem},
    websocket::{
        Acknowledgement, Outbox,
        codec::{CloseCode, Flow},
    },
};

/// How long a live frame may take: later it is worth nothing.
const LIVE_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a connection that has to go may take to bring to an end what is under way: answers
/// to its messages take milliseconds, Pongs a round trip.
const QUIET_PATIENCE: Duration = Duration::from_secs(1);
/// How long answers may take after that, while nothing more is taken in.
const LANDED_PATIENCE: Duration = Duration::from_secs(2);
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

/// What the device showed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Entry {
    /// Its API key, which was checked.
    Key,
    /// A ticket: its key is yet to be confirmed, and until then nothing is done in its name.
    Ticket,
}

/// The question whether the key behind a ticket still is one.
struct Confirming {
    question: BoxFuture<'static, Result<(), RelayError>>,
    /// What the device got earlier and does not acknowledge by itself.
    had: Vec<AckItem>,
}

/// How far a connection is that has to go.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Leaving {
    No,
    /// Nothing more is delivered; what is under way comes to its end, until then.
    UntilQuiet(Instant),
    /// Nothing more is taken in, either.
    UntilLanded(Instant),
    /// All is said.
    Over,
}

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
    principal: Principal,
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
    confirming: Option<Box<Confirming>>,
    leaving: Leaving,
    entropy: Entropy,
    _held: Held,
}

impl Open {
    /// Subscribes the connection to its mailbox. `received` is what the device got earlier.
    pub(super) fn new(
        gateway: Arc<Gateway>,
        (principal, entry): (Principal, Entry),
        acknowledgement: Acknowledgement,
        received: &[(Priority, u64)],
        entropy: Entropy,
    ) -> Self {
        let mailbox = Arc::new(Mailbox::default());
        let window = Window {
            messages: gateway.websocket.window_messages,
            bytes: gateway.websocket.window_bytes,
        };
        let sink = Arc::clone(&mailbox) as Arc<_>;
        let session = gateway.relay.connect(&principal, received, window, sink);
        let had: Vec<AckItem> = match acknowledgement {
            // Its stack took them: that is all a Pong would say.
            Acknowledgement::Pong => {
                received.iter().map(|(priority, seq)| AckItem::Seq(*priority, *seq)).collect()
            }
            Acknowledgement::Explicit => Vec::new(),
        };
        let confirming = match entry {
            Entry::Key => {
                session.acknowledge(&had);
                None
            }
            Entry::Ticket => {
                let (relay, deadline) = (Arc::clone(&gateway.relay), gateway.deadline());
                let who = principal.clone();
                let question = Box::pin(async move { relay.confirm(&who, deadline).await });
                Some(Box::new(Confirming { question, had }))
            }
        };
        Self {
            gateway,
            principal,
            session,
            mailbox,
            acknowledgement,
            unacknowledged: Unacknowledged::default(),
            unwritten: Vec::new(),
            rest: Vec::new().into_iter(),
            flights: None,
            told_unavailable: HashMap::new(),
            confirming,
            leaving: Leaving::No,
            entropy,
            _held: Held::new(WEBSOCKETS),
        }
    }

    /// Whether one more may be under way.
    pub(super) fn takes_input(&self) -> bool {
        let flights = self.flights.as_ref().map_or(0, |flights| flights.len());
        let may_act = self.confirming.is_none()
            && matches!(self.leaving, Leaving::No | Leaving::UntilQuiet(_));
        may_act && flights < self.gateway.websocket.in_flight_max
    }

    /// The node goes away: nothing more is delivered, and once all is said the connection closes.
    pub(super) fn leave(&mut self) {
        if self.leaving == Leaving::No {
            self.leaving = Leaving::UntilQuiet(Instant::now() + QUIET_PATIENCE);
        }
    }

    /// When [`Open::expired`] wants to be called.
    pub(super) fn deadline(&self) -> Option<Instant> {
        match self.leaving {
            Leaving::No | Leaving::Over => None,
            Leaving::UntilQuiet(until) | Leaving::UntilLanded(until) => Some(until),
        }
    }

    /// Whoever cannot stop talking is not listened to any more; whoever gets no answers goes
    /// without them.
    pub(super) fn expired(&mut self, out: &mut Outbox) {
        match self.leaving {
            Leaving::UntilQuiet(_) => {
                self.leaving = Leaving::UntilLanded(Instant::now() + LANDED_PATIENCE);
            }
            Leaving::UntilLanded(_) => self.say_goodbye(out),
            Leaving::No | Leaving::Over => {}
        }
    }

    fn say_goodbye(&mut self, out: &mut Outbox) {
        self.leaving = Leaving::Over;
        if let Some(hint) = self.gateway.relay.farewell(&self.principal) {
            out.text(&frames::resume(&hint));
        }
        out.close(CloseCode::Restart);
    }

    /// Whether nothing is under way in either direction.
    fn is_quiet(&self) -> bool {
        let waits_for_pongs =
            matches!(self.leaving, Leaving::UntilQuiet(_)) && !self.unacknowledged.items.is_empty();
        self.flights.is_none() && self.confirming.is_none() && !waits_for_pongs
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
        self.gateway.limiter.take(&self.principal.device, Instant::now()).check()
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
            sender: self.principal.device.clone(),
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
            sender: self.principal.device.clone(),
            recipient: recipient.clone(),
            payload: frames::live(object, &self.principal.device).into(),
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
        match self.mailbox.poll_close(cx) {
            None => {}
            Some(CloseReason::NodeRestarts) => self.leave(),
            Some(reason) => {
                out.close(close_code(reason));
                return;
            }
        }
        self.poll_confirming(out, cx);
        if !out.is_empty() {
            return;
        }
        self.poll_flights(out, cx);
        if self.leaving != Leaving::No {
            if self.leaving != Leaving::Over && out.is_empty() && self.is_quiet() {
                self.say_goodbye(out);
            }
            return;
        }
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

    fn poll_confirming(&mut self, out: &mut Outbox, cx: &mut Context<'_>) {
        let Some(confirming) = &mut self.confirming else { return };
        let Poll::Ready(answer) = confirming.question.as_mut().poll(cx) else { return };
        let had = self.confirming.take().map(|confirming| confirming.had).unwrap_or_default();
        match answer {
            Ok(()) => drop(self.session.acknowledge(&had)),
            Err(RelayError::Unauthenticated) => out.close(CloseCode::KeyRevoked),
            Err(_) => out.close(CloseCode::TryAgainLater),
        }
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
            Push::Close(CloseReason::NodeRestarts) => self.leave(),
            Push::Close(reason) => out.close(close_code(reason)),
            // A kind of push that this front door does not know says nothing to its clients.
            _ => {}
        }
    }

    fn deliver(&mut self, message: &Message, out: &mut Outbox) {
        let mut frame = crate::websocket::take_buffer();
        write_message(&mut frame, message, &self.principal.device);
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
        metrics::delivered(written.len());
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
            .map(|(priority, seq)| AckItem::Seq(priority, seq))
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
