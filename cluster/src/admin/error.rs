//! Why the cluster did not do what its operator asked.

/// Why the cluster did not do what its operator asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AdminError {
    /// There is no cluster yet: its first members have not found together.
    #[error("the cluster is not formed yet: start all of its first members")]
    NotFormed,
}

impl AdminError {
    /// Whether the same request may succeed later.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::NotFormed)
    }
}
