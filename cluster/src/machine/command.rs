//! What a shard's log says, and what applying it answers.
//!
//! Commands travel in batches ([`CommandBatch`]), one batch a Raft entry. They are encoded as
//! positional MessagePack behind a version byte; new variants go at the end.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::Pending;
use crate::model::{DeviceId, MailboxKey, MessageId, Priority};

/// One Raft entry: commands in order, and the leader's time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CommandBatch {
    /// The leader's proposal for shard time, milliseconds since the Unix epoch. Shard time becomes
    /// the greater of this and what it was.
    pub time_ms: u64,
    /// The commands.
    pub commands: Vec<Command>,
}

/// A change to a shard.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Command {
    /// Creates a device, or gives a known one another API key.
    Register(Register),
    /// Forgets an API key (idempotent).
    RevokeKey {
        /// The device's mailbox.
        mailbox: MailboxKey,
        /// Which key; all of the device's for `None`.
        key_id: Option<u64>,
    },
    /// Stores a message.
    Enqueue(Enqueue),
    /// Forgets messages that their recipient has (idempotent).
    Acknowledge {
        /// The recipient's mailbox.
        mailbox: MailboxKey,
        /// Which messages.
        items: Vec<(Priority, u64)>,
    },
    /// Moves shard time on and expires what is due, at most `limit` messages.
    Expire {
        /// At most so many messages.
        limit: u32,
    },
}

impl Command {
    /// Bytes of content it carries: what a batch is sized by.
    pub fn content_bytes(&self) -> usize {
        match self {
            Self::Enqueue(enqueue) => enqueue.content.len(),
            Self::Acknowledge { items, .. } => items.len() * 10,
            Self::Register(_) | Self::RevokeKey { .. } | Self::Expire { .. } => 0,
        }
    }
}

/// See [`Command::Register`]. The signature has been checked before.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Register {
    /// The device's mailbox.
    pub mailbox: MailboxKey,
    /// The device.
    pub device: DeviceId,
    /// Its Ed25519 public key.
    #[serde(with = "serde_bytes")]
    pub public_key: [u8; 32],
    /// Whether a valid signature came with the request; without one a known device is refused.
    pub signed: bool,
    /// The new API key's id, random.
    pub key_id: u64,
    /// The keyed BLAKE3 of the new API key's secret.
    #[serde(with = "serde_bytes")]
    pub key_hash: [u8; 32],
}

/// See [`Command::Enqueue`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Enqueue {
    /// The recipient's mailbox.
    pub mailbox: MailboxKey,
    /// Who sends.
    pub sender: DeviceId,
    /// The sender's id for the message.
    pub message_id: MessageId,
    /// The priority.
    pub priority: Priority,
    /// How long it may wait, in milliseconds of shard time.
    pub ttl_ms: u64,
    /// Keyed BLAKE3 fingerprint of (recipient, message id).
    pub fingerprint: u128,
    /// Keyed BLAKE3 fingerprint of the sender.
    pub sender_fingerprint: u64,
    /// Keyed BLAKE3 fingerprint of the content.
    pub content_fingerprint: u64,
    /// The ciphertext.
    pub content: Bytes,
}

/// What applying a [`Command`] answers to whoever proposed it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Outcome {
    /// The device stands and has the new API key.
    Registered,
    /// The device id belongs to another public key, or the request for a known device was not
    /// signed.
    DeviceTaken,
    /// So many keys were forgotten.
    KeysRevoked {
        /// Their ids.
        key_ids: Vec<u64>,
    },
    /// The message is stored.
    Enqueued {
        /// Its number.
        seq: u64,
        /// Shard time of acceptance, milliseconds since the Unix epoch.
        accepted_ms: u64,
        /// Whether this very message was accepted before.
        duplicate: bool,
    },
    /// The same (sender, recipient, message id) came with another content.
    Conflict,
    /// The mailbox is at its limit of messages or bytes, or holds too many copies of this message
    /// id from other senders ([`super::CONTESTS_MAX`]).
    MailboxFull,
    /// So many pending messages were forgotten.
    Acknowledged {
        /// How many; those already gone do not count.
        count: u32,
    },
    /// So many messages expired.
    Expired {
        /// How many.
        count: u32,
        /// Whether more are due.
        more: bool,
    },
    /// The content exceeds [`crate::model::CONTENT_BYTES_MAX`]. Whoever proposes checks before;
    /// this keeps a faulty proposal from stopping the shard.
    TooLarge,
    /// Another device of the slot has an API key with this id: propose again with another one.
    KeyIdTaken,
}

/// What the leader's actors have to know of a change.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Effect {
    /// A message arrived in a mailbox.
    Arrived {
        /// Which mailbox.
        mailbox: MailboxKey,
        /// The message, and what it waits for.
        pending: Pending,
    },
    /// Messages left a mailbox.
    Removed {
        /// Which mailbox.
        mailbox: MailboxKey,
        /// Which messages.
        items: Vec<(Priority, u64)>,
        /// Why.
        reason: Removal,
    },
    /// API keys were revoked.
    KeysRevoked {
        /// The device's mailbox.
        mailbox: MailboxKey,
        /// Their ids.
        key_ids: Vec<u64>,
    },
}

/// Why a message left its mailbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "u8", try_from = "u8")]
pub enum Removal {
    /// The recipient has it.
    Acknowledged,
    /// Its time ran out; its number reaches the recipient as `skipped`.
    Expired,
    /// The sender took it back; its number reaches the recipient as `skipped`.
    Cancelled,
}

impl Removal {
    /// The word clients see in a `skipped` frame; `None` where no client is told.
    pub fn reason(self) -> Option<&'static str> {
        match self {
            Self::Acknowledged => None,
            Self::Expired => Some("expired"),
            Self::Cancelled => Some("cancelled"),
        }
    }
}

impl From<Removal> for u8 {
    fn from(reason: Removal) -> Self {
        match reason {
            Removal::Acknowledged => 1,
            Removal::Expired => 2,
            Removal::Cancelled => 3,
        }
    }
}

impl TryFrom<u8> for Removal {
    type Error = &'static str;
    fn try_from(reason: u8) -> Result<Self, Self::Error> {
        match reason {
            1 => Ok(Self::Acknowledged),
            2 => Ok(Self::Expired),
            3 => Ok(Self::Cancelled),
            _ => Err("reason must be 1 to 3"),
        }
    }
}
