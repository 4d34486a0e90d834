//! The work, the same for every system that this program speaks to itself. Heliograph's loads are
//! those of the project's generator (`chaos-tests/src/load/`), which these loops follow.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use futures_util::{StreamExt as _, stream::FuturesUnordered};
use rustix::event::{Timespec, poll};
use tokio::{sync::mpsc, task::JoinSet, time::Instant};

use crate::{
    counts::Counts,
    measure::{Usage, usage_of_tree},
    message::{Header, MESSAGE_BYTES},
    peer::{Consume, Consumers, NODES, Publisher},
    results::LoadResult,
    wait::until,
};

/// The most publishing connections: four at each node, as many as the project's generator has.
pub const SENDERS_MAX: u32 = 12;
/// Messages that may wait for a publisher in the open loop; more means that the rate is not kept.
const QUEUE_MAX: usize = 100_000;
/// How long answers and deliveries may take after the last message.
const DRAIN: Duration = Duration::from_secs(60);

/// What a load is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Load {
    /// So many messages in flight: the next is sent when one is accepted.
    Closed(u32),
    /// So many messages a second, whatever the answers.
    Open(u32),
}

/// One load.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// What.
    pub load: Load,
    /// Mailboxes that messages go to, in turn.
    pub mailboxes: u32,
    /// Not measured.
    pub warm_up: Duration,
    /// Measured.
    pub time: Duration,
}

impl Plan {
    /// How many connections publish.
    pub fn senders(&self) -> u32 {
        match self.load {
            Load::Closed(in_flight) => in_flight.clamp(1, SENDERS_MAX),
            Load::Open(_) => SENDERS_MAX,
        }
    }
}

/// Runs a load on a cluster that has its mailboxes.
///
/// # Errors
/// When a connection fails, the rate cannot be kept, or a message is not delivered.
pub async fn run<C: Consume>(cluster: &C, plan: Plan) -> Result<LoadResult> {
    let mut publishers = Vec::new();
    for number in 0..plan.senders() {
        publishers.push(cluster.publisher(number as usize % NODES).await?);
    }
    let counts = Counts::new(plan.warm_up, plan.time);
    let mut consumers = cluster.consume(plan.mailboxes, plan.senders(), counts.clone()).await?;
    let mut senders = send(plan, publishers, &counts)?;
    tokio::time::sleep_until(counts.started + plan.warm_up).await;
    let mark = Mark::now(cluster.pids())?;
    tokio::time::sleep_until(counts.started + plan.warm_up + plan.time).await;
    let (generator, nodes) = mark.since()?;
    let drained = Instant::now();
    let ended = async {
        while let Some(ended) = senders.join_next().await {
            ended.context("a sender failed")??;
        }
        anyhow::Ok(())
    };
    tokio::time::timeout(DRAIN, ended).await.context("messages were not answered")??;
    deliver(&counts, &mut consumers.tasks, drained).await?;
    let Consumers { tasks, connections } = consumers;
    cluster.stop(connections).await?;
    drop(tasks);
    until("every mailbox is empty", async || Ok(cluster.stored(plan.mailboxes).await? == 0))
        .await?;
    let count = |count: &std::sync::atomic::AtomicU64| count.load(Ordering::Relaxed);
    let seconds = plan.time.as_secs_f64();
    Ok(LoadResult {
        name: plan.name(),
        accepted_per_second: count(&counts.accepted_measured) as f64 / seconds,
        delivered_per_second: count(&counts.delivered_measured) as f64 / seconds,
        refused: count(&counts.refused),
        out_of_order: count(&counts.out_of_order),
        accept: counts.accept.summary(),
        deliver: counts.deliver.summary(),
        generator_cores: generator,
        nodes_cores: nodes,
        // Found out by who asked for the load.
        others_cores: None,
    })
}

impl Plan {
    /// What it is called in results.
    pub fn name(&self) -> String {
        match self.load {
            Load::Closed(in_flight) => format!("{} x {in_flight}", self.mailboxes),
            Load::Open(rate) => format!("{} at {rate}/s", self.mailboxes),
        }
    }
}

/// Starts the senders; each ends when all that it sent is answered.
fn send<P: Publisher>(
    plan: Plan,
    publishers: Vec<P>,
    counts: &Arc<Counts>,
) -> Result<JoinSet<Result<()>>> {
    let senders = publishers.len() as u32;
    let filler: [u8; MESSAGE_BYTES] = rand::random();
    let mut tasks = JoinSet::new();
    let mut queues = Vec::new();
    for (number, publisher) in (0..).zip(publishers) {
        let counts = counts.clone();
        let mailboxes = plan.mailboxes;
        let sender = Sender { number, senders, publisher, counts, mailboxes, filler };
        match plan.load {
            Load::Closed(in_flight) => {
                // The remainder goes to the first ones.
                let window = in_flight / senders + u32::from(number < in_flight % senders);
                tasks.spawn(sender.closed(window));
            }
            Load::Open(_) => {
                let (queue, waiting) = mpsc::channel(QUEUE_MAX);
                queues.push(queue);
                tasks.spawn(sender.open(waiting));
            }
        }
    }
    if let Load::Open(rate) = plan.load {
        ensure!(rate > 0, "a rate of nothing");
        let counts = counts.clone();
        tasks.spawn_blocking(move || pace(rate, &counts, &queues));
    }
    Ok(tasks)
}

