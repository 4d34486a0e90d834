//! Where a mailbox lives: device id → keyed hash → slot → shard.

use std::{
    fmt,
    hash::{BuildHasherDefault, Hasher},
};

use hashbrown::HashMap;
use serde::{Deserialize, Serialize};

use super::DeviceId;

/// The number of slots; fixed for ever, so that shards can be split along slots.
pub const SLOTS: u16 = 4096;

/// A slot: the unit in which mailboxes are placed on shards.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Slot(pub u16);

/// A shard: one Raft group over a range of slots. Shard `n` is storage group `n + 1`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ShardId(pub u16);

/// A mailbox: the first 16 bytes of the keyed BLAKE3 of its device id. The relay's rows and wire
/// name mailboxes by this alone.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct MailboxKey(#[serde(with = "serde_bytes")] pub [u8; 16]);

impl MailboxKey {
    /// The mailbox's slot: the first 12 bits of the hash.
    pub fn slot(&self) -> Slot {
        Slot(u16::from_be_bytes([self.0[0], self.0[1]]) >> 4)
    }
}

impl fmt::Debug for MailboxKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "mailbox in slot {}", self.slot().0)
    }
}

/// Values by mailbox. Without a seed: the same operations give the same order, as simulations need.
pub type MailboxMap<V> = HashMap<MailboxKey, V, BuildHasherDefault<MailboxKeyHasher>>;

/// Hashes a mailbox key for [`MailboxMap`]: it is a keyed hash already, so that some of its bytes will
/// do, and nobody can aim at one place of the map.
#[derive(Clone, Debug, Default)]
pub struct MailboxKeyHasher(u64);

impl Hasher for MailboxKeyHasher {
    fn write(&mut self, bytes: &[u8]) {
        if let Some((_, tail)) = bytes.split_last_chunk() {
            self.0 = u64::from_le_bytes(*tail);
        }
    }

    fn write_usize(&mut self, _length: usize) {}

    fn finish(&self) -> u64 {
        self.0
    }
}

/// Hashes device ids with the cluster's key, so that rows do not name devices and nobody can aim
/// at one slot.
#[derive(Clone)]
pub struct KeyHasher {
    key: [u8; 32],
}

impl fmt::Debug for KeyHasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyHasher")
    }
}

impl KeyHasher {
    /// A hasher under the cluster's routing key.
    pub fn new(key: [u8; 32]) -> Self {
        Self { key }
    }

    /// The mailbox of `device`.
    pub fn mailbox(&self, device: &DeviceId) -> MailboxKey {
        let hash = blake3::keyed_hash(&self.key, device.as_str().as_bytes());
        let mut key = [0; 16];
        key.copy_from_slice(&hash.as_bytes()[..16]);
        MailboxKey(key)
    }
}
