//! What the node of a connection knows of it: what it got, wrote, acknowledged. Pure.
//!
//! Promises: nothing is pushed twice to a living connection, whatever its leader repeats; nothing
//! is forgotten until the shard has confirmed the acknowledgement; a lost delivery is noticed.

use std::collections::{BTreeMap, HashMap};

use super::wire::{Deliver, Parcel, Place, SubscribeEntry, UpdateEntry, UpdateResult};
use crate::{
    AckItem, Push,
    model::{MessageId, PRIORITIES},
};

/// Unacknowledged messages remembered. Twice what a leader has under way for a connection
/// (`DeliveryLimits::unacknowledged_max`): past it the oldest were settled elsewhere.
pub(crate) const REMEMBERED_MAX: usize = 4096;

/// What became of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Pushed, not written; so many bytes.
    InFlight(u32),
    /// Written.
    Delivered,
    /// Acknowledged by the device, not confirmed by the shard.
    Acknowledged,
}

#[derive(Debug)]
struct Item {
    /// `None` for what the device named by its number alone.
    message_id: Option<MessageId>,
    stage: Stage,
}

/// What a delivery comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Receipt {
    /// It is the next one; perhaps there is something to push.
    Next,
    /// It belongs to an older subscription, or came twice: drop it.
    Stale,
    /// One before it was lost: subscribe again.
    Gap,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct SessionCore {
    generation: u32,
    is_attached: bool,
    /// The term of the last delivery.
    term: u64,
    /// The last delivery's number, in `term`.
    received: u64,
    items: BTreeMap<Place, Item>,
    by_id: HashMap<MessageId, Place>,
    /// The last number seen, by priority level.
    positions: [u64; PRIORITIES],
    /// To be told to the leader.
    written: Vec<Place>,
    acked: Vec<Place>,
}

impl SessionCore {
    /// For a connection whose device got `received` over an earlier one and did not see it
    /// acknowledged.
    pub(crate) fn with(received: &[Place]) -> Self {
        let mut core = Self::default();
        for place in received.iter().take(REMEMBERED_MAX) {
            core.items.insert(*place, Item { message_id: None, stage: Stage::Delivered });
        }
        core
    }

    /// Begins a new subscription: fills in what the connection already has.
    pub(crate) fn subscribe(&mut self, entry: &mut SubscribeEntry) {
        self.generation += 1;
        self.is_attached = false;
        self.received = 0;
        self.term = 0;
        self.written.clear();
        self.acked.clear();
        entry.generation = self.generation;
        for (place, item) in &self.items {
            match item.stage {
                Stage::InFlight(bytes) => entry.in_flight.push((place.0, place.1, bytes)),
                Stage::Delivered => entry.delivered.push(*place),
                Stage::Acknowledged => entry.unconfirmed.push(*place),
            }
        }
    }

    /// The leader has taken the subscription. Answers whether there is something to tell it.
    pub(crate) fn subscribed(&mut self, generation: u32) -> bool {
        if self.generation != generation {
            return false;
        }
        self.is_attached = true;
        // The subscription presented them; they are confirmed by an update.
        self.acked = self.unconfirmed();
        self.has_news()
    }

    /// The subscription is void; whatever still comes of it is dropped.
    pub(crate) fn detach(&mut self) {
        self.is_attached = false;
    }

    pub(crate) fn generation(&self) -> u32 {
        self.generation
    }

    /// The last delivery's number.
    pub(crate) fn received(&self) -> u64 {
        self.received
    }

    /// What the device acknowledged and the shard did not confirm.
    pub(crate) fn unconfirmed(&self) -> Vec<Place> {
        let acknowledged = self.items.iter().filter(|(_, item)| item.stage == Stage::Acknowledged);
        acknowledged.map(|(place, _)| *place).collect()
    }

    /// How many messages are remembered.
    pub(crate) fn remembered(&self) -> usize {
        self.items.len()
    }

    /// Takes a delivery; answers what it comes to and what to push.
    pub(crate) fn deliver(&mut self, deliver: Deliver) -> (Receipt, Option<Push>) {
        if deliver.generation != self.generation || deliver.fence.term < self.term {
            return (Receipt::Stale, None);
        }
        if deliver.fence.term > self.term {
            self.term = deliver.fence.term;
            self.received = 0;
        }
        if deliver.delivery_no <= self.received {
            return (Receipt::Stale, None);
        }
        if deliver.delivery_no != self.received + 1 {
            return (Receipt::Gap, None);
        }
        self.received = deliver.delivery_no;
        (Receipt::Next, self.unpack(deliver.parcel))
    }

