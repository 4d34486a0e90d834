//! Many clients that all connect at once, and connect anew when their node closes on them.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
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
    wire::{AckMode, Device, Dial, Door, Socket},
};

/// How long one may take to get in: all of them want to at the same moment.
const DEADLINE: Duration = Duration::from_secs(60);
/// How long all of them may take: an unoptimised build on a busy machine takes some fifty a second.
const ALL: Duration = Duration::from_secs(150);
/// The longest pause before the next attempt.
const BACK_OFF_MS_MAX: u64 = 1000;
/// Between two looks at how many are in.
const POLL: Duration = Duration::from_millis(100);
/// Clients behind one address.
const A_SOURCE: usize = 100;
/// Addresses in the last place of one.
const LAST_PLACES: usize = 250;

#[derive(Debug, Default)]
struct Counts {
    /// How many are connected now.
    alive: AtomicU32,
    /// How often one got in.
    entered: AtomicU32,
}

/// The clients.
#[derive(Debug)]
pub(super) struct Storm {
    clients: u32,
    counts: Arc<Counts>,
    stop: CancellationToken,
    tasks: JoinSet<()>,
}

impl Storm {
    /// Registers so many devices and lets them all connect; answers when all of them are.
    pub(super) async fn begin(nodes: &[SocketAddr], clients: u32) -> Result<Self> {
        let name = format!("storm-{:08x}", rand::random::<u32>());
        let doors: Vec<Door> = nodes.iter().copied().map(Door::plain).collect();
        let devices = devices(&doors, &name, clients).await?;
        let counts = Arc::new(Counts::default());
        let mut tasks = JoinSet::new();
        let stop = CancellationToken::new();
        for (at, device) in devices.into_iter().enumerate() {
            let client = client(nodes.to_vec(), at, device, counts.clone());
            let stop = stop.clone();
            tasks.spawn(async move {
                let _stopped: Option<()> = stop.run_until_cancelled(client).await;
            });
        }
        let storm = Self { clients, counts, stop, tasks };
        storm.all_in().await?;
        Ok(storm)
    }

    /// Waits until all are connected.
    pub(super) async fn all_in(&self) -> Result<()> {
        let began = Instant::now();
        while self.alive() < self.clients {
            let (alive, clients) = (self.alive(), self.clients);
            ensure!(began.elapsed() < ALL, "{alive} of {clients} clients are in after {ALL:?}");
            sleep(POLL).await;
        }
        Ok(())
    }

    /// How many are connected now.
    pub(super) fn alive(&self) -> u32 {
        self.counts.alive.load(Ordering::Relaxed)
    }

    /// How often one connected anew.
    pub(super) fn returns(&self) -> u32 {
        self.counts.entered.load(Ordering::Relaxed).saturating_sub(self.clients)
    }

    /// Lets all go.
    pub(super) async fn end(mut self) {
        self.stop.cancel();
        while self.tasks.join_next().await.is_some() {}
    }
}

/// Where a client calls from: of one address only some tens of thousands of connections can come.
fn source(at: usize) -> IpAddr {
    let address = at / A_SOURCE;
    let [third, last] = [address / LAST_PLACES, 1 + address % LAST_PLACES];
    IpAddr::V4(Ipv4Addr::new(127, 30, third as u8, last as u8))
}

async fn client(nodes: Vec<SocketAddr>, start: usize, device: Device, counts: Arc<Counts>) {
    for at in start.. {
        let node = nodes[at % nodes.len()];
        let dial = Dial { source: Some(source(start)), ..Dial::to(node, DEADLINE) };
        if let Ok(mut socket) = Socket::connect(dial, &device.key, AckMode::Pong).await {
            counts.alive.fetch_add(1, Ordering::Relaxed);
            counts.entered.fetch_add(1, Ordering::Relaxed);
            // Only the end of the connection ends this.
            while socket.next_text().await.is_ok() {}
            counts.alive.fetch_sub(1, Ordering::Relaxed);
        }
        let pause = rand::rng().random_range(0..=BACK_OFF_MS_MAX);
        sleep(Duration::from_millis(pause)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn five_thousand_clients_call_from_fifty_addresses() {
        let all: std::collections::BTreeSet<_> = (0..5_000).map(source).collect();
        assert_eq!(all.len(), 50);
        assert_eq!(source(25_000), IpAddr::V4(Ipv4Addr::new(127, 30, 1, 1)));
    }
}
