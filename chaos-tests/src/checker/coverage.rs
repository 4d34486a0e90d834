//! Coverage: a run whose faults did not happen has shown nothing.

use super::{
    Expectation,
    verdict::{Check, Doubt},
};
use crate::history::{History, Operation, Phase};

/// A fault that must have happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Demand {
    /// Its kind, as [`crate::faults::Fault::kind`].
    pub kind: String,
    /// How often it must have been installed.
    pub times: u32,
}

/// Checks that each fault that is demanded was installed, and that the faults hit a node that led
/// some group and one that followed in some. What is missing is a doubt, no finding. Counts faults
/// that were installed.
pub fn check(history: &History, expectation: &Expectation) -> Check {
    let mut check = Check::new("coverage");
    let mut installed: Vec<(&str, &Vec<_>)> = Vec::new();
    let mut failed: Vec<(&str, Option<&String>)> = Vec::new();
    for event in &history.events {
        let Operation::Fault { fault, hit, why } = &event.operation else { continue };
        match event.phase {
            _ if fault.is_remedy() => {}
            Phase::Ok => installed.push((fault.kind(), hit)),
            Phase::Fail | Phase::Unknown => failed.push((fault.kind(), why.as_ref())),
            Phase::Invoke => {}
        }
    }
    check.counted = installed.len() as u64;
    for Demand { kind, times } in &expectation.demands {
        let count = installed.iter().filter(|(other, _)| other == kind).count();
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        if count < *times {
            let why = failed.iter().find(|(other, _)| other == kind).and_then(|(_, why)| *why);
            check.doubt(Doubt::NotInstalled {
                fault: kind.clone(),
                wanted: *times,
                installed: count,
                why: why.cloned(),
            });
        }
    }
    if !expectation.demands.is_empty() {
        let hits = || installed.iter().flat_map(|(_, hit)| hit.iter());
        if !hits().any(|hit| hit.leads > 0) {
            check.doubt(Doubt::NeverHit { role: "leader" });
        }
        if !hits().any(|hit| hit.leads < hit.holds) {
            check.doubt(Doubt::NeverHit { role: "follower" });
        }
    }
    check
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        checker::{Outcome, histories::then},
        history::{Fault, Hit},
    };

    fn expectation() -> Expectation {
        let demand = Demand { kind: "kill".to_owned(), times: 1 };
        let (window, pause_max) = (Duration::from_secs(1), Duration::from_secs(1));
        let of_three = Expectation::of_three(window, pause_max);
        Expectation { is_whole: true, demands: vec![demand], ..of_three }
    }

    fn with(phase: Phase, hit: &[Hit], why: Option<&str>) -> Check {
        let fault = Fault::Kill { nodes: vec![1] };
        let why = why.map(str::to_owned);
        let fault = Operation::Fault { fault, hit: hit.to_vec(), why };
        check(&then(History::default(), phase, fault), &expectation())
    }

    const BOTH: Hit = Hit { node: 1, leads: 2, holds: 17 };

    #[test]
    fn a_fault_that_happened_covers_and_one_that_did_not_is_a_doubt() {
        assert!(with(Phase::Ok, &[BOTH], None).passed());
        let skipped = with(Phase::Fail, &[BOTH], Some("there is no nft"));
        assert_eq!(skipped.outcome(), Outcome::Unknown);
        let [Doubt::NotInstalled { wanted: 1, installed: 0, why: Some(why), .. }, ..] =
            &skipped.doubts[..]
        else {
            panic!("{skipped:?}");
        };
        assert_eq!(why, "there is no nft");
        assert_eq!(with(Phase::Unknown, &[BOTH], None).outcome(), Outcome::Unknown);
        assert_eq!(with(Phase::Invoke, &[BOTH], None).outcome(), Outcome::Unknown);
    }

    #[test]
    fn faults_that_never_hit_a_leader_or_a_follower_are_a_doubt() {
        for (leads, role) in [(0, "leader"), (17, "follower")] {
            let check = with(Phase::Ok, &[Hit { leads, ..BOTH }], None);
            assert_eq!(check.doubts, [Doubt::NeverHit { role }]);
            assert_eq!(check.outcome(), Outcome::Unknown);
        }
    }
}
