//! Resources: what was taken under faults is given back.

use super::{
    Expectation,
    verdict::{Check, Finding},
};
use crate::history::{History, Moment, Operation};

/// Memory may be this many times what it was: allocators keep what was once needed.
const MEMORY_TIMES: u64 = 2;
/// And so many bytes more where a profile does not say otherwise: caches fill.
pub const MEMORY_MORE: u64 = 96 << 20;
/// Descriptors may be so many more: log segments, and connections that come and go.
const DESCRIPTORS_MORE: u64 = 64;
/// Threads may be so many more: those for blocking work stay a while.
const THREADS_MORE: u64 = 32;

/// What a process uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Used {
    /// Bytes of heap and stacks.
    pub memory: u64,
    /// File descriptors.
    pub descriptors: u64,
    /// Threads.
    pub threads: u64,
}

/// How much a node may use once everything has settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds(Used);

impl Bounds {
    /// By what nodes used before the first fault: the most of each resource that any of them did.
    /// `memory_more` is for what fills by and by, as [`Expectation::memory_more`]. `None` where nobody looked.
    pub fn by(before: &[Used], memory_more: u64) -> Option<Self> {
        let most = |of: fn(&Used) -> u64| before.iter().map(of).max();
        Some(Self(Used {
            memory: most(|used| used.memory)? * MEMORY_TIMES + memory_more,
            descriptors: most(|used| used.descriptors)? + DESCRIPTORS_MORE,
            threads: most(|used| used.threads)? + THREADS_MORE,
        }))
    }

    /// Whether a node that uses so much has given back what it took.
    pub fn hold(&self, used: Used) -> bool {
        self.exceeded(used).next().is_none()
    }

    /// Each resource that is over its bound: its name, the bound, what is used.
    fn exceeded(&self, used: Used) -> impl Iterator<Item = (&'static str, u64, u64)> {
        let resources = [
            ("bytes of memory", self.0.memory, used.memory),
            ("descriptors", self.0.descriptors, used.descriptors),
            ("threads", self.0.threads, used.threads),
        ];
        resources.into_iter().filter(|(_, bound, used)| used > bound)
    }
}

/// Checks what each node uses after everything has settled against what it, or the most that any
/// node, used before the first fault. Counts nodes that were compared.
pub fn check(history: &History, expectation: &Expectation) -> Check {
    let mut check = Check::new("resources");
    let (mut before, mut after) = (Vec::new(), Vec::new());
    for event in &history.events {
        let Operation::Resources { node, moment, anonymous_bytes, descriptors, threads } =
            &event.operation
        else {
            continue;
        };
        let used = Used { memory: *anonymous_bytes, descriptors: *descriptors, threads: *threads };
        match moment {
            Moment::Before => before.push(used),
            Moment::After => after.push((*node, used)),
        }
    }
    let Some(bounds) = Bounds::by(&before, expectation.memory_more) else { return check };
    for (node, used) in after {
        check.counted += 1;
        for (resource, bound, used) in bounds.exceeded(used) {
            check.find(Finding::NotBackToBaseline { node, resource, bound, used });
        }
    }
    check
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{checker::histories::then, history::Phase};

    const EXPECTATION: Expectation =
        Expectation::of_three(Duration::from_secs(1), Duration::from_secs(1));

    fn with(history: History, moment: Moment, node: u16, used: [u64; 3]) -> History {
        let [anonymous_bytes, descriptors, threads] = used;
        let resources =
            Operation::Resources { node, moment, anonymous_bytes, descriptors, threads };
        then(history, Phase::Ok, resources)
    }

    #[test]
    fn bounds_are_by_the_node_that_used_most() {
        let used = |memory, threads| Used { memory, descriptors: 100, threads };
        let bounds = Bounds::by(&[used(10 << 20, 30), used(20 << 20, 20)], 96 << 20).unwrap();
        assert!(bounds.hold(used(136 << 20, 62)));
        assert!(!bounds.hold(used((136 << 20) + 1, 62)));
        assert!(!bounds.hold(used(136 << 20, 63)));
        assert_eq!(Bounds::by(&[], 96 << 20), None);
    }

    #[test]
    fn a_leak_is_found() {
        let before = with(History::default(), Moment::Before, 1, [50 << 20, 100, 20]);
        assert!(!check(&before, &EXPECTATION).passed(), "nothing was compared");
        let given_back = with(before.clone(), Moment::After, 1, [90 << 20, 120, 25]);
        assert!(check(&given_back, &EXPECTATION).passed());
        for (used, resource) in [
            ([500 << 20, 100, 20], "bytes of memory"),
            ([50 << 20, 1000, 20], "descriptors"),
            ([50 << 20, 100, 200], "threads"),
        ] {
            let after = with(before.clone(), Moment::After, 1, used);
            let found = check(&after, &EXPECTATION).findings;
            let [Finding::NotBackToBaseline { resource: of, .. }] = found[..] else {
                panic!("{found:?}");
            };
            assert_eq!(of, resource);
        }
    }

    #[test]
    fn a_profile_says_how_much_more_memory_there_may_be() {
        let before = with(History::default(), Moment::Before, 1, [10 << 20, 100, 20]);
        let after = with(before, Moment::After, 1, [140 << 20, 100, 20]);
        assert!(!check(&after, &EXPECTATION).passed());
        let more = Expectation { memory_more: 120 << 20, ..EXPECTATION };
        assert!(check(&after, &more).passed());
        let less = Expectation { memory_more: 119 << 20, ..EXPECTATION };
        assert!(!check(&after, &less).passed());
    }
}
