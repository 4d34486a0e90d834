//! Living entries move to the current storage key, dead ones are forgotten with theirs, and no power
//! cut on the way loses anything.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;

use super::{
    SegmentLog,
    body::{entries_at, open_entry},
    format::{RECORD_HEADER_BYTES, SegmentHeader},
    scan::{Item, scan},
    sim_disk::SimDisk,
    test_support::{Random, answer, config, entry, open_unsealed, see_all},
};
use crate::{Error, GroupId, Keyring, MemoryKeyDisk, Position, Retirement};

const A: GroupId = GroupId(1);
const B: GroupId = GroupId(2);

fn ring(disk: &MemoryKeyDisk) -> Keyring {
    static CALLS: AtomicU64 = AtomicU64::new(1);
    let entropy = |bytes: &mut [u8]| {
        let call = CALLS.fetch_add(1, Ordering::Relaxed).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let call = (call ^ (call >> 29)).to_le_bytes();
        bytes.iter_mut().zip(call.iter().cycle()).for_each(|(byte, value)| *byte = *value);
    };
    Keyring::open_memory(disk, Box::new(entropy), 0).expect("it opens")
}

fn open(disk: &SimDisk, keys: &Keyring) -> SegmentLog {
    let mut config = config(Path::new("/log"));
    config.keys = keys.clone();
    let (log, report) = SegmentLog::open_on(Arc::new(disk.clone()), config).expect("it opens");
    assert!(report.damaged.is_empty(), "{report:?}");
    log
}

fn append(log: &SegmentLog, group: GroupId, indexes: std::ops::Range<u64>) {
    let entries = indexes.map(|index| entry(group, 1, index, 300)).collect();
    answer(log, |log, done| log.append(group, entries, done)).expect("durable");
}

/// Retires all it can; each vote that is answered is one more step of the log's writer.
fn retire(log: &SegmentLog, keys: &Keyring) -> Result<usize, Error> {
    let mut destroyed = 0;
    loop {
        match keys.retire_step()? {
            Retirement::Complete => return Ok(destroyed),
            Retirement::Destroyed(keys) => destroyed += keys,
            Retirement::Moved(_) | Retirement::Waiting => {
                let vote = Bytes::from_static(b"vote");
                answer(log, |log, done| log.save_vote(B, vote, done))?;
            }
        }
    }
}

/// How many entries of the files, dead ones among them, `keys` can open.
fn openable(disk: &SimDisk, keys: &Keyring) -> usize {
    let mut count = 0;
    for mut bytes in disk.contents().into_values().filter(|bytes| !bytes.is_empty()) {
        let header = SegmentHeader::decode(&bytes).expect("a segment");
        let copy = bytes.clone();
        for item in scan(&copy, &header, 0).items {
            let Item::Record(at, record) = item else { continue };
            let of_entries = entries_at(record.body).filter(|_| record.header.key != 0);
            for found in of_entries.into_iter().flatten() {
                let at = at + RECORD_HEADER_BYTES + found.offset;
                let group = record.header.group;
                let opened = open_entry(&mut bytes, at, group, found.position, &keys.view());
                count += usize::from(opened.is_some());
            }
        }
    }
    count
}

#[test]
fn dead_entries_are_forgotten_with_their_key_and_living_ones_move() {
    let (disk, key_disk) = (SimDisk::new(1), MemoryKeyDisk::new());
    let keys = ring(&key_disk);
    let log = open(&disk, &keys);
    append(&log, A, 1..30);
    append(&log, B, 1..30);
    append(&log, A, 30..60);
    let upto = Position { term: 1, index: 50 };
    answer(&log, |log, done| log.purge(A, upto, done)).expect("durable");
    let copy = disk.contents();
    assert!(openable(&disk, &keys) >= 9 + 29);
    keys.rotate(1).expect("a key is drawn");
    assert_eq!(retire(&log, &keys).expect("retired"), 1);
    assert_eq!(key_disk.files().len(), 1);

    let now = see_all(&log);
    assert_eq!((now[&A].entries.len(), now[&B].entries.len()), (9, 29));
    assert_eq!(openable(&disk, &keys), 9 + 29, "the living ones, once each");
    let stolen = SimDisk::with(&copy, 3);
    assert_eq!(openable(&stolen, &keys), 0, "a copy made before is illegible now");
    drop(log);
    disk.power_cut();
    assert_eq!(see_all(&open(&disk, &ring(&key_disk))), now);
}

#[test]
fn unsealed_log_of_an_earlier_build_is_sealed_by_the_first_rotation() {
    let (disk, key_disk) = (SimDisk::new(1), MemoryKeyDisk::new());
    let log = open_unsealed(&disk);
    append(&log, A, 1..20);
    let before = see_all(&log);
    drop(log);
    let keys = ring(&key_disk);
    let log = open(&disk, &keys);
    assert_eq!(see_all(&log), before);
    assert_eq!(openable(&disk, &keys), 0);
    keys.rotate(1).expect("a key is drawn");
    retire(&log, &keys).expect("retired");
    assert_eq!(openable(&disk, &keys), 19);
    let mut now = see_all(&log);
    now.remove(&B);
    assert_eq!(now, before);
}

/// The power of the log's disk or of the keys' disk goes at any moment of a rotation.
#[test]
fn power_cut_while_keys_change_loses_nothing() {
    let mut cut_short = 0;
    for seed in 0..60 {
        let mut random = Random::new(seed);
        let (disk, key_disk) = (SimDisk::new(seed), MemoryKeyDisk::new());
        let mut keys = ring(&key_disk);
        let mut log = open(&disk, &keys);
        let mut next = 1;
        for life in 0..4 {
            let count = 5 + random.below(30);
            append(&log, A, next..next + count);
            next += count;
            let purged = Position { term: 1, index: next - 1 - random.below(count) };
            answer(&log, |log, done| log.purge(A, purged, done)).expect("durable");
            let expected = see_all(&log).remove(&A).expect("the group");
            match random.below(2) {
                0 => disk.die_in(random.below(25)),
                _ => key_disk.power_off_after(random.below(5) as usize),
            }
            let done = keys.rotate(life).and_then(|()| retire(&log, &keys).map(drop));
            cut_short += usize::from(done.is_err());
            drop(log);
            disk.heal();
            disk.power_cut();
            key_disk.power_on();
            keys = ring(&key_disk);
            log = open(&disk, &keys);
            let found = see_all(&log).remove(&A).expect("the group");
            assert_eq!(found, expected, "seed {seed}, life {life}");
        }
    }
    assert!(cut_short > 60, "{cut_short} of 240 were cut short");
}
