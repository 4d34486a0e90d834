//! Which message an id in an acknowledgement means: what was offered to the device.

use std::collections::{BTreeMap, HashMap};

use super::Pending;
use crate::model::{MessageId, Priority};

/// Offered, pending messages by place and by id. Bounded: past `max` nothing more is noted.
#[derive(Debug)]
pub(super) struct Offers {
    max: usize,
    by_place: BTreeMap<(Priority, u64), MessageId>,
    by_id: HashMap<MessageId, (Priority, u64)>,
}

impl Offers {
    pub(super) fn new(max: usize) -> Self {
        Self { max, by_place: BTreeMap::new(), by_id: HashMap::new() }
    }

    /// Whether an acknowledgement of the id would mean this copy.
    pub(super) fn admits(&self, item: &Pending) -> bool {
        match self.by_id.get(&item.message.message_id) {
            Some(place) => *place == item.place(),
            None => self.by_place.len() < self.max,
        }
    }

    /// Notes an offer, unless there is no room or another copy of the id is noted.
    pub(super) fn note(&mut self, item: &Pending) {
        if self.admits(item) {
            self.by_place.insert(item.place(), item.message.message_id.clone());
            self.by_id.insert(item.message.message_id.clone(), item.place());
        }
    }

    pub(super) fn forget(&mut self, place: (Priority, u64)) {
        if let Some(id) = self.by_place.remove(&place) {
            self.by_id.remove(&id);
        }
    }

    pub(super) fn by_id(&self, id: &MessageId) -> Option<(Priority, u64)> {
        self.by_id.get(id).copied()
    }

    pub(super) fn contains(&self, place: (Priority, u64)) -> bool {
        self.by_place.contains_key(&place)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.by_place.is_empty()
    }
}
