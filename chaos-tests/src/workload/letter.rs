//! What is sent.

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use rand::{Rng as _, RngCore as _, SeedableRng as _, rngs::SmallRng};

use crate::history::MessageNumber;

/// The shortest content, in bytes: what a sealed "yes" has.
const CONTENT_BYTES_MIN: usize = 32;
/// The longest content, in bytes: a long text.
const CONTENT_BYTES_MAX: usize = 700;

/// Makes the ids and contents of a run's messages; both follow from the message's number.
#[derive(Clone, Debug)]
pub struct Letters {
    run: String,
}

impl Letters {
    /// The letters of the run with this number.
    pub fn new(run: u32) -> Self {
        Self { run: format!("{run:08x}") }
    }

    /// The device id of a client of this run.
    pub fn device(&self, role: &str, number: u32) -> String {
        format!("{role}-{number}-{}", self.run)
    }

    /// The `message_id` of a message.
    pub fn id(&self, message: MessageNumber) -> String {
        format!("{}-{:x}", self.run, message.0)
    }

    /// The message with this id, if it can be one of this run.
    pub fn number(&self, id: &str) -> Option<MessageNumber> {
        let hex = id.strip_prefix(self.run.as_str())?.strip_prefix('-')?;
        let number = MessageNumber(u64::from_str_radix(hex, 16).ok()?);
        // Only the one spelling that was sent.
        (self.id(number) == id).then_some(number)
    }

    /// The content of a message, Base64.
    pub fn content(&self, message: MessageNumber) -> String {
        let mut rng = SmallRng::seed_from_u64(message.0);
        let mut bytes = vec![0; rng.random_range(CONTENT_BYTES_MIN..=CONTENT_BYTES_MAX)];
        rng.fill_bytes(&mut bytes);
        BASE64.encode(bytes)
    }

    /// The priority of a message: most are normal, some of each other kind.
    pub fn priority(&self, message: MessageNumber) -> u8 {
        match message.0 % 10 {
            0 => 0,
            1 | 2 => 2,
            3 => 3,
            _ => 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_read_back_and_foreign_ids_are_not() {
        let letters = Letters::new(0x12ab);
        let message = MessageNumber(0x1_0000_0007);
        assert_eq!(letters.number(&letters.id(message)), Some(message));
        assert_eq!(letters.number(&Letters::new(7).id(message)), None);
        for foreign in ["", "000012ab", "000012ab-", "000012ab-07", "000012ab-x", "000012ab-+7"] {
            assert_eq!(letters.number(foreign), None, "{foreign}");
        }
    }

    #[test]
    fn contents_follow_from_the_number_and_differ() {
        let letters = Letters::new(1);
        let [a, b] = [1, 2].map(|n| letters.content(MessageNumber(n)));
        assert_eq!(a, letters.content(MessageNumber(1)));
        assert_ne!(a, b);
    }

    #[test]
    fn all_priorities_occur() {
        let letters = Letters::new(1);
        let seen: std::collections::BTreeSet<_> =
            (0..10).map(|n| letters.priority(MessageNumber(n))).collect();
        assert_eq!(seen.len(), 4);
    }
}
