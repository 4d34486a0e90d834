//! How the process ends: a sentence for a person and a code for a script.
//!
//! The codes are documented in `docs/operations.md`; a test holds the table against [`Reason`].

use std::{fmt, process::ExitCode};

/// Why the process ends without success. The discriminant is the exit code.
///
/// 2 is left to clap, which uses it for a wrong command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Reason {
    /// Something unforeseen.
    Unexpected = 1,
    /// The configuration, a certificate or an argument is wrong: restarting does not help.
    Configuration = 3,
    /// The data directory is in use, belongs to another node, or cannot be written.
    DataDirectory = 4,
    /// An address that must be listened on is taken.
    AddressInUse = 5,
    /// The cluster refused this node, or it did not become ready in time.
    Cluster = 6,
    /// A disk, a shard or the client port failed while serving: a restart is the cure.
    Failed = 7,
    /// A server refused what `send` or `receive` asked, or could not be reached.
    Remote = 8,
    /// `verify` found damage.
    Damaged = 9,
    /// Ended at once by a second signal, without a clean shutdown.
    Interrupted = 130,
}

/// A failure that ends the process.
#[derive(Debug)]
pub(crate) struct Failure {
    reason: Reason,
    error: anyhow::Error,
    is_logged: bool,
}

impl Failure {
    /// Ends the process for `reason`; `error` is the sentence and its causes.
    pub(crate) fn new(reason: Reason, error: impl Into<anyhow::Error>) -> Self {
        Self { reason, error: error.into(), is_logged: false }
    }

    /// Whether a disk that is full, read-only or failing is the cause: waiting may help.
    pub(crate) fn is_of_disk(&self) -> bool {
        self.error.chain().any(|cause| {
            let storage = cause.downcast_ref::<heliograph_storage::Error>();
            let io = cause.downcast_ref::<std::io::Error>();
            storage.is_some_and(heliograph_storage::Error::is_of_disk)
                || io.is_some_and(heliograph_storage::is_disk_trouble)
        })
    }

    /// Writes it to the log: a process that logs says everything there.
    pub(crate) fn log(mut self) -> Self {
        tracing::error!("{self}");
        self.is_logged = true;
        self
    }

    /// Writes it to standard error, unless the log has it, and answers the code for the shell.
    pub(crate) fn report(&self) -> ExitCode {
        if !self.is_logged {
            eprintln!("heliograph: {self}");
        }
        self.exit_code()
    }

    /// The code for the shell.
    fn exit_code(&self) -> ExitCode {
        ExitCode::from(self.reason as u8)
    }

    /// Why.
    #[cfg(test)]
    pub(crate) fn reason(&self) -> Reason {
        self.reason
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The alternate form joins the causes with ": " on one line.
        write!(f, "{:#}", self.error)
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::new(Reason::Unexpected, error)
    }
}

/// Attaches a [`Reason`] to any error.
pub(crate) trait OrExit<T> {
    /// Ends the process for `reason` if this is an error.
    fn or_exit(self, reason: Reason) -> Result<T, Failure>;
}

impl<T, E: Into<anyhow::Error>> OrExit<T> for Result<T, E> {
    fn or_exit(self, reason: Reason) -> Result<T, Failure> {
        self.map_err(|error| Failure::new(reason, error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documented_codes_are_these() {
        let documented: Vec<u8> = include_str!("../../docs/operations.md")
            .lines()
            .skip_while(|line| !line.starts_with("| code |"))
            .skip(2)
            .map_while(|line| line.strip_prefix("| ")?.split(' ').next()?.parse().ok())
            .collect();
        let reasons = [
            Reason::Unexpected,
            Reason::Configuration,
            Reason::DataDirectory,
            Reason::AddressInUse,
            Reason::Cluster,
            Reason::Failed,
            Reason::Remote,
            Reason::Damaged,
            Reason::Interrupted,
        ];
        // 0 is success, 2 is clap's.
        let mut codes: Vec<u8> = reasons.iter().map(|reason| *reason as u8).chain([0, 2]).collect();
        codes.sort_unstable();
        assert_eq!(documented, codes);
    }
}
