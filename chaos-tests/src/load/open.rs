//! A rate, whatever the answers: each latency counts from the time at which its message was to be
//! sent, so a stall shows in all the messages that should have been sent meanwhile.

use std::{pin::pin, sync::Arc, time::Duration};

use anyhow::{Context as _, Result, ensure};
use rustix::event::{Timespec, poll};
use tokio::{task::JoinSet, time::timeout};

use super::{
    backlog::{Backlog, Due},
    closed::{SENDERS, post},
    counts::{Counts, glance, id, message},
    fleet::{Fleet, Line},
    report::{LoadReport, Mode, Shape},
    target::Target,
    traffic::Traffic,
};
use crate::wire::{Rest, Socket, SocketReader};

/// How long answers may take after the last message.
const LAST_ANSWERS: Duration = Duration::from_secs(30);
/// One connection of each sender for so many messages a second, over REST: so that at a low rate
/// none idles so long that the relay closes it.
const RATE_A_LANE: u32 = 100;
/// The most connections of a sender over REST: 384 of all together.
const LANES_MAX: u32 = 32;

/// What to measure.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Messages a second.
    pub rate: u32,
    /// What is sent.
    pub traffic: Traffic,
}

/// More is asked than can be sent: messages that are due pile up.
#[derive(Debug, thiserror::Error)]
#[error("the rate cannot be kept")]
pub struct TooFast;

/// Runs the load.
///
/// # Errors
/// When a connection fails, the rate cannot be kept ([`TooFast`]), or a message is not delivered at
/// all.
pub async fn run(target: &Target, plan: Plan) -> Result<LoadReport> {
    ensure!(plan.rate > 0, "a rate of nothing");
    let lanes = (plan.rate / RATE_A_LANE).clamp(1, LANES_MAX);
    let mut fleet = Fleet::muster(target.doors(), SENDERS, lanes, &plan.traffic).await?;
    let counts = fleet.counts.clone();
    let mut backlogs = Vec::new();
    let mut senders = JoinSet::new();
    for line in std::mem::take(&mut fleet.lines) {
        let backlog = Arc::new(Backlog::default());
        let connections = match line {
            Line::Ws(socket) => {
                senders.spawn(over_socket(*socket, backlog.clone(), counts.clone()));
                1
            }
            Line::Rest(lanes) => {
                let connections = lanes.len();
                for rest in lanes {
                    senders.spawn(over_rest(rest, backlog.clone(), counts.clone()));
                }
                connections
            }
        };
        backlogs.push((backlog, connections));
    }
    let pacer = Pacer {
        rate: plan.rate,
        counts: counts.clone(),
        mailboxes: fleet.mailboxes.clone(),
        content: fleet.content.clone(),
        backlogs,
    };
    let pacer = tokio::task::spawn_blocking(move || pacer.run());
    let window = target.window(&counts).await?;
    pacer.await??;
    let answered = async {
        while let Some(ended) = senders.join_next().await {
            ended.context("a sender failed")??;
        }
        Ok::<_, anyhow::Error>(())
    };
    timeout(LAST_ANSWERS, answered).await.context("messages were not answered")??;
    let drained = fleet.drain().await?;
    let shape =
        Shape { mode: Mode::Open, load: plan.rate, senders: SENDERS, traffic: plan.traffic };
    Ok(LoadReport::of(&shape, &counts, window, drained))
}

/// Keeps the rate from a thread of its own: the async timer has a resolution of a millisecond,
/// which would be most of the latency that is measured.
struct Pacer {
    rate: u32,
    counts: Arc<Counts>,
    mailboxes: Arc<Vec<String>>,
    content: Arc<str>,
    /// With the number of connections that each is emptied by.
    backlogs: Vec<(Arc<Backlog>, usize)>,
}

impl Pacer {
    fn run(self) -> Result<()> {
        let ended = self.pace();
        for (backlog, connections) in &self.backlogs {
            backlog.close(*connections);
        }
        ended
    }

    fn pace(&self) -> Result<()> {
        for number in 0u64.. {
            let due = Duration::from_nanos(number * 1_000_000_000 / u64::from(self.rate));
            if due >= self.counts.measure_until {
                break;
            }
            let wait = due.saturating_sub(self.counts.started.elapsed());
            if !wait.is_zero() {
                // An early wake-up by a signal sends one message a little early.
                let _ = poll(&mut [], Some(&Timespec::try_from(wait)?));
            }
            let id = id(self.counts.run, due, number);
            let mailbox = &self.mailboxes[number as usize % self.mailboxes.len()];
            let (backlog, _) = &self.backlogs[number as usize % self.backlogs.len()];
            let text = message(mailbox, &id, &self.content);
            if !backlog.push(Due { id, text }) {
                return Err(TooFast.into());
            }
        }
        Ok(())
    }
}

/// Writes what is due and reads the answers, until each message has one.
async fn over_socket(socket: Socket, backlog: Arc<Backlog>, counts: Arc<Counts>) -> Result<()> {
    let (mut writer, mut reader) = socket.split();
    let write = async {
        let mut written = 0u64;
        while let Some(due) = backlog.next().await {
            writer.feed_text(due.text).await?;
            written += 1;
            // What is due already goes into the same packet.
            while let Some(due) = backlog.try_next() {
                writer.feed_text(due.text).await?;
                written += 1;
            }
            writer.flush().await?;
        }
        Ok::<_, anyhow::Error>(written)
    };
    let mut write = pin!(write);
    let (mut written, mut answered) = (None, 0);
    while written != Some(answered) {
        tokio::select! {
            // Answers first: their time is what is measured.
            biased;
            answer = read(&mut reader, &counts) => {
                answer?;
                answered += 1;
            }
            all = &mut write, if written.is_none() => written = Some(all?),
        }
    }
    Ok(())
}

/// Takes down one answer. Safe to drop.
async fn read(reader: &mut SocketReader, counts: &Counts) -> Result<()> {
    let text = reader.next_text().await?;
    let frame = glance(&text)?;
    match (&*frame.kind, &frame.message_id, frame.code) {
        ("accepted", Some(id), _) => counts.note_accepted(id),
        (_, _, Some(code)) => counts.note_refused(&code),
        _ => anyhow::bail!("a sender was answered {text}"),
    }
    Ok(())
}

async fn over_rest(mut rest: Rest, backlog: Arc<Backlog>, counts: Arc<Counts>) -> Result<()> {
    while let Some(due) = backlog.next().await {
        // A refusal is counted; the next message is due when it is due.
        let _code = post(&mut rest, due.text, &due.id, &counts).await?;
    }
    Ok(())
}
