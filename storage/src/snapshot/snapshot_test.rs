//! Snapshots of both media: written, streamed, installed, damaged.

use std::sync::Arc;

use bytes::Bytes;

use super::*;
use crate::{Error, GroupId, GroupState, MemoryStateDisk, MemoryStore, RowsRead, RowsWrite};

const GROUP: GroupId = GroupId(2);

fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

fn state(disk: &MemoryStateDisk) -> GroupState {
    GroupState::open(Arc::new(MemoryStore::open(disk)), GROUP).unwrap()
}

fn fill(state: &GroupState, rows: std::ops::Range<u32>, applied: &str) {
    let mut write = state.write();
    for row in rows {
        let value = vec![row as u8; (row as usize * 97) % 5000];
        write.put(Bytes::from(format!("key {row:06}")), value.into());
    }
    write.set_applied(bytes(applied));
}

fn write(snapshots: &dyn SnapshotStore, state: &GroupState) -> SnapshotInfo {
    let frozen = state.write().freeze().unwrap();
    snapshots.write(state, frozen).unwrap()
}

fn all(state: &GroupState) -> Vec<(Bytes, Bytes)> {
    state.read().scan(b"", &[0xff], usize::MAX).unwrap()
}

fn stream(from: &dyn SnapshotStore, info: &SnapshotInfo, to: &dyn SnapshotStore) -> SnapshotInfo {
    let mut receiver = to.receive(info.group, info.applied.clone(), info.bytes).unwrap();
    while receiver.offset() < info.bytes {
        let offset = receiver.offset();
        receiver.append(offset, from.read_chunk(info, offset, 100_001).unwrap()).unwrap();
        let again = receiver.append(offset, bytes("x"));
        assert!(matches!(again, Err(Error::OutOfOrder { .. })));
    }
    assert_eq!(from.read_chunk(info, info.bytes, 9).unwrap(), Bytes::new());
    receiver.finish().unwrap()
}

fn snapshot_streamed_and_installed_replaces_all_rows(
    from: &dyn SnapshotStore,
    to: &dyn SnapshotStore,
) {
    let source = state(&MemoryStateDisk::new());
    fill(&source, 0..700, "at 7");
    let info = write(from, &source);
    assert_eq!(from.current(GROUP), Some(info.clone()));

    let target_disk = MemoryStateDisk::new();
    let target = state(&target_disk);
    fill(&target, 500..900, "at 3");
    let frozen = target.write().freeze().unwrap();
    target.commit(frozen).unwrap();
    fill(&target, 900..910, "at 4");
    let received = stream(from, &info, to);
    to.install(&target, &received).unwrap();
    assert_eq!(all(&target), all(&source));
    assert_eq!(target.applied(), Some(bytes("at 7")));
    assert_eq!(target.durable_applied(), Some(bytes("at 7")));

    let reopened = state(&target_disk);
    assert_eq!(all(&reopened), all(&source));
    let frozen = reopened.write().freeze().unwrap();
    reopened.commit(frozen).unwrap();
    assert_eq!(target_disk.rows().len(), 700 + 1, "the old generation is swept");
}

#[test]
fn memory_snapshot_streamed_and_installed_replaces_all_rows() {
    let open = || MemorySnapshots::open(&MemorySnapshotDisk::new()).unwrap();
    snapshot_streamed_and_installed_replaces_all_rows(&open(), &open());
}

#[test]
fn file_snapshot_streamed_and_installed_replaces_all_rows() {
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let [from, to] = dirs.each_ref().map(|dir| FileSnapshots::open(dir.path()).unwrap());
    snapshot_streamed_and_installed_replaces_all_rows(&from, &to);
}
