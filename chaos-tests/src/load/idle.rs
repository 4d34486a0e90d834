//! Connections that do nothing but answer Pings.

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result};
use indicatif::ProgressBar;
use tokio::{task::JoinSet, time::Instant};

use super::{
    fleet::{devices, sockets},
    report::IdleReport,
    target::Target,
};
use crate::wire::Dial;

/// Connections from one source address: well below the 28,000 ports it has.
const A_SOURCE: u32 = 10_000;
/// How many connections are made before the next ones are begun.
const A_STEP: usize = 500;
/// How long connecting one may take.
const DEADLINE: Duration = Duration::from_secs(30);

/// What to measure.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// How many connections, each of its own device, all to the first node.
    pub connections: u32,
    /// How long they are held before memory is read: longer than the pause between Pings, so that
    /// each connection has had one.
    pub hold: Duration,
}

/// Opens the connections, holds them, measures.
///
/// # Errors
/// When a device cannot be registered or connected.
pub async fn run(target: &Target, plan: Plan) -> Result<IdleReport> {
    let nodes = target.addresses();
    let node = *nodes.first().context("a cluster has a node")?;
    let mark = target.mark()?;
    let (_, fresh) = target.since(&mark)?;
    let devices = devices(&nodes, "idle", plan.connections).await?;
    let (_, registered) = target.since(&mark)?;
    let began = Instant::now();
    let bar = ProgressBar::new(u64::from(plan.connections));
    let alive = Arc::new(AtomicU32::new(0));
    let mut holders = JoinSet::new();
    let dials: Vec<_> = (0..)
        .zip(devices)
        .map(|(number, device)| {
            let source = Ipv4Addr::new(127, 0, 0, 2 + (number / A_SOURCE) as u8);
            let dial = Dial { node, source: Some(IpAddr::V4(source)), deadline: DEADLINE };
            (dial, device)
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
    let connect_seconds = began.elapsed().as_secs_f64();
    tokio::time::sleep(plan.hold).await;
    let (_, connected) = target.since(&mark)?;
    let more = connected[0].resident_bytes.saturating_sub(registered[0].resident_bytes);
    Ok(IdleReport {
        connections: plan.connections,
        connect_seconds,
        held_seconds: plan.hold.as_secs_f64(),
        alive: alive.load(Ordering::Relaxed),
        fresh,
        registered,
        connected,
        bytes_a_connection: more / u64::from(plan.connections.max(1)),
    })
}
