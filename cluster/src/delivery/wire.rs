//! What nodes say to each other about mailboxes: positional MessagePack behind a version byte.
//!
//! Every request may be repeated: messages are deduplicated by id, acknowledgements and
//! revocations are facts, a subscription carries its generation. So a caller who does not know
//! what became of a request sends it again.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use heliograph_transport::NodeId;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    AckItem, Fence, Window,
    machine::{Enqueue, Outcome, Register, Removal},
    model::{DeviceId, MailboxKey, Message, Priority, ShardId, Slot},
    peer_client::PeerClient,
};

/// The version of what follows.
const VERSION: u8 = 1;
/// Where encoding begins; most requests fit.
const SMALL_BYTES: usize = 256;

/// A message's place in its mailbox.
pub(crate) type Place = (Priority, u64);

/// A request to the leader of a shard, or (the last two) between any nodes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum RelayRequest {
    /// Store a message. Answer: [`RelayAnswer::Done`].
    Enqueue(Enqueue),
    /// Forget messages that the device has. Answer: [`RelayAnswer::Done`].
    Acknowledge {
        /// The mailbox.
        mailbox: MailboxKey,
        /// Which messages.
        items: Vec<AckItem>,
    },
    /// Read pending messages. Answer: [`RelayAnswer::Messages`].
    Receive {
        /// The mailbox.
        mailbox: MailboxKey,
        /// At most so many.
        limit: u32,
        /// Wait so long for a first one.
        wait_ms: u32,
        /// Only what comes after this.
        after: Option<Place>,
    },
    /// Create a device or give it another key. Answer: [`RelayAnswer::Done`].
    Register(Register),
    /// Tell of an API key, and lease it to the asking node. Answer: [`RelayAnswer::Key`].
    Authenticate {
        /// The asking process.
        boot: u64,
        /// From the key's text.
        slot: Slot,
        /// From the key's text.
        key_id: u64,
    },
    /// Revoke a key, or all of a device. Answer: [`RelayAnswer::Revoked`], once no node honours it.
    Revoke {
        /// The device's mailbox.
        mailbox: MailboxKey,
        /// Which key; all for `None`.
        key_id: Option<u64>,
    },
    /// Which nodes hold connections of a device? Answer: [`RelayAnswer::Nodes`].
    Locate {
        /// The device's mailbox.
        mailbox: MailboxKey,
    },
    /// Subscribe connections of the asking node. Answer: [`RelayAnswer::Subscribed`].
    Subscribe {
        /// The asking process.
        boot: u64,
        /// The shard of all entries.
        shard: ShardId,
        /// The connections.
        entries: Vec<SubscribeEntry>,
    },
    /// What happened on the asking node's connections. Answer: [`RelayAnswer::Updated`], after the
    /// acknowledgements are on disk on a majority.
    Update {
        /// The shard of all entries.
        shard: ShardId,
        /// The connections.
        entries: Vec<UpdateEntry>,
        /// Connections that are gone.
        ended: Vec<u64>,
    },
    /// Prolong the asking node's lease: its subscriptions and keys. Answer:
    /// [`RelayAnswer::Renewed`] or [`RelayAnswer::UnknownLease`].
    Renew {
        /// Which lease.
        lease: u64,
        /// The shards that the lease is used for, and the terms they were subscribed in.
        shards: Vec<(ShardId, u64)>,
        /// Connections that got deliveries since the last renewal, and the last delivery's number.
        received: Vec<(u64, u64)>,
    },
    /// From a leader to a node that may honour a revoked key. Answer: [`RelayAnswer::Revoked`].
    DropKeys {
        /// The device's mailbox.
        mailbox: MailboxKey,
        /// Which key; all for `None`.
        key_id: Option<u64>,
    },
}

/// A connection that subscribes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct SubscribeEntry {
    /// The connection's number on its node.
    pub(crate) number: u64,
    /// Counts the subscriptions of the connection.
    pub(crate) generation: u32,
    /// The mailbox.
    pub(crate) mailbox: MailboxKey,
    /// The API key that the connection came with.
    pub(crate) key_id: u64,
    /// When it connected.
    pub(crate) connected_ms: u64,
    /// Its window.
    pub(crate) window: Window,
    /// Pushed to it and not written, with the bytes of content.
    pub(crate) in_flight: Vec<(Priority, u64, u32)>,
    /// Written and not acknowledged.
    pub(crate) delivered: Vec<Place>,
    /// Acknowledged, not confirmed.
    pub(crate) unconfirmed: Vec<Place>,
}

/// What happened on a connection.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct UpdateEntry {
    /// The connection's number on its node.
    pub(crate) number: u64,
    /// Which of its subscriptions.
    pub(crate) generation: u32,
    /// Written to its socket; what is acknowledged as well need not be named.
    pub(crate) written: Vec<Place>,
    /// Acknowledged by its device.
    pub(crate) acked: Vec<Place>,
}

/// What became of a [`SubscribeEntry`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum SubscribeResult {
    /// It is subscribed.
    Subscribed,
    /// Its key is not valid (any more).
    Revoked,
    /// There is no room now.
    Refused,
}

/// What became of an [`UpdateEntry`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum UpdateResult {
    /// All is noted, the acknowledgements are on disk on a majority.
    Confirmed,
    /// Deliveries are noted; it is unknown whether the acknowledgements are.
    Unconfirmed,
    /// There is no such subscription.
    Unknown,
}

