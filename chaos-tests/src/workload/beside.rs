//! What flows beside the queues: live streams between devices, and devices that are registered.

use std::{net::SocketAddr, time::Duration};

use hyper::StatusCode;
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

use super::{letter::Letters, recipient::DEADLINE};
use crate::{
    history::{Intact, MailboxNumber, MessageNumber, Operation, Phase, Recorder},
    wire::Rest,
    wire::{AckMode, Device, Dial, Frame, Socket, WireError, register},
};

/// Between two frames of a stream: a tenth of what speech takes.
const FRAME_EVERY: Duration = Duration::from_millis(200);
/// How long a listener may hear nothing before it tries another node.
const SILENCE: Duration = Duration::from_secs(5);
/// Before the next node is tried.
const BACK_OFF: Duration = Duration::from_millis(100);

/// One device that speaks, and one that hears it.
#[derive(Clone, Debug)]
pub(super) struct Stream {
    pub(super) process: u32,
    pub(super) mailbox: MailboxNumber,
    pub(super) from: Device,
    pub(super) to: Device,
    pub(super) nodes: Vec<SocketAddr>,
    pub(super) letters: Letters,
    pub(super) recorder: Recorder,
}

impl Stream {
    /// Speaks for ever, now at this node, now at that one.
    pub(super) async fn speak(self) {
        let mut count = 0;
        for at in self.process as usize.. {
            let _gone: Result<(), WireError> = self.speak_at(at, &mut count).await;
            sleep(BACK_OFF).await;
        }
    }

    async fn speak_at(&self, at: usize, count: &mut u64) -> Result<(), WireError> {
        let dial = Dial::to(self.nodes[at % self.nodes.len()], DEADLINE);
        let mut socket = Socket::connect(dial, &self.from.key, AckMode::Explicit).await?;
        loop {
            *count += 1;
            let frame = MessageNumber(u64::from(self.process) << 32 | *count);
            // Before it is sent: it may be heard before the call is back.
            let sent = Operation::SendLive { mailbox: self.mailbox, frame };
            self.recorder.record(self.process, Phase::Ok, sent);
            let frame = json!({"type": "audio_stream", "recipient_id": self.to.id,
                "id": self.letters.id(frame), "data": self.letters.content(frame)});
            socket.send(&frame).await?;
            // What comes meanwhile says that nobody listens, or is a Ping.
            if let Ok(Err(error)) = timeout(FRAME_EVERY, self.listen(&mut socket)).await {
                return Err(error);
            }
        }
    }

    async fn listen(&self, socket: &mut Socket) -> Result<(), WireError> {
        loop {
            socket.next().await?;
        }
    }

    /// Hears for ever, now at this node, now at that one.
    pub(super) async fn hear(self) {
        for at in 1 + self.process as usize.. {
            let _gone: Result<(), WireError> = self.hear_at(at).await;
            sleep(BACK_OFF).await;
        }
    }

    async fn hear_at(&self, at: usize) -> Result<(), WireError> {
        let dial = Dial::to(self.nodes[at % self.nodes.len()], DEADLINE);
        let mut socket = Socket::connect(dial, &self.to.key, AckMode::Explicit).await?;
        loop {
            let next = timeout(SILENCE, socket.next()).await.map_err(|_| WireError::Timeout)??;
            if let Frame::Other(frame) = next
                && frame["type"] == "audio_stream"
            {
                self.note(&frame);
            }
        }
    }

    fn note(&self, frame: &Value) {
        let number = frame["id"].as_str().and_then(|id| self.letters.number(id));
        let is_whole = number.is_some_and(|number| {
            frame["sender_id"] == self.from.id && frame["data"] == self.letters.content(number)
        });
        let intact = if is_whole { Intact::Yes } else { Intact::No };
        let seen = Operation::SeeLive { mailbox: self.mailbox, frame: number, intact };
        self.recorder.record(self.process, Phase::Ok, seen);
    }
}

/// Devices that are registered one after the other; each key is then tried at every node.
#[derive(Debug)]
pub(super) struct Registrations {
    pub(super) process: u32,
    pub(super) pause: Duration,
    pub(super) nodes: Vec<SocketAddr>,
    pub(super) letters: Letters,
    pub(super) recorder: Recorder,
}

impl Registrations {
    /// Goes on for ever.
    pub(super) async fn run(self) {
        for number in 0u32.. {
            self.register(number).await;
            sleep(self.pause).await;
        }
    }

    async fn register(&self, device: u32) {
        let at = device as usize % self.nodes.len();
        let operation = Operation::Register { device, node: node_id(at) };
        self.recorder.record(self.process, Phase::Invoke, operation.clone());
        let mut rest = Rest::new(self.nodes[at], None);
        let registered = register(&mut rest, &self.letters.device("new", device), DEADLINE).await;
        let phase = match &registered {
            Ok(_) => Phase::Ok,
            Err(WireError::NotConnected(_)) => Phase::Fail,
            Err(_) => Phase::Unknown,
        };
        self.recorder.record(self.process, phase, operation);
        let Ok(registered) = registered else { return };
        for at in 0..self.nodes.len() {
            self.authenticate(device, &registered, at).await;
        }
    }

    async fn authenticate(&self, device: u32, registered: &Device, at: usize) {
        let operation = Operation::Authenticate { device, node: node_id(at) };
        self.recorder.record(self.process, Phase::Invoke, operation.clone());
        let path = format!("/api/v1/messages/receive/{}", registered.id);
        let phase = match registered.rest(self.nodes[at]).get(&path, DEADLINE).await {
            Ok(reply) if reply.status == StatusCode::OK => Phase::Ok,
            Ok(reply) if reply.status == StatusCode::UNAUTHORIZED => Phase::Fail,
            Ok(reply) if reply.status == StatusCode::FORBIDDEN => Phase::Fail,
            _ => Phase::Unknown,
        };
        self.recorder.record(self.process, phase, operation);
    }
}

/// The id of the node with this address: they are counted from 1.
fn node_id(at: usize) -> u16 {
    u16::try_from(at + 1).expect("clusters are small")
}
