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
        write.put(&Bytes::from(format!("key {row:06}")), value.into());
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

/// Both media, each behind what tests need of it.
struct Medium {
    snapshots: Box<dyn SnapshotStore>,
    _dir: Option<tempfile::TempDir>,
}

fn media() -> [Medium; 2] {
    let dir = tempfile::tempdir().unwrap();
    let files = FileSnapshots::open(dir.path()).unwrap();
    let memory = MemorySnapshots::open(&MemorySnapshotDisk::new()).unwrap();
    [
        Medium { snapshots: Box::new(files), _dir: Some(dir) },
        Medium { snapshots: Box::new(memory), _dir: None },
    ]
}

#[test]
fn nothing_is_frozen_while_a_snapshot_is_written() {
    let source = state(&MemoryStateDisk::new());
    fill(&source, 0..10, "at 1");
    let frozen = source.write().freeze().unwrap();
    let hold = source.commit_and_hold(frozen).unwrap();
    fill(&source, 10..20, "at 2");
    assert!(source.write().freeze().is_none());
    assert_eq!(hold.rows_after(None, 99).unwrap().len(), 10);
    assert_eq!(hold.applied(), Some(&bytes("at 1")));
    drop(hold);
    assert!(source.write().freeze().is_some());
}

#[test]
fn snapshot_holds_the_frozen_rows_alone() {
    for Medium { snapshots, .. } in media() {
        let source = state(&MemoryStateDisk::new());
        fill(&source, 0..10, "at 1");
        let frozen = source.write().freeze().unwrap();
        fill(&source, 10..20, "at 2");
        let info = snapshots.write(&source, frozen).unwrap();
        assert_eq!(info.applied, bytes("at 1"));
        let target = state(&MemoryStateDisk::new());
        snapshots.install(&target, &info).unwrap();
        assert_eq!(all(&target).len(), 10);
        assert_eq!(all(&source).len(), 20);
    }
}

#[test]
fn snapshot_of_no_rows_is_written_and_installed() {
    for Medium { snapshots, .. } in media() {
        let source = state(&MemoryStateDisk::new());
        source.write().set_applied(bytes("at 1"));
        let info = write(&*snapshots, &source);
        let target = state(&MemoryStateDisk::new());
        fill(&target, 0..3, "at 0");
        snapshots.install(&target, &info).unwrap();
        assert_eq!(all(&target), []);
        assert_eq!(target.applied(), Some(bytes("at 1")));
    }
}

#[test]
fn snapshot_in_the_middle_of_a_read_outlives_its_successor() {
    for Medium { snapshots, .. } in media() {
        let source = state(&MemoryStateDisk::new());
        fill(&source, 0..100, "at 1");
        let first = write(&*snapshots, &source);
        let head = snapshots.read_chunk(&first, 0, 100).unwrap();
        assert_eq!(head.len(), 100);
        fill(&source, 100..200, "at 2");
        let second = write(&*snapshots, &source);
        assert_eq!(snapshots.current(GROUP), Some(second.clone()));
        snapshots.read_chunk(&first, 100, usize::MAX).unwrap();
        let gone = snapshots.read_chunk(&first, 0, 100);
        assert!(matches!(gone, Err(Error::SnapshotGone)), "{gone:?}");
        fill(&source, 200..300, "at 3");
        write(&*snapshots, &source);
        let gone = snapshots.read_chunk(&second, 0, 100);
        assert!(matches!(gone, Err(Error::SnapshotGone)), "never read, not kept: {gone:?}");
    }
}

#[test]
fn received_snapshot_can_be_installed_after_a_newer_one_was_written() {
    for Medium { snapshots, .. } in media() {
        let source = state(&MemoryStateDisk::new());
        fill(&source, 0..50, "at 9");
        let peer = MemorySnapshots::open(&MemorySnapshotDisk::new()).unwrap();
        let info = write(&peer, &source);
        let target = state(&MemoryStateDisk::new());
        fill(&target, 0..5, "at 3");
        let received = stream(&peer, &info, &*snapshots);
        write(&*snapshots, &target);
        snapshots.install(&target, &received).unwrap();
        assert_eq!(all(&target), all(&source));
    }
}

