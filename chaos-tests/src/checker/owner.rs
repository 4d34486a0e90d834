//! One owner: what a leader that is cut off may no longer do.

use std::{collections::HashMap, time::Duration};

use super::verdict::{Check, Finding};
use crate::history::{Event, History, Operation};

/// For so long an older leader may still say that it acts after a newer one did. Its licence ends a
/// second after it last heard a majority; whoever hears of two drops what the older one says. Three
/// of them: the nodes share their processors with others.
const GRACE: Duration = Duration::from_secs(3);

/// Checks that no node says that it acts for a group, being asked [`GRACE`] or more after another
/// has said so in a newer term. Counts what nodes said.
pub fn check(history: &History) -> Check {
    let mut check = Check::new("owner");
    // Of each group the terms that were seen to act, each when it was first seen.
    let mut seen: HashMap<u32, Vec<(u64, Duration)>> = HashMap::new();
    for Event { at, operation, .. } in &history.events {
        let Operation::Acts { node, asked, groups } = operation else { continue };
        for (group, term) in groups {
            check.counted += 1;
            let terms = seen.entry(*group).or_default();
            let newer = terms
                .iter()
                .filter(|(other, since)| other > term && *since + GRACE <= *asked)
                .map(|(other, _)| *other)
                .max();
            if let Some(newer) = newer {
                let (group, node, term) = (*group, *node, *term);
                check.find(Finding::TwoOwners { group, node, term, newer });
            }
            if !terms.iter().any(|(other, _)| other == term) {
                terms.push((*term, *at));
            }
        }
    }
    check
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::Phase;

    fn acts(asked: u64, node: u16, term: u64) -> Event {
        let asked = Duration::from_millis(asked);
        let operation = Operation::Acts { node, asked, groups: vec![(7, term)] };
        let at = asked + Duration::from_millis(50);
        Event { at, process: 0, phase: Phase::Ok, operation }
    }

    #[test]
    fn who_still_acts_long_after_a_newer_leader_did_is_found() {
        let events = vec![acts(0, 1, 3), acts(1_000, 2, 4), acts(2_000, 1, 3), acts(8_000, 2, 4)];
        // For a moment both may think so.
        assert!(check(&History { events: events.clone() }).passed());
        let mut stale = events;
        stale.push(acts(9_000, 1, 3));
        let found = check(&History { events: stale }).findings;
        assert_eq!(found, [Finding::TwoOwners { group: 7, node: 1, term: 3, newer: 4 }]);
        assert!(!check(&History::default()).passed());
    }

    #[test]
    fn a_leader_that_comes_back_has_a_newer_term() {
        let events = vec![acts(0, 1, 3), acts(5_000, 2, 4), acts(10_000, 1, 5)];
        assert!(check(&History { events }).passed());
    }
}
