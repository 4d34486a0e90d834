//! Free ports for a cluster.

use std::{
    fs::{File, OpenOptions},
    net::TcpListener,
};

use anyhow::{Context as _, Result, bail};

use super::layout::{NODES_MAX, address_of};

/// The first port handed out. Below Linux' range for outgoing connections (32768), so that no
/// client socket sits on a node's port when the node comes back.
const FIRST: u16 = 12_000;
/// How many ports a block has: more than a node needs.
const BLOCK: u16 = 16;
/// How many blocks there are: up to port 20,000, where those of `heliograph dev` begin.
const BLOCKS: u16 = 500;

/// A block of free ports, kept from other test processes on this machine by a file lock.
#[derive(Debug)]
pub(super) struct PortBlock {
    /// The first port.
    pub(super) first: u16,
    /// Its lock is released when it is closed, however that comes.
    _lock: File,
}

impl PortBlock {
    /// Takes a block whose first `count` ports are free.
    pub(super) fn take(count: u16) -> Result<Self> {
        let dir = std::env::temp_dir().join("heliograph-chaos-ports");
        std::fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        // Starting where others probably do not: two processes rarely try the same block.
        let start = (std::process::id() % u32::from(BLOCKS)) as u16;
        for i in 0..BLOCKS {
            let first = FIRST + ((start + i) % BLOCKS) * BLOCK;
            let path = dir.join(first.to_string());
            let lock = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
            let Ok(lock) = lock else { continue };
            if lock.try_lock().is_err() {
                continue;
            }
            let free =
                |port| (1..=NODES_MAX).all(|id| TcpListener::bind((address_of(id), port)).is_ok());
            if (first..first + count.min(BLOCK)).all(free) {
                return Ok(Self { first, _lock: lock });
            }
        }
        bail!("no block of {count} free ports from {FIRST} on");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_do_not_overlap_and_avoid_taken_ports() {
        let a = PortBlock::take(3).unwrap();
        let b = PortBlock::take(3).unwrap();
        assert!(a.first.abs_diff(b.first) >= BLOCK);
        let _taken = TcpListener::bind((address_of(2), a.first + 1)).unwrap();
        let first = a.first;
        drop(a);
        let c = PortBlock::take(3).unwrap();
        assert_ne!(c.first, first);
    }
}