#[test]
fn layer_frozen_before_an_install_is_not_committed_over_it() {
    for Medium { snapshots, .. } in media() {
        let source = state(&MemoryStateDisk::new());
        fill(&source, 0..50, "at 9");
        let info = write(&*snapshots, &source);
        let disk = MemoryStateDisk::new();
        let target = state(&disk);
        fill(&target, 60..70, "at 3");
        let frozen = target.write().freeze().unwrap();
        snapshots.install(&target, &info).unwrap();
        target.commit(frozen).unwrap();
        assert_eq!(all(&target), all(&source));
        let reopened = state(&disk);
        assert_eq!(all(&reopened), all(&source));
        assert_eq!(reopened.applied(), Some(bytes("at 9")));
    }
}

/// A crash at each commit of an install leaves the rows before or after it, never a mixture, and
/// the install can be repeated.
#[test]
fn crash_in_the_middle_of_an_install_leaves_old_or_new_rows() {
    let snapshots = MemorySnapshots::open(&MemorySnapshotDisk::new()).unwrap();
    let source = state(&MemoryStateDisk::new());
    let mut write_rows = source.write();
    for row in 0..300_u32 {
        write_rows.put(&Bytes::from(format!("new {row:04}")), vec![1; 60_000].into());
    }
    write_rows.set_applied(bytes("at 9"));
    drop(write_rows);
    let info = write(&snapshots, &source);
    let mut seen = [0; 2];
    for outcome in [crate::Outcome::Kept, crate::Outcome::Lost] {
        for commits in 0.. {
            let disk = MemoryStateDisk::new();
            let old = state(&disk);
            fill(&old, 0..40, "at 3");
            let frozen = old.write().freeze().unwrap();
            old.commit(frozen).unwrap();
            let old_rows = all(&old);

            let store = Arc::new(MemoryStore::open(&disk));
            let target = GroupState::open(store.clone(), GROUP).unwrap();
            store.crash_after(commits, outcome);
            let is_done = snapshots.install(&target, &info).is_ok();
            let reopened = state(&disk);
            if reopened.applied() == Some(bytes("at 9")) {
                assert_eq!(all(&reopened), all(&source));
                seen[1] += 1;
            } else {
                assert_eq!(reopened.applied(), Some(bytes("at 3")));
                assert_eq!(all(&reopened), old_rows);
                seen[0] += 1;
            }
            snapshots.install(&reopened, &info).unwrap();
            assert_eq!(all(&reopened), all(&source));
            if is_done {
                break;
            }
        }
    }
    assert!(seen[0] >= 4 && seen[1] >= 2, "{seen:?}");
}

#[test]
fn failed_install_leaves_rows_and_checkpoints_as_they_were() {
    let snapshots = MemorySnapshots::open(&MemorySnapshotDisk::new()).unwrap();
    let source = state(&MemoryStateDisk::new());
    fill(&source, 0..50, "at 9");
    let info = write(&snapshots, &source);
    let store = Arc::new(MemoryStore::open(&MemoryStateDisk::new()));
    let target = GroupState::open(store.clone(), GROUP).unwrap();
    fill(&target, 60..70, "at 3");
    store.fail_after(0, Error::Closed);
    snapshots.install(&target, &info).unwrap_err();
    assert_eq!(target.applied(), Some(bytes("at 3")));
    assert_eq!(all(&target).len(), 10);
    assert!(target.write().freeze().is_some());
}

#[test]
fn crash_while_a_snapshot_is_written_or_received_leaves_the_one_before() {
    let disk = MemorySnapshotDisk::new();
    let snapshots = MemorySnapshots::open(&disk).unwrap();
    let source = state(&MemoryStateDisk::new());
    fill(&source, 0..50, "at 1");
    let first = write(&snapshots, &source);
    snapshots.crash();
    fill(&source, 50..60, "at 2");
    let frozen = source.write().freeze().unwrap();
    assert!(matches!(snapshots.write(&source, frozen), Err(Error::Closed)));
    let reopened = MemorySnapshots::open(&disk).unwrap();
    assert_eq!(reopened.current(GROUP), Some(first));
}

