use std::{path::PathBuf, time::Duration};

use bytes::Bytes;
use tempfile::TempDir;

use super::*;
use crate::{
    Keyring, SledConfig, SledStore, StateOpen, StateStore,
    state::{sled_open::DATABASE_FILE, sled_record::RECORD_FILE, sled_trust::Found},
};

/// Each commit writes about 1 MiB, so that there are several segments.
const COMMITS: u8 = 20;
const VALUE_BYTES: usize = 3 << 10;
const ROWS: u32 = 300;

fn open(dir: &Path) -> (SledStore, StateOpen) {
    // Files are copied while nobody writes to them.
    let config = SledConfig { clean_every: Duration::from_secs(3600), ..SledConfig::default() };
    SledStore::open(dir, config).unwrap()
}

fn commit(store: &SledStore, fill: u8) {
    let row = |row: u32| {
        let value = Bytes::from(vec![fill; VALUE_BYTES + row as usize]);
        (Bytes::from(format!("row {row:04}")), Some(value))
    };
    store.commit((0..ROWS).map(row).collect()).unwrap();
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to.join("blobs")).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        if entry.file_type().unwrap().is_file() {
            fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    }
}

/// A database as a process that is killed leaves it, with a second life's log for a start to read.
fn killed() -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let live = dir.path().join("live");
    for life in 0..2 {
        let (store, opened) = open(&live);
        assert_eq!(opened, StateOpen::Opened);
        (0..COMMITS).for_each(|number| commit(&store, life * COMMITS + number));
        if life == 1 {
            copy(&live, &dir.path().join("killed"));
        }
    }
    let killed = dir.path().join("killed");
    (dir, killed)
}

fn is_whole(dir: &Path) -> bool {
    let file = File::open(dir.join(DATABASE_FILE)).unwrap();
    let Some(record) = Record::read(dir).unwrap() else { return false };
    let survey = Survey::of(&file).unwrap();
    survey.is_whole(&file, &record, replay_start(dir).unwrap()).unwrap()
}

#[test]
fn start_reads_no_rows_after_a_stop_or_a_kill() {
    let (dir, killed) = killed();
    for path in [&killed, &dir.path().join("live")] {
        for _ in 0..3 {
            assert!(is_whole(path));
            let (store, opened) = open(path);
            assert_eq!(opened, StateOpen::Opened);
            assert!(!store.has_read_rows());
            commit(&store, 99);
        }
    }
}

#[test]
fn start_without_a_record_or_with_an_older_one_reads_all_rows() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    let record = state.join(RECORD_FILE);
    let (store, _) = open(&state);
    commit(&store, 1);
    let old = fs::read(&record).unwrap();
    (2..5).for_each(|fill| commit(&store, fill));
    drop(store);
    fs::write(&record, old).unwrap();
    assert!(open(&state).0.has_read_rows());
    assert!(!open(&state).0.has_read_rows(), "that start left a record");
    fs::remove_file(&record).unwrap();
    assert!(open(&state).0.has_read_rows());
}

#[test]
fn store_that_failed_leaves_no_record() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    let (store, _) = open(&state);
    commit(&store, 1);
    store.give_up(&crate::Error::Damage { path: state.clone(), offset: 0, reason: "found" });
    drop(store);
    assert_eq!(Record::read(&state).unwrap(), None);
    assert!(open(&state).0.has_read_rows());
}

/// sled clears what it cannot read, so that a later start would find nothing amiss.
#[test]
fn start_that_dies_while_it_reads_rows_is_followed_by_one_that_reads_them() {
    let (_dir, killed) = killed();
    let (from, bytes) = replayed(&killed)[1];
    let file = File::options().write(true).open(killed.join(DATABASE_FILE)).unwrap();
    file.write_all_at(&[0; 64], from + bytes as u64 / 2).unwrap();
    assert!(Found::before_open(&killed).unwrap().is_none());
    let config = SledConfig { clean_every: Duration::from_secs(3600), ..SledConfig::default() };
    // It ends before it has read them.
    drop(SledStore::open_unverified(&killed, &config, &Keyring::unsealed()));
    let (store, _) = open(&killed);
    assert!(store.has_read_rows());
}

