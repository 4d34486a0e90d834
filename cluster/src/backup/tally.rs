//! Counts what the rows of a shard say, without reading what they hold.

use serde::{Deserialize, Serialize};

use crate::machine::{RowKind, row_kind};

/// What a shard, or all of them, hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// Registered devices.
    pub devices: u64,
    /// API keys that are valid.
    pub api_keys: u64,
    /// Messages accepted and not acknowledged.
    pub messages: u64,
    /// Bytes of their rows.
    pub message_bytes: u64,
    /// When the last of them expires, milliseconds since the Unix epoch; 0 where there is none.
    pub last_expiry_ms: u64,
}

impl Tally {
    /// Counts one row of a shard.
    pub fn add(&mut self, key: &[u8], value: &[u8]) {
        match row_kind(key) {
            Some(RowKind::Device) => self.devices += 1,
            Some(RowKind::ApiKey) => self.api_keys += 1,
            Some(RowKind::Message) => {
                self.messages += 1;
                self.message_bytes += value.len() as u64;
            }
            Some(RowKind::Expiry { at_ms }) => self.last_expiry_ms = self.last_expiry_ms.max(at_ms),
            None => {}
        }
    }

    /// Adds another shard's.
    pub fn join(&mut self, other: &Self) {
        self.devices += other.devices;
        self.api_keys += other.api_keys;
        self.messages += other.messages;
        self.message_bytes += other.message_bytes;
        self.last_expiry_ms = self.last_expiry_ms.max(other.last_expiry_ms);
    }
}
