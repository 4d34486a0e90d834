//! What a shard's rows say: `docs/reference/rows.md`.
//!
//! A value is a version byte and positional MessagePack. New fields go at the end, under a new
//! version; older versions stay readable.

use std::{path::PathBuf, sync::Arc};

use bytes::Bytes;
use heliograph_storage as storage;
use serde::{Deserialize, Serialize};

use super::{Found, Gap, LaneCounts, MailboxCounts, Pending, Removal};
use crate::model::{DeviceId, MailboxKey, Message, MessageId, PRIORITIES, Priority};

/// The version of every row written today.
pub(super) const VERSION: u8 = 1;

/// The value of a row whose key says it all.
pub(super) const KEY_ONLY: Bytes = Bytes::from_static(&[VERSION]);

/// A device, by its mailbox.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceRow {
    /// The device.
    pub device: DeviceId,
    /// Its Ed25519 public key.
    #[serde(with = "serde_bytes")]
    pub public_key: [u8; 32],
    /// Shard time of its first registration, milliseconds since the Unix epoch.
    pub registered_ms: u64,
    /// Its API keys' ids, the oldest first.
    pub key_ids: Vec<u64>,
}

/// An API key, by its slot and id.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyRow {
    /// The device's mailbox.
    pub mailbox: MailboxKey,
    /// The device.
    pub device: DeviceId,
    /// The keyed BLAKE3 of the secret.
    #[serde(with = "serde_bytes")]
    pub hash: [u8; 32],
}

impl std::fmt::Debug for KeyRow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeyRow").field("mailbox", &self.mailbox).finish_non_exhaustive()
    }
}

/// A mailbox.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct MailboxRow {
    /// By priority level.
    pub(super) lanes: [LaneRow; PRIORITIES],
    /// Bytes of the pending messages' rows.
    pub(super) bytes: u64,
    /// How many messages were ever accepted: numbers them across priorities.
    pub(super) accepted: u64,
}

/// One priority of a mailbox.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct LaneRow {
    /// The last number given; 0 where none was.
    pub(super) last_seq: u64,
    /// How many messages are pending.
    pub(super) count: u32,
    /// How many skipped ranges are kept.
    pub(super) gaps: u32,
}

impl MailboxRow {
    pub(super) fn pending(&self) -> u32 {
        self.lanes.iter().map(|lane| lane.count).sum()
    }

    pub(super) fn lane_mut(&mut self, priority: Priority) -> &mut LaneRow {
        &mut self.lanes[usize::from(priority.level())]
    }

    pub(super) fn counts(&self) -> MailboxCounts {
        let lanes = self.lanes.map(|lane| LaneCounts {
            next_seq: lane.last_seq + 1,
            count: lane.count,
            gaps: lane.gaps,
        });
        MailboxCounts { lanes, bytes: self.bytes }
    }
}

/// A message; priority and number are in its key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct MessageRow<'a> {
    /// See `Enqueue`: finds its entry in the deduplication table.
    pub(super) fingerprint: u128,
    /// Which message of the mailbox it is, across priorities.
    pub(super) ordinal: u64,
    pub(super) accepted_ms: u64,
    pub(super) expires_ms: u64,
    /// Whether a copy from another sender was known when it was accepted.
    pub(super) contested: bool,
    /// Those of them that were pending then.
    pub(super) contests: Vec<(Priority, u64)>,
    pub(super) sender: &'a str,
    pub(super) message_id: &'a str,
    #[serde(with = "serde_bytes")]
    pub(super) content: &'a [u8],
}

