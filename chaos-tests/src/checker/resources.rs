//! Resources: what was taken under faults is given back.

use std::collections::HashMap;

use super::verdict::{Check, Finding};
use crate::history::{History, Moment, Operation};

/// Memory may be this many times what it was: allocators keep what was once needed.
const MEMORY_TIMES: u64 = 2;
/// And so much more: caches fill.
const MEMORY_MORE: u64 = 96 << 20;
/// Descriptors may be so many more: log segments, and connections that come and go.
const DESCRIPTORS_MORE: u64 = 64;
/// Threads may be so many more: those for blocking work stay a while.
const THREADS_MORE: u64 = 32;

/// Checks what each node uses after everything has settled against what it, or the most that any
/// node, used before the first fault. Counts nodes that were compared.
pub fn check(history: &History) -> Check {
    let mut check = Check::new("resources");
    let mut readings: HashMap<Moment, Vec<(u16, [u64; 3])>> = HashMap::new();
    for event in &history.events {
        let Operation::Resources { node, moment, anonymous_bytes, descriptors, threads } =
            &event.operation
        else {
            continue;
        };
        let used = [*anonymous_bytes, *descriptors, *threads];
        readings.entry(*moment).or_default().push((*node, used));
    }
    let before = readings.remove(&Moment::Before).unwrap_or_default();
    let after = readings.remove(&Moment::After).unwrap_or_default();
    let most = |i: usize| before.iter().map(|(_, used)| used[i]).max();
    let (Some(memory), Some(descriptors), Some(threads)) = (most(0), most(1), most(2)) else {
        return check;
    };
    let bounds = [
        ("bytes of memory", memory * MEMORY_TIMES + MEMORY_MORE),
        ("descriptors", descriptors + DESCRIPTORS_MORE),
        ("threads", threads + THREADS_MORE),
    ];
    for (node, used) in after {
        check.counted += 1;
        for ((resource, bound), used) in bounds.into_iter().zip(used) {
            if used > bound {
                check.find(Finding::NotBackToBaseline { node, resource, bound, used });
            }
        }
    }
    check
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{checker::histories::then, history::Phase};

    fn with(history: History, moment: Moment, node: u16, used: [u64; 3]) -> History {
        let [anonymous_bytes, descriptors, threads] = used;
        let resources =
            Operation::Resources { node, moment, anonymous_bytes, descriptors, threads };
        then(history, Phase::Ok, resources)
    }

    #[test]
    fn a_leak_is_found() {
        let before = with(History::default(), Moment::Before, 1, [50 << 20, 100, 20]);
        assert!(!check(&before).passed(), "nothing was compared");
        assert!(check(&with(before.clone(), Moment::After, 1, [90 << 20, 120, 25])).passed());
        for (used, resource) in [
            ([500 << 20, 100, 20], "bytes of memory"),
            ([50 << 20, 1000, 20], "descriptors"),
            ([50 << 20, 100, 200], "threads"),
        ] {
            let found = check(&with(before.clone(), Moment::After, 1, used)).findings;
            let [Finding::NotBackToBaseline { resource: of, .. }] = found[..] else {
                panic!("{found:?}");
            };
            assert_eq!(of, resource);
        }
    }
}
