//! Connections that do nothing but answer Pings.

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use anyhow::Result;
use indicatif::ProgressBar;
use rand::Rng as _;
use serde::Serialize;
use tokio::task::JoinSet;

use super::{
    fleet::{DEADLINE, devices, sockets},
    target::Target,
};
use crate::{
    descriptors,
    wire::{Device, Dial, Door},
};

/// Connections from one source address: well below the 28,000 ports it has.
const A_SOURCE: u32 = 10_000;
/// How many connections are made before the next ones are begun.
const A_STEP: usize = 500;

/// Where the connections of a crowd go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum At {
    /// All to the first node.
    First,
    /// To all nodes in turn.
    All,
}

/// Idle connections, until it is dropped.
#[derive(Debug)]
pub struct Crowd {
    alive: Arc<AtomicU32>,
    _holders: JoinSet<()>,
}

impl Crowd {
    /// So many devices, connected over all nodes of a cluster.
    ///
    /// # Errors
    /// When one cannot be registered or connected.
    pub async fn beside(target: &Target, connections: u32) -> Result<Self> {
        let doors = target.doors();
        let devices = devices(doors, "beside", connections).await?;
        Self::gather(doors, At::All, devices).await
    }

    /// Connects each device; answers when all are connected.
    pub(super) async fn gather(doors: &[Door], at: At, devices: Vec<Device>) -> Result<Self> {
        descriptors::suffice(devices.len() as u32)?;
        let bar = ProgressBar::new(devices.len() as u64);
        let alive = Arc::new(AtomicU32::new(0));
        let mut holders = JoinSet::new();
        let sources = Sources::any();
        let dials: Vec<_> = (0..)
            .zip(devices)
            .map(|(number, device)| {
                let door = match at {
                    At::First => &doors[0],
                    At::All => &doors[number as usize % doors.len()],
                };
                (Dial { source: Some(sources.of(number)), ..door.dial(DEADLINE) }, device)
            })
            .collect();
        for step in dials.chunks(A_STEP) {
            for mut socket in sockets(step.to_vec()).await? {
                let alive = alive.clone();
                alive.fetch_add(1, Ordering::Relaxed);
                holders.spawn(async move {
                    // Only the end of the connection ends this.
                    while socket.next_text().await.is_ok() {}
                    alive.fetch_sub(1, Ordering::Relaxed);
                });
            }
            bar.inc(step.len() as u64);
        }
        bar.finish_and_clear();
        Ok(Self { alive, _holders: holders })
    }

    /// How many are still connected.
    pub(super) fn alive(&self) -> u32 {
        self.alive.load(Ordering::Relaxed)
    }
}

/// Where the connections of a crowd come from.
#[derive(Clone, Copy, Debug)]
struct Sources {
    /// The two numbers in the middle of their addresses.
    network: [u8; 2],
}

impl Sources {
    /// Others for each crowd: the ports of the one before are not free for a minute after it. None
    /// of them is a node's.
    fn any() -> Self {
        let mut rng = rand::rng();
        Self { network: [rng.random_range(64..=250), rng.random()] }
    }

    /// Of the connection with this number: one address has only some tens of thousands of ports.
    fn of(self, number: u32) -> IpAddr {
        let [second, third] = self.network;
        IpAddr::V4(Ipv4Addr::new(127, second, third, 2 + (number / A_SOURCE) as u8))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fifty_thousand_connections_come_from_five_addresses() {
        let sources = Sources { network: [64, 7] };
        let all: std::collections::BTreeSet<_> = (0..50_000).map(|n| sources.of(n)).collect();
        assert_eq!(all.len(), 5);
        assert_eq!(sources.of(A_SOURCE), IpAddr::V4(Ipv4Addr::new(127, 64, 7, 3)));
        assert!(Sources::any().of(0).is_loopback());
    }
}
