//! What goes wrong in a simulation.

use std::time::Duration;

use rand::{Rng, rngs::SmallRng};

use crate::world::{World, node_id};

/// One thing that goes wrong, or is mended.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Fault {
    /// Two nodes do not hear each other.
    Partition(usize, usize),
    /// One node does not hear another.
    OneWay(usize, usize),
    /// A node hears nobody.
    Isolate(usize),
    /// All partitions end.
    Heal,
    /// A node dies and loses what it did not sync.
    Crash(usize),
    /// All nodes die at once.
    CrashAll,
    /// A dead node comes back on its disk.
    Boot(usize),
}

impl Fault {
    pub(crate) fn random(nodes: usize, rng: &mut SmallRng) -> Self {
        let node = rng.random_range(0..nodes);
        let other = (node + rng.random_range(1..nodes)) % nodes;
        match rng.random_range(0..20) {
            0..2 => Self::Partition(node, other),
            2..4 => Self::OneWay(node, other),
            4..6 => Self::Isolate(node),
            6..10 => Self::Heal,
            10..13 => Self::Crash(node),
            13 => Self::CrashAll,
            _ => Self::Boot(node),
        }
    }
}

/// Installs `fault`; one that makes no sense now (a crash of a dead node) does nothing.
pub(crate) async fn install(world: &mut World, fault: Fault) {
    tracing::debug!(?fault, "a fault is installed");
    match fault {
        Fault::Partition(a, b) => world.fabric.partition(node_id(a), node_id(b)),
        Fault::OneWay(a, b) => world.fabric.partition_one_way(node_id(a), node_id(b)),
        Fault::Isolate(node) => world.fabric.isolate(node_id(node)),
        Fault::Heal => world.fabric.heal(),
        Fault::Crash(node) => world.crash(node),
        Fault::CrashAll => {
            for node in 0..world.nodes() {
                world.crash(node);
            }
            let pause = Duration::from_millis(world.rng.random_range(0..1000));
            tokio::time::sleep(pause).await;
            for node in 0..world.nodes() {
                if !world.is_lost(node) {
                    world.boot(node).await;
                }
            }
        }
        Fault::Boot(node) => {
            if !world.is_up(node) && !world.is_lost(node) {
                world.boot(node).await;
            }
        }
    }
}
