//! What the sled store does when files fail, are garbage, or a crash interrupted a commit.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicI32, Ordering},
    },
};

use tempfile::TempDir;

use super::*;
use crate::state::{journal::JOURNAL_FILE, sled_database::LARGE_BYTES};

fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

fn put(key: &str, value: &str) -> Change {
    (bytes(key), Some(bytes(value)))
}

fn open(dir: &TempDir) -> (SledStore, StateOpen) {
    SledStore::open(&dir.path().join("state"), SledConfig::default()).unwrap()
}

fn rows(store: &SledStore) -> Vec<(Bytes, Bytes)> {
    store.scan(b"a", b"z", 99).unwrap()
}

/// A file whose calls fail with an error number once it is not 0.
struct FaultyFile {
    inner: Box<dyn DiskFile>,
    write: Arc<AtomicI32>,
    sync: Arc<AtomicI32>,
}

fn fault(errno: &AtomicI32) -> io::Result<()> {
    match errno.load(Ordering::SeqCst) {
        0 => Ok(()),
        errno => Err(io::Error::from_raw_os_error(errno)),
    }
}

impl DiskFile for FaultyFile {
    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        fault(&self.write)?;
        self.inner.write_all_at(bytes, offset)
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        fault(&self.write)?;
        self.inner.set_len(bytes)
    }

    fn sync_data(&self) -> io::Result<()> {
        fault(&self.sync)?;
        self.inner.sync_data()
    }
}

#[derive(Default)]
struct Faults {
    journal_write: Arc<AtomicI32>,
    journal_sync: Arc<AtomicI32>,
    database_sync: Arc<AtomicI32>,
}

impl Faults {
    fn inject(&self, store: &mut SledStore) {
        let writer = store.writer.get_mut();
        let wrap = |inner, write: &Arc<AtomicI32>, sync: &Arc<AtomicI32>| -> Box<dyn DiskFile> {
            Box::new(FaultyFile { inner, write: write.clone(), sync: sync.clone() })
        };
        let none = Arc::new(AtomicI32::new(0));
        let null = || Box::new(File::open("/dev/null").unwrap());
        let journal = std::mem::replace(&mut writer.journal.file, null());
        writer.journal.file = wrap(journal, &self.journal_write, &self.journal_sync);
        let database = std::mem::replace(&mut writer.database, null());
        writer.database = wrap(database, &none, &self.database_sync);
    }
}

/// After `fail` the commit and every later one fails, reads go on, and the next start finds the
/// batch whole or not at all.
fn commit_fails_safe(fail: impl Fn(&Faults), expected: &str, is_kept: bool) {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, _) = open(&dir);
    let faults = Faults::default();
    faults.inject(&mut store);
    store.commit(vec![put("a", "1"), put("b", "1")]).unwrap();
    fail(&faults);
    match store.commit(vec![put("a", "2"), put("c", "2")]) {
        Err(Error::Io { operation, .. }) => assert_eq!(operation, expected),
        other => panic!("{other:?}"),
    }
    assert!(matches!(store.health(), Health::FailSafe(Error::Io { .. })));
    faults.journal_write.store(0, Ordering::SeqCst);
    faults.journal_sync.store(0, Ordering::SeqCst);
    faults.database_sync.store(0, Ordering::SeqCst);
    assert!(matches!(store.commit(vec![put("d", "3")]), Err(Error::FailSafe)));
    assert_eq!(store.get(b"b").unwrap(), Some(bytes("1")));
    drop(store);
    let (store, opened) = open(&dir);
    assert_eq!(opened, StateOpen::Opened);
    assert!(matches!(store.health(), Health::Sound));
    let before = vec![(bytes("a"), bytes("1")), (bytes("b"), bytes("1"))];
    let after = vec![(bytes("a"), bytes("2")), (bytes("b"), bytes("1")), (bytes("c"), bytes("2"))];
    assert_eq!(rows(&store), if is_kept { after } else { before });
    store.commit(vec![put("d", "3")]).unwrap();
}

const EIO: i32 = 5;
const ENOSPC: i32 = 28;

#[test]
fn full_disk_under_the_journal_is_fail_safe() {
    let fail = |faults: &Faults| faults.journal_write.store(ENOSPC, Ordering::SeqCst);
    commit_fails_safe(fail, "write", false);
}

#[test]
fn failed_sync_of_the_journal_is_fail_safe() {
    // The batch reached the page cache: whether it is there after a restart is the disk's choice,
    // and here it is.
    let fail = |faults: &Faults| faults.journal_sync.store(EIO, Ordering::SeqCst);
    commit_fails_safe(fail, "fdatasync", true);
}

#[test]
fn failed_sync_of_the_database_is_fail_safe() {
    let fail = |faults: &Faults| faults.database_sync.store(EIO, Ordering::SeqCst);
    commit_fails_safe(fail, "fdatasync", true);
}

