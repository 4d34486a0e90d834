//! The ring by itself: what survives, what is destroyed, and when not.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use parking_lot::Mutex;

use super::*;
use crate::Error;

/// Different bytes at each call.
fn entropy(seed: u64) -> Entropy {
    let calls = AtomicU64::new(seed << 32);
    Box::new(move |bytes| {
        let call = calls.fetch_add(1, Ordering::Relaxed).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let call = (call ^ (call >> 29)).to_le_bytes();
        bytes.iter_mut().zip(call.iter().cycle()).for_each(|(byte, value)| *byte = *value);
    })
}

fn open(disk: &MemoryKeyDisk, seed: u64) -> Keyring {
    Keyring::open_memory(disk, entropy(seed), seed).expect("it opens")
}

fn seal(ring: &Keyring, body: &[u8]) -> (u32, Vec<u8>) {
    let sealer = ring.sealer();
    let mut sealed = Vec::new();
    sealer.seal(b"here", body, &mut sealed);
    (sealer.key(), sealed)
}

fn opens(ring: &Keyring, (key, sealed): &(u32, Vec<u8>)) -> bool {
    ring.view().open(*key, b"here", &mut sealed.clone()).is_some()
}

/// A store that answers what it is told to.
struct Told(Mutex<Vec<Result<Reseal, Error>>>);

impl KeyUser for Told {
    fn reseal(&self, _number: u32) -> Result<Reseal, Error> {
        self.0.lock().pop().unwrap_or(Ok(Reseal::Done))
    }
}

fn register(ring: &Keyring, mut answers: Vec<Result<Reseal, Error>>) -> Arc<dyn KeyUser> {
    answers.reverse();
    let user: Arc<dyn KeyUser> = Arc::new(Told(Mutex::new(answers)));
    ring.register(Arc::downgrade(&user));
    user
}

#[test]
fn each_open_seals_with_a_key_of_its_own_and_opens_all_others() {
    let disk = MemoryKeyDisk::new();
    let mut sealed = Vec::new();
    for seed in 1..5 {
        let ring = open(&disk, seed);
        sealed.push(seal(&ring, b"body"));
        assert!(sealed.iter().all(|body| opens(&ring, body)));
        let status = ring.status().unwrap();
        assert_eq!(status.keys, sealed.len());
        assert!(!status.is_retiring(), "a start is no rotation");
        assert_eq!(status.epoch_began_ms, 1, "nor a new epoch");
    }
    let numbers: Vec<u32> = sealed.iter().map(|(number, _)| *number).collect();
    assert!(numbers.is_sorted_by(|one, next| one + 1 == *next), "{numbers:?}");
}

#[test]
fn keys_of_an_ended_epoch_are_destroyed_when_all_stores_are_done() {
    let disk = MemoryKeyDisk::new();
    let before = seal(&open(&disk, 1), b"body");
    let ring = open(&disk, 2);
    let _one = register(&ring, vec![Ok(Reseal::Moved(9)), Ok(Reseal::Done), Ok(Reseal::Done)]);
    let _other = register(&ring, vec![Ok(Reseal::UnderWay), Ok(Reseal::Done)]);
    assert_eq!(ring.retire_step().unwrap(), Retirement::Complete);
    ring.rotate(77).unwrap();
    assert_eq!(ring.status().unwrap().epoch_began_ms, 77);
    let after = seal(&ring, b"body");
    assert_eq!(ring.retire_step().unwrap(), Retirement::Moved(9));
    assert_eq!(ring.retire_step().unwrap(), Retirement::Waiting);
    assert!(opens(&ring, &before));
    assert_eq!(ring.retire_step().unwrap(), Retirement::Destroyed(2));
    assert_eq!(ring.retire_step().unwrap(), Retirement::Complete);
    assert_eq!(disk.files().into_keys().collect::<Vec<_>>(), [after.0]);
    assert!(!opens(&ring, &before) && opens(&ring, &after));
    assert!(!opens(&open(&disk, 3), &before));
}

#[test]
fn key_is_kept_while_somebody_seals_or_reads_with_it_or_a_store_cannot_tell() {
    let disk = MemoryKeyDisk::new();
    let ring = open(&disk, 1);
    let user = register(&ring, vec![Err(Error::FailSafe)]);
    let (sealer, view) = (ring.sealer(), ring.view());
    let body = seal(&ring, b"body");
    ring.rotate(2).unwrap();
    assert_eq!(ring.retire_step().unwrap(), Retirement::Waiting);
    drop(sealer);
    assert!(matches!(ring.retire_step(), Err(Error::FailSafe)));
    assert_eq!(ring.retire_step().unwrap(), Retirement::Destroyed(1));
    assert!(view.open(body.0, b"here", &mut body.1.clone()).is_some(), "a read under way ends");
    assert!(!opens(&ring, &body));
    drop(user);
    ring.rotate(3).unwrap();
    assert!(matches!(ring.retire_step(), Err(Error::Closed)), "a closed store cannot be asked");
    assert_eq!(disk.files().len(), 2);
}

