//! How long traffic stands still after a fault.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    time::Duration,
};

use serde::Serialize;

use super::{
    Expectation,
    verdict::{Check, Finding},
};
use crate::{
    faults::Effect,
    history::{Fault, History, MailboxNumber, MessageNumber, Operation, Phase},
};

/// The pauses after one fault.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Pause {
    /// The fault.
    pub fault: Fault,
    /// When it was inflicted.
    pub at: Duration,
    /// The longest time without an accepted message anywhere.
    pub anywhere: Duration,
    /// The longest time without an accepted message in one mailbox that was being written to.
    pub in_a_mailbox: Duration,
    /// In which.
    pub mailbox: MailboxNumber,
    /// Whether traffic had to go on, by the cluster's promise.
    pub promised: bool,
}

impl fmt::Display for Pause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "pause        after {} at {:.1} s: {} ms anywhere, {} ms in mailbox {}{}",
            self.fault,
            self.at.as_secs_f64(),
            self.anywhere.as_millis(),
            self.in_a_mailbox.as_millis(),
            self.mailbox.0,
            if self.promised { "" } else { " (no majority: nothing promised)" },
        )
    }
}

/// Measures, after each fault up to the next one or the end of the window, the longest pause
/// between accepted messages: over all mailboxes, and in the mailbox where it is longest. Where a
/// majority lives, a pause beyond the bound is a finding. Counts accepted messages in the windows.
///
/// A mailbox takes part if something was sent to it before the fault and something was being sent
/// to it after it.
pub fn check(history: &History, expectation: &Expectation) -> (Check, Vec<Pause>) {
    let mut check = Check::new("liveness");
    let mut pauses = Vec::new();
    let mut dead: BTreeSet<u16> = BTreeSet::new();
    let mut cut_off: BTreeSet<u16> = BTreeSet::new();
    let majority = |dead: &BTreeSet<u16>, cut_off: &BTreeSet<u16>| {
        dead.union(cut_off).count() * 2 < expectation.nodes
    };
    let faults: Vec<(Duration, &Fault)> = history
        .events
        .iter()
        .filter_map(|event| match (&event.operation, event.phase) {
            (Operation::Fault { fault, .. }, Phase::Invoke) => Some((event.at, fault)),
            _ => None,
        })
        .collect();
    if faults.is_empty() {
        // Without a fault the whole run is the window.
        check.counted = accepted_between(history, Duration::ZERO, Duration::MAX);
    }
    for (i, (at, fault)) in faults.iter().enumerate() {
        let before = majority(&dead, &cut_off);
        match fault.effect(expectation.nodes) {
            Effect::Away(nodes) if matches!(fault, Fault::Partition { .. }) => {
                cut_off.extend(nodes)
            }
            Effect::Away(nodes) => dead.extend(nodes),
            Effect::Back(nodes) => dead.retain(|node| !nodes.contains(node)),
            Effect::Reached => cut_off.clear(),
            Effect::Disturbed => {}
        }
        let promised = before && majority(&dead, &cut_off);
        let next = faults.get(i + 1).map_or(Duration::MAX, |(at, _)| *at);
        let until = next.min(*at + expectation.window);
        check.counted += accepted_between(history, *at, until);
        let Some(pause) = measure(history, *at, until, fault, promised) else { continue };
        if promised && pause.in_a_mailbox > expectation.pause_max {
            check.find(Finding::Stalled {
                mailbox: pause.mailbox,
                pause: pause.in_a_mailbox,
                bound: expectation.pause_max,
            });
        }
        pauses.push(pause);
    }
    not_back(history, &mut check);
    (check, pauses)
}

/// Finds remedies, and changes of a cluster, that did not come to their end.
pub(super) fn not_back(history: &History, check: &mut Check) {
    for event in &history.events {
        if let Operation::Fault { fault, why, .. } = &event.operation
            && event.phase == Phase::Unknown
            && fault.must_succeed()
        {
            let why = why.clone().unwrap_or_default();
            check.find(Finding::NotBack { fault: fault.to_string(), why });
        }
    }
}

fn accepted_between(history: &History, from: Duration, until: Duration) -> u64 {
    let accepted = history.events.iter().filter(|event| {
        event.phase == Phase::Ok
            && matches!(event.operation, Operation::Send { .. })
            && (from..until).contains(&event.at)
    });
    accepted.count() as u64
}

/// What is known of a mailbox around a fault.
#[derive(Debug, Default)]
struct Traffic {
    before: bool,
    accepted: Vec<Duration>,
    /// The last time at which somebody is known to have been sending.
    wanted_until: Duration,
    /// Begun and not ended.
    open: BTreeSet<MessageNumber>,
}

impl Traffic {
    /// The longest time without an accepted message.
    fn longest(&self, at: Duration) -> Duration {
        let begins = [at].into_iter().chain(self.accepted.iter().copied());
        let ends = self.accepted.iter().copied().chain([self.wanted_until.max(at)]);
        begins.zip(ends).map(|(a, b)| b.saturating_sub(a)).max().unwrap_or_default()
    }
}

fn measure(
    history: &History,
    at: Duration,
    until: Duration,
    fault: &Fault,
    promised: bool,
) -> Option<Pause> {
    let mut mailboxes: BTreeMap<MailboxNumber, Traffic> = BTreeMap::new();
    let mut all = Traffic::default();
    for event in &history.events {
        let Operation::Send { mailbox, message, .. } = &event.operation else { continue };
        for traffic in [mailboxes.entry(*mailbox).or_default(), &mut all] {
            match event.phase {
                Phase::Invoke if event.at < until => drop(traffic.open.insert(*message)),
                _ => drop(traffic.open.remove(message)),
            }
            if event.at < at {
                traffic.before = true;
                continue;
            }
            // Whatever happens to a sending, until then it was wanted.
            traffic.wanted_until = traffic.wanted_until.max(event.at.min(until));
            if event.phase == Phase::Ok && event.at < until {
                traffic.accepted.push(event.at);
            }
        }
    }
    let end = history.events.last().map_or(at, |event| event.at).min(until);
    for traffic in mailboxes.values_mut().chain([&mut all]) {
        if !traffic.open.is_empty() {
            traffic.wanted_until = end;
        }
    }
    let (mailbox, in_a_mailbox) = mailboxes
        .iter()
        .filter(|(_, traffic)| traffic.before && traffic.wanted_until > at)
        .map(|(mailbox, traffic)| (*mailbox, traffic.longest(at)))
        .max_by_key(|(_, pause)| *pause)?;
    let anywhere = all.longest(at);
    Some(Pause { fault: fault.clone(), at, anywhere, in_a_mailbox, mailbox, promised })
}

#[cfg(test)]
#[path = "liveness_test.rs"]
mod tests;
