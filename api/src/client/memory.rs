//! What a client has to know to go on over another connection as if nothing had happened. Pure.
//!
//! A gateway does not answer acknowledgements, so what was received last is remembered, whatever
//! became of it: presented to the next node it does not come again, and what was acknowledged is
//! acknowledged once more, which changes nothing where it had arrived.

use std::collections::{BTreeMap, VecDeque};

use heliograph_cluster::{
    AckItem,
    model::{MessageId, Priority},
};
use serde_json::{Value, json};

use super::Received;

/// Messages remembered: as many as a gateway takes in one list. What is older was acknowledged
/// long ago, or is more than an application should have open.
const REMEMBERED_MAX: usize = 1_000;

type Place = (Priority, u64);

struct Known {
    message_id: MessageId,
    is_acknowledged: bool,
}

/// See the module.
#[derive(Default)]
pub(super) struct Memory {
    known: BTreeMap<Place, Known>,
    order: VecDeque<Place>,
}

impl Memory {
    /// Takes note of a message; answers whether it is new.
    pub(super) fn is_new(&mut self, message: &Received) -> bool {
        let place = (message.priority, message.seq);
        if self.known.contains_key(&place) {
            return false;
        }
        let known = Known { message_id: message.message_id.clone(), is_acknowledged: false };
        self.known.insert(place, known);
        self.order.push_back(place);
        if self.order.len() > REMEMBERED_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
        true
    }

    /// Takes note of an acknowledgement. An id means its first copy that is not acknowledged.
    pub(super) fn acknowledged(&mut self, items: &[AckItem]) {
        for item in items {
            let known = match item {
                AckItem::Seq(priority, seq) => self.known.get_mut(&(*priority, *seq)),
                AckItem::Id(id) => self
                    .known
                    .values_mut()
                    .find(|known| known.message_id == *id && !known.is_acknowledged),
            };
            if let Some(known) = known {
                known.is_acknowledged = true;
            }
        }
    }

    /// What was received, for the `auth` frame of the next connection.
    pub(super) fn presented(&self) -> Vec<Value> {
        self.known
            .keys()
            .map(|(priority, seq)| json!({ "priority": priority.name(), "seq": seq }))
            .collect()
    }

    /// What was acknowledged, to be said once more.
    pub(super) fn to_acknowledge(&self) -> Vec<AckItem> {
        let acknowledged = self.known.iter().filter(|(_, known)| known.is_acknowledged);
        acknowledged.map(|((priority, seq), _)| AckItem::Seq(*priority, *seq)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(seq: u64, id: &str) -> Received {
        let text = json!({
            "message_id": id, "sender_id": "a", "recipient_id": "b", "content": "",
            "priority": "normal", "timestamp": 1, "seq": seq,
        });
        serde_json::from_value(text).unwrap()
    }

    fn seq(seq: u64) -> AckItem {
        AckItem::Seq(Priority::Normal, seq)
    }

    #[test]
    fn what_came_does_not_come_again() {
        let mut memory = Memory::default();
        assert!(memory.is_new(&message(1, "m1")));
        assert!(!memory.is_new(&message(1, "m1")));
        // Another message may have the same id.
        assert!(memory.is_new(&message(2, "m1")));
        assert_eq!(memory.presented().len(), 2);
    }

    #[test]
    fn what_was_acknowledged_is_said_once_more() {
        let mut memory = Memory::default();
        for number in 1..=3 {
            assert!(memory.is_new(&message(number, "same")));
        }
        let id = AckItem::Id(MessageId::new("same").unwrap());
        memory.acknowledged(&[id.clone(), seq(3), seq(9)]);
        assert_eq!(memory.to_acknowledge(), [seq(1), seq(3)]);
        memory.acknowledged(&[id]);
        assert_eq!(memory.to_acknowledge(), [seq(1), seq(2), seq(3)]);
    }

    #[test]
    fn it_is_bounded() {
        let mut memory = Memory::default();
        for number in 0..REMEMBERED_MAX as u64 + 5 {
            assert!(memory.is_new(&message(number, "m")));
        }
        assert_eq!(memory.presented().len(), REMEMBERED_MAX);
        assert!(memory.is_new(&message(0, "m")), "the oldest is forgotten");
    }
}