/// A store whose second commit stopped after the journal and `applied` rows.
fn interrupted(applied: usize) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(&dir);
    store.commit(vec![put("a", "1"), put("b", "1")]).unwrap();
    let batch = [put("a", "2"), (bytes("b"), None), put("c", "2")];
    let batch = close_all(&batch, &store.keys.sealer());
    store.writer.lock().journal.write(2, &Digest::default(), &batch).unwrap();
    store.put_system(&BEGUN_KEY, &2_u64.to_be_bytes()).unwrap();
    for (key, value) in &batch[..applied] {
        match value {
            Some(stored) => store.call(|db| db.insert(key, &stored[..])).unwrap(),
            None => store.call(|db| db.remove(key)).unwrap(),
        };
    }
    drop(store);
    dir
}

#[test]
fn interrupted_commit_is_finished_at_open() {
    for applied in 0..=3 {
        let dir = interrupted(applied);
        for _ in 0..2 {
            let (store, opened) = open(&dir);
            assert_eq!(opened, StateOpen::Opened);
            assert_eq!(rows(&store), [(bytes("a"), bytes("2")), (bytes("c"), bytes("2"))]);
        }
        let (store, _) = open(&dir);
        store.commit(vec![put("d", "3")]).unwrap();
        drop(store);
        assert_eq!(rows(&open(&dir).0).len(), 3);
    }
}

#[test]
fn torn_journal_of_a_batch_never_applied_is_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(&dir);
    store.commit(vec![put("a", "1")]).unwrap();
    store.writer.lock().journal.write(2, &Digest::default(), &[put("a", "2")]).unwrap();
    drop(store);
    flip(&dir.path().join("state").join(JOURNAL_FILE), 30);
    let (store, opened) = open(&dir);
    assert_eq!(opened, StateOpen::Opened);
    assert_eq!(rows(&store), [(bytes("a"), bytes("1"))]);
}

#[test]
fn half_a_batch_whose_journal_is_damaged_is_rebuilt() {
    let dir = interrupted(1);
    flip(&dir.path().join("state").join(JOURNAL_FILE), 40);
    let (store, opened) = open(&dir);
    assert!(matches!(opened, StateOpen::Rebuilt { .. }), "{opened:?}");
    assert_eq!(rows(&store), []);
}

#[test]
fn database_that_lost_committed_rows_is_rebuilt() {
    let dir = tempfile::tempdir().unwrap();
    let old = tempfile::tempdir().unwrap();
    let (store, _) = open(&dir);
    store.commit(vec![put("a", "1")]).unwrap();
    drop(store);
    let copy = |name: &str| {
        fs::copy(dir.path().join("state").join(name), old.path().join(name)).unwrap();
    };
    copy(DATABASE_FILE);
    let (store, _) = open(&dir);
    store.commit(vec![put("a", "2")]).unwrap();
    store.commit(vec![put("a", "3")]).unwrap();
    drop(store);
    let state = dir.path().join("state");
    fs::copy(old.path().join(DATABASE_FILE), state.join(DATABASE_FILE)).unwrap();
    for entry in fs::read_dir(&state).unwrap() {
        let path = entry.unwrap().path();
        if path.file_name().unwrap().to_string_lossy().starts_with("snap.") {
            fs::remove_file(path).unwrap();
        }
    }
    let (store, opened) = open(&dir);
    assert!(matches!(opened, StateOpen::Rebuilt { .. }), "{opened:?}");
    assert_eq!(rows(&store), []);
}

fn flip(path: &Path, at: usize) {
    let mut content = fs::read(path).unwrap();
    content[at] ^= 4;
    fs::write(path, content).unwrap();
}

#[test]
fn directory_of_garbage_is_moved_aside_and_an_empty_one_opened() {
    let garbage: Vec<u8> =
        (0..200_000_u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    for name in ["db", "conf", "snapshot"] {
        let dir = tempfile::tempdir().unwrap();
        let (store, _) = open(&dir);
        (0..3).for_each(|row| store.commit(vec![put("a", &row.to_string())]).unwrap());
        drop(store);
        drop(open(&dir));
        let state = dir.path().join("state");
        let names = fs::read_dir(&state).unwrap().map(|entry| entry.unwrap().path());
        let snapshot = names.into_iter().find(|path| path.to_string_lossy().contains("snap."));
        let path = if name == "snapshot" { snapshot.unwrap() } else { state.join(name) };
        fs::write(&path, &garbage).unwrap();
        let (store, opened) = open(&dir);
        let StateOpen::Rebuilt { moved_to } = opened else {
            panic!("{name}: {opened:?}");
        };
        assert!(moved_to.join("db").exists());
        assert_eq!(rows(&store), []);
        store.commit(vec![put("a", "new")]).unwrap();
        drop(store);
        let (store, opened) = open(&dir);
        assert_eq!(opened, StateOpen::Opened);
        assert_eq!(rows(&store), [(bytes("a"), bytes("new"))]);
    }
}

#[test]
fn at_most_two_unreadable_databases_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    for _ in 0..4 {
        drop(open(&dir));
        fs::write(dir.path().join("state/conf"), "garbage of some length").unwrap();
    }
    drop(open(&dir));
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 3);
}

