//! What a leader has granted to nodes: one lease a node, which carries all its subscriptions and
//! all API keys it may honour. Pure: time comes in.
//!
//! A lease lapses here a little later than at its holder, who counts from the moment it asked. So
//! what a lapsed lease covered is certainly not honoured any more.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use heliograph_transport::NodeId;
use tokio::time::Instant;

use crate::{
    machine::SubscriptionId,
    model::{MailboxKey, ShardId, Slot},
};

/// How long a lease lives unless it is renewed (design decision 18).
pub(crate) const LEASE: Duration = Duration::from_secs(1);
/// Subscriptions a node may hold here. Ten times what a node is sized for.
const SUBSCRIPTIONS_MAX: usize = 200_000;
/// Keys a node may hold here; past it a key is told but not leased. As many as connections.
const KEYS_MAX: usize = 200_000;

/// A subscription held under a lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) id: SubscriptionId,
    pub(crate) generation: u32,
    pub(crate) mailbox: MailboxKey,
    pub(crate) shard: ShardId,
}

/// What became of a request to hold a subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Holding {
    /// It is new, or replaces an older generation.
    New,
    /// It is held already: the request came twice.
    Known,
    /// A newer generation is held.
    Outdated,
    /// There is no room.
    Full,
}

#[derive(Debug)]
struct Subscription {
    generation: u32,
    mailbox: MailboxKey,
    shard: ShardId,
    /// The last delivery's number.
    sent: u64,
    /// The same as of the last renewal: what should have arrived by the next one.
    due: u64,
    /// The last number the holder told of.
    received: u64,
    /// Ended at this side; the holder has to be told until it subscribes again.
    is_broken: bool,
}

#[derive(Debug)]
struct Lease {
    boot: u64,
    id: u64,
    until: Instant,
    subscriptions: BTreeMap<u64, Subscription>,
    /// Those that were sent more than they told of, or are broken.
    unsettled: BTreeSet<u64>,
    keys: BTreeSet<(Slot, u64)>,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Leases {
    nodes: BTreeMap<NodeId, Lease>,
    // Flat: nearly every mailbox has one subscription and every key one holder, and a set for each
    // would take five times as much.
    by_mailbox: BTreeSet<(MailboxKey, SubscriptionId)>,
    /// Who may honour a key, and whose it is.
    by_key: BTreeMap<(Slot, u64, NodeId), MailboxKey>,
}

impl Leases {
    /// Prolongs the lease of process `boot` on `node`, or begins one under id `fresh`. Answers its
    /// id, and the subscriptions that ended with an older process's lease.
    pub(crate) fn grant(
        &mut self,
        node: NodeId,
        boot: u64,
        fresh: u64,
        now: Instant,
    ) -> (u64, Vec<Held>) {
        if let Some(lease) = self.nodes.get_mut(&node)
            && lease.boot == boot
            && lease.until > now
        {
            lease.until = now + LEASE;
            return (lease.id, Vec::new());
        }
        let ended = self.end(node);
        let lease = Lease {
            boot,
            id: fresh,
            until: now + LEASE,
            subscriptions: BTreeMap::new(),
            unsettled: BTreeSet::new(),
            keys: BTreeSet::new(),
        };
        self.nodes.insert(node, lease);
        (fresh, ended)
    }

    /// Prolongs lease `id`. Answers which subscriptions lack a delivery that was sent before the
    /// last renewal, and its number; `None` for an unknown lease.
    pub(crate) fn renew(
        &mut self,
        node: NodeId,
        id: u64,
        received: &[(u64, u64)],
        now: Instant,
    ) -> Option<Vec<(u64, u64)>> {
        let lease = self.nodes.get_mut(&node)?;
        if lease.id != id || lease.until <= now {
            return None;
        }
        lease.until = now + LEASE;
        for (number, delivery_no) in received {
            if let Some(subscription) = lease.subscriptions.get_mut(number) {
                subscription.received = subscription.received.max(*delivery_no);
            }
        }
        let mut behind = Vec::new();
        let subscriptions = &mut lease.subscriptions;
        lease.unsettled.retain(|number| {
            let Some(subscription) = subscriptions.get_mut(number) else { return false };
            if subscription.is_broken {
                behind.push((*number, u64::MAX));
                return true;
            }
            if subscription.received < subscription.due {
                behind.push((*number, subscription.due));
            }
            subscription.due = subscription.sent;
            subscription.received < subscription.sent
        });
        Some(behind)
    }

