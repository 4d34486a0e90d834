//! Rows are sealed on disk, move to the current storage key, and need no journal to do so.

use std::sync::atomic::{AtomicU64, Ordering};

use super::*;
use crate::{MemoryKeyDisk, Retirement, state::journal::JOURNAL_FILE};

const SECRET: &str = "a body nobody may read";

fn ring(disk: &MemoryKeyDisk) -> Keyring {
    static CALLS: AtomicU64 = AtomicU64::new(1);
    let entropy = |bytes: &mut [u8]| {
        let call = CALLS.fetch_add(1, Ordering::Relaxed).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let call = (call ^ (call >> 29)).to_le_bytes();
        bytes.iter_mut().zip(call.iter().cycle()).for_each(|(byte, value)| *byte = *value);
    };
    Keyring::open_memory(disk, Box::new(entropy), 0).unwrap()
}

fn open(dir: &Path, keys: &Keyring) -> Arc<SledStore> {
    let (store, opened) = SledStore::open_sealed(dir, SledConfig::default(), keys).unwrap();
    assert_eq!(opened, StateOpen::Opened);
    store
}

fn rows(range: std::ops::Range<u32>) -> Vec<Change> {
    let row = |row: u32| {
        let value = format!("{SECRET} {row} ").repeat(1 + row as usize % 40);
        (Bytes::from(format!("key {row:05}")), Some(Bytes::from(value)))
    };
    range.map(row).collect()
}

fn all(store: &SledStore) -> Vec<(Bytes, Bytes)> {
    store.scan(b"a", b"z", usize::MAX).unwrap()
}

fn plain(changes: Vec<Change>) -> Vec<(Bytes, Bytes)> {
    changes.into_iter().map(|(key, value)| (key, value.unwrap())).collect()
}

fn is_legible(dir: &Path) -> bool {
    let contains = |bytes: &[u8]| bytes.windows(SECRET.len()).any(|at| at == SECRET.as_bytes());
    [DATABASE_FILE, JOURNAL_FILE].iter().any(|name| contains(&fs::read(dir.join(name)).unwrap()))
}

fn retire(keys: &Keyring) -> usize {
    let mut steps = 0;
    while keys.retire_step().unwrap() != Retirement::Complete {
        steps += 1;
    }
    steps
}

#[test]
fn rows_are_sealed_and_move_to_the_current_key() {
    let dir = tempfile::tempdir().unwrap();
    let key_disk = MemoryKeyDisk::new();
    let keys = ring(&key_disk);
    let store = open(dir.path(), &keys);
    store.commit(rows(0..1_500)).unwrap();
    assert!(!is_legible(dir.path()));
    for epoch in 1..3 {
        keys.rotate(epoch).unwrap();
        // Written under the new key while the old rows move.
        store.commit(rows(1_500..1_500 + epoch as u32)).unwrap();
        assert!(retire(&keys) >= 3, "several steps");
        assert_eq!(key_disk.files().len(), 1);
        assert_eq!(all(&store), plain(rows(0..1_500 + epoch as u32)));
    }
    drop(store);
    let keys = ring(&key_disk);
    let store = open(dir.path(), &keys);
    assert_eq!(all(&store), plain(rows(0..1_502)));
    let first = key_disk.files().into_keys().next().unwrap();
    drop(store);
    key_disk.remove(first);
    let keys = ring(&key_disk);
    let store = open(dir.path(), &keys);
    let unreadable = store.get(b"key 00000");
    assert!(matches!(unreadable, Err(Error::Damage { reason: KEY_MISSING, .. })), "{unreadable:?}");
}

#[test]
fn unsealed_rows_of_an_earlier_build_are_read_and_move() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = SledStore::open(dir.path(), SledConfig::default()).unwrap();
    store.commit(rows(0..40)).unwrap();
    drop(store);
    assert!(is_legible(dir.path()));
    let key_disk = MemoryKeyDisk::new();
    let keys = ring(&key_disk);
    let store = open(dir.path(), &keys);
    assert_eq!(all(&store), plain(rows(0..40)));
    keys.rotate(1).unwrap();
    retire(&keys);
    let key = &rows(0..1)[0].0;
    let stored = store.call(|db| db.get(key)).unwrap().unwrap();
    assert_eq!(crate::state::row_seal::key_of(key, &stored), Ok(keys.status().unwrap().current));
    assert_eq!(all(&store), plain(rows(0..40)));
    drop(store);
    for other in [Keyring::unsealed(), ring(&MemoryKeyDisk::new())] {
        let refused = SledStore::open_with(dir.path(), SledConfig::default(), &other).map(|_| ());
        assert!(matches!(refused, Err(Error::KeysMissing { .. })), "{refused:?}");
    }
}

#[test]
fn store_that_failed_lets_no_key_go() {
    let dir = tempfile::tempdir().unwrap();
    let key_disk = MemoryKeyDisk::new();
    let keys = ring(&key_disk);
    let store = open(dir.path(), &keys);
    store.commit(rows(0..9)).unwrap();
    keys.rotate(1).unwrap();
    store.fail(&Error::Closed);
    assert!(matches!(keys.retire_step(), Err(Error::FailSafe)));
    assert_eq!(key_disk.files().len(), 2);
    assert_eq!(all(&store), plain(rows(0..9)));
}

/// A crash after the journal was written and before sled has its rows: the journal needs no key.
#[test]
fn interrupted_sealed_commit_is_finished_at_open() {
    let dir = tempfile::tempdir().unwrap();
    let key_disk = MemoryKeyDisk::new();
    let keys = ring(&key_disk);
    let store = open(dir.path(), &keys);
    store.commit(rows(0..2)).unwrap();
    let batch = close_all(&rows(1..5), &keys.sealer());
    store.writer.lock().journal.write(2, &Digest::default(), &batch).unwrap();
    drop(store);
    assert!(!is_legible(dir.path()));
    let keys = ring(&key_disk);
    let store = open(dir.path(), &keys);
    assert_eq!(all(&store), plain(rows(0..5)));
}
