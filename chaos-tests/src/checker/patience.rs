//! How long senders waited, from the first attempt until their message was accepted.

use std::{collections::HashMap, fmt, time::Duration};

use crate::history::{History, MessageNumber, Operation, Phase};

/// How long messages took to be accepted, all attempts together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Waits {
    /// How many messages.
    pub count: usize,
    /// Half of them took no longer.
    pub p50: Duration,
    /// Of a hundred, ninety-nine took no longer.
    pub p99: Duration,
    /// The longest.
    pub longest: Duration,
    /// How many took longer than a second.
    pub over_a_second: usize,
}

impl fmt::Display for Waits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} messages: p50 {} ms, p99 {} ms, longest {} ms, {} over 1 s",
            self.count,
            self.p50.as_millis(),
            self.p99.as_millis(),
            self.longest.as_millis(),
            self.over_a_second
        )
    }
}

/// Measures the messages whose sending began at `from` or later. What was never accepted counts
/// until the end of the history.
pub fn waits(history: &History, from: Duration) -> Waits {
    let mut open: HashMap<MessageNumber, Duration> = HashMap::new();
    let mut waits = Vec::new();
    for event in &history.events {
        let Operation::Send { message, .. } = event.operation else { continue };
        match event.phase {
            Phase::Invoke if event.at >= from => drop(open.insert(message, event.at)),
            Phase::Ok | Phase::Fail => {
                waits.extend(open.remove(&message).map(|began| event.at - began));
            }
            Phase::Invoke | Phase::Unknown => {}
        }
    }
    let end = history.events.last().map_or(from, |event| event.at);
    waits.extend(open.values().map(|began| end - *began));
    waits.sort();
    let Some(longest) = waits.last().copied() else { return Waits::default() };
    let at = |percent: usize| waits[(waits.len() - 1) * percent / 100];
    let over_a_second = waits.iter().filter(|wait| **wait > Duration::from_secs(1)).count();
    Waits { count: waits.len(), p50: at(50), p99: at(99), longest, over_a_second }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::{Event, MailboxNumber};

    fn send(at: u64, phase: Phase, message: u64) -> Event {
        let mailbox = MailboxNumber(0);
        let operation = Operation::Send { mailbox, priority: 1, message: MessageNumber(message) };
        Event { at: Duration::from_millis(at), process: 1, phase, operation }
    }

    #[test]
    fn the_longest_wait_is_found_and_one_without_an_end_counts() {
        let mut events = vec![
            send(0, Phase::Invoke, 1),
            send(5_000, Phase::Ok, 1),
            send(6_000, Phase::Invoke, 2),
            send(6_010, Phase::Ok, 2),
            send(7_000, Phase::Invoke, 3),
            send(8_500, Phase::Ok, 3),
        ];
        let from = Duration::from_secs(6);
        let waits = super::waits(&History { events: events.clone() }, from);
        assert_eq!((waits.count, waits.over_a_second), (2, 1));
        assert_eq!(waits.longest, Duration::from_millis(1_500));
        events.push(send(9_000, Phase::Invoke, 4));
        events.push(send(19_000, Phase::Invoke, 5));
        let waits = super::waits(&History { events }, from);
        assert_eq!(waits.longest, Duration::from_secs(10));
        assert_eq!(super::waits(&History::default(), from), Waits::default());
    }
}
