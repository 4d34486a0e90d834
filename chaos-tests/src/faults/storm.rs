//! Many clients that all connect at once, and connect anew when their node closes on them.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use anyhow::{Result, ensure};
use rand::Rng as _;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use crate::{
    load::fleet::devices,
    wire::{AckMode, Device, Dial, Socket},
};

/// How long one may take to get in: all of them want to at the same moment.
const DEADLINE: Duration = Duration::from_secs(60);
/// The longest pause before the next attempt.
const BACK_OFF_MS_MAX: u64 = 1000;

/// The clients.
#[derive(Debug)]
pub(super) struct Storm {
    alive: Arc<AtomicU32>,
    stop: CancellationToken,
    clients: JoinSet<()>,
}

impl Storm {
    /// Registers so many devices and lets them all connect; answers when half of them are.
    pub(super) async fn begin(nodes: &[SocketAddr], clients: u32) -> Result<Self> {
        let name = format!("storm-{:08x}", rand::random::<u32>());
        let devices = devices(nodes, &name, clients).await?;
        let mut storm =
            Self { alive: Arc::default(), stop: CancellationToken::new(), clients: JoinSet::new() };
        for (at, device) in devices.into_iter().enumerate() {
            let client = client(nodes.to_vec(), at, device, storm.alive.clone());
            let stop = storm.stop.clone();
            storm.clients.spawn(async move {
                let _stopped: Option<()> = stop.run_until_cancelled(client).await;
            });
        }
        let until = Instant::now() + DEADLINE;
        while storm.alive() * 2 < clients {
            ensure!(Instant::now() < until, "{} of {clients} clients got in", storm.alive());
            sleep(Duration::from_millis(100)).await;
        }
        Ok(storm)
    }

    /// How many are connected now.
    pub(super) fn alive(&self) -> u32 {
        self.alive.load(Ordering::Relaxed)
    }

    /// Lets all go.
    pub(super) async fn end(mut self) {
        self.stop.cancel();
        while self.clients.join_next().await.is_some() {}
    }
}

async fn client(nodes: Vec<SocketAddr>, start: usize, device: Device, alive: Arc<AtomicU32>) {
    for at in start.. {
        let dial = Dial::to(nodes[at % nodes.len()], DEADLINE);
        if let Ok(mut socket) = Socket::connect(dial, &device.key, AckMode::Pong).await {
            alive.fetch_add(1, Ordering::Relaxed);
            // Only the end of the connection ends this.
            while socket.next_text().await.is_ok() {}
            alive.fetch_sub(1, Ordering::Relaxed);
        }
        let pause = rand::rng().random_range(0..=BACK_OFF_MS_MAX);
        sleep(Duration::from_millis(pause)).await;
    }
}
