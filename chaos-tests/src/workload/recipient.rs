//! A recipient: reads its mailbox, now at this node, now at that one.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use hyper::StatusCode;
use serde_json::json;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::{letter::Letters, progress::Progress};
use crate::{
    history::{Intact, MailboxNumber, MessageNumber, Operation, Phase, Reading, Recorder},
    wire::{AckMode, Device, Dial, Frame, Received, Rest, Socket, WireError},
};

/// How long connecting, or an answer, may take.
pub(super) const DEADLINE: Duration = Duration::from_secs(5);
/// How long a poll waits for a message at the server.
const POLL_WAIT_SECONDS: u64 = 2;
/// How many messages a poll takes.
const POLL_LIMIT: usize = 100;
/// How long a burst may pause before it is acknowledged.
pub(super) const BURST_PAUSE: Duration = Duration::from_millis(5);
/// How many messages are acknowledged at once at most.
const ACK_BATCH_MAX: u32 = 16;
/// How long a socket may be silent before the recipient tries another node: a stock client's
/// patience with a half-open connection.
pub(super) const SILENCE: Duration = Duration::from_secs(10);
/// Before the next node is tried.
const BACK_OFF: Duration = Duration::from_millis(30);

/// How a recipient reads and acknowledges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Manner {
    /// WebSocket, `ack` frames.
    Explicit,
    /// WebSocket, a stock client that only answers Pings.
    Stock,
    /// REST: receive, acknowledge, again.
    Polling,
    /// WebSocket with the product's own client, which acknowledges by number.
    Typed,
}

/// Numbers the readings of a run.
#[derive(Debug, Default)]
pub(super) struct Readings(AtomicU64);

impl Readings {
    fn next(&self) -> Reading {
        Reading(self.0.fetch_add(1, Ordering::Relaxed))
    }
}

/// A recipient and all it needs.
#[derive(Debug)]
pub(super) struct Recipient {
    pub(super) process: u32,
    pub(super) device: Device,
    pub(super) mailbox: MailboxNumber,
    pub(super) manner: Manner,
    pub(super) nodes: Vec<SocketAddr>,
    pub(super) moves_every: u32,
    pub(super) letters: Letters,
    pub(super) recorder: Recorder,
    pub(super) readings: Arc<Readings>,
    pub(super) progress: Arc<Progress>,
}

