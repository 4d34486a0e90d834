//! Devices: senders to be used, recipients that read and acknowledge by themselves.

use std::{
    borrow::Cow,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use futures_util::{FutureExt as _, StreamExt as _, TryStreamExt as _, stream};
use rand::RngCore as _;
use serde::Deserialize;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};

use super::report::Times;
use crate::wire::{AckMode, Device, Dial, Rest, Socket, WireError, register};

/// How many devices are registered, or connected, at once.
const AT_ONCE: usize = 64;
/// How long one device's registration or connecting may take.
const DEADLINE: Duration = Duration::from_secs(30);
/// How many messages are acknowledged with one frame at most.
const ACK_BATCH_MAX: usize = 64;
/// How long the drain may take.
const DRAIN: Duration = Duration::from_secs(60);
/// Between two looks at something that tells nobody of itself.
const POLL: Duration = Duration::from_millis(5);

/// The part of a frame that load looks at.
#[derive(Debug, Deserialize)]
pub(super) struct Glance<'a> {
    #[serde(borrow, rename = "type")]
    pub(super) kind: Cow<'a, str>,
    #[serde(borrow, default)]
    pub(super) message_id: Option<Cow<'a, str>>,
    #[serde(default)]
    seq: u64,
}

/// Reads a frame.
pub(super) fn glance(text: &str) -> Result<Glance<'_>> {
    serde_json::from_str(text).context("a frame that is not as agreed")
}

/// When a message was (to be) sent: it is in its id, so that whoever sees it can tell its age.
pub(super) fn id(run: u32, sent: Duration, number: u64) -> String {
    format!("{run:08x}-{:x}-{number:x}", sent.as_micros())
}

/// The time in an id of this run.
pub(super) fn sent(run: u32, id: &str) -> Option<Duration> {
    let mut parts = id.split('-');
    let (ours, micros) = (parts.next()?, parts.next()?);
    let ours = u32::from_str_radix(ours, 16).ok()? == run;
    ours.then_some(Duration::from_micros(u64::from_str_radix(micros, 16).ok()?))
}

/// What all clients of a run count.
#[derive(Debug)]
pub(super) struct Counts {
    /// Tells this run's messages.
    pub(super) run: u32,
    /// Zero of the run's clock.
    pub(super) started: Instant,
    /// What was sent before this time is not measured.
    pub(super) measure_from: Duration,
    /// What happens after this time is not measured.
    pub(super) measure_until: Duration,
    pub(super) accepted: AtomicU64,
    pub(super) accepted_measured: AtomicU64,
    pub(super) delivered: AtomicU64,
    pub(super) delivered_measured: AtomicU64,
    pub(super) errors: AtomicU64,
    pub(super) out_of_order: AtomicU64,
    pub(super) accept: Times,
    pub(super) deliver: Times,
}

impl Counts {
    pub(super) fn new(warm_up: Duration, time: Duration) -> Arc<Self> {
        Arc::new(Self {
            run: rand::random(),
            started: Instant::now(),
            measure_from: warm_up,
            measure_until: warm_up + time,
            accepted: AtomicU64::new(0),
            accepted_measured: AtomicU64::new(0),
            delivered: AtomicU64::new(0),
            delivered_measured: AtomicU64::new(0),
            errors: AtomicU64::new(0),
            out_of_order: AtomicU64::new(0),
            accept: Times::default(),
            deliver: Times::default(),
        })
    }

    /// Counts a message that was accepted now.
    pub(super) fn note_accepted(&self, id: &str) {
        self.accepted.fetch_add(1, Ordering::Relaxed);
        if let Some(age) = self.age(id) {
            self.accepted_measured.fetch_add(1, Ordering::Relaxed);
            self.accept.record(age);
        }
    }

    fn note_delivered(&self, id: &str) {
        self.delivered.fetch_add(1, Ordering::Relaxed);
        if let Some(age) = self.age(id) {
            self.delivered_measured.fetch_add(1, Ordering::Relaxed);
            self.deliver.record(age);
        }
    }

    /// How long ago a message was sent, if that is measured.
    fn age(&self, id: &str) -> Option<Duration> {
        let now = self.started.elapsed();
        let sent = sent(self.run, id)?;
        let measured = sent >= self.measure_from && now < self.measure_until;
        measured.then(|| now.saturating_sub(sent))
    }
}

/// Registers `count` devices, many at once.
///
/// # Errors
/// When one cannot be registered.
pub(crate) async fn devices(nodes: &[SocketAddr], role: &str, count: u32) -> Result<Vec<Device>> {
    let run: u32 = rand::random();
    stream::iter(0..count)
        .map(|number| async move {
            let node = nodes[number as usize % nodes.len()];
            let id = format!("{role}-{run:08x}-{number}");
            registered(node, &id).await
        })
        .buffered(AT_ONCE)
        .try_collect()
        .await
}

async fn registered(node: SocketAddr, id: &str) -> Result<Device> {
    let deadline = Instant::now() + DEADLINE;
    loop {
        match register(&mut Rest::new(node, None), id, DEADLINE).await {
            Ok(device) => return Ok(device),
            Err(WireError::Unexpected { status: 503 | 429, .. }) if Instant::now() < deadline => {
                sleep(POLL).await;
            }
            Err(error) => return Err(error).context("a device could not be registered"),
        }
    }
}

