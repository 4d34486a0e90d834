//! Snapshots that are sealed: nothing legible on disk, the same bytes for peers, keys that go.

use std::sync::Arc;

use bytes::Bytes;

use super::*;
use crate::{
    Error, GroupId, GroupState, Keyring, MemoryKeyDisk, MemoryStateDisk, MemoryStore, Retirement,
    RowsRead, RowsWrite,
};

const GROUP: GroupId = GroupId(2);
const NAME: &str = "2-1.snapshot";

fn keys(disk: &MemoryKeyDisk, fill: u8) -> Keyring {
    Keyring::open_memory(disk, Box::new(move |bytes| bytes.fill(fill)), 0).unwrap()
}

fn state() -> GroupState {
    let store = MemoryStore::open(&MemoryStateDisk::new());
    GroupState::open(Arc::new(store), GROUP).unwrap()
}

fn source(rows: u32, mark: &str) -> GroupState {
    let state = state();
    let mut write = state.write();
    for row in 0..rows {
        let value = format!("{mark} {row} ").repeat(200);
        write.put(&Bytes::from(format!("key {row:06}")), value.into());
    }
    write.set_applied(Bytes::from(format!("at {rows}")));
    drop(write);
    state
}

fn write(snapshots: &dyn SnapshotStore, state: &GroupState) -> SnapshotInfo {
    let frozen = state.write().freeze().unwrap();
    snapshots.write(state, frozen).unwrap()
}

fn content(from: &dyn SnapshotStore, info: &SnapshotInfo, chunk: usize) -> Vec<u8> {
    let mut out = Vec::new();
    while (out.len() as u64) < info.bytes {
        out.extend_from_slice(&from.read_chunk(info, out.len() as u64, chunk).unwrap());
    }
    out
}

fn contains(bytes: &[u8], text: &[u8]) -> bool {
    bytes.windows(text.len()).any(|window| window == text)
}

fn all(state: &GroupState) -> Vec<(Bytes, Bytes)> {
    state.read().scan(b"", &[0xff], usize::MAX).unwrap()
}

#[test]
fn sealed_snapshot_is_illegible_and_streams_as_an_unsealed_one() {
    let source = source(300, "secret");
    let plain = MemorySnapshots::open(&MemorySnapshotDisk::new()).unwrap();
    let expected = write(&plain, &source);
    let disk = MemorySnapshotDisk::new();
    let sealed = MemorySnapshots::open_sealed(&disk, keys(&MemoryKeyDisk::new(), 7)).unwrap();
    let info = write(&sealed, &source);
    assert_eq!(info.bytes, expected.bytes);
    assert!(info.bytes > 5 * 65_536);
    let bytes = content(&plain, &expected, 99_991);
    for chunk in [1_000, 65_536, 65_560, 1 << 20] {
        assert_eq!(content(&sealed, &info, chunk), bytes, "chunks of {chunk}");
    }
    assert!(contains(&bytes, b"secret") && !contains(&disk.files()[NAME], b"secret"));
    sealed.verify(&info).unwrap();

    let dir = tempfile::tempdir().unwrap();
    let own = keys(&MemoryKeyDisk::new(), 9);
    let peer = FileSnapshots::open_sealed(dir.path(), own).unwrap();
    let mut receiver = peer.receive(GROUP, info.applied.clone(), info.bytes).unwrap();
    for (part, chunk) in bytes.chunks(50_001).enumerate() {
        receiver.append(part as u64 * 50_001, Bytes::copy_from_slice(chunk)).unwrap();
    }
    let received = receiver.finish().unwrap();
    let target = state();
    peer.install(&target, &received).unwrap();
    assert_eq!(all(&target), all(&source));
    assert_eq!(content(&peer, &received, 7_777), bytes);
    assert!(!contains(&std::fs::read(dir.path().join(NAME)).unwrap(), b"secret"));
}

/// Also blocks of another snapshot of the same group, sealed with the same key.
#[test]
fn damaged_cut_or_exchanged_block_is_refused() {
    let key_disk = MemoryKeyDisk::new();
    let disk = MemorySnapshotDisk::new();
    let snapshots = MemorySnapshots::open_sealed(&disk, keys(&key_disk, 7)).unwrap();
    write(&snapshots, &source(90, "older"));
    let older = disk.files()[NAME].to_vec();
    snapshots.remove(GROUP);
    let info = write(&snapshots, &source(90, "newer"));
    let whole = disk.files()[NAME].to_vec();
    assert_eq!(whole.len(), older.len());
    let len = whole.len();
    let flip = |at: usize| {
        let mut flipped = whole.clone();
        flipped[at] ^= 1;
        flipped
    };
    let ends = [0, 7, 8, 12, 16, 31, 32, 39, 40, 65_591, 65_592, len - 5, len - 1];
    let mut cases: Vec<Vec<u8>> = (0..len).step_by(4_001).chain(ends).map(flip).collect();
    cases.extend([0, 31, 32, 33, 60, 65_592, len - 1].map(|at| whole[..at].to_vec()));
    let block = 32 + 65_560..32 + 2 * 65_560;
    let mut exchanged = whole.clone();
    exchanged[block.clone()].copy_from_slice(&older[block.clone()]);
    assert_ne!(exchanged, whole);
    cases.push(exchanged.clone());
    cases.push([&whole[..32], &whole[block], &whole[32..]].concat());
    for (case, content) in cases.into_iter().enumerate() {
        disk.wipe();
        disk.overwrite(NAME, content.into());
        let reopened = MemorySnapshots::open_sealed(&disk, keys(&key_disk, 7)).unwrap();
        let Some(found) = reopened.current(GROUP) else { continue };
        let refused = reopened.install(&state(), &found);
        assert!(matches!(refused, Err(Error::Damage { .. })), "{case}: {refused:?} {info:?}");
    }
    // The scrub finds it where it stands.
    disk.overwrite(NAME, exchanged.into());
    let reopened = MemorySnapshots::open_sealed(&disk, keys(&key_disk, 7)).unwrap();
    let found = reopened.current(GROUP).unwrap();
    assert!(reopened.scrub(&found, 0, 65_536).is_ok());
    let scrubbed = reopened.scrub(&found, 65_536, 65_536);
    assert!(matches!(scrubbed, Err(Error::Damage { offset: 65_592, .. })), "{scrubbed:?}");
}

