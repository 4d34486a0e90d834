//! What every [`StateStore`] promises, run against each of them.

use std::{path::Path, sync::Arc};

use bytes::Bytes;

use super::*;
use crate::{Error, Health};

/// A store that can be closed and opened again.
pub(crate) trait Disk {
    fn open(&self) -> Arc<dyn StateStore>;
}

impl Disk for MemoryStateDisk {
    fn open(&self) -> Arc<dyn StateStore> {
        Arc::new(MemoryStore::open(self))
    }
}

impl Disk for tempfile::TempDir {
    fn open(&self) -> Arc<dyn StateStore> {
        Arc::new(open_sled(&self.path().join("state")))
    }
}

pub(crate) fn open_sled(dir: &Path) -> SledStore {
    let (store, opened) = SledStore::open(dir, SledConfig::default()).unwrap();
    assert_eq!(opened, StateOpen::Opened);
    store
}

pub(crate) fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

fn put(key: &str, value: &str) -> (Bytes, Option<Bytes>) {
    (bytes(key), Some(bytes(value)))
}

fn row(key: &str, value: &str) -> (Bytes, Bytes) {
    (bytes(key), bytes(value))
}

fn committed_rows_are_read_in_order(disk: &dyn Disk) {
    let store = disk.open();
    store.commit(vec![put("k2", "b"), put("k1", "a"), put("k3", "c"), put("l", "d")]).unwrap();
    assert_eq!(store.get(b"k1").unwrap(), Some(bytes("a")));
    assert_eq!(store.get(b"k9").unwrap(), None);
    assert_eq!(store.scan(b"k1", b"k3", 9).unwrap(), [row("k1", "a"), row("k2", "b")]);
    assert_eq!(store.scan(b"k2", b"z", 2).unwrap(), [row("k2", "b"), row("k3", "c")]);
    assert_eq!(store.scan(b"z", b"a", 2).unwrap(), []);
    assert_eq!(store.scan(b"k", b"z", 0).unwrap(), []);
}

fn last_change_of_a_key_in_a_batch_wins(disk: &dyn Disk) {
    let store = disk.open();
    store.commit(vec![put("k", "a"), (bytes("k"), None), put("k", "b")]).unwrap();
    assert_eq!(store.get(b"k").unwrap(), Some(bytes("b")));
    store.commit(vec![put("k", "c"), (bytes("k"), None)]).unwrap();
    assert_eq!(store.get(b"k").unwrap(), None);
}

fn committed_rows_outlive_the_store(disk: &dyn Disk) {
    let store = disk.open();
    store.commit(vec![put("k1", "a"), put("k2", "")]).unwrap();
    store.commit(vec![(bytes("k1"), None), put("k3", "c")]).unwrap();
    drop(store);
    let store = disk.open();
    assert_eq!(store.scan(b"k", b"l", 9).unwrap(), [row("k2", ""), row("k3", "c")]);
}

fn bounds_are_enforced(disk: &dyn Disk) {
    let store = disk.open();
    let value = Bytes::from(vec![7; VALUE_BYTES_MAX]);
    store.commit(vec![(bytes("k"), Some(value.clone()))]).unwrap();
    assert_eq!(store.get(b"k").unwrap(), Some(value));
    let too_large = [
        (bytes("k"), Some(Bytes::from(vec![7; VALUE_BYTES_MAX + 1]))),
        (Bytes::from(vec![7; KEY_BYTES_MAX + 1]), None),
    ];
    for change in too_large {
        let refused = store.commit(vec![put("other", "x"), change]);
        assert!(matches!(refused, Err(Error::TooLarge { .. })), "{refused:?}");
    }
    let value = Bytes::from(vec![7; VALUE_BYTES_MAX]);
    let rows = BATCH_BYTES_MAX / VALUE_BYTES_MAX;
    let batch = (0..=rows).map(|row| (bytes(&format!("{row}")), Some(value.clone()))).collect();
    assert!(matches!(store.commit(batch), Err(Error::TooLarge { .. })));
    assert_eq!(store.get(b"other").unwrap(), None);
    assert!(matches!(store.health(), Health::Sound));
    assert!(store.disk_bytes() >= VALUE_BYTES_MAX as u64);
}

macro_rules! contract {
    ($($case:ident),* $(,)?) => {
        mod memory {
            $(#[test]
            fn $case() {
                super::$case(&super::MemoryStateDisk::new());
            })*
        }
        mod sled {
            $(#[test]
            fn $case() {
                super::$case(&tempfile::tempdir().unwrap());
            })*
        }
    };
}

contract!(
    committed_rows_are_read_in_order,
    last_change_of_a_key_in_a_batch_wins,
    committed_rows_outlive_the_store,
    bounds_are_enforced,
);
