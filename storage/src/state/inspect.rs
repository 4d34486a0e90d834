//! Reading the database of a stopped node: what is wrong with it, group by group.

use std::path::Path;

use bytes::Bytes;

use super::{
    sled_config::SledConfig,
    sled_store::SledStore,
    verify::{check_group_rows, check_rows, log_expectations},
};
use crate::{Error, GroupId, Keyring, OpenExpectations};

/// What reading the database found.
#[derive(Debug)]
pub struct StateInspection {
    /// Each group.
    pub groups: Vec<StateFinding>,
    /// What the log must hold at least.
    pub expectations: OpenExpectations,
}

/// The rows of a group as they were found.
#[derive(Debug)]
pub struct StateFinding {
    /// The group.
    pub group: GroupId,
    /// The applied position that its last checkpoint noted.
    pub applied: Option<Bytes>,
    /// The bytes of its rows, or what is wrong with them.
    pub result: Result<u64, Error>,
}

/// Reads all rows of the database in `dir`. Opening sled writes to its files, so `dir` is a copy
/// that is thrown away. `keys` open what is
/// sealed: [`Keyring::inspect`]. `progress` hears of the bytes of rows as they are read.
///
/// # Errors
/// When the database as a whole cannot be read: the node would move it aside and rebuild it.
pub fn inspect_state(
    dir: &Path,
    config: &SledConfig,
    keys: &Keyring,
    progress: &mut dyn FnMut(u64),
) -> Result<StateInspection, Error> {
    let store = SledStore::open_unverified(dir, config, keys)?;
    let rows = check_group_rows(&store, &store.groups_digest())?;
    let mut groups = Vec::with_capacity(rows.len());
    for (group, row) in rows {
        let result = check_rows(&store, group, &row);
        progress(result.as_ref().copied().unwrap_or(0));
        groups.push(StateFinding { group, applied: row.applied, result });
    }
    Ok(StateInspection { groups, expectations: log_expectations(&store)? })
}