impl MessageRow<'_> {
    /// The row as its mailbox's readers see it; the content is shared with `value`.
    pub(super) fn pending(
        &self,
        (priority, seq): (Priority, u64),
        value: &Bytes,
    ) -> Result<Pending, storage::Error> {
        let message = Message {
            seq,
            priority,
            sender: self.sender()?,
            message_id: MessageId::new(self.message_id).map_err(|_| damage("message id"))?,
            accepted_ms: self.accepted_ms,
            expires_ms: self.expires_ms,
            content: value.slice_ref(self.content),
        };
        Ok(Pending { message: Arc::new(message), contests: self.contests.as_slice().into() })
    }

    pub(super) fn found(&self, (priority, seq): (Priority, u64)) -> Result<Found, storage::Error> {
        let sender = self.sender()?;
        let (accepted_ms, contested) = (self.accepted_ms, self.contested);
        Ok(Found { priority, seq, sender, accepted_ms, contested })
    }

    fn sender(&self) -> Result<DeviceId, storage::Error> {
        DeviceId::new(self.sender).map_err(|_| damage("sender"))
    }
}

/// The skipped ranges of one priority of a mailbox, ascending: (first, last, why).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct GapsRow {
    pub(super) ranges: Vec<(u64, u64, Removal)>,
}

impl GapsRow {
    /// Adds a number, joined to the ranges it touches; past `max` ranges the oldest goes.
    pub(super) fn add(&mut self, seq: u64, reason: Removal, max: usize) {
        let at = self.ranges.partition_point(|(from, ..)| *from < seq);
        self.ranges.insert(at, (seq, seq, reason));
        if let Some((from, to, next)) = self.ranges.get(at + 1).copied()
            && next == reason
            && from == seq + 1
        {
            self.ranges[at].1 = to;
            self.ranges.remove(at + 1);
        }
        if at > 0 {
            let (from, to, before) = self.ranges[at - 1];
            if before == reason && to + 1 == seq {
                self.ranges[at].0 = from;
                self.ranges.remove(at - 1);
            }
        }
        if self.ranges.len() > max {
            self.ranges.remove(0);
        }
    }

    /// Drops the ranges that end at or before `seq`.
    pub(super) fn forget(&mut self, seq: u64) {
        self.ranges.retain(|(_, to, _)| *to > seq);
    }

    /// The ranges within `from..end`, clipped to it.
    pub(super) fn within(&self, from: u64, end: u64) -> Vec<Gap> {
        let touching = self.ranges.iter().filter(|(first, last, _)| *first < end && *last >= from);
        touching
            .map(|&(first, last, reason)| Gap {
                from: first.max(from),
                to: last.min(end - 1),
                reason,
            })
            .collect()
    }
}

/// Shard-wide counters, written when the shard's auxiliary state is flushed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ClockRow {
    /// Shard time.
    pub(super) time_ms: u64,
    /// The number of the deduplication table's next part.
    pub(super) next_part: u64,
}

/// From where mailboxes are numbered, in a cluster that was restored from a backup.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct NumbersRow {
    /// Messages accepted from now on get numbers above this one.
    pub(super) above: u64,
}

/// A row's value.
pub(super) fn encode<T: Serialize>(row: &T, bytes_hint: usize) -> Bytes {
    let mut value = Vec::with_capacity(1 + bytes_hint);
    value.push(VERSION);
    rmp_serde::encode::write(&mut value, row).expect("rows are plain data and memory takes them");
    Bytes::from(value)
}

/// Reads a row's value.
pub(super) fn decode<'a, T: Deserialize<'a>>(value: &'a [u8]) -> Result<T, storage::Error> {
    match value.split_first() {
        Some((&VERSION, body)) => rmp_serde::from_slice(body).map_err(|_| damage("row")),
        Some((&version, _)) => {
            Err(storage::Error::Version { path: PathBuf::from("rows"), version: version.into() })
        }
        None => Err(damage("empty row")),
    }
}

/// A row that is not what was written.
pub(super) fn damage(reason: &'static str) -> storage::Error {
    storage::Error::Damage { path: PathBuf::from("rows"), offset: 0, reason }
}

#[cfg(test)]
#[path = "rows_test.rs"]
mod tests;
