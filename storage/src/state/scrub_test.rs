//! Rows that are not those of the last checkpoint, though each is sound by itself.

use std::sync::Arc;

use bytes::Bytes;

use super::{contract_test::bytes, *};
use crate::{
    Error, GroupId, MemorySnapshotDisk, MemorySnapshots, RowsRead, RowsWrite, SnapshotStore,
};

const GROUP: GroupId = GroupId(3);
const ROWS: u32 = 40;

fn key(row: u32) -> Bytes {
    bytes(&format!("key {row:03}"))
}

/// A group with rows in the store; none is read from the overlay.
fn filled(disk: &MemoryStateDisk) -> GroupState {
    let state = GroupState::open(Arc::new(MemoryStore::open(disk)), GROUP).unwrap();
    for value in ["old", "new"] {
        let mut write = state.write();
        (0..ROWS).for_each(|row| write.put(&key(row), bytes(value)));
        write.set_applied(bytes(value));
        let frozen = write.freeze().unwrap();
        drop(write);
        state.commit(frozen).unwrap();
    }
    state
}

fn pass(state: &GroupState, rows: usize) -> Result<u64, Error> {
    let mut bytes = 0;
    loop {
        let step = state.scrub(rows)?;
        bytes += step.bytes;
        if step.is_last {
            return Ok(bytes);
        }
    }
}

/// Where the group's own `key` stands.
fn stored(disk: &MemoryStateDisk, key: &Bytes) -> Bytes {
    let rows = disk.rows();
    rows.iter().map(|(key, _)| key).find(|stored| stored.ends_with(key)).unwrap().clone()
}

/// What a page of an earlier time brings back, one kind each.
fn reversions(disk: &MemoryStateDisk) -> [(Bytes, Option<Bytes>); 3] {
    let at = stored(disk, &key(17));
    let mut gone = at.to_vec();
    gone.push(b'x');
    [(at.clone(), Some(bytes("old"))), (at, None), (gone.into(), Some(bytes("deleted since")))]
}

#[test]
fn rows_as_committed_pass() {
    let disk = MemoryStateDisk::new();
    let state = filled(&disk);
    for rows in [1, 7, ROWS as usize, 1000] {
        assert!(pass(&state, rows).unwrap() > u64::from(ROWS) * 10);
    }
}

#[test]
fn row_of_an_earlier_time_is_found_by_the_scrub() {
    for kind in 0..3 {
        let disk = MemoryStateDisk::new();
        let state = filled(&disk);
        let (at, value) = reversions(&disk)[kind].clone();
        disk.overwrite(&at, value);
        assert!(matches!(pass(&state, 7), Err(Error::Damage { .. })), "kind {kind}");
        let mut write = state.write();
        write.put(&key(1), bytes("newer"));
        let frozen = write.freeze().unwrap();
        drop(write);
        assert!(matches!(state.commit(frozen), Err(Error::FailSafe)), "kind {kind}: on such rows");
        assert!(matches!(pass(&state, 100), Err(Error::Damage { .. })), "kind {kind}, again");
    }
}

#[test]
fn reverted_rows_never_reach_a_snapshot() {
    for kind in 0..3 {
        let disk = MemoryStateDisk::new();
        let state = filled(&disk);
        let (at, value) = reversions(&disk)[kind].clone();
        disk.overwrite(&at, value);
        let files = MemorySnapshotDisk::new();
        let snapshots = MemorySnapshots::open(&files).unwrap();
        let frozen = state.write().freeze().unwrap();
        let written = snapshots.write(&state, frozen);
        assert!(matches!(written, Err(Error::Damage { .. })), "kind {kind}: {written:?}");
        assert!(files.files().is_empty());
    }
}

#[test]
fn reverted_database_is_moved_aside_at_open() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state");
    // Each row alone is sound, and so is sled's log: only the digests know.
    let config = SledConfig { verify_rows: true, ..SledConfig::default() };
    let open = || SledStore::open(&path, config.clone()).unwrap();
    for kind in 0..5 {
        let (store, _) = open();
        let store: Arc<dyn StateStore> = Arc::new(store);
        let state = GroupState::open(Arc::clone(&store), GROUP).unwrap();
        let mut write = state.write();
        (0..ROWS).for_each(|row| write.put(&key(row), bytes("new")));
        write.set_applied(bytes("at 1"));
        let frozen = write.freeze().unwrap();
        drop(write);
        state.commit(frozen).unwrap();
        drop((state, store));
        let (store, opened) = open();
        assert_eq!(opened, StateOpen::Opened, "kind {kind}");
        let rows = store.scan(&[0, 0, 0x30, 1], &[0, 0, 0x30, 2], 99).unwrap();
        let group = [0, 0, 0, 0, 0, 0, 0, 3];
        match kind {
            0 => store.overwrite(&rows[5].0, Some(b"old")),
            1 => store.overwrite(&rows[5].0, None),
            2 => store.overwrite(&[&rows[5].0[..], b"x"].concat(), Some(b"deleted since")),
            // The group's row itself, of an earlier time or gone.
            3 => store.overwrite(&group, None),
            _ => {
                let row = keys::GroupRow::decode(GROUP, &store.get(&group).unwrap().unwrap());
                let row = keys::GroupRow { applied: Some(bytes("at 0")), ..row.unwrap() };
                store.overwrite(&group, Some(&row.encode()));
            }
        }
        drop(store);
        let (store, opened) = open();
        assert!(matches!(opened, StateOpen::Rebuilt { .. }), "kind {kind}: {opened:?}");
        assert!(store.scan(b"", &[0xff], 99).unwrap().len() < 2);
    }
}

#[test]
fn damaged_rows_are_erased_all_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = SledStore::open(&dir.path().join("state"), SledConfig::default()).unwrap();
    let store = Arc::new(store);
    let state = GroupState::open(store.clone(), GROUP).unwrap();
    let mut write = state.write();
    write.put(&bytes("a"), bytes("1"));
    write.set_applied(bytes("at 1"));
    let frozen = write.freeze().unwrap();
    drop(write);
    state.commit(frozen).unwrap();
    store.overwrite_raw(b"\0\0\x30\x01a", b"not what was written");
    state.erase().unwrap();
    let state = GroupState::open(store, GROUP).unwrap();
    assert_eq!(state.applied(), None);
    assert_eq!(state.read().scan(b"", &[0xff], 9).unwrap(), []);
    assert!(pass(&state, 9).is_ok());
}
