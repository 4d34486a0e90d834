//! Idle connections: what memory they take.

use std::time::Duration;

use anyhow::{Context as _, Result};
use serde::Serialize;
use tokio::time::{Instant, sleep};

use super::{
    crowd::{At, Crowd},
    fleet::devices,
    report::NodeUse,
    target::{SETTLE, Target},
};
use crate::wire::Security;

/// What to measure.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// How many connections, each of its own device.
    pub connections: u32,
    /// Where to.
    pub at: At,
    /// How long they are held before memory is read: longer than the pause between Pings, so that
    /// each connection has had one.
    pub hold: Duration,
}

/// A run with idle connections.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct IdleReport {
    /// How many.
    pub connections: u32,
    /// Where to.
    pub at: At,
    /// `plain` or `tls`.
    pub security: &'static str,
    /// How long it took to make them.
    pub connect_seconds: f64,
    /// How long they were held.
    pub held_seconds: f64,
    /// How many were still there at the end.
    pub alive: u32,
    /// More resident memory than before the connections at a node that holds them, for each that it
    /// holds.
    pub bytes_at_holder: f64,
    /// The same at a node that holds none of them, for each that there is; nothing where all hold.
    pub bytes_at_others: Option<f64>,
    /// The nodes before any of this run's devices was registered.
    pub fresh: Vec<NodeUse>,
    /// With the devices registered and on the disk, before the first connection.
    pub registered: Vec<NodeUse>,
    /// With all connections.
    pub connected: Vec<NodeUse>,
}

/// Opens the connections, holds them, measures.
///
/// # Errors
/// When a device cannot be registered or connected.
pub async fn run(target: &Target, plan: Plan) -> Result<IdleReport> {
    let doors = target.doors();
    let fresh = target.now()?;
    let devices = devices(doors, "idle", plan.connections).await?;
    // What the database keeps of devices once they are on the disk is none of a connection's memory.
    sleep(SETTLE).await;
    let registered = target.now()?;
    let began = Instant::now();
    let crowd = Crowd::gather(doors, plan.at, devices).await?;
    let connect_seconds = began.elapsed().as_secs_f64();
    sleep(plan.hold).await;
    let connected = target.now()?;
    let growth = growth(&registered, &connected);
    let first = doors.first().context("a cluster has a node")?;
    let (at_holder, at_others) = per_connection(plan.at, plan.connections, &growth);
    Ok(IdleReport {
        connections: plan.connections,
        at: plan.at,
        security: match first.security {
            Security::Plain => "plain",
            Security::Tls(_) => "tls",
        },
        connect_seconds,
        held_seconds: plan.hold.as_secs_f64(),
        alive: crowd.alive(),
        bytes_at_holder: at_holder,
        bytes_at_others: at_others,
        fresh,
        registered,
        connected,
    })
}

/// By how many bytes each node grew.
fn growth(before: &[NodeUse], after: &[NodeUse]) -> Vec<f64> {
    let resident = |node: &NodeUse| node.resident_bytes as f64;
    before.iter().zip(after).map(|(before, after)| resident(after) - resident(before)).collect()
}

/// Bytes a connection at those who hold them, and at the others.
fn per_connection(at: At, connections: u32, growth: &[f64]) -> (f64, Option<f64>) {
    let connections = f64::from(connections.max(1));
    match (at, growth) {
        (At::First, [holder, others @ ..]) => {
            let mean = others.iter().sum::<f64>() / others.len().max(1) as f64;
            let others = (!others.is_empty()).then_some(mean / connections);
            (holder / connections, others)
        }
        _ => (growth.iter().sum::<f64>() / connections, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_of_those_who_hold_connections_and_of_the_others() {
        let growth = [8_000.0, 2_000.0, 4_000.0];
        assert_eq!(per_connection(At::First, 10, &growth), (800.0, Some(300.0)));
        assert_eq!(per_connection(At::All, 10, &growth), (1_400.0, None));
        assert_eq!(per_connection(At::First, 10, &growth[..1]), (800.0, None));
    }
}
