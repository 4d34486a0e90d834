//! A run: mailboxes, senders, recipients of every manner, until told to stop; then the drain.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::{Context as _, Result, bail};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use super::{
    beside::{Registrations, Stream},
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
/// The number of the first live stream, where no mailbox has one.
const STREAMS_FROM: u32 = 1_000_000;
/// How long nothing may arrive during the drain before it is over: longer than an election and
/// the recipients' patience with a dead socket.
const DRAIN_PATIENCE: Duration = Duration::from_secs(30);
/// How long acknowledgements may take to reach the mailbox after everything was seen. The slowest
/// are a stock client's, which wait for the server's Ping.
const SETTLE: Duration = Duration::from_secs(30);
/// Between two looks at a mailbox that is not empty yet.
const POLL: Duration = Duration::from_millis(100);
/// A sender of an overload sends as fast as it is answered.
const SURGE_PACE: Duration = Duration::from_millis(1);
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
    /// How many live streams flow beside.
    pub streams: u32,
    /// How many devices are registered a second beside.
    pub registrations: u32,
}

impl Config {
    /// What an unoptimised cluster on a busy machine carries with ease: 12 mailboxes over the
    /// shards, 24 senders at 8 messages a second.
    pub const fn modest() -> Self {
        Self {
            mailboxes: 12,
            senders: 2,
            pace: Duration::from_millis(125),
            moves_every: 40,
            streams: 0,
            registrations: 0,
        }
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
    /// What flows beside the queues.
    beside: JoinSet<()>,
    /// Senders of an overload.
    surge: JoinSet<()>,
    stop_senders: CancellationToken,
    stop_surge: CancellationToken,
    stop_recipients: CancellationToken,
    letters: Letters,
    config: Config,
    /// The number of the next client; 0 is whoever inflicts faults.
    next_process: u32,
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
            beside: JoinSet::new(),
            surge: JoinSet::new(),
            stop_senders: CancellationToken::new(),
            stop_surge: CancellationToken::new(),
            stop_recipients: CancellationToken::new(),
            letters: Letters::new(rand::random()),
            config,
            next_process: 1,
        };
        let readings = Arc::new(Readings::default());
        for number in 0..config.mailboxes {
            let device = run.device("to", number).await?;
            let mailbox = MailboxNumber(number);
            run.mailboxes.push((mailbox, device.clone()));
            for i in 0..config.senders {
                let transport =
                    TRANSPORTS[(number * config.senders + i) as usize % TRANSPORTS.len()];
                let sender = run.sender(&device, mailbox, transport, config.pace).await?;
                run.senders.spawn(sender.run(run.stop_senders.clone()));
            }
            let recipient = Recipient {
                process: run.take_process(),
                device,
                mailbox,
                manner: MANNERS[number as usize % MANNERS.len()],
                nodes: run.nodes.clone(),
                moves_every: config.moves_every,
                letters: run.letters.clone(),
                recorder: recorder.clone(),
                readings: readings.clone(),
                progress: run.progress.clone(),
            };
            run.waiting.push(recipient);
        }
        run.start_streams(config.streams).await?;
        run.start_registrations(config.registrations);
        Ok(run)
    }

    /// Starts the recipients.
    pub fn start_reading(&mut self) {
        for recipient in std::mem::take(&mut self.waiting) {
            self.recipients.spawn(recipient.run(self.stop_recipients.clone()));
        }
    }

    /// How many messages were accepted so far.
    pub fn accepted(&self) -> u64 {
        self.progress.accepted_total()
    }

    /// Lets devices send each other live frames.
    async fn start_streams(&mut self, count: u32) -> Result<()> {
        for number in 0..count {
            let process = self.take_process();
            let stream = Stream {
                process,
                mailbox: MailboxNumber(STREAMS_FROM + number),
                from: self.device("speaks", process).await?,
                to: self.device("hears", process).await?,
                nodes: self.nodes.clone(),
                letters: self.letters.clone(),
                recorder: self.recorder.clone(),
            };
            let (speak, hear) = (stream.clone(), stream);
            let (stop, until) = (self.stop_senders.clone(), self.stop_senders.clone());
            self.beside.spawn(async move {
                let _stopped: Option<()> = stop.run_until_cancelled(speak.speak()).await;
            });
            self.beside.spawn(async move {
                let _stopped: Option<()> = until.run_until_cancelled(hear.hear()).await;
            });
        }
        Ok(())
    }

    /// Lets devices be registered, so many a second.
    fn start_registrations(&mut self, a_second: u32) {
        if a_second == 0 {
            return;
        }
        let registry = Registrations {
            process: self.take_process(),
            pause: Duration::from_secs(1) / a_second,
            nodes: self.nodes.clone(),
            letters: self.letters.clone(),
            recorder: self.recorder.clone(),
        };
        let stop = self.stop_senders.clone();
        self.beside.spawn(async move {
            let _stopped: Option<()> = stop.run_until_cancelled(registry.run()).await;
        });
    }

    /// The mailboxes' owners.
    pub fn mailboxes(&self) -> &[(MailboxNumber, Device)] {
        &self.mailboxes
    }

    /// Who sends to a mailbox, as a client of its own.
    async fn sender(
        &mut self,
        to: &Device,
        mailbox: MailboxNumber,
        transport: Transport,
        pace: Duration,
    ) -> Result<Sender> {
        let process = self.take_process();
        Ok(Sender {
            process,
            device: self.device("from", process).await?,
            mailbox,
            recipient: to.id.clone(),
            transport,
            nodes: self.nodes.clone(),
            pace,
            moves_every: self.config.moves_every,
            letters: self.letters.clone(),
            recorder: self.recorder.clone(),
            progress: self.progress.clone(),
        })
    }

    fn take_process(&mut self) -> u32 {
        self.next_process += 1;
        self.next_process - 1
    }

    /// Lets so many senders more send, without a pause between messages.
    ///
    /// # Errors
    /// When a device cannot be registered.
    pub async fn surge(&mut self, senders: u32) -> Result<()> {
        self.stop_surge = CancellationToken::new();
        for i in 0..senders {
            let (mailbox, device) = self.mailboxes[i as usize % self.mailboxes.len()].clone();
            let transport = TRANSPORTS[i as usize % TRANSPORTS.len()];
            let sender = self.sender(&device, mailbox, transport, SURGE_PACE).await?;
            self.surge.spawn(sender.run(self.stop_surge.clone()));
        }
        Ok(())
    }

    /// Ends what [`Self::surge`] began; what is under way is seen through.
    ///
    /// # Errors
    /// When a sender failed.
    pub async fn ebb(&mut self) -> Result<()> {
        self.stop_surge.cancel();
        while let Some(ended) = self.surge.join_next().await {
            ended.context("a sender failed")?;
        }
        Ok(())
    }

    async fn device(&self, role: &str, number: u32) -> Result<Device> {
        let id = self.letters.device(role, number);
        let deadline = Instant::now() + REGISTER;
        let mut at = number as usize;
        loop {
            let node = self.nodes[at % self.nodes.len()];
            match register(&mut Rest::new(node, None), &id, CALL).await {
                Ok(device) => return Ok(device),
                Err(error) if Instant::now() >= deadline => {
                    return Err(error).context("a device could not be registered");
                }
                Err(WireError::Unexpected { status: 503 | 429, .. } | WireError::Timeout) => {}
                // A node that is not there.
                Err(WireError::NotConnected(_)) => at += 1,
                Err(error) => return Err(error).context("a device could not be registered"),
            }
            sleep(POLL).await;
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
        self.ebb().await?;
        self.stop_senders.cancel();
        while let Some(ended) = self.senders.join_next().await {
            ended.context("a sender failed")?;
        }
        while let Some(ended) = self.beside.join_next().await {
            ended.context("a client of the run failed")?;
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
