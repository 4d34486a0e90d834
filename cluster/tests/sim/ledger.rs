//! What clients were promised and what they got: the checker's input. Pure.

use std::collections::{BTreeMap, BTreeSet};

use heliograph_cluster::model::Priority;

/// A message as the ledger names it: who it is for, and its number there.
pub(crate) type Number = (Priority, u64);

/// What happened to one mailbox.
#[derive(Debug, Default, Hash)]
pub(crate) struct Mailbox {
    /// Accepted messages: id → number.
    accepted: BTreeMap<String, Number>,
    /// Messages whose outcome the sender never learned.
    unknown: BTreeSet<String>,
    /// First deliveries, in order.
    delivered: Vec<(String, Number)>,
    seen: BTreeSet<String>,
    /// Messages whose acknowledgement was answered.
    acknowledged: BTreeSet<String>,
}

/// All mailboxes.
#[derive(Debug, Default, Hash)]
pub(crate) struct Ledger {
    mailboxes: BTreeMap<usize, Mailbox>,
}

impl Ledger {
    /// The relay said "accepted".
    pub(crate) fn accepted(&mut self, mailbox: usize, id: &str, number: Number) {
        let mailbox = self.mailboxes.entry(mailbox).or_default();
        let earlier = mailbox.accepted.insert(id.to_owned(), number);
        assert!(
            earlier.is_none_or(|earlier| earlier == number),
            "{id} was accepted as {earlier:?} and as {number:?}"
        );
    }

    /// The sender gave up without an answer.
    pub(crate) fn unknown(&mut self, mailbox: usize, id: &str) {
        self.mailboxes.entry(mailbox).or_default().unknown.insert(id.to_owned());
    }

    /// A message reached its recipient.
    pub(crate) fn delivered(&mut self, mailbox: usize, id: &str, number: Number) {
        let mailbox = self.mailboxes.entry(mailbox).or_default();
        assert!(
            !mailbox.acknowledged.contains(id),
            "{id} was delivered after its acknowledgement was answered"
        );
        if mailbox.seen.insert(id.to_owned()) {
            mailbox.delivered.push((id.to_owned(), number));
        }
    }

    /// The relay answered the acknowledgement.
    pub(crate) fn acknowledged(&mut self, mailbox: usize, id: &str) {
        self.mailboxes.entry(mailbox).or_default().acknowledged.insert(id.to_owned());
    }

    /// Accepted messages that did not reach their recipient yet.
    pub(crate) fn outstanding(&self) -> usize {
        let missing = |mailbox: &Mailbox| {
            mailbox.accepted.keys().filter(|id| !mailbox.seen.contains(*id)).count()
        };
        self.mailboxes.values().map(missing).sum()
    }

    /// How many messages were accepted.
    pub(crate) fn accepted_count(&self) -> usize {
        self.mailboxes.values().map(|mailbox| mailbox.accepted.len()).sum()
    }

    /// Checks the promises.
    ///
    /// # Errors
    /// Names the first one broken.
    pub(crate) fn check(&self) -> Result<(), String> {
        self.mailboxes.iter().try_for_each(|(name, mailbox)| {
            mailbox.check().map_err(|broken| format!("mailbox {name}: {broken}"))
        })
    }
}

impl Mailbox {
    fn check(&self) -> Result<(), String> {
        for (id, number) in &self.accepted {
            if !self.seen.contains(id) {
                return Err(format!(
                    "{id} was accepted as {number:?} and never delivered; last deliveries: {:?}",
                    &self.delivered[self.delivered.len().saturating_sub(5)..]
                ));
            }
        }
        let mut highest: BTreeMap<Priority, u64> = BTreeMap::new();
        let mut numbers: BTreeMap<Number, &str> = BTreeMap::new();
        for (id, number) in &self.delivered {
            if !self.accepted.contains_key(id) && !self.unknown.contains(id) {
                return Err(format!("{id} was delivered and never sent"));
            }
            if self.accepted.get(id).is_some_and(|accepted| accepted != number) {
                return Err(format!("{id} was accepted under another number than {number:?}"));
            }
            if let Some(other) = numbers.insert(*number, id) {
                return Err(format!("{number:?} is both {other} and {id}"));
            }
            let highest = highest.entry(number.0).or_default();
            if *highest > number.1 {
                return Err(format!("{id} ({number:?}) came after number {highest}"));
            }
            *highest = number.1;
        }
        for (priority, highest) in highest {
            let missing = (1..=highest).find(|seq| !numbers.contains_key(&(priority, *seq)));
            if let Some(missing) = missing {
                return Err(format!("number {missing} of {priority:?} never came"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const N: Priority = Priority::Normal;

    fn ledger(accepted: &[(&str, u64)], delivered: &[(&str, u64)]) -> Ledger {
        let mut ledger = Ledger::default();
        for (id, seq) in accepted {
            ledger.accepted(0, id, (N, *seq));
        }
        for (id, seq) in delivered {
            ledger.delivered(0, id, (N, *seq));
        }
        ledger
    }

    #[test]
    fn a_clean_history_passes() {
        let both = [("a", 1), ("b", 2)];
        assert_eq!(ledger(&both, &both).check(), Ok(()));
        assert_eq!(ledger(&both, &[("a", 1), ("a", 1), ("b", 2)]).check(), Ok(()));
    }

    #[test]
    fn broken_histories_are_rejected() {
        let accepted = [("a", 1), ("b", 2)];
        assert!(ledger(&accepted, &[("a", 1)]).check().is_err(), "lost");
        assert!(ledger(&accepted, &[("b", 2), ("a", 1)]).check().is_err(), "reordered");
        assert!(ledger(&accepted[..1], &[("a", 1), ("b", 2)]).check().is_err(), "unexpected");
        assert!(ledger(&accepted, &[("a", 1), ("b", 1)]).check().is_err(), "one number twice");
        assert!(ledger(&[("b", 2)], &[("b", 2)]).check().is_err(), "gap");
    }

    #[test]
    #[should_panic(expected = "after its acknowledgement")]
    fn a_delivery_after_the_acknowledgement_is_rejected() {
        let mut ledger = ledger(&[("a", 1)], &[("a", 1)]);
        ledger.acknowledged(0, "a");
        ledger.delivered(0, "a", (N, 1));
    }
}