fn retire(keys: &Keyring) {
    while keys.retire_step().unwrap() != Retirement::Complete {}
}

#[test]
fn outdated_or_unsealed_snapshot_is_sealed_anew_while_a_peer_reads_it() {
    let dir = tempfile::tempdir().unwrap();
    let source = source(200, "secret");
    let info = write(&FileSnapshots::open(dir.path()).unwrap(), &source);
    let file = dir.path().join(NAME);
    assert!(contains(&std::fs::read(&file).unwrap(), b"secret"));

    let key_disk = MemoryKeyDisk::new();
    let ring = keys(&key_disk, 7);
    let snapshots = FileSnapshots::open_sealed(dir.path(), ring.clone()).unwrap();
    assert_eq!(snapshots.current(GROUP), Some(info.clone()), "an unsealed file is read");
    let bytes = content(&snapshots, &info, 1 << 20);
    let head = snapshots.read_chunk(&info, 0, 70_000).unwrap();
    for epoch in 1..3 {
        let before = ring.status().unwrap().current;
        ring.rotate(epoch).unwrap();
        retire(&ring);
        assert!(!key_disk.files().contains_key(&before));
        assert!(!contains(&std::fs::read(&file).unwrap(), b"secret"));
        assert_eq!(snapshots.current(GROUP), Some(info.clone()));
        let rest = snapshots.read_chunk(&info, 70_000, 1 << 22).unwrap();
        assert_eq!([&head[..], &rest[..]].concat(), bytes);
    }
    drop(snapshots);
    let snapshots = FileSnapshots::open_sealed(dir.path(), keys(&key_disk, 8)).unwrap();
    let target = state();
    snapshots.install(&target, &info).unwrap();
    assert_eq!(all(&target), all(&source));
}

#[test]
fn snapshot_that_a_peer_never_finished_keeps_no_key_alive() {
    let plain = MemorySnapshots::open(&MemorySnapshotDisk::new()).unwrap();
    let info = write(&plain, &source(50, "secret"));
    let bytes = Bytes::from(content(&plain, &info, 1 << 20));
    let key_disk = MemoryKeyDisk::new();
    let ring = keys(&key_disk, 7);
    let own = MemorySnapshots::open_sealed(&MemorySnapshotDisk::new(), ring.clone()).unwrap();
    let receive = || own.receive(GROUP, info.applied.clone(), info.bytes).unwrap();
    let mut early = receive();
    early.append(0, bytes.clone()).unwrap();
    ring.rotate(1).unwrap();
    retire(&ring);
    assert_eq!(key_disk.files().len(), 1);
    assert!(matches!(early.finish(), Err(Error::SnapshotGone)));
    let mut late = receive();
    late.append(0, bytes).unwrap();
    let received = late.finish().unwrap();
    own.verify(&received).unwrap();
}

#[test]
fn snapshot_without_its_key_is_set_aside_and_without_any_key_refused() {
    let key_disk = MemoryKeyDisk::new();
    let disk = MemorySnapshotDisk::new();
    let snapshots = MemorySnapshots::open_sealed(&disk, keys(&key_disk, 7)).unwrap();
    write(&snapshots, &source(9, "secret"));
    drop(snapshots);
    for other in [Keyring::unsealed(), keys(&MemoryKeyDisk::new(), 9)] {
        let refused = MemorySnapshots::open_sealed(&disk, other).map(|_| ());
        assert!(matches!(refused, Err(Error::KeysMissing { .. })), "{refused:?}");
        assert!(disk.files().contains_key(NAME), "nothing is given up");
    }
    let sealed_with = key_disk.files().into_keys().next().unwrap();
    drop(keys(&key_disk, 8));
    key_disk.remove(sealed_with);
    let snapshots = MemorySnapshots::open_sealed(&disk, keys(&key_disk, 8)).unwrap();
    assert_eq!(snapshots.current(GROUP), None);
    assert!(disk.files().contains_key("2-1.damaged"));
}

/// The bytes as docs/reference/snapshot-format.md shows them.
#[test]
fn sealed_layout_stays() {
    let disk = MemorySnapshotDisk::new();
    let snapshots = MemorySnapshots::open_sealed(&disk, keys(&MemoryKeyDisk::new(), 7)).unwrap();
    let source = state();
    let mut rows = source.write();
    rows.put(&Bytes::from_static(b"a"), Bytes::from_static(b"1"));
    rows.put(&Bytes::from_static(b"bc"), Bytes::new());
    rows.set_applied(Bytes::from_static(b"at 7"));
    drop(rows);
    write(&snapshots, &source);
    let hex: String = disk.files()[NAME].iter().map(|byte| format!("{byte:02x}")).collect();
    let reference = include_str!("../../../docs/reference/snapshot-format.md");
    assert!(reference.replace(char::is_whitespace, "").contains(&hex), "not shown: {hex}");
}