/// Waits until everything accepted was delivered and acknowledged.
async fn deliver(
    counts: &Counts,
    consumers: &mut JoinSet<Result<()>>,
    began: Instant,
) -> Result<()> {
    let outstanding = || {
        let accepted = counts.accepted.load(Ordering::Relaxed);
        accepted.saturating_sub(counts.acknowledged.load(Ordering::Relaxed))
    };
    while outstanding() > 0 {
        if let Some(ended) = consumers.try_join_next() {
            ended.context("a consumer failed")??;
        }
        if began.elapsed() > DRAIN {
            bail!("{} accepted messages were not delivered and acknowledged", outstanding());
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}

/// What everybody had used when the measured time began.
struct Mark {
    at: Instant,
    generator: Usage,
    nodes: Vec<(u32, Usage)>,
}

impl Mark {
    fn now(pids: Vec<u32>) -> Result<Self> {
        let nodes = pids.into_iter().map(|pid| Ok((pid, usage_of_tree(pid)?)));
        let nodes = nodes.collect::<Result<_>>()?;
        Ok(Self { at: Instant::now(), generator: own_usage()?, nodes })
    }

    /// Cores that the generator and all nodes together used since.
    fn since(&self) -> Result<(f64, f64)> {
        let seconds = self.at.elapsed().as_secs_f64();
        let cores =
            |before: Usage, now: Usage| now.cpu.saturating_sub(before.cpu).as_secs_f64() / seconds;
        let generator = cores(self.generator, own_usage()?);
        let mut nodes = 0.0;
        for (pid, before) in &self.nodes {
            nodes += cores(*before, usage_of_tree(*pid)?);
        }
        Ok((generator, nodes))
    }
}

/// What this process alone has used: the servers are its children.
fn own_usage() -> Result<Usage> {
    crate::measure::usage_of(std::process::id())
}

struct Sender<P> {
    number: u32,
    senders: u32,
    publisher: P,
    counts: Arc<Counts>,
    mailboxes: u32,
    filler: [u8; MESSAGE_BYTES],
}

impl<P: Publisher> Sender<P> {
    async fn closed(self, window: u32) -> Result<()> {
        let numbers = (u64::from(self.number)..).step_by(self.senders as usize);
        let mut answers = FuturesUnordered::new();
        for (sent, number) in (0..).zip(numbers) {
            // Once the window is full, each answer makes room for a message.
            if sent >= window {
                let Some((sent, answer)) = answers.next().await else { break };
                self.counts.note_answer(sent, answer?);
                if self.counts.started.elapsed() >= self.counts.measure_until {
                    break;
                }
            }
            let answer = self.send(number, self.counts.started.elapsed()).await?;
            answers.push(answer);
        }
        self.last(answers).await
    }

    async fn open(self, mut waiting: mpsc::Receiver<(u64, Duration)>) -> Result<()> {
        let mut answers = FuturesUnordered::new();
        loop {
            tokio::select! {
                // What is due goes out before answers are counted.
                biased;
                due = waiting.recv() => match due {
                    Some((number, due)) => {
                        let answer = self.send(number, due).await?;
                        answers.push(answer);
                    }
                    None => break,
                },
                Some((sent, answer)) = answers.next() => self.counts.note_answer(sent, answer?),
            }
        }
        self.last(answers).await
    }

    /// Waits for the answers to the last messages.
    async fn last(
        &self,
        mut answers: FuturesUnordered<impl Future<Output = (Duration, Result<bool>)>>,
    ) -> Result<()> {
        while let Some((sent, answer)) = answers.next().await {
            self.counts.note_answer(sent, answer?);
        }
        Ok(())
    }

    async fn send(
        &self,
        number: u64,
        at: Duration,
    ) -> Result<impl Future<Output = (Duration, Result<bool>)> + Send + use<P>> {
        let mailbox = (number % u64::from(self.mailboxes)) as u32;
        let header = Header { run: self.counts.run, sent: at, number };
        let answer = self.publisher.send(mailbox, header.message(&self.filler)).await?;
        Ok(async move { (at, answer.await) })
    }
}

/// Keeps the rate from a thread of its own: the async timer resolves only a millisecond, which
/// would be most of the latency that is measured.
fn pace(rate: u32, counts: &Counts, queues: &[mpsc::Sender<(u64, Duration)>]) -> Result<()> {
    for number in 0u64.. {
        let due = Duration::from_nanos(number * 1_000_000_000 / u64::from(rate));
        if due >= counts.measure_until {
            break;
        }
        let wait = due.saturating_sub(counts.started.elapsed());
        if !wait.is_zero() {
            // An early wake-up by a signal sends one message a little early.
            let _ = poll(&mut [], Some(&Timespec::try_from(wait)?));
        }
        let queue = &queues[number as usize % queues.len()];
        queue.try_send((number, due)).context("the rate cannot be kept")?;
    }
    Ok(())
}