impl Recipient {
    /// Reads until told to stop.
    pub(super) async fn run(self, stop: CancellationToken) {
        let start = self.process as usize;
        for at in start.. {
            let node = self.nodes[at % self.nodes.len()];
            let reading = async {
                // Whatever ends a reading, the next node is tried; what was lost by it, or came
                // twice, is the checker's business.
                let _ended: Result<(), WireError> = match self.manner {
                    Manner::Polling => self.poll(node).await,
                    Manner::Explicit => self.listen(node, AckMode::Explicit).await,
                    Manner::Typed => self.listen_typed(node).await,
                    Manner::Stock => self.listen(node, AckMode::Pong).await,
                };
                sleep(BACK_OFF).await;
            };
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = reading => {}
            }
        }
    }

    /// After how many messages it acknowledges: before it moves on, so that a backlog shrinks however
    /// long it is and however restless the recipient.
    pub(super) fn ack_batch(&self) -> usize {
        (self.moves_every / 2).clamp(1, ACK_BATCH_MAX) as usize
    }

    pub(super) fn begin(&self) -> Reading {
        let reading = self.readings.next();
        let operation = Operation::Read { mailbox: self.mailbox, reading };
        self.recorder.record(self.process, Phase::Invoke, operation);
        reading
    }

    async fn listen(&self, node: SocketAddr, mode: AckMode) -> Result<(), WireError> {
        let reading = self.begin();
        let mut socket = Socket::connect(Dial::to(node, DEADLINE), &self.device.key, mode)
            .await
            .inspect_err(|error| self.note_refusal(error))?;
        let mut unacknowledged: Vec<String> = Vec::new();
        let mut taken = 0;
        loop {
            let leaves = taken >= self.moves_every;
            let waits = unacknowledged.is_empty() && !leaves;
            let patience = if waits { SILENCE } else { BURST_PAUSE };
            let frame = timeout(patience, socket.next()).await;
            match frame {
                Ok(Ok(Frame::Message(message))) => {
                    self.note(reading, &message);
                    taken += 1;
                    if mode == AckMode::Explicit {
                        unacknowledged.push(message.message_id);
                    }
                }
                Ok(Ok(Frame::Skipped { priority, from, to })) => {
                    let mailbox = self.mailbox;
                    let skipped = Operation::Skipped { mailbox, reading, priority, from, to };
                    self.recorder.record(self.process, Phase::Ok, skipped);
                }
                Ok(Ok(_)) => {}
                Ok(Err(error)) => return Err(error),
                // Everything before the pause was answered for by Pongs.
                Err(_) if mode == AckMode::Pong && leaves => return Ok(()),
                Err(_) if unacknowledged.is_empty() => return Err(WireError::Timeout),
                Err(_) => {
                    self.acknowledge(&mut socket, &mut unacknowledged).await?;
                    continue;
                }
            }
            if unacknowledged.len() >= self.ack_batch() {
                self.acknowledge(&mut socket, &mut unacknowledged).await?;
            }
            if taken >= self.moves_every && mode == AckMode::Explicit {
                // Away in the middle of things: what is not acknowledged comes again elsewhere.
                return Ok(());
            }
        }
    }

    async fn acknowledge(
        &self,
        socket: &mut Socket,
        ids: &mut Vec<String>,
    ) -> Result<(), WireError> {
        let messages = ids.iter().filter_map(|id| self.letters.number(id)).collect();
        // There is no answer to the frame: the operation stays open.
        let operation = Operation::Acknowledge { mailbox: self.mailbox, messages };
        self.recorder.record(self.process, Phase::Invoke, operation);
        let frame = json!({"type": "ack", "message_ids": std::mem::take(ids)});
        socket.send(&frame).await
    }

    async fn poll(&self, node: SocketAddr) -> Result<(), WireError> {
        let mut rest = self.device.rest(node);
        let mut taken = 0;
        while taken < self.moves_every {
            let reading = self.begin();
            let messages = pending(&mut rest, &self.device.id, POLL_WAIT_SECONDS)
                .await
                .inspect_err(|error| self.note_refusal(error))?;
            taken += u32::try_from(messages.len()).unwrap_or(u32::MAX);
            for message in &messages {
                self.note(reading, message);
            }
            if !messages.is_empty() {
                self.acknowledge_rest(&mut rest, &messages).await?;
            }
        }
        Ok(())
    }

    async fn acknowledge_rest(
        &self,
        rest: &mut Rest,
        messages: &[Received],
    ) -> Result<(), WireError> {
        let ids: Vec<&str> = messages.iter().map(|message| message.message_id.as_str()).collect();
        let numbers = ids.iter().filter_map(|id| self.letters.number(id)).collect();
        let operation = Operation::Acknowledge { mailbox: self.mailbox, messages: numbers };
        self.recorder.record(self.process, Phase::Invoke, operation.clone());
        let body = json!({"message_ids": ids});
        let reply = rest.post("/api/v1/messages/acknowledge", &body, DEADLINE).await;
        let done = matches!(&reply, Ok(reply) if reply.status == StatusCode::OK);
        let phase = if done { Phase::Ok } else { Phase::Unknown };
        self.recorder.record(self.process, phase, operation);
        let reply = reply?;
        if reply.status.is_client_error() {
            self.progress.refused(format!("acknowledge: {} {}", reply.status, reply.body));
        }
        if done { Ok(()) } else { Err(reply.unexpected()) }
    }

    pub(super) fn note(&self, reading: Reading, received: &Received) {
        let message = self.letters.number(&received.message_id);
        let delivery = Operation::Deliver {
            mailbox: self.mailbox,
            reading,
            // A priority that is none is as wrong as can be: the checker finds it misdelivered.
            priority: received.level().unwrap_or(u8::MAX),
            seq: received.seq,
            message,
            intact: self.intact(message, received),
        };
        self.recorder.record(self.process, Phase::Ok, delivery);
        if let Some(message) = message {
            self.progress.seen(message);
        }
    }

    fn intact(&self, message: Option<MessageNumber>, received: &Received) -> Intact {
        let Some(message) = message else { return Intact::No };
        let sender = (message.0 >> 32) as u32;
        if received.sender_id == self.letters.device("from", sender)
            && received.content == self.letters.content(message)
        {
            Intact::Yes
        } else {
            Intact::No
        }
    }

    fn note_refusal(&self, error: &WireError) {
        if let WireError::Unexpected { status, body } = error {
            let refused = (400..500).contains(status) && *status != 429;
            // An authentication that could not be checked for want of a quorum is no refusal.
            if refused || body["type"] == "auth_error" && body["code"] != "unavailable" {
                self.progress.refused(format!("read: {status} {body}"));
            }
        }
    }
}

/// What is pending in a mailbox, over REST.
pub(super) async fn pending(
    rest: &mut Rest,
    device: &str,
    wait_seconds: u64,
) -> Result<Vec<Received>, WireError> {
    let path = format!("/api/v1/messages/receive/{device}?limit={POLL_LIMIT}&wait={wait_seconds}");
    let reply = rest.get(&path, DEADLINE + Duration::from_secs(wait_seconds)).await?;
    if reply.status != StatusCode::OK {
        return Err(reply.unexpected());
    }
    serde_json::from_value(reply.body).map_err(WireError::NotJson)
}