/// Why a leader did not do what it was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Failure {
    /// It does not lead the shard: certainly not done.
    NotLeader {
        /// Who does, and in which term, where known.
        leader: Option<(NodeId, u64)>,
    },
    /// It leads, but may not act at this moment: certainly not done.
    NotActing,
    /// Too much is queued: certainly not done.
    Overloaded,
    /// It was handed to Raft; nobody knows.
    Unknown,
    /// The node's disk failed: not done there.
    Storage,
}

/// An answer to a [`RelayRequest`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum RelayAnswer {
    /// It is not done, or unknown.
    Failed(Failure),
    /// The state machine's answer.
    Done(Outcome),
    /// Pending messages.
    Messages(Vec<Arc<Message>>),
    /// What there is to know of an API key.
    Key {
        /// The lease under which it may be kept; `None` where there is no room for more.
        lease: Option<u64>,
        /// The leader's term.
        term: u64,
        /// The key; `None` for an unknown one.
        key: Option<KeyRecord>,
    },
    /// No node honours the key any more (or this one does not).
    Revoked,
    /// Nodes that hold connections of the device.
    Nodes(Vec<NodeId>),
    /// To [`RelayRequest::Subscribe`].
    Subscribed {
        /// The lease under which the subscriptions live.
        lease: u64,
        /// The leader's term.
        term: u64,
        /// One for each entry.
        results: Vec<SubscribeResult>,
    },
    /// To [`RelayRequest::Update`]: one for each entry.
    Updated(Vec<UpdateResult>),
    /// The lease lives for another second.
    Renewed {
        /// Shards that the answering node does not lead in the named term.
        gone: Vec<ShardId>,
        /// Connections that were sent more than they said they got, and the number of the last
        /// delivery that should have arrived.
        behind: Vec<(u64, u64)>,
    },
    /// There is no such lease: all subscriptions and keys under it are void.
    UnknownLease,
}

/// An API key.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct KeyRecord {
    /// Whose it is.
    pub(crate) device: DeviceId,
    /// The device's mailbox.
    pub(crate) mailbox: MailboxKey,
    /// The keyed BLAKE3 of the secret.
    #[serde(with = "serde_bytes")]
    pub(crate) hash: [u8; 32],
}

impl std::fmt::Debug for KeyRecord {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("KeyRecord")
    }
}

/// Something told without an answer; it may be lost.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum RelayNotice {
    /// From a mailbox actor to a connection.
    Deliver(Deliver),
    /// Subscriptions ended at the leader: subscribe again.
    Gone {
        /// (number, generation)
        subscriptions: Vec<(u64, u32)>,
    },
    /// The device has too many connections: this one is to be closed.
    Dropped {
        /// The connection.
        number: u64,
        /// Its subscription.
        generation: u32,
    },
    /// A live frame for the connections of a device.
    Live {
        /// The device's mailbox.
        mailbox: MailboxKey,
        /// The frame.
        payload: Bytes,
    },
    /// The answer to [`RelayNotice::Live`] where no connection is left.
    LiveGone {
        /// The device's mailbox.
        mailbox: MailboxKey,
    },
    /// To the leader: there is no such connection.
    Orphaned {
        /// Its number.
        number: u64,
    },
}

/// See [`RelayNotice::Deliver`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Deliver {
    /// The connection's number on its node.
    pub(crate) number: u64,
    /// Which of its subscriptions.
    pub(crate) generation: u32,
    /// Counts deliveries of the subscription from 1: a gap shows a loss.
    pub(crate) delivery_no: u64,
    /// The leader's licence.
    pub(crate) fence: Fence,
    /// What is delivered.
    pub(crate) parcel: Parcel,
}

/// What a delivery holds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum Parcel {
    /// Messages in the order of delivery.
    Messages(Vec<Arc<Message>>),
    /// Numbers that will never come.
    Skipped {
        /// The priority.
        priority: Priority,
        /// First number.
        from: u64,
        /// Last number.
        to: u64,
        /// Why.
        reason: Removal,
    },
}

/// Encodes a request or notice, envelope first.
pub(crate) fn encode_outgoing(message: &impl Serialize, content_bytes: usize) -> Bytes {
    encode_into(PeerClient::buffer(SMALL_BYTES + content_bytes), message)
}

/// Encodes an answer.
pub(crate) fn encode_answer(answer: &RelayAnswer) -> Bytes {
    let content_bytes = match answer {
        RelayAnswer::Messages(messages) => messages.iter().map(|one| one.content.len()).sum(),
        _ => 0,
    };
    encode_into(BytesMut::with_capacity(SMALL_BYTES + content_bytes), answer)
}

fn encode_into(mut buffer: BytesMut, message: &impl Serialize) -> Bytes {
    buffer.put_u8(VERSION);
    let mut writer = buffer.writer();
    rmp_serde::encode::write(&mut writer, message).expect("plain data encodes into memory");
    writer.into_inner().freeze()
}

/// Reads what [`encode_outgoing`] or [`encode_answer`] wrote, without the envelope; `None` for
/// bytes that this build does not know.
pub(crate) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    let (version, body) = bytes.split_first()?;
    if *version != VERSION {
        return None;
    }
    rmp_serde::from_slice(body).ok()
}

#[cfg(test)]
#[path = "wire_test.rs"]
pub(crate) mod tests;
