//! Faults compiled in, to see whether the chaos tests find them: never in a build that anybody uses.
//! Which one is on is told by the environment.

use std::sync::OnceLock;

/// Names the fault.
const VARIABLE: &str = "HELIOGRAPH_MUTANT";

/// A fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutant {
    /// The log answers before it has synced.
    AckBeforeSync,
    /// A leader acts without knowing that a majority still follows it.
    NoFence,
    /// An acknowledgement is answered and not put into the log.
    AcknowledgementsNotReplicated,
}

impl Mutant {
    /// Whether this one is on.
    pub fn is_on(self) -> bool {
        static ON: OnceLock<Option<String>> = OnceLock::new();
        let name = match self {
            Self::AckBeforeSync => "ack-before-sync",
            Self::NoFence => "no-fence",
            Self::AcknowledgementsNotReplicated => "acknowledgements-not-replicated",
        };
        ON.get_or_init(|| std::env::var(VARIABLE).ok()).as_deref() == Some(name)
    }
}
