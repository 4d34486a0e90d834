//! A run: mailboxes, senders, recipients of every manner, until told to stop; then the drain.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::{Context as _, Result, bail};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use super::{
    letter::Letters,
    progress::{Progress, Resumed},
    recipient::{self, Manner, Readings, Recipient},
    sender::{Sender, Transport},
};
use crate::{
    history::{MailboxNumber, Operation, Phase, Recorder},
    wire::{Device, Rest, WireError, register},
};

/// How long registering a device may take, with all repetitions.
const REGISTER: Duration = Duration::from_secs(30);
/// How long one call of the run itself may take.
const CALL: Duration = Duration::from_secs(10);
/// How long nothing may arrive during the drain before it is over: longer than an election and
/// the recipients' patience with a dead socket.
const DRAIN_PATIENCE: Duration = Duration::from_secs(30);
/// How long acknowledgements may take to reach the mailbox after everything was seen. The slowest
/// are a stock client's, which wait for the server's Ping.
const SETTLE: Duration = Duration::from_secs(30);
/// Between two looks at a mailbox that is not empty yet.
const POLL: Duration = Duration::from_millis(100);
/// Transports, in turn.
const TRANSPORTS: [Transport; 3] = [Transport::Rest, Transport::Socket, Transport::Typed];
/// Manners, in turn.
const MANNERS: [Manner; 4] = [Manner::Explicit, Manner::Polling, Manner::Stock, Manner::Typed];

/// How big a run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// How many mailboxes; each manner of receiving takes every fourth.
    pub mailboxes: u32,
    /// How many senders write to each; of all senders, each transport takes every third.
    pub senders: u32,
    /// A sender sends not more often than this.
    pub pace: Duration,
    /// After how many messages a client moves to the next node.
    pub moves_every: u32,
}

impl Config {
    /// What an unoptimised cluster on a busy machine carries with ease: 12 mailboxes over the
    /// shards, 24 senders at 8 messages a second.
    pub const fn modest() -> Self {
        Self { mailboxes: 12, senders: 2, pace: Duration::from_millis(125), moves_every: 40 }
    }
}

/// What a finished run tells beside its history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// How many messages were accepted.
    pub accepted: u64,
    /// How many of them were not seen when the drain was given up.
    pub missing: usize,
    /// Answers that a correct relay never gives to a correct client.
    pub refused: Vec<String>,
    /// How often connections went on at another node.
    pub resumed: Resumed,
}

/// A run that goes on.
#[derive(Debug)]
pub struct Workload {
    nodes: Vec<SocketAddr>,
    recorder: Recorder,
    progress: Arc<Progress>,
    mailboxes: Vec<(MailboxNumber, Device)>,
    senders: JoinSet<()>,
    waiting: Vec<Recipient>,
    recipients: JoinSet<()>,
    stop_senders: CancellationToken,
    stop_recipients: CancellationToken,
}

impl Workload {
    /// Registers the devices and starts the senders at `nodes`; nobody reads yet.
    ///
    /// # Errors
    /// When a device cannot be registered.
    pub async fn start(nodes: &[SocketAddr], config: Config, recorder: &Recorder) -> Result<Self> {
        let mut run = Self {
            nodes: nodes.to_vec(),
            recorder: recorder.clone(),
            progress: Arc::default(),
            mailboxes: Vec::new(),
            senders: JoinSet::new(),
            waiting: Vec::new(),
            recipients: JoinSet::new(),
            stop_senders: CancellationToken::new(),
            stop_recipients: CancellationToken::new(),
        };
        let letters = Letters::new(rand::random());
        let readings = Arc::new(Readings::default());
        // 0 is whoever inflicts faults.
        let mut process = 1;
        for number in 0..config.mailboxes {
            let device = run.device(&letters, "to", number).await?;
            let mailbox = MailboxNumber(number);
            run.mailboxes.push((mailbox, device.clone()));
            let mut senders = Vec::new();
            for i in 0..config.senders {
                let sender = Sender {
                    process,
                    device: run.device(&letters, "from", process).await?,
                    mailbox,
                    recipient: device.id.clone(),
                    transport: TRANSPORTS
                        [(number * config.senders + i) as usize % TRANSPORTS.len()],
                    nodes: run.nodes.clone(),
                    pace: config.pace,
                    moves_every: config.moves_every,
                    letters: letters.clone(),
                    recorder: recorder.clone(),
                    progress: run.progress.clone(),
                };
                senders.push((process, sender.device.id.clone()));
                run.senders.spawn(sender.run(run.stop_senders.clone()));
                process += 1;
            }
            let recipient = Recipient {
                process,
                device,
                mailbox,
                manner: MANNERS[number as usize % MANNERS.len()],
                nodes: run.nodes.clone(),
                moves_every: config.moves_every,
                senders,
                letters: letters.clone(),
                recorder: recorder.clone(),
                readings: readings.clone(),
                progress: run.progress.clone(),
            };
            run.waiting.push(recipient);
            process += 1;
        }
        Ok(run)
    }

