//! How many descriptors this process, and those it starts, may have open.

use anyhow::{Result, ensure};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Beside clients: logs, databases, listeners, connections between nodes.
const OTHERS: u64 = 1_000;

/// Takes as many as the system allows; processes that are started from now on have them, too.
pub fn take_all() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    // Whoever needs more than there are says so.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
}

/// Whether one process may have so many connections.
///
/// # Errors
/// When not: what to do.
pub fn suffice(connections: u32) -> Result<()> {
    let needed = u64::from(connections) + OTHERS;
    // None is no limit.
    let allowed = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    ensure!(
        needed <= allowed,
        "{connections} clients need {needed} file descriptors, and {allowed} are allowed: raise \
         the limit (`ulimit -n`, `LimitNOFILE=`)"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_system_allows_is_taken_and_what_is_beyond_is_said() {
        take_all();
        let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
        assert_eq!(current, maximum);
        assert!(suffice(1).is_ok());
        if current.is_some_and(|current| current < u64::from(u32::MAX)) {
            let error = suffice(u32::MAX).unwrap_err().to_string();
            assert!(error.contains("ulimit -n"), "{error}");
        }
    }
}
