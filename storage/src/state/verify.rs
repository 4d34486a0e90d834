//! Reads rows and compares them with the digests that the last commits left.

use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;

use super::{
    digest::Digest,
    group_state::successor,
    keys::{GroupRow, PREFIX_BYTES},
    store::StateStore,
};
use crate::{Error, GroupId, OpenExpectations};

/// Rows read at once: 256 of 64 KiB are 16 MiB.
const PAGE_ROWS: usize = 256;

/// Groups read at the same time while a store is opened: more would only compete for the disk.
const THREADS_MAX: usize = 4;

/// What the log must hold by what the rows' last checkpoints noted: hand it to the log's
/// configuration.
///
/// # Errors
/// When the store cannot be read.
pub fn log_expectations(store: &dyn StateStore) -> Result<OpenExpectations, Error> {
    let mut expectations = OpenExpectations::default();
    for (key, row) in group_rows(store)? {
        let Some(group) = GroupRow::group(&key) else { continue };
        let row = GroupRow::decode(group, &row)?;
        if row.log_records > 0 {
            expectations.records_min.insert(group, row.log_records);
        }
    }
    Ok(expectations)
}

/// Reads all rows of all groups; the first that is not what was committed is the error.
pub(super) fn all(store: &dyn StateStore, groups: &Digest) -> Result<(), Error> {
    let rows = check_group_rows(store, groups)?;
    let next = AtomicUsize::new(0);
    let work = || -> Result<(), Error> {
        while let Some((group, row)) = rows.get(next.fetch_add(1, Ordering::Relaxed)) {
            check_rows(store, *group, row)?;
        }
        Ok(())
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(THREADS_MAX);
    std::thread::scope(|scope| {
        let spawn =
            |_| std::thread::Builder::new().name("state-verify".into()).spawn_scoped(scope, work);
        // Where no thread can be had this one does all.
        let helpers: Vec<_> = (1..threads.min(rows.len())).map_while(|at| spawn(at).ok()).collect();
        let mut result = work();
        for helper in helpers {
            let helped = helper.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            result = result.and(helped);
        }
        result
    })
}

/// The rows of all groups, which must be those of the last commit.
pub(super) fn check_group_rows(
    store: &dyn StateStore,
    groups: &Digest,
) -> Result<Vec<(GroupId, GroupRow)>, Error> {
    let mut digest = Digest::default();
    let mut rows = Vec::new();
    for (key, row) in group_rows(store)? {
        let Some(group) = GroupRow::group(&key) else { continue };
        digest.add(&key, &row);
        rows.push((group, GroupRow::decode(group, &row)?));
    }
    if digest != *groups {
        return Err(damage("state rows of the groups", "not those of the last commit"));
    }
    Ok(rows)
}

/// Reads all rows of a group, which must be those of its last checkpoint. Answers their bytes.
pub(super) fn check_rows(
    store: &dyn StateStore,
    group: GroupId,
    row: &GroupRow,
) -> Result<u64, Error> {
    let range = row.generation.range();
    let mut from = range.from;
    let mut digest = Digest::default();
    let mut bytes = 0;
    loop {
        let rows = store.scan(&from, &range.to, PAGE_ROWS)?;
        for (key, value) in &rows {
            digest.add(&key[PREFIX_BYTES..], value);
            bytes += (key.len() + value.len()) as u64;
        }
        match rows.last() {
            Some((last, _)) if rows.len() == PAGE_ROWS => from = successor(last),
            _ => break,
        }
    }
    match digest == row.digest {
        true => Ok(bytes),
        false => Err(digest_damage(group)),
    }
}

/// The rows of a group are not those of its last checkpoint.
pub(crate) fn digest_damage(group: GroupId) -> Error {
    crate::metrics::state_damaged();
    damage(&format!("state rows of group {}", group.0), "not the rows of the last checkpoint")
}

fn group_rows(store: &dyn StateStore) -> Result<Vec<(Bytes, Bytes)>, Error> {
    let range = GroupRow::range();
    store.scan(&range.from, &range.to, usize::MAX)
}

fn damage(what: &str, reason: &'static str) -> Error {
    Error::Damage { path: what.into(), offset: 0, reason }
}