    /// Starts the recipients.
    pub fn start_reading(&mut self) {
        for recipient in std::mem::take(&mut self.waiting) {
            self.recipients.spawn(recipient.run(self.stop_recipients.clone()));
        }
    }

    /// The mailboxes' owners.
    pub fn mailboxes(&self) -> &[(MailboxNumber, Device)] {
        &self.mailboxes
    }

    async fn device(&self, letters: &Letters, role: &str, number: u32) -> Result<Device> {
        let id = letters.device(role, number);
        let deadline = Instant::now() + REGISTER;
        loop {
            let node = self.nodes[number as usize % self.nodes.len()];
            match register(&mut Rest::new(node, None), &id, CALL).await {
                Ok(device) => return Ok(device),
                Err(WireError::Unexpected { status: 503 | 429, .. } | WireError::Timeout)
                    if Instant::now() < deadline =>
                {
                    sleep(POLL).await;
                }
                Err(error) => return Err(error).context("a device could not be registered"),
            }
        }
    }

    /// Waits until `count` messages more are accepted.
    ///
    /// # Errors
    /// When that takes longer than `deadline`, or a client of the run has failed.
    pub async fn more_accepted(&mut self, count: u64, deadline: Duration) -> Result<()> {
        self.progress.more_accepted(count, deadline).await?;
        match self.senders.try_join_next().or_else(|| self.recipients.try_join_next()) {
            None => Ok(()),
            Some(ended) => {
                ended.context("a client of the run failed")?;
                bail!("a client of the run ended before it was told to")
            }
        }
    }

    /// Stops sending; what is under way is seen through.
    ///
    /// # Errors
    /// When a sender failed.
    pub async fn stop_sending(&mut self) -> Result<()> {
        self.stop_senders.cancel();
        while let Some(ended) = self.senders.join_next().await {
            ended.context("a sender failed")?;
        }
        Ok(())
    }

    /// Stops sending, waits until everything accepted was seen and acknowledged, and takes down
    /// what is left in the mailboxes.
    ///
    /// # Errors
    /// When a client of the run failed, or a mailbox cannot be read at all.
    pub async fn finish(self) -> Result<Report> {
        self.finish_within(DRAIN_PATIENCE).await
    }

    /// As [`Self::finish`], giving up when nothing has arrived for `patience`.
    ///
    /// # Errors
    /// As [`Self::finish`].
    pub async fn finish_within(mut self, patience: Duration) -> Result<Report> {
        self.start_reading();
        self.stop_sending().await?;
        let missing = self.progress.drained(patience).await;
        let deadline = Instant::now() + SETTLE;
        for (index, (mailbox, device)) in self.mailboxes.iter().enumerate() {
            let pending = self.residue(device, index, deadline).await?;
            let residue = Operation::Residue { mailbox: *mailbox, pending };
            self.recorder.record(0, Phase::Ok, residue);
        }
        self.stop_recipients.cancel();
        while let Some(ended) = self.recipients.join_next().await {
            ended.context("a recipient failed")?;
        }
        let refused = self.progress.refusals();
        let resumed = self.progress.resumptions();
        Ok(Report { accepted: self.progress.accepted_total(), missing, refused, resumed })
    }

    /// How much is pending in a mailbox when it is empty or the deadline has passed. Asks the
    /// nodes in turn: each must answer for every mailbox.
    async fn residue(&self, device: &Device, index: usize, deadline: Instant) -> Result<u64> {
        let mut at = index;
        loop {
            let mut rest = device.rest(self.nodes[at % self.nodes.len()]);
            match recipient::pending(&mut rest, &device.id, 0).await {
                Ok(messages) if messages.is_empty() => return Ok(0),
                Ok(messages) if Instant::now() >= deadline => return Ok(messages.len() as u64),
                Err(error) if Instant::now() >= deadline => {
                    return Err(error).context("a mailbox cannot be read");
                }
                _ => {}
            }
            at += 1;
            sleep(POLL).await;
        }
    }
}