    /// Holds a subscription under `id.node`'s lease.
    pub(crate) fn hold(
        &mut self,
        id: SubscriptionId,
        generation: u32,
        mailbox: MailboxKey,
        shard: ShardId,
    ) -> Holding {
        let Some(lease) = self.nodes.get_mut(&NodeId(id.node)) else { return Holding::Full };
        match lease.subscriptions.get(&id.number) {
            Some(known) if known.generation > generation => return Holding::Outdated,
            Some(known) if known.generation == generation && !known.is_broken => {
                return Holding::Known;
            }
            None if lease.subscriptions.len() >= SUBSCRIPTIONS_MAX => return Holding::Full,
            _ => {}
        }
        let subscription = Subscription {
            generation,
            mailbox,
            shard,
            sent: 0,
            due: 0,
            received: 0,
            is_broken: false,
        };
        lease.subscriptions.insert(id.number, subscription);
        lease.unsettled.remove(&id.number);
        self.by_mailbox.insert((mailbox, id));
        Holding::New
    }

    /// Ends a subscription; answers whose mailbox it was.
    pub(crate) fn release(&mut self, id: SubscriptionId) -> Option<Held> {
        let lease = self.nodes.get_mut(&NodeId(id.node))?;
        let subscription = lease.subscriptions.remove(&id.number)?;
        lease.unsettled.remove(&id.number);
        self.by_mailbox.remove(&(subscription.mailbox, id));
        Some(held(id, &subscription))
    }

    /// Whether this generation of a subscription is held.
    pub(crate) fn holds(&self, id: SubscriptionId, generation: u32) -> Option<MailboxKey> {
        let subscription = self.nodes.get(&NodeId(id.node))?.subscriptions.get(&id.number)?;
        let is_held = subscription.generation == generation && !subscription.is_broken;
        is_held.then_some(subscription.mailbox)
    }

    /// Notes the number of a delivery.
    pub(crate) fn sent(&mut self, id: SubscriptionId, generation: u32, delivery_no: u64) {
        let Some(lease) = self.nodes.get_mut(&NodeId(id.node)) else { return };
        let Some(subscription) = lease.subscriptions.get_mut(&id.number) else { return };
        if subscription.generation == generation {
            subscription.sent = delivery_no;
            lease.unsettled.insert(id.number);
        }
    }

    /// Notes that a mailbox's actor ended: its holders have to subscribe again. Answers them.
    pub(crate) fn mailbox_ended(&mut self, mailbox: &MailboxKey) -> Vec<Held> {
        let mut broken = Vec::new();
        for id in ids_of(&self.by_mailbox, mailbox) {
            let Some(lease) = self.nodes.get_mut(&NodeId(id.node)) else { continue };
            let Some(subscription) = lease.subscriptions.get_mut(&id.number) else { continue };
            subscription.is_broken = true;
            lease.unsettled.insert(id.number);
            broken.push(held(id, subscription));
        }
        broken
    }

    /// Forgets what was granted for a shard, whose leadership ended. Answers the subscriptions.
    pub(crate) fn shard_ended(
        &mut self,
        shard: ShardId,
        is_of_shard: impl Fn(Slot) -> bool,
    ) -> Vec<Held> {
        let mut ended = Vec::new();
        for (node, lease) in &self.nodes {
            for (number, subscription) in &lease.subscriptions {
                if subscription.shard == shard {
                    let id = SubscriptionId { node: node.0, number: *number };
                    ended.push(held(id, subscription));
                }
            }
        }
        for held in &ended {
            self.release(held.id);
        }
        self.by_key.retain(|(slot, ..), _| !is_of_shard(*slot));
        for lease in self.nodes.values_mut() {
            lease.keys.retain(|(slot, _)| !is_of_shard(*slot));
        }
        ended
    }

    /// The nodes that hold connections of a device.
    pub(crate) fn nodes_of(&self, mailbox: &MailboxKey) -> BTreeSet<NodeId> {
        ids_of(&self.by_mailbox, mailbox).map(|id| NodeId(id.node)).collect()
    }