/// Connects devices, the first to the first node and so on, many at once.
///
/// # Errors
/// When one cannot connect.
pub(super) async fn sockets(dials: Vec<(Dial, Device)>) -> Result<Vec<Socket>> {
    stream::iter(dials)
        .map(|(dial, device)| async move {
            Socket::connect(dial, &device.key, AckMode::Explicit).await
        })
        .buffered(AT_ONCE)
        .try_collect()
        .await
        .context("a device could not connect")
}

/// Sending devices, connected, and mailboxes whose recipients read.
pub(super) struct Fleet {
    pub(super) counts: Arc<Counts>,
    pub(super) senders: Vec<Socket>,
    /// Device ids.
    pub(super) mailboxes: Arc<Vec<String>>,
    /// Base64, the same for all messages: the relay looks into none.
    pub(super) content: Arc<str>,
    owners: Vec<(Device, SocketAddr)>,
    recipients: JoinSet<Result<()>>,
}

impl Fleet {
    /// Registers and connects everybody, spread over the nodes; a recipient is at another node
    /// than most of those who write to it.
    pub(super) async fn muster(
        nodes: &[SocketAddr],
        senders: u32,
        mailboxes: u32,
        content_bytes: usize,
        times: (Duration, Duration),
    ) -> Result<Self> {
        let dial = |at: usize| Dial::to(nodes[at % nodes.len()], DEADLINE);
        let from = devices(nodes, "load-from", senders).await?;
        let to = devices(nodes, "load-to", mailboxes).await?;
        let dials = |devices: &[Device]| {
            devices.iter().enumerate().map(|(at, device)| (dial(at), device.clone())).collect()
        };
        let senders = sockets(dials(&from)).await?;
        let reading = sockets(dials(&to)).await?;
        let mut bytes = vec![0; content_bytes];
        rand::rng().fill_bytes(&mut bytes);
        let counts = Counts::new(times.0, times.1);
        let mut recipients = JoinSet::new();
        for socket in reading {
            recipients.spawn(receive(socket, counts.clone()));
        }
        Ok(Self {
            counts,
            senders,
            mailboxes: Arc::new(to.iter().map(|device| device.id.clone()).collect()),
            content: BASE64.encode(bytes).into(),
            owners: to.into_iter().enumerate().map(|(at, owner)| (owner, dial(at).node)).collect(),
            recipients,
        })
    }

    /// Waits until everything accepted was delivered and acknowledged and every mailbox is empty;
    /// answers how long that took.
    pub(super) async fn drain(mut self) -> Result<Duration> {
        let began = Instant::now();
        let outstanding = || {
            let accepted = self.counts.accepted.load(Ordering::Relaxed);
            accepted.saturating_sub(self.counts.delivered.load(Ordering::Relaxed))
        };
        while outstanding() > 0 {
            if let Some(ended) = self.recipients.try_join_next() {
                ended.context("a recipient failed")??;
            }
            if began.elapsed() > DRAIN {
                bail!("{} accepted messages were not delivered", outstanding());
            }
            sleep(POLL).await;
        }
        for (owner, node) in &self.owners {
            empty(owner, *node, began).await?;
        }
        Ok(began.elapsed())
    }
}

/// Waits until a mailbox is empty.
async fn empty(owner: &Device, node: SocketAddr, began: Instant) -> Result<()> {
    let mut rest = owner.rest(node);
    let path = format!("/api/v1/messages/receive/{}?limit=1", owner.id);
    loop {
        let reply = rest.get(&path, DEADLINE).await?;
        if reply.body.as_array().is_some_and(Vec::is_empty) {
            return Ok(());
        }
        if began.elapsed() > DRAIN {
            bail!("acknowledged messages are still pending: {} {}", reply.status, reply.body);
        }
        sleep(POLL).await;
    }
}

/// Reads and acknowledges: at once when nothing more has come, else in batches.
async fn receive(mut socket: Socket, counts: Arc<Counts>) -> Result<()> {
    let mut ids: Vec<String> = Vec::with_capacity(ACK_BATCH_MAX);
    let mut highest = 0;
    loop {
        let ready =
            if ids.len() < ACK_BATCH_MAX { socket.next_text().now_or_never() } else { None };
        let text = match ready {
            Some(text) => text?,
            None if ids.is_empty() => socket.next_text().await?,
            None => {
                let frame = serde_json::json!({"type": "ack", "message_ids": ids});
                socket.send(&frame).await?;
                ids.clear();
                continue;
            }
        };
        let frame = glance(&text)?;
        match (&*frame.kind, frame.message_id) {
            ("message", Some(id)) => {
                // One priority is used: the numbers of a mailbox rise by one.
                if frame.seq != highest + 1 {
                    counts.out_of_order.fetch_add(1, Ordering::Relaxed);
                }
                highest = frame.seq;
                counts.note_delivered(&id);
                ids.push(id.into_owned());
            }
            _ => bail!("a recipient got {text}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_carry_the_time_of_sending() {
        let id = id(7, Duration::from_micros(123_456), 9);
        assert_eq!(sent(7, &id), Some(Duration::from_micros(123_456)));
        assert_eq!(sent(8, &id), None);
        for foreign in ["", "x", "00000007", "00000007-zz"] {
            assert_eq!(sent(7, foreign), None, "{foreign}");
        }
    }

    #[test]
    fn a_glance_reads_what_load_needs() {
        let frame = glance(r#"{"type":"message","message_id":"a\u002db","seq":4}"#).unwrap();
        assert_eq!(
            (&*frame.kind, frame.message_id.as_deref(), frame.seq),
            ("message", Some("a-b"), 4)
        );
        assert!(glance("[]").is_err());
    }
}
