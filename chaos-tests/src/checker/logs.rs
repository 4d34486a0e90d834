//! What the nodes logged: an error means that somebody must act.

use super::verdict::{Check, Finding};
use crate::history::{History, Operation};

/// Checks that no node logged an error, or panicked, but where the profile expects it. Counts lines
/// that were read.
pub fn check(history: &History) -> Check {
    let mut check = Check::new("logs");
    for event in &history.events {
        match &event.operation {
            Operation::LogRead { lines, .. } => check.counted += lines,
            Operation::Logged { node, line, expected: None } => {
                check.find(Finding::Logged { node: *node, line: line.clone() });
            }
            Operation::Logged { expected: Some(_), .. } => check.repeated += 1,
            _ => {}
        }
    }
    check
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{checker::histories::then, history::Phase};

    #[test]
    fn an_error_is_found_unless_it_is_expected() {
        let read = Operation::LogRead { node: 1, lines: 100 };
        let quiet = then(History::default(), Phase::Ok, read);
        assert!(check(&quiet).passed());
        let line = "ERROR the log's writer has failed".to_owned();
        let expected = Some("writer has failed".to_owned());
        let logged = Operation::Logged { node: 1, line: line.clone(), expected };
        assert!(check(&then(quiet.clone(), Phase::Ok, logged)).passed());
        let logged = Operation::Logged { node: 1, line: line.clone(), expected: None };
        let found = check(&then(quiet, Phase::Ok, logged)).findings;
        assert_eq!(found, [Finding::Logged { node: 1, line }]);
        assert!(!check(&History::default()).passed());
    }
}