    /// Puts a key under the node's lease; answers the lease, or `None` where there is no room.
    pub(crate) fn hold_key(
        &mut self,
        node: NodeId,
        slot: Slot,
        key_id: u64,
        mailbox: MailboxKey,
    ) -> Option<u64> {
        let lease = self.nodes.get_mut(&node)?;
        if lease.keys.len() >= KEYS_MAX && !lease.keys.contains(&(slot, key_id)) {
            return None;
        }
        lease.keys.insert((slot, key_id));
        self.by_key.insert((slot, key_id, node), mailbox);
        Some(lease.id)
    }

    /// The nodes that may honour a key of a device (any of its keys for `None`), or hold its
    /// connections; each with the lease, and when that lapses unless it is renewed.
    pub(crate) fn holders(
        &self,
        mailbox: &MailboxKey,
        key_id: Option<u64>,
    ) -> BTreeMap<NodeId, u64> {
        let mut nodes = self.nodes_of(mailbox);
        nodes.extend(self.keys_of(mailbox, key_id).map(|(_, _, node)| node));
        let lease = |node: NodeId| self.nodes.get(&node).map(|lease| (node, lease.id));
        nodes.into_iter().filter_map(lease).collect()
    }

    /// Takes revoked keys of a device from a node's lease.
    pub(crate) fn release_keys(&mut self, node: NodeId, mailbox: &MailboxKey, key_id: Option<u64>) {
        let owned: Vec<_> = self.keys_of(mailbox, key_id).collect();
        for (slot, id, _) in owned.into_iter().filter(|(_, _, holder)| *holder == node) {
            if let Some(lease) = self.nodes.get_mut(&node) {
                lease.keys.remove(&(slot, id));
            }
            self.by_key.remove(&(slot, id, node));
        }
    }

    /// Who may honour a key of a device, or any of its keys for `None`.
    fn keys_of(
        &self,
        mailbox: &MailboxKey,
        key_id: Option<u64>,
    ) -> impl Iterator<Item = (Slot, u64, NodeId)> {
        let slot = mailbox.slot();
        let (least, greatest) = key_id.map_or((0, u64::MAX), |key_id| (key_id, key_id));
        let range = (slot, least, NodeId(0))..=(slot, greatest, NodeId(u16::MAX));
        self.by_key.range(range).filter(move |(_, owner)| *owner == mailbox).map(|(key, _)| *key)
    }

    /// Whether lease `id` still lives; one that does not is not honoured by its holder either.
    pub(crate) fn lives(&self, node: NodeId, id: u64, now: Instant) -> Option<Instant> {
        let lease = self.nodes.get(&node)?;
        (lease.id == id && lease.until > now).then_some(lease.until)
    }

    /// Ends the leases that lapsed; answers their subscriptions.
    pub(crate) fn sweep(&mut self, now: Instant) -> Vec<Held> {
        let lapsed: Vec<_> = self
            .nodes
            .iter()
            .filter(|(_, lease)| lease.until <= now)
            .map(|(node, _)| *node)
            .collect();
        lapsed.into_iter().flat_map(|node| self.end(node)).collect()
    }

    /// Ends a node's lease; answers its subscriptions.
    fn end(&mut self, node: NodeId) -> Vec<Held> {
        let Some(lease) = self.nodes.remove(&node) else { return Vec::new() };
        for (slot, key_id) in &lease.keys {
            self.by_key.remove(&(*slot, *key_id, node));
        }
        let mut ended = Vec::with_capacity(lease.subscriptions.len());
        for (number, subscription) in &lease.subscriptions {
            let id = SubscriptionId { node: node.0, number: *number };
            self.by_mailbox.remove(&(subscription.mailbox, id));
            ended.push(held(id, subscription));
        }
        ended
    }
}

/// The subscriptions of a mailbox.
fn ids_of(
    by_mailbox: &BTreeSet<(MailboxKey, SubscriptionId)>,
    mailbox: &MailboxKey,
) -> impl Iterator<Item = SubscriptionId> {
    let least = SubscriptionId { node: 0, number: 0 };
    let greatest = SubscriptionId { node: u16::MAX, number: u64::MAX };
    by_mailbox.range((*mailbox, least)..=(*mailbox, greatest)).map(|(_, id)| *id)
}

fn held(id: SubscriptionId, subscription: &Subscription) -> Held {
    Held {
        id,
        generation: subscription.generation,
        mailbox: subscription.mailbox,
        shard: subscription.shard,
    }
}

#[cfg(test)]
#[path = "leases_test.rs"]
mod tests;
