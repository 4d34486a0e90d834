//! A sender: one message at a time, repeated with the same id until it is accepted.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use hyper::StatusCode;
use rand::Rng as _;
use serde_json::{Value, json};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::{letter::Letters, progress::Progress};
use crate::{
    history::{MailboxNumber, MessageNumber, Operation, Phase, Recorder},
    wire::{AckMode, Device, Dial, Frame, Rest, Socket, WireError},
};

/// How long one attempt may take before the sender asks another node: longer than the pause that
/// is allowed after a fault, so that a hanging answer shows as the pause it is.
const ATTEMPT: Duration = Duration::from_secs(5);
/// How long a message is repeated before the sender gives up and its fate stays unknown.
pub(super) const PERSISTENCE: Duration = Duration::from_secs(60);
/// Between two attempts, at most; a client that retries without a pause is a load test.
const BACK_OFF_MS_MAX: u64 = 60;

/// How a sender talks to the relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Transport {
    /// `POST /api/v1/messages/send`.
    Rest,
    /// `message` frames.
    Socket,
    /// The product's own client, which repeats and moves by itself.
    Typed,
}

/// What one attempt showed.
#[derive(Debug)]
enum Attempt {
    Accepted,
    /// Certainly not done; may work elsewhere or later.
    NotDone,
    /// Perhaps done.
    Unknown,
    /// Refused for good: never the answer to a correct request.
    Refused(String),
}

/// A sender and all it needs.
#[derive(Debug)]
pub(super) struct Sender {
    pub(super) process: u32,
    pub(super) device: Device,
    pub(super) mailbox: MailboxNumber,
    pub(super) recipient: String,
    pub(super) transport: Transport,
    pub(super) nodes: Vec<SocketAddr>,
    pub(super) pace: Duration,
    pub(super) moves_every: u32,
    pub(super) letters: Letters,
    pub(super) recorder: Recorder,
    pub(super) progress: Arc<Progress>,
}

impl Sender {
    /// Sends until told to stop; the message that is under way then is still seen through.
    pub(super) async fn run(self, stop: CancellationToken) {
        let mut line = Line::new(&self);
        let mut tick = interval(self.pace);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        for count in 0u32.. {
            tokio::select! {
                // To stop is always possible.
                biased;
                () = stop.cancelled() => return,
                _ = tick.tick() => {}
            }
            if count % self.moves_every == self.moves_every - 1 {
                line.move_on();
            }
            let message = MessageNumber(u64::from(self.process) << 32 | u64::from(count));
            let priority = self.letters.priority(message);
            let operation = Operation::Send { mailbox: self.mailbox, priority, message };
            self.recorder.record(self.process, Phase::Invoke, operation.clone());
            let phase = match self.transport {
                Transport::Typed => self.send_typed(line.at, message, priority).await,
                _ => self.see_through(&mut line, message, priority).await,
            };
            self.recorder.record(self.process, phase, operation);
            if phase == Phase::Ok {
                self.progress.accepted(message);
            }
        }
    }

    async fn see_through(
        &self,
        line: &mut Line<'_>,
        message: MessageNumber,
        priority: u8,
    ) -> Phase {
        let body = json!({
            "recipient_id": self.recipient,
            "message_id": self.letters.id(message),
            "content": self.letters.content(message),
            "priority": priority,
        });
        let began = Instant::now();
        let mut perhaps = false;
        while began.elapsed() < PERSISTENCE {
            match line.attempt(&body).await {
                Attempt::Accepted => return Phase::Ok,
                Attempt::NotDone => {}
                Attempt::Unknown => perhaps = true,
                Attempt::Refused(answer) => {
                    self.progress.refused(answer);
                    return if perhaps { Phase::Unknown } else { Phase::Fail };
                }
            }
            line.move_on();
            let back_off = rand::rng().random_range(0..=BACK_OFF_MS_MAX);
            sleep(Duration::from_millis(back_off)).await;
        }
        if perhaps { Phase::Unknown } else { Phase::Fail }
    }
}

/// A sender's connection to the node it is at.
struct Line<'a> {
    sender: &'a Sender,
    at: usize,
    rest: Rest,
    socket: Option<Socket>,
}

impl<'a> Line<'a> {
    fn new(sender: &'a Sender) -> Self {
        // Spread over the nodes from the start.
        let at = sender.process as usize % sender.nodes.len();
        Self { sender, at, rest: sender.device.rest(sender.nodes[at]), socket: None }
    }

    fn move_on(&mut self) {
        self.at = (self.at + 1) % self.sender.nodes.len();
        self.rest.move_to(self.sender.nodes[self.at]);
        self.socket = None;
    }

    async fn attempt(&mut self, body: &Value) -> Attempt {
        match self.sender.transport {
            Transport::Rest | Transport::Typed => self.attempt_rest(body).await,
            Transport::Socket => match timeout(ATTEMPT, self.attempt_socket(body)).await {
                Ok(Ok(attempt)) => attempt,
                Ok(Err(WireError::NotConnected(_))) => Attempt::NotDone,
                Ok(Err(_)) | Err(_) => Attempt::Unknown,
            },
        }
    }

    async fn attempt_rest(&mut self, body: &Value) -> Attempt {
        match self.rest.post("/api/v1/messages/send", body, ATTEMPT).await {
            Ok(reply) if reply.status == StatusCode::ACCEPTED => Attempt::Accepted,
            Ok(reply) if reply.status == StatusCode::TOO_MANY_REQUESTS => Attempt::NotDone,
            Ok(reply) if reply.status.is_server_error() => match reply.code() {
                "overloaded" | "not_ready" | "connection_limit" => Attempt::NotDone,
                _ => Attempt::Unknown,
            },
            Ok(reply) => Attempt::Refused(format!("{} {}", reply.status, reply.body)),
            Err(WireError::NotConnected(_)) => Attempt::NotDone,
            Err(_) => Attempt::Unknown,
        }
    }

    async fn attempt_socket(&mut self, body: &Value) -> Result<Attempt, WireError> {
        // Taken out while in use: an attempt that is given up leaves no half-used socket.
        let mut socket = match self.socket.take() {
            Some(socket) => socket,
            None => match self.connect().await {
                Ok(socket) => socket,
                // Before the message was sent: certainly not done.
                Err(WireError::Unexpected { body, .. }) if body["type"] == "auth_error" => {
                    return Ok(refusal(&body));
                }
                Err(_) => return Ok(Attempt::NotDone),
            },
        };
        let mut frame = body.clone();
        frame["type"] = json!("message");
        socket.send(&frame).await?;
        loop {
            match socket.next().await? {
                Frame::Accepted { message_id } if body["message_id"] == message_id => {
                    self.socket = Some(socket);
                    return Ok(Attempt::Accepted);
                }
                Frame::Other(answer) if answer["type"] == "error" => {
                    self.socket = Some(socket);
                    return Ok(refusal(&answer));
                }
                // Whatever else comes, this sender waits for its answer.
                _ => {}
            }
        }
    }

    async fn connect(&self) -> Result<Socket, WireError> {
        let dial = Dial::to(self.sender.nodes[self.at], ATTEMPT);
        Socket::connect(dial, &self.sender.device.key, AckMode::Explicit).await
    }
}

/// Sorts an error frame by its code.
fn refusal(answer: &Value) -> Attempt {
    match answer["code"].as_str() {
        Some("overloaded" | "mailbox_full" | "rate_limited" | "not_ready") => Attempt::NotDone,
        Some("unavailable" | "storage_failed") => Attempt::Unknown,
        _ => Attempt::Refused(answer.to_string()),
    }
}