#[test]
fn database_in_use_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(&dir);
    store.commit(vec![put("a", "1")]).unwrap();
    let second = SledStore::open(&dir.path().join("state"), SledConfig::default());
    assert!(matches!(second, Err(Error::Io { operation: "lock", .. })));
    store.commit(vec![put("b", "1")]).unwrap();
    drop(store);
    assert_eq!(rows(&open(&dir).0).len(), 2);
}

#[test]
fn row_that_was_changed_behind_our_back_is_damage() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(&dir);
    store.commit(vec![put("a", "1"), put("b", "1")]).unwrap();
    let stored = store.call(|db| db.get(b"a")).unwrap().unwrap();
    store.call(|db| db.insert(b"b", &stored)).unwrap();
    store.call(|db| db.insert(b"c", b"xy")).unwrap();
    for key in [b"b", b"c"] {
        assert!(matches!(store.get(key), Err(Error::Damage { .. })));
    }
    assert!(matches!(store.scan(b"a", b"z", 9), Err(Error::Damage { .. })));
    assert_eq!(store.get(b"a").unwrap(), Some(bytes("1")));
    // It takes no more, and the next open mends it.
    assert!(matches!(store.health(), Health::FailSafe(Error::Damage { .. })));
    assert!(matches!(store.commit(vec![put("d", "1")]), Err(Error::FailSafe)));
}

#[test]
fn version_of_a_later_build_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(&dir);
    store.put_system(&VERSION_KEY, &(VERSION + 1).to_be_bytes()).unwrap();
    drop(store);
    let opened = SledStore::open(&dir.path().join("state"), SledConfig::default());
    assert!(matches!(opened, Err(Error::Version { version, .. }) if version == VERSION + 1));
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn database_reopened_on_schedule_keeps_its_rows_and_replays_less() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    let config = SledConfig { replay_bytes_max: Some(10_000), ..SledConfig::default() };
    let (store, _) = SledStore::open(&state, config).unwrap();
    let replay_starts = || {
        let names = fs::read_dir(&state).unwrap().map(|entry| entry.unwrap().file_name());
        let starts: Vec<_> =
            names.filter(|name| name.to_string_lossy().starts_with("snap.")).collect();
        starts
    };
    let value = "v".repeat(4_000);
    let mut starts = std::collections::BTreeSet::new();
    for row in 0..12_u8 {
        store.commit(vec![put(&format!("k{row:02}"), &value)]).unwrap();
        assert_eq!(rows(&store).len(), usize::from(row) + 1);
        starts.extend(replay_starts());
    }
    assert!((3..=12).contains(&starts.len()), "the start of replay moves now and then: {starts:?}");
    assert!(matches!(store.health(), Health::Sound));
    drop(store);
    assert_eq!(rows(&open(&dir).0).len(), 12);
}

#[test]
fn database_that_cannot_be_reopened_is_fail_safe() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    let config = SledConfig { replay_bytes_max: Some(1), ..SledConfig::default() };
    let (store, _) = SledStore::open(&state, config).unwrap();
    fs::write(state.join("conf"), "garbage of some length").unwrap();
    store.commit(vec![put("a", "1")]).unwrap();
    assert!(matches!(store.health(), Health::FailSafe(Error::State(_))));
    assert!(matches!(store.commit(vec![put("b", "1")]), Err(Error::FailSafe)));
    assert!(matches!(store.get(b"a"), Err(Error::Closed)));
}

fn sized(fill: u8, bytes: usize) -> Option<Bytes> {
    Some(Bytes::from(vec![fill; bytes]))
}

fn large_values(store: &SledStore) -> usize {
    store.call(|db| Ok(db.large_values())).unwrap()
}

