//! Registration: a key that was given out is taken, at every node.

use std::collections::HashSet;

use super::verdict::{Check, Finding};
use crate::history::{History, Operation, Phase};

/// Checks that no key is refused once the registration was answered. Counts keys that were taken.
pub fn check(history: &History) -> Check {
    let mut check = Check::new("registration");
    let mut registered: HashSet<u32> = HashSet::new();
    for event in &history.events {
        match (&event.operation, event.phase) {
            (Operation::Register { device, .. }, Phase::Ok) => {
                registered.insert(*device);
            }
            (Operation::Authenticate { device, .. }, Phase::Ok) => {
                check.counted += u64::from(registered.contains(device));
            }
            (Operation::Authenticate { device, node }, Phase::Fail)
                if registered.contains(device) =>
            {
                check.find(Finding::KeyRefused { device: *device, node: *node });
            }
            _ => {}
        }
    }
    check
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checker::histories::then;

    #[test]
    fn a_key_that_is_refused_after_its_registration_is_found() {
        let registered = Operation::Register { device: 4, node: 1 };
        let used = Operation::Authenticate { device: 4, node: 2 };
        let registered = then(History::default(), Phase::Ok, registered);
        assert!(!check(&registered).passed(), "no key was used");
        let good = then(registered, Phase::Ok, used.clone());
        assert!(check(&good).passed());
        assert!(check(&then(good.clone(), Phase::Unknown, used.clone())).passed());
        let found = check(&then(good, Phase::Fail, used)).findings;
        assert_eq!(found, [Finding::KeyRefused { device: 4, node: 2 }]);
    }
}
