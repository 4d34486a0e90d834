//! What one connection has of its mailbox.

use std::collections::BTreeMap;

use super::{LaneRead, Resume};
use crate::{
    Window,
    model::{PRIORITIES, Priority},
};

/// A message the connection has and did not acknowledge.
#[derive(Clone, Copy, Debug)]
enum Had {
    /// Pushed, not written; so many bytes.
    InFlight(u32),
    /// Written.
    Delivered,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Subscription {
    /// When the connection came.
    pub(super) connected_ms: u64,
    /// By priority level: the first number not passed yet.
    pub(super) next: [u64; PRIORITIES],
    pub(super) window: Window,
    had: BTreeMap<(Priority, u64), Had>,
    in_flight: u32,
    in_flight_bytes: u64,
}

impl Subscription {
    pub(super) fn new(connected_ms: u64, window: Window, resume: Resume) -> Self {
        let mut had = BTreeMap::new();
        let delivered = resume.delivered.into_iter().chain(resume.unconfirmed);
        had.extend(delivered.map(|place| (place, Had::Delivered)));
        for (priority, seq, bytes) in resume.in_flight {
            had.entry((priority, seq)).or_insert(Had::InFlight(bytes));
        }
        let bytes = had.values().filter_map(|had| match had {
            Had::InFlight(bytes) => Some(*bytes),
            Had::Delivered => None,
        });
        let (in_flight, in_flight_bytes) =
            bytes.fold((0, 0), |(count, total), bytes| (count + 1, total + u64::from(bytes)));
        Self { connected_ms, next: [1; PRIORITIES], window, had, in_flight, in_flight_bytes }
    }

    pub(super) fn has(&self, place: (Priority, u64)) -> bool {
        self.had.contains_key(&place)
    }

    /// Whether nothing more may be pushed, whatever its size.
    pub(super) fn is_full(&self, unacknowledged_max: usize) -> bool {
        self.had.len() >= unacknowledged_max || self.in_flight >= self.window.messages
    }

    /// Whether a message of `bytes` fits the window. One that exceeds the whole window goes alone.
    pub(super) fn admits(&self, bytes: usize) -> bool {
        let after = self.in_flight_bytes + bytes as u64;
        self.in_flight == 0 || after <= u64::from(self.window.bytes)
    }

    pub(super) fn pushed(&mut self, place: (Priority, u64), bytes: usize) {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        let before = self.had.insert(place, Had::InFlight(bytes));
        assert!(before.is_none(), "a number is pushed to a subscription once");
        self.in_flight += 1;
        self.in_flight_bytes += u64::from(bytes);
    }

    pub(super) fn written(&mut self, items: &[(Priority, u64)]) {
        for place in items {
            if let Some(had) = self.had.get_mut(place) {
                let before = std::mem::replace(had, Had::Delivered);
                self.free(before);
            }
        }
    }

    /// What of `items` was offered to the connection; having it implies that it was written.
    pub(super) fn acked(&mut self, items: &[(Priority, u64)]) -> Vec<(Priority, u64)> {
        self.written(items);
        items.iter().filter(|place| self.had.contains_key(*place)).copied().collect()
    }

    pub(super) fn removed(&mut self, place: (Priority, u64)) {
        if let Some(had) = self.had.remove(&place) {
            self.free(had);
        }
    }

    /// Forgets what it presented when it came but is no longer pending.
    pub(super) fn retain_pending(&mut self, priority: Priority, read: &LaneRead) {
        let range = (priority, read.from)..(priority, read.end);
        let gone: Vec<_> = self
            .had
            .range(range)
            .map(|(place, _)| *place)
            .filter(|(_, seq)| {
                read.items.binary_search_by_key(seq, |item| item.message.seq).is_err()
            })
            .collect();
        for place in gone {
            self.removed(place);
        }
    }

    /// Whether it has acknowledged all it got.
    pub(super) fn is_at_rest(&self) -> bool {
        self.had.is_empty()
    }

    /// (unacknowledged, of them not written)
    pub(super) fn load(&self) -> (usize, usize) {
        (self.had.len(), self.in_flight as usize)
    }

    fn free(&mut self, had: Had) {
        if let Had::InFlight(bytes) = had {
            self.in_flight -= 1;
            self.in_flight_bytes -= u64::from(bytes);
        }
    }
}
