//! A number of messages in flight: the next is sent when one is accepted.

use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use futures_util::FutureExt as _;
use hyper::StatusCode;
use tokio::{task::JoinSet, time::sleep};

use super::{
    counts::{Counts, glance, id, message},
    fleet::{DEADLINE, Fleet, Line},
    pacing::{POLL, Parked, pause},
    report::{LoadReport, Mode, Shape},
    target::Target,
    traffic::Traffic,
};
use crate::wire::{Rest, Socket};

/// Sending devices where nothing else is said: four at each of three nodes. More would measure the
/// machine's sockets, fewer would run into the relay's limit of messages in flight a connection.
pub const SENDERS: u32 = 12;

/// What to measure.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Messages kept in flight.
    pub in_flight: u32,
    /// Sending devices that share them; never more than there are messages.
    pub senders: u32,
    /// What is sent.
    pub traffic: Traffic,
}

/// Runs the load.
///
/// # Errors
/// When a connection fails, or a message is not delivered at all.
pub async fn run(target: &Target, plan: Plan) -> Result<LoadReport> {
    ensure!(plan.in_flight > 0 && plan.senders > 0, "nothing is in flight");
    let senders = plan.senders.min(plan.in_flight);
    let lanes = plan.in_flight.div_ceil(senders);
    let mut fleet = Fleet::muster(target.doors(), senders, lanes, &plan.traffic).await?;
    let counts = fleet.counts.clone();
    let mut tasks = JoinSet::new();
    for (number, line) in (0..).zip(std::mem::take(&mut fleet.lines)) {
        // The remainder goes to the first ones.
        let window = plan.in_flight / senders + u32::from(number < plan.in_flight % senders);
        match line {
            Line::Ws(socket) => {
                let letters = Letters::new(&fleet, number, senders);
                tasks.spawn(over_socket(*socket, window, letters));
            }
            Line::Rest(lanes) => {
                for (lane, rest) in (0..window).zip(lanes) {
                    let letters = Letters::new(&fleet, lane * senders + number, plan.in_flight);
                    tasks.spawn(over_rest(rest, letters));
                }
            }
        }
    }
    let window = target.window(&counts).await?;
    while let Some(ended) = tasks.join_next().await {
        ended.context("a sender failed")??;
    }
    let drained = fleet.drain().await?;
    let shape = Shape { mode: Mode::Closed, load: plan.in_flight, senders, traffic: plan.traffic };
    Ok(LoadReport::of(&shape, &counts, window, drained))
}

/// The messages of one of several senders, that write to all mailboxes in turn between them.
struct Letters {
    next: u64,
    step: u64,
    counts: Arc<Counts>,
    mailboxes: Arc<Vec<String>>,
    content: Arc<str>,
}

impl Letters {
    fn new(fleet: &Fleet, first: u32, step: u32) -> Self {
        Self {
            next: u64::from(first),
            step: u64::from(step),
            counts: fleet.counts.clone(),
            mailboxes: fleet.mailboxes.clone(),
            content: fleet.content.clone(),
        }
    }

    /// A fresh message to the next mailbox, sent now, and its id. After an error too: whether the
    /// one before was stored does not matter here, errors are reported.
    fn write(&mut self) -> (String, String) {
        let number = self.next;
        self.next += self.step;
        let mailbox = &self.mailboxes[number as usize % self.mailboxes.len()];
        let id = id(self.counts.run, self.counts.started.elapsed(), number);
        (message(mailbox, &id, &self.content), id)
    }
}

/// Keeps `window` messages in flight on one connection. All answers that have come are taken before
/// the next messages are written, together.
async fn over_socket(mut socket: Socket, window: u32, mut letters: Letters) -> Result<()> {
    let counts = letters.counts.clone();
    let mut parked = Parked::default();
    let (mut free, mut in_flight) = (window, 0);
    loop {
        free += parked.take_due(&counts);
        if counts.is_over() {
            (free, parked) = (0, Parked::default());
            if in_flight == 0 {
                return Ok(());
            }
        }
        if free > 0 {
            for _ in 0..free {
                socket.feed_text(letters.write().0).await?;
            }
            socket.flush().await?;
            in_flight += free;
            free = 0;
        }
        let mut answer = tokio::select! {
            // What has come goes first; at least one of both is under way.
            biased;
            answer = socket.next_text(), if in_flight > 0 => Some(answer),
            () = sleep(POLL), if !parked.is_empty() => None,
        };
        while let Some(text) = answer {
            in_flight -= 1;
            free += take(&text?, &counts, &mut parked)?;
            answer = if in_flight > 0 { socket.next_text().now_or_never() } else { None };
        }
    }
}

/// Takes an answer down; tells how many places in the window it frees at once.
fn take(text: &str, counts: &Counts, parked: &mut Parked) -> Result<u32> {
    let frame = glance(text)?;
    if let ("accepted", Some(id)) = (&*frame.kind, &frame.message_id) {
        counts.note_accepted(id);
        return Ok(1);
    }
    let code = frame.code.with_context(|| format!("a sender was answered {text}"))?;
    counts.note_refused(&code);
    parked.park(&code, counts);
    Ok(0)
}

/// Keeps one message in flight.
async fn over_rest(mut rest: Rest, mut letters: Letters) -> Result<()> {
    let counts = letters.counts.clone();
    while !counts.is_over() {
        let (body, id) = letters.write();
        if let Some(code) = post(&mut rest, body, &id, &counts).await? {
            pause(&code, &counts).await;
        }
    }
    Ok(())
}

/// Sends one message and takes the answer down; answers the code of a refusal.
pub(super) async fn post(
    rest: &mut Rest,
    body: String,
    id: &str,
    counts: &Counts,
) -> Result<Option<String>> {
    let answer = rest.post_text("/api/v1/messages/send", body, DEADLINE).await?;
    if answer.status == StatusCode::ACCEPTED {
        counts.note_accepted(id);
        return Ok(None);
    }
    let reply = answer.read()?;
    let code = reply.code().to_owned();
    ensure!(!code.is_empty(), "a sender was answered {} {}", reply.status, reply.body);
    counts.note_refused(&code);
    Ok(Some(code))
}