/// Where the messages of the segments that a start would read stand in the file.
fn replayed(dir: &Path) -> Vec<(u64, usize)> {
    let file = File::open(dir.join(DATABASE_FILE)).unwrap();
    let replay = replay_start(dir).unwrap();
    let survey = Survey::of(&file).unwrap();
    let segments = survey.slots.iter().enumerate().filter_map(|(at, slot)| match slot {
        Slot::Lsn(lsn) if lsn + SEGMENT > replay => Some((at, *lsn)),
        _ => None,
    });
    let end = |(at, lsn)| (at as u64 * SEGMENT, walk(&read(&file, at).unwrap(), lsn).0);
    segments.map(end).collect()
}

#[test]
fn survey_that_goes_on_finds_the_end_that_one_of_all_finds() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    let (store, _) = open(&state);
    let file = File::open(state.join(DATABASE_FILE)).unwrap();
    let mut ends = vec![0];
    for fill in 0..COMMITS {
        commit(&store, fill);
        let all = Survey::of(&file).unwrap();
        let (at, lsn) = last(&all.slots).unwrap();
        assert_eq!(all.end, lsn + walk(&read(&file, at).unwrap(), lsn).0 as u64);
        for known in &ends {
            assert_eq!(Survey::since(&file, *known).unwrap(), all, "from {known}");
        }
        ends.push(all.end);
    }
    assert!(ends.windows(2).all(|pair| pair[0] < pair[1]), "{ends:?}");
    assert!(ends.last().unwrap() / SEGMENT >= 2, "several segments: {ends:?}");
}

#[test]
fn what_is_missing_of_the_log_is_noticed() {
    let (_dir, killed) = killed();
    let segments = replayed(&killed);
    assert!(segments.len() > 2, "{segments:?}");
    let file = File::options().read(true).write(true).open(killed.join(DATABASE_FILE)).unwrap();
    let mut random = 7_u64;
    let mut below = |bound: usize| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (random >> 33) as usize % bound
    };
    for trial in 0..200 {
        let (from, bytes) = segments[below(segments.len())];
        // Within the part that is log: what follows is left over.
        let at = from + below(bytes) as u64;
        let mut before =
            vec![0; if trial % 2 == 0 { 1 } else { 512.min((from + bytes as u64 - at) as usize) }];
        file.read_exact_at(&mut before, at).unwrap();
        let mut after = before.clone();
        after[0] ^= 1 << below(8);
        if trial % 2 != 0 {
            after.fill(0);
        }
        file.write_all_at(&after, at).unwrap();
        assert!(
            before == after || !is_whole(&killed),
            "trial {trial}: {} bytes at {at}",
            before.len()
        );
        file.write_all_at(&before, at).unwrap();
    }
    assert!(is_whole(&killed));
}

#[test]
fn segment_of_an_earlier_time_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    let (store, _) = open(&state);
    (0..COMMITS).for_each(|fill| commit(&store, fill));
    let old = fs::read(state.join(DATABASE_FILE)).unwrap();
    (0..COMMITS).for_each(|fill| commit(&store, 100 + fill));
    drop(store);
    let new = fs::read(state.join(DATABASE_FILE)).unwrap();
    let file = File::options().write(true).open(state.join(DATABASE_FILE)).unwrap();
    let mut differing = 0;
    for (at, (old, new)) in old.chunks(SEGMENT_BYTES).zip(new.chunks(SEGMENT_BYTES)).enumerate() {
        if old == new {
            continue;
        }
        differing += 1;
        file.write_all_at(old, at as u64 * SEGMENT).unwrap();
        assert!(!is_whole(&state), "segment {at}");
        file.write_all_at(new, at as u64 * SEGMENT).unwrap();
    }
    assert!(differing > 0 && is_whole(&state));
}
