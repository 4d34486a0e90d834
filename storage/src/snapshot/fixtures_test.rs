//! The bytes of snapshot files that releases wrote. Those of the log and of key files are kept in
//! `docs/reference/`, which their tests read.

#[path = "../../../fixtures/kept.rs"]
mod kept;

use std::sync::Arc;

use bytes::Bytes;

use self::kept::Format;
use super::{MemorySnapshotDisk, MemorySnapshots, SnapshotStore};
use crate::{
    GroupId, GroupState, Keyring, MemoryKeyDisk, MemoryStateDisk, MemoryStore, RowsRead, RowsWrite,
};

const GROUP: GroupId = GroupId(2);
const NAME: &str = "2-1.snapshot";
const ROWS: [(&[u8], &[u8]); 3] = [(b"a", b"first"), (b"b", b""), (b"c\xff", b"third")];

/// The same keys each time.
fn keys() -> Keyring {
    Keyring::open_memory(&MemoryKeyDisk::new(), Box::new(|bytes| bytes.fill(7)), 0).unwrap()
}

fn state() -> GroupState {
    let store = MemoryStore::open(&MemoryStateDisk::new());
    GroupState::open(Arc::new(store), GROUP).unwrap()
}

fn file(keys: Keyring) -> Vec<u8> {
    let state = state();
    let mut write = state.write();
    for (key, value) in ROWS {
        write.put(&Bytes::from_static(key), Bytes::from_static(value));
    }
    write.set_applied("position".into());
    let frozen = write.freeze().unwrap();
    drop(write);
    let disk = MemorySnapshotDisk::new();
    MemorySnapshots::open_sealed(&disk, keys).unwrap().write(&state, frozen).unwrap();
    disk.files()[NAME].to_vec()
}

fn reads(file: &[u8], keys: Keyring) -> bool {
    let disk = MemorySnapshotDisk::new();
    disk.overwrite(NAME, Bytes::copy_from_slice(file));
    let snapshots = MemorySnapshots::open_sealed(&disk, keys).unwrap();
    let Some(info) = snapshots.current(GROUP) else { return false };
    let state = state();
    snapshots.install(&state, &info).unwrap();
    let rows = state.read().scan(b"", &[0xff], usize::MAX).unwrap();
    info.applied == "position" && rows.iter().map(|(key, value)| (&key[..], &value[..])).eq(ROWS)
}

#[test]
fn snapshots_of_kept_releases_are_read_and_those_of_this_one_are_written() {
    kept::check(&[
        Format {
            name: "snapshot",
            written: vec![file(Keyring::unsealed())],
            reads: Box::new(|_, bytes| reads(bytes, Keyring::unsealed())),
        },
        Format {
            name: "snapshot-sealed",
            written: vec![file(keys())],
            reads: Box::new(|_, bytes| reads(bytes, keys())),
        },
    ]);
}
