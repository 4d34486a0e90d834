//! What scrubs have in common: reading everything there is, a little at a time.

/// What one step of a scrub did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ScrubStep {
    /// How many bytes it read, about.
    pub bytes: u64,
    /// How many damaged places it found.
    pub damages: u32,
    /// Whether all was read: the next step begins anew.
    pub is_last: bool,
}