    fn unpack(&mut self, parcel: Parcel) -> Option<Push> {
        match parcel {
            Parcel::Messages(mut messages) => {
                messages.retain(|message| {
                    let place = (message.priority, message.seq);
                    let level = usize::from(place.0.level());
                    self.positions[level] = self.positions[level].max(place.1);
                    if self.items.contains_key(&place) {
                        return false;
                    }
                    let bytes = u32::try_from(message.content.len()).unwrap_or(u32::MAX);
                    let message_id = message.message_id.clone();
                    self.by_id.insert(message_id.clone(), place);
                    let stage = Stage::InFlight(bytes);
                    self.items.insert(place, Item { message_id: Some(message_id), stage });
                    true
                });
                self.shed();
                (!messages.is_empty()).then_some(Push::Messages(messages))
            }
            Parcel::Skipped { priority, from, to, reason } => {
                // Told to this connection before, or known to it as messages.
                let position = &mut self.positions[usize::from(priority.level())];
                let from = from.max(*position + 1);
                if to < from {
                    return None;
                }
                *position = to;
                let reason = reason.reason()?;
                Some(Push::Skipped { priority, from, to, reason })
            }
        }
    }

    /// The connection has written messages. Answers whether there is something to tell the leader.
    pub(crate) fn written(&mut self, items: &[Place]) -> bool {
        for place in items {
            if let Some(item) = self.items.get_mut(place)
                && matches!(item.stage, Stage::InFlight(_))
            {
                item.stage = Stage::Delivered;
                self.written.push(*place);
            }
        }
        self.has_news()
    }

    /// The device has messages. Answers how many of them the connection was offered and did not
    /// acknowledge before, and whether there is something to tell the leader.
    pub(crate) fn acknowledge(&mut self, items: &[AckItem]) -> (u32, bool) {
        let mut count = 0;
        for item in items {
            let place = match item {
                AckItem::Id(id) => self.by_id.get(id).copied(),
                AckItem::Seq(priority, seq) => Some((*priority, *seq)),
            };
            let Some(place) = place else { continue };
            let Some(item) = self.items.get_mut(&place) else { continue };
            if item.stage != Stage::Acknowledged {
                item.stage = Stage::Acknowledged;
                self.acked.push(place);
                count += 1;
            }
        }
        (count, self.has_news())
    }

    /// What the leader is to be told; `None` for nothing.
    pub(crate) fn take_update(&mut self, number: u64) -> Option<UpdateEntry> {
        if !self.has_news() {
            return None;
        }
        // What is acknowledged was written.
        let is_delivered = |place: &Place| {
            self.items.get(place).is_some_and(|item| item.stage == Stage::Delivered)
        };
        let mut written = std::mem::take(&mut self.written);
        written.retain(is_delivered);
        Some(UpdateEntry {
            number,
            generation: self.generation,
            written,
            acked: std::mem::take(&mut self.acked),
        })
    }

    /// What became of an update. Answers whether the connection has to subscribe again, and
    /// whether there is something to tell the leader once more.
    pub(crate) fn updated(&mut self, update: UpdateEntry, result: UpdateResult) -> (bool, bool) {
        if result == UpdateResult::Confirmed {
            for place in &update.acked {
                self.forget(place);
            }
        }
        if update.generation != self.generation || !self.is_attached {
            // A later subscription has presented, or will present, everything.
            return (false, false);
        }
        match result {
            UpdateResult::Confirmed => (false, self.has_news()),
            UpdateResult::Unconfirmed => {
                self.acked.extend(update.acked);
                (false, self.has_news())
            }
            UpdateResult::Unknown => (true, false),
        }
    }

    fn has_news(&self) -> bool {
        self.is_attached && !(self.written.is_empty() && self.acked.is_empty())
    }

    fn forget(&mut self, place: &Place) {
        if let Some(message_id) = self.items.remove(place).and_then(|item| item.message_id)
            && self.by_id.get(&message_id) == Some(place)
        {
            self.by_id.remove(&message_id);
        }
    }

    fn shed(&mut self) {
        while self.items.len() > REMEMBERED_MAX {
            let settled = self.items.iter().find(|(_, item)| item.stage == Stage::Delivered);
            let Some(place) = settled.map(|(place, _)| *place) else { return };
            self.forget(&place);
        }
    }
}

#[cfg(test)]
#[path = "session_core_test.rs"]
mod tests;