#[test]
fn files_of_an_earlier_run_are_found_and_its_remains_removed() {
    let dir = tempfile::tempdir().unwrap();
    let names = || {
        let entries = std::fs::read_dir(dir.path()).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    };
    let snapshots = FileSnapshots::open(dir.path()).unwrap();
    let source = state(&MemoryStateDisk::new());
    fill(&source, 0..50, "at 1");
    write(&snapshots, &source);
    let old = std::fs::read(dir.path().join("2-1.snapshot")).unwrap();
    fill(&source, 50..60, "at 2");
    let second = write(&snapshots, &source);
    assert_eq!(names(), ["2-2.snapshot"]);
    let unfinished = snapshots.receive(GROUP, bytes("at 5"), 10).unwrap();
    assert_eq!(names().len(), 2);
    drop(unfinished);
    assert_eq!(names(), ["2-2.snapshot"]);
    drop(snapshots);
    std::fs::write(dir.path().join("2-1.snapshot"), old).unwrap();
    std::fs::write(dir.path().join("7.part"), b"half").unwrap();
    std::fs::write(dir.path().join("note.txt"), b"not ours").unwrap();
    let snapshots = FileSnapshots::open(dir.path()).unwrap();
    assert_eq!(names(), ["2-2.snapshot", "note.txt"]);
    assert_eq!(snapshots.current(GROUP), Some(second.clone()));
    assert_eq!(snapshots.current(GroupId(9)), None);
    let target = state(&MemoryStateDisk::new());
    snapshots.install(&target, &second).unwrap();
    assert_eq!(all(&target).len(), 60);
}

/// Whatever is done to the file, nothing of it is installed or handed to a peer as sound.
#[test]
fn damaged_or_cut_snapshot_is_refused() {
    let disk = MemorySnapshotDisk::new();
    let snapshots = MemorySnapshots::open(&disk).unwrap();
    let source = state(&MemoryStateDisk::new());
    fill(&source, 0..120, "at 1");
    let info = write(&snapshots, &source);
    drop(snapshots);
    let name = "2-1.snapshot";
    let whole = disk.files()[name].to_vec();
    let len = whole.len();
    assert!(len > 3 * 65_536, "several blocks");
    let flips = (0..len).step_by(1_777).chain([0, 8, 12, 16, 65_535, 65_536, len - 1]);
    let mut cases: Vec<Vec<u8>> = flips
        .map(|at| {
            let mut flipped = whole.clone();
            flipped[at] ^= 1;
            flipped
        })
        .collect();
    cases.extend([0, 1, 4, 5, 65_536, 2 * 65_536, len - 1].map(|at| whole[..at].to_vec()));
    let swapped = [&whole[..65_536], &whole[131_072..196_608], &whole[65_536..131_072]].concat();
    cases.push([&swapped[..], &whole[196_608..]].concat());
    cases.push([&whole[..], &[0; 100]].concat());
    for content in cases {
        disk.wipe();
        disk.overwrite(name, content.clone().into());
        let reopened = MemorySnapshots::open(&disk).unwrap();
        let Some(found) = reopened.current(GROUP) else {
            assert!(disk.files().contains_key("2-1.damaged"));
            continue;
        };
        let target = state(&MemoryStateDisk::new());
        fill(&target, 0..3, "at 0");
        let refused = reopened.install(&target, &found);
        assert!(matches!(refused, Err(Error::Damage { .. })), "{refused:?}");
        assert_eq!(all(&target).len(), 3);
        assert_eq!(target.applied(), Some(bytes("at 0")));

        let peer = MemorySnapshots::open(&MemorySnapshotDisk::new()).unwrap();
        let bytes = content.len() as u64;
        let mut receiver = peer.receive(GROUP, info.applied.clone(), bytes).unwrap();
        receiver.append(0, content.into()).unwrap();
        assert!(matches!(receiver.finish(), Err(Error::Damage { .. })));
        assert_eq!(peer.current(GROUP), None);
    }
}

