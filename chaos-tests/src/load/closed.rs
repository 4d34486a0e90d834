//! A number of messages in flight: the next is sent when one is accepted.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use anyhow::{Context as _, Result};
use tokio::task::JoinSet;

use super::{
    fleet::{Counts, Fleet, glance, id},
    report::LoadReport,
    target::Target,
};
use crate::wire::Socket;

/// The most sending connections: four at each of three nodes. More would measure the machine's
/// sockets, fewer would run into the relay's limit of messages in flight a connection.
const SENDERS_MAX: u32 = 12;

/// What to measure.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Messages kept in flight.
    pub in_flight: u32,
    /// Mailboxes they go to, in turn.
    pub mailboxes: u32,
    /// Content of each, in bytes before Base64.
    pub content_bytes: usize,
    /// Not measured.
    pub warm_up: Duration,
    /// Measured.
    pub time: Duration,
}

/// Runs the load.
///
/// # Errors
/// When a connection fails, or a message is not delivered at all.
pub async fn run(target: &Target, plan: Plan) -> Result<LoadReport> {
    let senders = plan.in_flight.clamp(1, SENDERS_MAX);
    let times = (plan.warm_up, plan.time);
    let nodes = target.addresses();
    let mut fleet =
        Fleet::muster(&nodes, senders, plan.mailboxes, plan.content_bytes, times).await?;
    let counts = fleet.counts.clone();
    let mut tasks = JoinSet::new();
    for (number, socket) in (0..).zip(std::mem::take(&mut fleet.senders)) {
        // The remainder goes to the first ones.
        let window = plan.in_flight / senders + u32::from(number < plan.in_flight % senders);
        let sender = Sender {
            number,
            senders,
            window,
            socket,
            counts: counts.clone(),
            mailboxes: fleet.mailboxes.clone(),
            content: fleet.content.clone(),
        };
        tasks.spawn(sender.run());
    }
    tokio::time::sleep_until(counts.started + plan.warm_up).await;
    let mark = target.mark()?;
    tokio::time::sleep_until(counts.started + plan.warm_up + plan.time).await;
    let (generator, nodes) = target.since(&mark)?;
    while let Some(ended) = tasks.join_next().await {
        ended.context("a sender failed")??;
    }
    let drained = fleet.drain().await?;
    let measured = |count: &std::sync::atomic::AtomicU64| count.load(Ordering::Relaxed);
    let seconds = plan.time.as_secs_f64();
    let accepted = measured(&counts.accepted_measured);
    Ok(LoadReport {
        mode: "closed",
        load: plan.in_flight,
        mailboxes: plan.mailboxes,
        content_bytes: plan.content_bytes,
        seconds,
        accepted,
        accepted_per_second: accepted as f64 / seconds,
        delivered_per_second: measured(&counts.delivered_measured) as f64 / seconds,
        errors: measured(&counts.errors),
        out_of_order: measured(&counts.out_of_order),
        drain_seconds: drained.as_secs_f64(),
        accept: counts.accept.summary(),
        deliver: counts.deliver.summary(),
        generator,
        nodes,
    })
}

struct Sender {
    number: u32,
    senders: u32,
    window: u32,
    socket: Socket,
    counts: Arc<Counts>,
    mailboxes: Arc<Vec<String>>,
    content: Arc<str>,
}

impl Sender {
    async fn run(mut self) -> Result<()> {
        let end = self.counts.measure_until;
        let mut next = u64::from(self.number);
        let mut in_flight = 0;
        while in_flight < self.window {
            self.send(&mut next).await?;
            in_flight += 1;
        }
        while in_flight > 0 {
            let text = self.socket.next_text().await?;
            let frame = glance(&text)?;
            match (&*frame.kind, &frame.message_id) {
                ("accepted", Some(id)) => self.counts.note_accepted(id),
                _ => {
                    self.counts.errors.fetch_add(1, Ordering::Relaxed);
                }
            }
            if self.counts.started.elapsed() < end {
                self.send(&mut next).await?;
            } else {
                in_flight -= 1;
            }
        }
        Ok(())
    }

    /// Sends a fresh message to the next mailbox. After an error too: whether the one before was
    /// stored does not matter here, errors are reported.
    async fn send(&mut self, next: &mut u64) -> Result<()> {
        let number = *next;
        *next += u64::from(self.senders);
        let mailbox = &self.mailboxes[number as usize % self.mailboxes.len()];
        let id = id(self.counts.run, self.counts.started.elapsed(), number);
        Ok(self.socket.send_text(message(mailbox, &id, &self.content)).await?)
    }
}

/// A `message` frame. Ids and Base64 need no escapes.
pub(super) fn message(mailbox: &str, id: &str, content: &str) -> String {
    format!(
        r#"{{"type":"message","recipient_id":"{mailbox}","message_id":"{id}","content":"{content}"}}"#
    )
}
