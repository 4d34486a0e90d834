//! Behaviour of a group's rows over a store.

use std::sync::Arc;

use super::{contract_test::bytes, *};
use crate::{Error, GroupId, RowsRead, RowsWrite};

const GROUP: GroupId = GroupId(3);

fn open(disk: &MemoryStateDisk) -> (Arc<MemoryStore>, GroupState) {
    let store = Arc::new(MemoryStore::open(disk));
    let state = GroupState::open(store.clone(), GROUP).unwrap();
    (store, state)
}

fn checkpoint(state: &GroupState) {
    let frozen = state.write().freeze().unwrap();
    state.commit(frozen).unwrap();
}

#[test]
fn checkpoint_makes_rows_and_applied_durable_together() {
    let disk = MemoryStateDisk::new();
    let (store, state) = open(&disk);
    let mut write = state.write();
    write.put(&bytes("k"), bytes("v"));
    write.set_applied(bytes("1"));
    drop(write);
    checkpoint(&state);
    let mut write = state.write();
    write.put(&bytes("k"), bytes("later"));
    write.set_applied(bytes("2"));
    drop(write);
    assert_eq!(state.applied(), Some(bytes("2")));
    assert_eq!(state.durable_applied(), Some(bytes("1")));
    store.crash();
    let (_, state) = open(&disk);
    assert_eq!(state.applied(), Some(bytes("1")));
    assert_eq!(state.read().get(b"k").unwrap(), Some(bytes("v")));
}

#[test]
fn new_row_deleted_before_the_checkpoint_never_reaches_the_store() {
    let disk = MemoryStateDisk::new();
    let (_, state) = open(&disk);
    let mut write = state.write();
    write.put_new(&bytes("k"), bytes("v"));
    write.delete(&bytes("k"));
    let frozen = write.freeze().unwrap();
    drop(write);
    assert_eq!(frozen.rows(), 0);
    state.commit(frozen).unwrap();
    assert_eq!(disk.rows(), []);
    assert_eq!(state.overlay_bytes(), 0);
}

#[test]
fn only_one_layer_is_frozen_and_a_dropped_one_is_handed_out_again() {
    let disk = MemoryStateDisk::new();
    let (_, state) = open(&disk);
    state.write().put(&bytes("a"), bytes("1"));
    let frozen = state.write().freeze().unwrap();
    state.write().put(&bytes("b"), bytes("2"));
    assert!(state.write().freeze().is_none());
    drop(frozen);
    let frozen = state.write().freeze().unwrap();
    assert_eq!(frozen.rows(), 1);
    assert_eq!(state.read().scan(b"a", b"z", 9).unwrap().len(), 2);
    state.commit(frozen).unwrap();
    assert_eq!(state.read().scan(b"a", b"z", 9).unwrap().len(), 2);
    checkpoint(&state);
    assert_eq!(disk.rows().len(), 3);
}

#[test]
fn failed_commit_leaves_the_layer_readable() {
    let disk = MemoryStateDisk::new();
    let (store, state) = open(&disk);
    state.write().put(&bytes("a"), bytes("1"));
    store.fail_after(0, Error::Closed);
    let frozen = state.write().freeze().unwrap();
    assert!(state.commit(frozen).is_err());
    assert_eq!(state.read().get(b"a").unwrap(), Some(bytes("1")));
    let frozen = state.write().freeze().unwrap();
    assert!(matches!(state.commit(frozen), Err(Error::FailSafe)));
    assert_eq!(state.read().get(b"a").unwrap(), Some(bytes("1")));
}

#[test]
fn groups_share_a_store_without_seeing_each_other() {
    let disk = MemoryStateDisk::new();
    let store = Arc::new(MemoryStore::open(&disk));
    let states: Vec<_> =
        (0..3).map(|group| GroupState::open(store.clone(), GroupId(group)).unwrap()).collect();
    for (number, state) in states.iter().enumerate() {
        let mut write = state.write();
        write.put(&bytes("k"), bytes(&number.to_string()));
        write.set_applied(bytes(&number.to_string()));
        drop(write);
        checkpoint(state);
    }
    for (number, state) in states.iter().enumerate() {
        let row = (bytes("k"), bytes(&number.to_string()));
        assert_eq!(state.read().scan(b"", b"z", 9).unwrap(), [row]);
        let reopened = GroupState::open(store.clone(), state.group()).unwrap();
        assert_eq!(reopened.applied(), Some(bytes(&number.to_string())));
    }
}

#[test]
#[should_panic(expected = "exceeds")]
fn oversized_value_panics_before_it_is_applied() {
    let (_, state) = open(&MemoryStateDisk::new());
    state.write().put(&bytes("k"), vec![0; VALUE_BYTES_MAX + 1].into());
}

#[test]
fn erased_group_leaves_no_row_and_can_be_used_again() {
    let disk = MemoryStateDisk::new();
    let (store, state) = open(&disk);
    let other = GroupState::open(store.clone(), GroupId(4)).unwrap();
    for state in [&state, &other] {
        let mut write = state.write();
        write.put(&bytes("k"), bytes("v"));
        write.set_applied(bytes("1"));
        drop(write);
        checkpoint(state);
        state.write().put(&bytes("l"), bytes("v"));
    }
    state.erase().unwrap();
    assert_eq!(state.applied(), None);
    assert_eq!(state.read().scan(b"", b"z", 9).unwrap(), []);
    assert_eq!(disk.rows().len(), 2, "those of the other group");
    state.write().put(&bytes("m"), bytes("v"));
    checkpoint(&state);
    let reopened = GroupState::open(store, GROUP).unwrap();
    assert_eq!(reopened.read().scan(b"", b"z", 9).unwrap(), [(bytes("m"), bytes("v"))]);
    assert_eq!(other.read().scan(b"", b"z", 9).unwrap().len(), 2);
}

#[test]
fn crash_in_the_middle_of_an_erase_leaves_all_rows_or_none() {
    for outcome in [Outcome::Kept, Outcome::Lost] {
        for commits in 0..3 {
            let disk = MemoryStateDisk::new();
            let (store, state) = open(&disk);
            state.write().put(&bytes("k"), bytes("v"));
            state.write().set_applied(bytes("1"));
            checkpoint(&state);
            store.crash_after(commits, outcome);
            state.erase().unwrap_err();
            let (_, state) = open(&disk);
            let rows = state.read().scan(b"", b"z", 9).unwrap().len();
            assert_eq!(rows, usize::from(state.applied().is_some()));
            state.erase().unwrap();
            assert_eq!(disk.rows(), []);
        }
    }
}
