//! Per-node read-back: all replicas of a group hold the same.

use std::collections::HashMap;

use super::verdict::{Check, Finding};
use crate::history::{History, Operation};

/// Checks that the replicas of each group, read from the disks of their nodes after all had caught
/// up, hold the same. Counts replicas that were compared with another one.
pub fn check(history: &History) -> Check {
    let mut check = Check::new("replicas");
    let mut groups: HashMap<u32, Vec<(u16, &str)>> = HashMap::new();
    for event in &history.events {
        let Operation::Replica { node, group, digest, .. } = &event.operation else { continue };
        groups.entry(*group).or_default().push((*node, digest));
    }
    for (group, replicas) in groups {
        let [(first, digest), others @ ..] = &replicas[..] else { continue };
        if !others.is_empty() {
            check.counted += replicas.len() as u64;
        }
        for (node, _) in others.iter().filter(|(_, other)| other != digest) {
            check.find(Finding::ReplicasDiffer { group, nodes: [*first, *node] });
        }
    }
    check
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{checker::histories::then, history::Phase};

    fn with(history: History, node: u16, digest: &str) -> History {
        let digest = digest.to_owned();
        let replica = Operation::Replica { node, group: 3, applied_index: 9, digest };
        then(history, Phase::Ok, replica)
    }

    #[test]
    fn a_replica_that_differs_is_found_and_one_alone_shows_nothing() {
        let one = with(History::default(), 1, "aa");
        assert_eq!(check(&one).counted, 0);
        let two = with(one, 2, "aa");
        assert!(check(&two).passed());
        let found = check(&with(two, 3, "ab")).findings;
        assert_eq!(found, [Finding::ReplicasDiffer { group: 3, nodes: [1, 3] }]);
    }
}
