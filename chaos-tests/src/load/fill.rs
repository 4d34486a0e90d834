//! Messages that wait: many are sent to mailboxes whose devices never come.

use anyhow::{Context as _, Result, ensure};
use tokio::{task::JoinSet, time::sleep};

use super::{
    closed::SENDERS,
    counts::{glance, message},
    fleet::{DEADLINE, content, devices, sockets},
    pacing::POLL,
};
use crate::wire::{Door, Socket};

/// Messages in flight on each connection.
const WINDOW: u64 = 64;
/// Messages that a sender may have to send again: leaderships move in the first seconds.
const AGAIN_MAX: u32 = 1_000;
/// Begins each message's id; its number follows.
const MESSAGE: &str = "fill-";

/// What is sent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fill {
    /// How many messages are to wait at the end.
    pub(super) messages: u64,
    /// Mailboxes they go to, in turn.
    pub(super) mailboxes: u32,
    /// Content of each, in bytes before Base64.
    pub(super) content_bytes: usize,
}

impl Fill {
    /// Sends messages number `from` and up to the last; answers when all are accepted.
    pub(super) async fn pour(&self, doors: &[Door], from: u64) -> Result<()> {
        let senders = devices(doors, "fill-from", SENDERS).await?;
        let dial = |at: usize| doors[at % doors.len()].dial(DEADLINE);
        let dials =
            senders.into_iter().enumerate().map(|(at, device)| (dial(at), device)).collect();
        let content = content(self.content_bytes);
        let mut tasks = JoinSet::new();
        for (number, socket) in (0..).zip(sockets(dials).await?) {
            let numbers = (from + number..self.messages).step_by(SENDERS as usize);
            tasks.spawn(send(socket, self.mailboxes, content.clone(), numbers));
        }
        while let Some(ended) = tasks.join_next().await {
            ended.context("a sender failed")??;
        }
        Ok(())
    }
}

async fn send(
    mut socket: Socket,
    mailboxes: u32,
    content: String,
    numbers: impl Iterator<Item = u64>,
) -> Result<()> {
    let frame = |number: u64| {
        let mailbox = format!("fill-to-{}", number % u64::from(mailboxes));
        message(&mailbox, &format!("{MESSAGE}{number}"), &content)
    };
    let (mut in_flight, mut again) = (0, 0);
    let mut numbers = numbers.fuse();
    loop {
        let next = if in_flight < WINDOW { numbers.next() } else { None };
        if let Some(number) = next {
            socket.send_text(frame(number)).await?;
            in_flight += 1;
            continue;
        }
        if in_flight == 0 {
            return Ok(());
        }
        match refused(&mut socket).await? {
            None => in_flight -= 1,
            // Leaders settle after a start: the id makes it safe to ask again.
            Some(number) => {
                again += 1;
                ensure!(again < AGAIN_MAX, "too many messages are not accepted");
                sleep(POLL).await;
                socket.send_text(frame(number)).await?;
            }
        }
    }
}

/// Reads an answer: `None` where a message was accepted, else which one was not.
async fn refused(socket: &mut Socket) -> Result<Option<u64>> {
    let text = socket.next_text().await?;
    let frame = glance(&text)?;
    if frame.kind == "accepted" {
        return Ok(None);
    }
    let id = frame.message_id.as_deref().and_then(|id| id.strip_prefix(MESSAGE));
    let number = id.and_then(|number| number.parse().ok());
    number.map(Some).with_context(|| format!("a sender was answered {text}"))
}
