//! The task that owns a socket: reads, decodes, writes, keeps alive, closes.
//!
//! Written as a poll function over plain state, so that an idle connection is a few hundred bytes.
//! Everything that waits has a deadline in the one timer.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use ::metrics::counter;
use bytes::Bytes;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep, sleep_until},
};
use tokio_util::sync::WaitForCancellationFutureOwned;

use super::{
    codec::{CloseCode, Decoder, Event, Flow, ProtocolError, Role},
    config::WebSocketConfig,
    outbox::Outbox,
    scratch,
};
use crate::{
    entropy::Entropy,
    metrics::{self, CLOSES},
    server::departure::Departure,
};

/// Keep-alive Pings that may go unanswered.
const MISSED_MAX: u8 = 2;

/// What the frames of a connection mean.
pub(crate) trait Protocol: Send {
    /// A text message came. Answering [`Flow::Pause`] holds back what follows until
    /// [`Protocol::takes_input`].
    fn text(&mut self, text: &str, out: &mut Outbox, cx: &mut Context<'_>) -> Flow;

    /// Whether further messages may come.
    fn takes_input(&self) -> bool;

    /// A Pong to the Ping with this nonce came.
    fn pong(&mut self, nonce: u64);

    /// Adds frames that the protocol has of itself, and registers `cx` for more. It should add
    /// none but urgent ones while the outbox is not empty: what waits must be flushed some time.
    fn poll(&mut self, out: &mut Outbox, cx: &mut Context<'_>);

    /// The socket has taken all that was in the outbox.
    fn flushed(&mut self);

    /// When [`Protocol::expired`] wants to be called.
    fn deadline(&self) -> Option<Instant>;

    /// The deadline has passed.
    fn expired(&mut self, out: &mut Outbox);

    /// The node goes away: bring to an end what is under way, and close then.
    fn leave(&mut self, out: &mut Outbox);
}

enum State<P> {
    Open(Box<P>),
    /// Our close frame is on its way; ends with the peer's, its EOF, or the deadline.
    Closing {
        until: Instant,
        broken: bool,
    },
    /// Both close frames are written or on their way: only our side must be flushed.
    Closed {
        until: Instant,
    },
}

/// Whether the connection has to go.
enum Departing {
    /// Not yet.
    No(Pin<Box<WaitForCancellationFutureOwned>>, Arc<Departure>),
    /// At this moment.
    At(Instant),
    /// It was told.
    Told,
}

/// One WebSocket connection.
pub(crate) struct Connection<S, P> {
    stream: S,
    config: Arc<WebSocketConfig>,
    state: State<P>,
    decoder: Decoder,
    /// What was read and may not be decoded yet.
    held: Vec<u8>,
    out: Outbox,
    entropy: Entropy,
    /// Since when the socket takes nothing.
    stalled_since: Option<Instant>,
    next_ping: Instant,
    heard: bool,
    missed: u8,
    departing: Departing,
    timer: Pin<Box<Sleep>>,
}

impl<S: AsyncRead + AsyncWrite + Unpin, P: Protocol> Connection<S, P> {
    /// A connection after its handshake; `read` came with it.
    pub(crate) fn new(
        stream: S,
        read: &Bytes,
        config: Arc<WebSocketConfig>,
        protocol: P,
        departure: Arc<Departure>,
        mut entropy: Entropy,
    ) -> Self {
        let next_ping = Instant::now() + pause(&config, &mut entropy);
        Self {
            stream,
            decoder: Decoder::new(Role::Server, config.message_bytes_max),
            config,
            state: State::Open(Box::new(protocol)),
            held: read.to_vec(),
            out: Outbox::default(),
            entropy,
            stalled_since: None,
            next_ping,
            heard: true,
            missed: 0,
            departing: Departing::No(Box::pin(departure.called()), departure),
            timer: Box::pin(sleep_until(next_ping)),
        }
    }

    fn poll_all(&mut self, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        loop {
            self.poll_departure(cx);
            if let State::Open(protocol) = &mut self.state {
                protocol.poll(&mut self.out, cx);
            }
            self.begin_close();
            let mut again = false;
            match self.poll_write(cx)? {
                Poll::Ready(Wrote::Something) => again = true,
                Poll::Ready(Wrote::Nothing) if self.says_no_more() => {
                    // The peer's end comes soon after ours; whether it does, the timer watches.
                    let shut = Pin::new(&mut self.stream).poll_shutdown(cx);
                    if shut.is_ready() && matches!(self.state, State::Closed { .. }) {
                        return shut;
                    }
                }
                _ => {}
            }
            match self.poll_input(cx)? {
                Poll::Ready(Input::Some) => again = true,
                Poll::Ready(Input::End) => return Poll::Ready(Ok(())),
                Poll::Pending => {}
            }
            match self.poll_timer(cx) {
                Poll::Ready(Timer::Act) => again = true,
                Poll::Ready(Timer::End) => return Poll::Ready(Ok(())),
                Poll::Pending => {}
            }
            if !again {
                return Poll::Pending;
            }
        }
    }

    fn poll_departure(&mut self, cx: &mut Context<'_>) {
        if let Departing::No(called, departure) = &mut self.departing
            && called.as_mut().poll(cx).is_ready()
        {
            self.departing = Departing::At(departure.turn(&mut self.entropy));
        }
        if let Departing::At(turn) = self.departing
            && turn <= Instant::now()
        {
            self.departing = Departing::Told;
            if let State::Open(protocol) = &mut self.state {
                protocol.leave(&mut self.out);
            }
        }
    }

    fn says_no_more(&self) -> bool {
        matches!(self.state, State::Closed { .. } | State::Closing { broken: true, .. })
    }

    /// Writes the close frame once somebody wants to close.
    fn begin_close(&mut self) {
        let Some(code) = self.out.closing() else { return };
        if !matches!(self.state, State::Open(_)) {
            return;
        }
        self.close(code, false);
    }

    fn close(&mut self, code: CloseCode, broken: bool) {
        counter!(CLOSES, "code" => code.label()).increment(1);
        self.out.write_close(Some((code.code(), code.reason())));
        self.state = State::Closing { until: self.close_deadline(), broken };
        self.held = Vec::new();
    }

    fn close_deadline(&self) -> Instant {
        Instant::now() + self.config.close_timeout
    }

    fn poll_write(&mut self, cx: &mut Context<'_>) -> std::io::Result<Poll<Wrote>> {
        if self.out.is_empty() {
            return Ok(Poll::Ready(Wrote::Nothing));
        }
        loop {
            match Pin::new(&mut self.stream).poll_write(cx, self.out.pending()) {
                Poll::Ready(Ok(0)) => return Err(std::io::ErrorKind::WriteZero.into()),
                Poll::Ready(Ok(bytes)) => {
                    self.stalled_since = None;
                    if self.out.advance(bytes) {
                        break;
                    }
                }
                Poll::Ready(Err(error)) => return Err(error),
                Poll::Pending => {
                    self.stalled_since.get_or_insert_with(Instant::now);
                    self.out.stalled();
                    return Ok(Poll::Pending);
                }
            }
        }
        // TLS holds records back until flushed; whether that waits, the next write will tell.
        if let Poll::Ready(Err(error)) = Pin::new(&mut self.stream).poll_flush(cx) {
            return Err(error);
        }
        if let State::Open(protocol) = &mut self.state {
            protocol.flushed();
        }
        Ok(Poll::Ready(Wrote::Something))
    }

    fn poll_input(&mut self, cx: &mut Context<'_>) -> std::io::Result<Poll<Input>> {
        let takes = match &self.state {
            State::Open(protocol) => protocol.takes_input() && self.out.has_room(),
            State::Closing { .. } => true,
            State::Closed { .. } => false,
        };
        if !takes {
            return Ok(Poll::Pending);
        }
        if !self.held.is_empty() {
            let mut held = std::mem::take(&mut self.held);
            self.decode(&mut held, cx);
            return Ok(Poll::Ready(Input::Some));
        }
        scratch::with_read_buffer(|buffer| {
            let mut read = ReadBuf::new(buffer);
            match Pin::new(&mut self.stream).poll_read(cx, &mut read) {
                Poll::Pending => Ok(Poll::Pending),
                Poll::Ready(Err(error)) => Err(error),
                Poll::Ready(Ok(())) if read.filled().is_empty() => Ok(Poll::Ready(Input::End)),
                Poll::Ready(Ok(())) => {
                    self.heard = true;
                    self.decode(read.filled_mut(), cx);
                    Ok(Poll::Ready(Input::Some))
                }
            }
        })
    }

    fn decode(&mut self, input: &mut [u8], cx: &mut Context<'_>) {
        if matches!(self.state, State::Closing { broken: true, .. }) {
            return;
        }
        let Self { decoder, state, out, .. } = self;
        let mut peer_close = None;
        let result = decoder.feed(input, |event| match (event, &mut *state) {
            (Event::Close(code), _) => {
                peer_close = Some(code);
                Flow::Pause
            }
            (Event::Text(text), State::Open(protocol)) => {
                metrics::text_frame_received();
                let flow = protocol.text(text, out, cx);
                if out.closing().is_some() || !out.has_room() { Flow::Pause } else { flow }
            }
            (Event::Ping(payload), State::Open(_)) => {
                out.pong(payload);
                if out.has_room() { Flow::Continue } else { Flow::Pause }
            }
            (Event::Pong(payload), State::Open(protocol)) => {
                if let Ok(nonce) = payload.try_into() {
                    protocol.pong(u64::from_be_bytes(nonce));
                }
                Flow::Continue
            }
            (Event::Binary(_), State::Open(_)) => {
                out.close(CloseCode::Unsupported);
                Flow::Pause
            }
            _ => Flow::Continue,
        });
        match result {
            Err(error) => self.broken(error),
            Ok(_) if peer_close.is_some() => self.answer_close(peer_close.flatten()),
            Ok(used) if used < input.len() => self.held = input[used..].to_vec(),
            Ok(_) => {}
        }
    }

    /// The peer broke the protocol: say so and read on only to throw away.
    fn broken(&mut self, error: ProtocolError) {
        match self.state {
            State::Open(_) => self.close(error.close_code(), true),
            _ => self.state = State::Closed { until: self.close_deadline() },
        }
    }

    fn answer_close(&mut self, code: Option<u16>) {
        if matches!(self.state, State::Open(_)) {
            counter!(CLOSES, "code" => "peer").increment(1);
            self.out.write_close(code.map(|code| (code, "")));
        }
        self.state = State::Closed { until: self.close_deadline() };
    }

    /// The earliest deadline of all.
    fn deadline(&self) -> Instant {
        let stalled = self.stalled_since.map(|since| since + self.config.write_timeout);
        match &self.state {
            State::Closing { until, .. } | State::Closed { until } => *until,
            State::Open(protocol) => {
                let turn = match self.departing {
                    Departing::At(turn) => Some(turn),
                    _ => None,
                };
                let others = [protocol.deadline(), stalled, turn];
                others.into_iter().flatten().fold(self.next_ping, Instant::min)
            }
        }
    }

    fn poll_timer(&mut self, cx: &mut Context<'_>) -> Poll<Timer> {
        let deadline = self.deadline();
        // A timer set too early is only found out when it fires: deadlines mostly move back.
        if deadline < self.timer.deadline() {
            self.timer.as_mut().reset(deadline);
        }
        ready!(self.timer.as_mut().poll(cx));
        let now = Instant::now();
        self.timer.as_mut().reset(deadline.max(now + MIN_PAUSE));
        if now < deadline {
            return Poll::Ready(Timer::Act);
        }
        if !matches!(self.state, State::Open(_)) {
            return Poll::Ready(Timer::End);
        }
        let timer = self.expire(now);
        // What expired has a new deadline now, or the connection closes.
        let next = self.deadline().max(now + MIN_PAUSE);
        self.timer.as_mut().reset(next);
        Poll::Ready(timer)
    }

    fn expire(&mut self, now: Instant) -> Timer {
        if let Some(since) = self.stalled_since
            && now >= since + self.config.write_timeout
        {
            self.out.close(CloseCode::SlowReader);
        }
        if let State::Open(protocol) = &mut self.state
            && protocol.deadline().is_some_and(|deadline| now >= deadline)
        {
            protocol.expired(&mut self.out);
        }
        if now >= self.next_ping {
            self.missed = if std::mem::take(&mut self.heard) { 0 } else { self.missed + 1 };
            if self.missed >= MISSED_MAX {
                return Timer::End;
            }
            let nonce = self.entropy.next();
            self.out.ping(nonce);
            self.next_ping = now + pause(&self.config, &mut self.entropy);
        }
        Timer::Act
    }
}

/// tokio's timer has a resolution of a millisecond; nothing here needs a finer one.
const MIN_PAUSE: std::time::Duration = std::time::Duration::from_millis(1);

/// A jittered pause between Pings, so that connections made at once do not ping at once.
fn pause(config: &WebSocketConfig, entropy: &mut Entropy) -> std::time::Duration {
    let millis =
        |duration: std::time::Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let pause = entropy.between(millis(config.ping_min), millis(config.ping_max));
    std::time::Duration::from_millis(pause)
}

/// Runs the connection to its end. Not an `async` function, whose future would hold it twice.
impl<S: AsyncRead + AsyncWrite + Unpin, P: Protocol> Future for Connection<S, P> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        // An error is the peer's going away without a word: there is nobody to tell.
        let _ = ready!(this.poll_all(cx));
        if matches!(this.state, State::Open(_)) {
            counter!(CLOSES, "code" => "none").increment(1);
        }
        Poll::Ready(())
    }
}

enum Wrote {
    Nothing,
    Something,
}

enum Input {
    Some,
    End,
}

enum Timer {
    Act,
    End,
}
