//! What opening the segment log found.

use std::{collections::BTreeMap, path::PathBuf};

use crate::{Error, GroupId, LogGroup};

/// Bytes that are not what was written, or are not there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The file, or the directory where a file is missing.
    pub path: PathBuf,
    /// Where in the file.
    pub offset: u64,
    /// What is wrong.
    pub reason: &'static str,
}

impl From<Damage> for Error {
    fn from(damage: Damage) -> Error {
        Error::Damage { path: damage.path, offset: damage.offset, reason: damage.reason }
    }
}

/// A write that never finished: nothing of it was durable, and it was cut.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tear {
    /// The last file of the log.
    pub path: PathBuf,
    /// Where the log ends.
    pub offset: u64,
}

/// What opening the log found.
///
/// A group in `damaged` has lost records that were durable. It takes no writes (each answers
/// [`Error::Damage`]), so it cannot vote, until [`LogStore::drop_group`](crate::LogStore::drop_group)
/// forgets it: the replica then comes back as a learner and is re-seeded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OpenReport {
    /// The groups that lost something, with where it was noticed.
    pub damaged: BTreeMap<GroupId, Damage>,
    /// What the log holds of each group.
    pub groups: BTreeMap<GroupId, LogGroup>,
    /// All places of damage, also those that cost no group anything.
    pub damage: Vec<Damage>,
    /// The unfinished write at the end, if there was one.
    pub tear: Option<Tear>,
    /// The segment files there are.
    pub segments: usize,
    /// Those that were not read, since their outlines tell what is in them.
    pub outlined: usize,
    /// The sound records in them.
    pub records: u64,
    /// The bytes read.
    pub bytes: u64,
    /// Which open of this log it is, from 1.
    pub epoch: u64,
}