#[test]
fn damaged_block_is_not_handed_to_a_peer() {
    let disk = MemorySnapshotDisk::new();
    let snapshots = MemorySnapshots::open(&disk).unwrap();
    let source = state(&MemoryStateDisk::new());
    fill(&source, 0..120, "at 1");
    write(&snapshots, &source);
    let mut content = disk.files()["2-1.snapshot"].to_vec();
    content[70_000] ^= 1;
    disk.overwrite("2-1.snapshot", content.into());
    let snapshots = MemorySnapshots::open(&disk).unwrap();
    let info = snapshots.current(GROUP).unwrap();
    assert!(matches!(snapshots.verify(&info), Err(Error::Damage { offset: 65_536, .. })));
    assert_eq!(snapshots.read_chunk(&info, 0, 65_536).unwrap().len(), 65_536);
    let refused = snapshots.read_chunk(&info, 60_000, 6_000);
    assert!(matches!(refused, Err(Error::Damage { offset: 65_536, .. })), "{refused:?}");
    assert_eq!(snapshots.read_chunk(&info, 131_072, 10).unwrap().len(), 10);
}

#[test]
fn snapshot_that_is_not_what_was_announced_is_refused() {
    let peer = MemorySnapshots::open(&MemorySnapshotDisk::new()).unwrap();
    let source = state(&MemoryStateDisk::new());
    fill(&source, 0..20, "at 1");
    let info = write(&peer, &source);
    let content = peer.read_chunk(&info, 0, usize::MAX).unwrap();
    for Medium { snapshots, .. } in media() {
        let receive = |group, applied, bytes| snapshots.receive(group, bytes_of(applied), bytes);
        for (group, applied) in [(GroupId(3), "at 1"), (GROUP, "at 2")] {
            let mut receiver = receive(group, applied, info.bytes).unwrap();
            receiver.append(0, content.clone()).unwrap();
            assert!(matches!(receiver.finish(), Err(Error::Damage { .. })));
        }
        let mut short = receive(GROUP, "at 1", info.bytes + 1).unwrap();
        short.append(0, content.clone()).unwrap();
        assert!(matches!(short.finish(), Err(Error::OutOfOrder { .. })));
        let mut long = receive(GROUP, "at 1", info.bytes - 1).unwrap();
        assert!(matches!(long.append(0, content.clone()), Err(Error::TooLarge { .. })));
        let huge = snapshots.receive(GROUP, vec![0; 1 << 20].into(), 9);
        assert!(matches!(huge, Err(Error::TooLarge { .. })));
        assert_eq!(snapshots.current(GROUP), None);
    }
}

fn bytes_of(text: &str) -> Bytes {
    bytes(text)
}

#[test]
fn removed_snapshot_is_gone_from_the_disk_too() {
    let dir = tempfile::tempdir().unwrap();
    let snapshots = FileSnapshots::open(dir.path()).unwrap();
    let source = state(&MemoryStateDisk::new());
    fill(&source, 0..20, "at 1");
    let info = write(&snapshots, &source);
    snapshots.verify(&info).unwrap();
    snapshots.remove(GROUP);
    assert_eq!(snapshots.current(GROUP), None);
    assert!(matches!(snapshots.verify(&info), Err(Error::SnapshotGone)));
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

/// The layout, byte by byte, as docs/reference/snapshot-format.md shows it.
#[test]
fn layout_stays() {
    let disk = MemorySnapshotDisk::new();
    let snapshots = MemorySnapshots::open(&disk).unwrap();
    let source = state(&MemoryStateDisk::new());
    let mut rows = source.write();
    rows.put(&bytes("a"), bytes("1"));
    rows.put(&bytes("bc"), Bytes::new());
    rows.set_applied(bytes("at 7"));
    drop(rows);
    write(&snapshots, &source);
    let hex: String =
        disk.files()["2-1.snapshot"].iter().map(|byte| format!("{byte:02x}")).collect();
    let expected = concat!(
        "48454c494f534e50", // HELIOSNP
        "00000001",         // version
        "00000002",         // group
        "00000004",         // length of the applied position
        "61742037",         // at 7
        "01",
        "0001",
        "00000001",
        "61",
        "31", // a = 1
        "01",
        "0002",
        "00000000",
        "6263", // bc =
        "00",
        "0000000000000002", // end, two rows
        "1959f8b6"          // CRC-32C of block 0
    );
    assert_eq!(hex, expected);
    let reference = include_str!("../../../docs/reference/snapshot-format.md");
    assert!(reference.replace(char::is_whitespace, "").contains(expected));
}