/// The power goes at each write of a rotation and a retirement: what is sealed stays readable until
/// it may go, and the next start ends what was begun.
#[test]
fn power_cut_anywhere_between_key_and_end_loses_nothing() {
    for writes in 0..8 {
        let disk = MemoryKeyDisk::new();
        let ring = open(&disk, 1);
        let old = seal(&ring, b"old");
        disk.power_off_after(writes);
        let rotated = ring.rotate(2).is_ok();
        let new = rotated.then(|| seal(&ring, b"new"));
        let retired = rotated && ring.retire_step().is_ok();
        disk.power_on();
        drop(ring);
        let ring = open(&disk, 2);
        assert!(new.is_none_or(|new| opens(&ring, &new)), "{writes}");
        assert_eq!(rotated, writes > 0);
        let destroyed = disk.files().get(&old.0).is_none_or(|file| file.starts_with(b"HELIOGON"));
        assert_eq!(opens(&ring, &old), !destroyed);
        assert!(!retired || destroyed);
        if !rotated {
            assert!(!ring.status().unwrap().is_retiring());
            continue;
        }
        assert_eq!(ring.status().unwrap().is_retiring(), !destroyed);
        while ring.retire_step().unwrap() != Retirement::Complete {}
        assert!(!disk.files().contains_key(&old.0) && !opens(&ring, &old));
    }
}

#[test]
fn lost_or_damaged_key_is_missed_and_never_reused() {
    let disk = MemoryKeyDisk::new();
    let ring = open(&disk, 1);
    let body = seal(&ring, b"body");
    assert!(ring.view().holds(body.0));
    drop(ring);
    disk.wipe();
    let ring = open(&disk, 2);
    assert!(!ring.view().holds(body.0) && !opens(&ring, &body));
    assert_ne!(ring.status().unwrap().current, body.0);
}

#[test]
fn files_are_private_locked_and_gone_when_destroyed() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let keys = dir.path().join("keys");
    let ring = Keyring::open(&keys, entropy(1), 5).unwrap();
    let body = seal(&ring, b"body");
    let path = |number: u32| keys.join(format!("{number:08x}.key"));
    let mode = |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions().mode();
    assert_eq!(mode(&path(body.0)) & 0o777, 0o600);
    assert_eq!(mode(&keys) & 0o777, 0o700);
    let second = Keyring::open(&keys, entropy(2), 5);
    assert!(matches!(second, Err(Error::Io { operation: "lock", .. })), "{second:?}");
    drop(ring);
    std::fs::write(path(0xfff).with_extension("key.new"), b"half").unwrap();
    let damaged = path(body.0 - 1);
    std::fs::write(&damaged, b"not a key").unwrap();
    let ring = Keyring::open(&keys, entropy(2), 6).unwrap();
    assert!(opens(&ring, &body));
    ring.rotate(7).unwrap();
    assert_eq!(ring.retire_step().unwrap(), Retirement::Destroyed(2));
    assert!(!path(body.0).exists() && !damaged.exists());
    let left = std::fs::read_dir(&keys).unwrap().count();
    assert_eq!(left, 2, "the current key and the lock");
    drop(ring);
    assert!(!opens(&Keyring::open(&keys, entropy(3), 8).unwrap(), &body));
}

#[test]
fn ring_without_keys_leaves_bytes_as_they_are() {
    let ring = Keyring::unsealed();
    assert_eq!(seal(&ring, b"body"), (KEY_NONE, b"body".to_vec()));
    assert!(ring.status().is_none() && ring.sealer().overhead() == 0);
    ring.rotate(1).unwrap();
    assert_eq!(ring.retire_step().unwrap(), Retirement::Complete);
}

#[test]
fn inspection_opens_what_was_sealed_and_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("keys");
    assert!(Keyring::inspect(&path, entropy(9)).unwrap().is_new());
    assert!(!path.exists());
    let files = || {
        let entries = std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path());
        entries.map(|path| (path.clone(), std::fs::read(path).unwrap())).collect::<BTreeMap<_, _>>()
    };
    let ring = Keyring::open(&path, entropy(1), 1).unwrap();
    let sealed = seal(&ring, b"body");
    drop(ring);
    let before = files();
    let ring = Keyring::inspect(&path, entropy(9)).unwrap();
    assert!(opens(&ring, &sealed) && !ring.is_new());
    assert_eq!(files(), before);
}