#[test]
fn values_move_between_the_trees_as_they_grow_and_shrink() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(&dir);
    let sizes = [0, 1, LARGE_BYTES - 5, LARGE_BYTES - 4, LARGE_BYTES - 3, 60_000];
    let mut expected = 0;
    for (fill, size) in (0..).zip(sizes.into_iter().chain(sizes.into_iter().rev())) {
        store.commit(vec![put("a", "below"), (bytes("k"), sized(fill, size))]).unwrap();
        assert_eq!(store.get(b"k").unwrap(), sized(fill, size));
        let found = store.scan(b"a", b"z", 9).unwrap();
        assert_eq!(found.last().unwrap(), &(bytes("k"), sized(fill, size).unwrap()));
        assert_eq!(store.keys(b"a", b"z", 9).unwrap(), [bytes("a"), bytes("k")]);
        let is_large = size + 4 > LARGE_BYTES;
        assert_eq!(large_values(&store), usize::from(is_large), "{size}");
        expected += usize::from(is_large);
    }
    assert_eq!(expected, 4);
    store.commit(vec![(bytes("k"), sized(1, 9_000))]).unwrap();
    store.commit(vec![(bytes("k"), None)]).unwrap();
    assert_eq!((store.get(b"k").unwrap(), large_values(&store)), (None, 0));
}

#[test]
fn interrupted_commit_leaves_no_large_value_behind() {
    for applied in 0..=3 {
        let dir = tempfile::tempdir().unwrap();
        let (store, _) = open(&dir);
        let before = [(bytes("a"), sized(1, 9_000)), put("b", "1"), (bytes("d"), sized(1, 9_000))];
        store.commit(before.to_vec()).unwrap();
        let batch = [put("a", "2"), (bytes("b"), sized(2, 9_000)), (bytes("d"), None)];
        let batch = close_all(&batch, &store.keys.sealer());
        store.writer.lock().journal.write(2, &Digest::default(), &batch).unwrap();
        store.put_system(&BEGUN_KEY, &2_u64.to_be_bytes()).unwrap();
        for (key, value) in &batch[..applied] {
            match value {
                Some(stored) => store.call(|db| db.insert(key, &stored[..])).unwrap(),
                None => store.call(|db| db.remove(key)).unwrap(),
            };
        }
        // Between the two trees.
        store.call(|db| db.insert_among_rows(b"a", &close_system(b"a", b"2"))).unwrap();
        drop(store);
        let (store, opened) = open(&dir);
        assert_eq!(opened, StateOpen::Opened);
        let after = [(bytes("a"), bytes("2")), (bytes("b"), sized(2, 9_000).unwrap())];
        assert_eq!(rows(&store), after, "{applied} applied");
        assert_eq!(large_values(&store), 1, "{applied} applied");
    }
}

#[test]
fn large_value_that_is_gone_is_damage() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(&dir);
    store.commit(vec![(bytes("a"), sized(1, 9_000)), put("b", "1")]).unwrap();
    store.call(|db| db.lose_large(b"a")).unwrap();
    assert!(matches!(store.get(b"a"), Err(Error::Damage { .. })));
    assert!(matches!(store.scan(b"a", b"z", 9), Err(Error::Damage { .. })));
    assert_eq!(store.get(b"b").unwrap(), Some(bytes("1")));
}

#[test]
fn database_of_one_tree_is_read_and_goes_on_in_two() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(&dir);
    store.commit(vec![put("b", "1")]).unwrap();
    let large = sized(1, 9_000).unwrap();
    store.call(|db| db.insert_among_rows(b"a", &close_system(b"a", &large))).unwrap();
    store.put_system(&VERSION_KEY, &VERSION_ONE_TREE_UNSEALED.to_be_bytes()).unwrap();
    drop(store);
    let (store, opened) = open(&dir);
    assert_eq!(opened, StateOpen::Opened);
    assert_eq!(rows(&store), [(bytes("a"), large), (bytes("b"), bytes("1"))]);
    assert_eq!(large_values(&store), 0);
    store.commit(vec![(bytes("a"), sized(2, 9_000))]).unwrap();
    assert_eq!((store.get(b"a").unwrap(), large_values(&store)), (sized(2, 9_000), 1));
    // A build that knows one tree only would take the rows for damaged.
    let version = store.get(&VERSION_KEY).unwrap().unwrap();
    assert_eq!(version, VERSION_UNSEALED.to_be_bytes()[..]);
}

/// Bytes of sled's log that commits wrote.
fn written(store: &SledStore, commits: impl FnOnce(&SledStore)) -> u64 {
    let before = store.writer.lock().end;
    commits(store);
    store.writer.lock().end - before
}

#[test]
fn small_rows_beside_large_ones_do_not_write_those_anew() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(&dir);
    // As the deduplication parts of a shard follow its expiry index.
    let part = |part: u32| (Bytes::from(format!("b {part}")), sized(1, 50_000));
    store.commit((0..7).map(part).collect()).unwrap();
    let bytes = written(&store, |store| {
        for commit in 0..40 {
            let row = |row| (Bytes::from(format!("a {commit:03} {row}")), sized(2, 30));
            store.commit((0..10).map(row).collect()).unwrap();
        }
    });
    // 400 rows of 40 bytes, 40 commits with two rows of the store's own. It was 14 MB in one tree.
    assert!(bytes < 1_000_000, "{bytes} bytes");
}
