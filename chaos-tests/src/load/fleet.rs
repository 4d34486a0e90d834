//! Devices: senders to be used, recipients that read and acknowledge by themselves.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use rand::RngCore as _;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};

use super::{
    counts::Counts,
    recipient,
    traffic::{Over, Traffic},
};
use crate::wire::{AckMode, Device, Dial, Door, Rest, Socket, WireError, register};

/// How many devices are registered, or connected, at once.
const AT_ONCE: usize = 64;
/// How long one device's registration or connecting may take.
pub(super) const DEADLINE: Duration = Duration::from_secs(30);
/// How long the drain may take.
const DRAIN: Duration = Duration::from_secs(60);
/// Between two looks at something that tells nobody of itself.
const POLL: Duration = Duration::from_millis(5);

/// Registers `count` devices, many at once.
///
/// # Errors
/// When one cannot be registered.
pub(crate) async fn devices(doors: &[Door], role: &str, count: u32) -> Result<Vec<Device>> {
    let run: u32 = rand::random();
    stream::iter(0..count)
        .map(|number| async move {
            let door = &doors[number as usize % doors.len()];
            registered(door, &format!("{role}-{run:08x}-{number}")).await
        })
        .buffered(AT_ONCE)
        .try_collect()
        .await
}

async fn registered(door: &Door, id: &str) -> Result<Device> {
    let deadline = Instant::now() + DEADLINE;
    loop {
        match register(&mut door.rest(None), id, DEADLINE).await {
            Ok(device) => return Ok(device),
            Err(WireError::Unexpected { status: 503 | 429, .. }) if Instant::now() < deadline => {
                sleep(POLL).await;
            }
            Err(error) => return Err(error).context("a device could not be registered"),
        }
    }
}

/// Connects devices, many at once.
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

/// Base64 of so many bytes, the same for all messages of a run: the relay looks into none.
pub(super) fn content(bytes: usize) -> String {
    let mut content = vec![0; bytes];
    rand::rng().fill_bytes(&mut content);
    BASE64.encode(content)
}

/// A sending device's way to the relay.
#[derive(Debug)]
pub(super) enum Line {
    /// One connection, any number of messages in flight.
    Ws(Box<Socket>),
    /// One connection for each message in flight, made at the first.
    Rest(Vec<Rest>),
}

/// Sending devices, and mailboxes whose recipients read.
pub(super) struct Fleet {
    pub(super) counts: Arc<Counts>,
    pub(super) lines: Vec<Line>,
    /// Device ids.
    pub(super) mailboxes: Arc<Vec<String>>,
    /// Base64.
    pub(super) content: Arc<str>,
    owners: Vec<(Device, Door)>,
    recipients: JoinSet<Result<()>>,
}

impl Fleet {
    /// Registers and connects everybody, spread over the nodes; a recipient is at another node
    /// than most of those who write to it. Each sender gets so many `lanes` over REST.
    pub(super) async fn muster(
        doors: &[Door],
        senders: u32,
        lanes: u32,
        traffic: &Traffic,
    ) -> Result<Self> {
        let door = |at: usize| &doors[at % doors.len()];
        let from = devices(doors, "load-from", senders).await?;
        let to = devices(doors, "load-to", traffic.mailboxes).await?;
        let dials = |devices: &[Device]| {
            let dial = |(at, device): (usize, &Device)| (door(at).dial(DEADLINE), device.clone());
            devices.iter().enumerate().map(dial).collect()
        };
        let rest = |at: usize, device: &Device| door(at).rest(Some(&device.key));
        let lines = match traffic.over {
            Over::Ws => {
                let sockets = sockets(dials(&from)).await?.into_iter();
                sockets.map(|socket| Line::Ws(Box::new(socket))).collect()
            }
            Over::Rest => {
                let lanes =
                    |(at, device)| Line::Rest((0..lanes).map(|_| rest(at, device)).collect());
                from.iter().enumerate().map(lanes).collect()
            }
        };
        let reading = match traffic.over {
            Over::Ws => sockets(dials(&to)).await?,
            Over::Rest => Vec::new(),
        };
        let counts = Counts::new(traffic);
        let mut recipients = JoinSet::new();
        for socket in reading {
            recipients.spawn(recipient::over_socket(socket, counts.clone()));
        }
        if traffic.over == Over::Rest {
            for (at, device) in to.iter().enumerate() {
                let polling =
                    recipient::over_rest(rest(at, device), device.id.clone(), counts.clone());
                recipients.spawn(polling);
            }
        }
        Ok(Self {
            counts,
            lines,
            mailboxes: Arc::new(to.iter().map(|device| device.id.clone()).collect()),
            content: content(traffic.content_bytes).into(),
            owners: to.into_iter().enumerate().map(|(at, own)| (own, door(at).clone())).collect(),
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
        stream::iter(self.owners)
            .map(|(owner, door)| async move { empty(&owner, &door, began).await })
            .buffer_unordered(AT_ONCE)
            .try_collect::<Vec<()>>()
            .await?;
        Ok(began.elapsed())
    }
}

/// Waits until a mailbox is empty.
async fn empty(owner: &Device, door: &Door, began: Instant) -> Result<()> {
    let mut rest = door.rest(Some(&owner.key));
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
