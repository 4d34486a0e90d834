//! A rate, whatever the answers: each latency counts from the time at which its message was to be
//! sent, so a stall shows in all the messages that should have been sent meanwhile.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use rustix::event::{Timespec, poll};
use tokio::{sync::mpsc, task::JoinSet};

use super::{
    closed::message,
    fleet::{Counts, Fleet, glance, id},
    report::LoadReport,
    target::Target,
};
use crate::wire::{SocketReader, SocketWriter};

/// Sending connections: four at each of three nodes.
const SENDERS: u32 = 12;
/// Messages that may wait for a sender's socket; a full queue means that the load generator, or
/// the relay's back-pressure, cannot keep the rate, and ends the run.
const QUEUE_MAX: usize = 100_000;
/// How long answers may take after the last message.
const LAST_ANSWERS: Duration = Duration::from_secs(30);

/// What to measure.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Messages a second.
    pub rate: u32,
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
/// When a connection fails, the rate cannot be kept, or a message is not delivered at all.
pub async fn run(target: &Target, plan: Plan) -> Result<LoadReport> {
    ensure!(plan.rate > 0, "a rate of nothing");
    let times = (plan.warm_up, plan.time);
    let nodes = target.addresses();
    let mut fleet =
        Fleet::muster(&nodes, SENDERS, plan.mailboxes, plan.content_bytes, times).await?;
    let counts = fleet.counts.clone();
    let mut queues = Vec::new();
    let mut writers = JoinSet::new();
    let mut readers = JoinSet::new();
    for socket in std::mem::take(&mut fleet.senders) {
        let (writer, reader) = socket.split();
        let (queue, waiting) = mpsc::channel(QUEUE_MAX);
        queues.push(queue);
        writers.spawn(write(writer, waiting));
        readers.spawn(read(reader, counts.clone()));
    }
    let pacer = Pacer {
        rate: plan.rate,
        counts: counts.clone(),
        mailboxes: fleet.mailboxes.clone(),
        content: fleet.content.clone(),
        queues,
    };
    let pacer = tokio::task::spawn_blocking(move || pacer.run());
    tokio::time::sleep_until(counts.started + plan.warm_up).await;
    let mark = target.mark()?;
    tokio::time::sleep_until(counts.started + plan.warm_up + plan.time).await;
    let (generator, nodes) = target.since(&mark)?;
    let sent = pacer.await??;
    let _kept = answered(&counts, sent, &mut readers, &mut writers).await?;
    let drained = fleet.drain().await?;
    let measured = |count: &std::sync::atomic::AtomicU64| count.load(Ordering::Relaxed);
    let seconds = plan.time.as_secs_f64();
    let accepted = measured(&counts.accepted_measured);
    Ok(LoadReport {
        mode: "open",
        load: plan.rate,
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

/// Waits until all that was sent is answered; gives back the writers, whose sockets must live as
/// long as their readers.
async fn answered(
    counts: &Counts,
    sent: u64,
    readers: &mut JoinSet<Result<()>>,
    writers: &mut JoinSet<Result<SocketWriter>>,
) -> Result<Vec<SocketWriter>> {
    let mut kept = Vec::new();
    while let Some(ended) = writers.join_next().await {
        kept.push(ended.context("a sender failed")??);
    }
    let wait = async {
        loop {
            let answers =
                counts.accepted.load(Ordering::Relaxed) + counts.errors.load(Ordering::Relaxed);
            if answers >= sent {
                return Ok::<_, anyhow::Error>(());
            }
            if let Some(ended) = readers.try_join_next() {
                ended.context("a sender's connection failed")??;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(LAST_ANSWERS, wait).await.context("messages were not answered")??;
    Ok(kept)
}

/// Keeps the rate from a thread of its own: the async timer has a resolution of a millisecond,
/// which would be most of the latency that is measured.
struct Pacer {
    rate: u32,
    counts: Arc<Counts>,
    mailboxes: Arc<Vec<String>>,
    content: Arc<str>,
    queues: Vec<mpsc::Sender<String>>,
}

impl Pacer {
    fn run(self) -> Result<u64> {
        for number in 0u64.. {
            let due = Duration::from_nanos(number * 1_000_000_000 / u64::from(self.rate));
            if due >= self.counts.measure_until {
                return Ok(number);
            }
            let wait = due.saturating_sub(self.counts.started.elapsed());
            if !wait.is_zero() {
                // An early wake-up by a signal sends one message a little early.
                let _ = poll(&mut [], Some(&Timespec::try_from(wait)?));
            }
            let id = id(self.counts.run, due, number);
            let mailbox = &self.mailboxes[number as usize % self.mailboxes.len()];
            let queue = &self.queues[number as usize % self.queues.len()];
            let frame = message(mailbox, &id, &self.content);
            queue.try_send(frame).context("the rate cannot be kept")?;
        }
        Ok(u64::MAX)
    }
}

async fn write(
    mut writer: SocketWriter,
    mut waiting: mpsc::Receiver<String>,
) -> Result<SocketWriter> {
    while let Some(frame) = waiting.recv().await {
        writer.send_text(frame).await?;
    }
    Ok(writer)
}

async fn read(mut reader: SocketReader, counts: Arc<Counts>) -> Result<()> {
    loop {
        let text = reader.next_text().await?;
        let frame = glance(&text)?;
        match (&*frame.kind, &frame.message_id) {
            ("accepted", Some(id)) => counts.note_accepted(id),
            _ => {
                counts.errors.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}
