//! Flipped bits, lost files and random bytes: the log opens, says which groups lost something, and
//! never gives back what was not written.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;

use super::{
    OpenReport, SegmentLog,
    body::{self, GroupRow},
    format::{Chain, FORMAT_VERSION, Kind, RecordHeader, SegmentHeader},
    replay::segment_path,
    scan::scan,
    sim_disk::SimDisk,
    test_support::{
        Random, Seen, answer, block_on, config, entry, open, open_unsealed, see, see_all,
    },
};
use crate::{Error, GroupId, Keyring, LogStore, Position};

const A: GroupId = GroupId(1);
const B: GroupId = GroupId(2);
const C: GroupId = GroupId(3);

type Files = BTreeMap<PathBuf, Vec<u8>>;
type Truth = BTreeMap<GroupId, Seen>;

fn append(log: &SegmentLog, group: GroupId, from: u64, to: u64, bytes: usize) {
    let entries = (from..to).map(|index| entry(group, index / 10, index, bytes)).collect();
    answer(log, |log, done| log.append(group, entries, done)).expect("durable");
}

fn vote(log: &SegmentLog, group: GroupId, vote: &'static str) {
    let vote = Bytes::from_static(vote.as_bytes());
    answer(log, |log, done| log.save_vote(group, vote, done)).expect("durable");
}

/// Some segments with everything in them, closed in order.
fn sample() -> (Files, Truth) {
    let disk = SimDisk::new(1);
    let (log, _) = open(&disk).expect("it opens");
    vote(&log, A, "a1");
    for round in 0..8 {
        append(&log, A, 1 + round * 20, 21 + round * 20, 90);
        append(&log, B, 1 + round * 3, 4 + round * 3, 400);
        if round == 3 {
            vote(&log, B, "b");
            append(&log, C, 0, 2, 30);
            let upto = Position { term: 1, index: 15 };
            answer(&log, |log, done| log.purge(A, upto, done)).expect("durable");
        }
        if round == 5 {
            answer(&log, |log, done| log.truncate_after(B, Some(11), done)).expect("durable");
            append(&log, B, 12, 19, 300);
        }
    }
    vote(&log, C, "c");
    let truth = see_all(&log);
    drop(log);
    (disk.contents(), truth)
}

fn open_files(files: &Files) -> Result<(SegmentLog, OpenReport), Error> {
    open(&SimDisk::with(files, 1))
}

/// Up to where each file is known to have been durable.
fn durable(files: &Files) -> BTreeMap<PathBuf, usize> {
    let mut durable = BTreeMap::new();
    let mut before: Option<&PathBuf> = None;
    for (path, bytes) in files {
        let header = SegmentHeader::decode(bytes).expect("a sound header");
        if let Some(before) = before {
            durable.insert(before.clone(), header.previous_bytes as usize);
        }
        durable.insert(path.clone(), scan(bytes, &header, 0).durable);
        before = Some(path);
    }
    durable
}

/// Whatever is not reported is whole.
fn check(report: &OpenReport, log: &SegmentLog, truth: &Truth, context: &str) {
    for (group, seen) in truth {
        if report.damaged.contains_key(group) {
            let read = block_on(log.read(*group, 0..99, 1));
            assert!(matches!(read, Err(Error::Damage { .. })), "{context}: {read:?}");
        } else {
            assert_eq!(see(log, *group).expect("readable"), *seen, "{context}, {group:?}");
        }
    }
    let known: BTreeSet<_> = log.groups().into_iter().collect();
    assert!(known.iter().all(|group| truth.contains_key(group)), "{context}: {known:?}");
}

#[test]
fn every_flipped_bit_is_reported_or_harmless() {
    let (files, truth) = sample();
    assert!(files.len() >= 3, "the sample spans segments");
    let durable = durable(&files);
    let (mut flips, mut spared) = (0, 0);
    for (path, bytes) in &files {
        // A stride without a common factor with the alignment visits every field.
        for at in (0..bytes.len()).step_by(13) {
            let mut files = files.clone();
            files.get_mut(path).expect("the file")[at] ^= 1 << (at % 8);
            let context = format!("{} at {at}", path.display());
            let (log, report) = open_files(&files).expect("damage is no error");
            check(&report, &log, &truth, &context);
            if at < durable[path] {
                assert!(!report.damage.is_empty(), "{context}: not noticed");
                flips += 1;
                spared += usize::from(report.damaged.len() < truth.len());
            }
        }
    }
    assert!(flips > 1000 && spared * 2 > flips, "{spared} of {flips} flips spared a group");
}

#[test]
fn damage_is_laid_to_the_group_that_lost_records() {
    let disk = SimDisk::new(1);
    let log = open_unsealed(&disk);
    append(&log, A, 1, 2, 200);
    append(&log, B, 1, 2, 200);
    append(&log, A, 2, 3, 200);
    append(&log, B, 2, 3, 200);
    drop(log);
    let mut files = disk.contents();
    let bytes = files.values_mut().next().expect("a segment");
    let text = b"2/0/1;2/0/1;";
    let at = bytes.windows(text.len()).position(|part| part == text).expect("the payload");
    bytes[at + 50] ^= 4;
    let (log, report) = open_files(&files).expect("damage is no error");
    assert_eq!(report.damaged.keys().copied().collect::<Vec<_>>(), vec![B]);
    assert_eq!(see(&log, A).expect("readable").entries.len(), 2);
}

#[test]
fn damaged_group_takes_nothing_until_it_is_dropped() {
    let (mut files, truth) = sample();
    let first = files.values_mut().next().expect("a segment");
    first[3000] ^= 1;
    let disk = SimDisk::with(&files, 2);
    let (log, report) = open(&disk).expect("damage is no error");
    let lost: Vec<GroupId> = report.damaged.keys().copied().collect();
    assert!(!lost.is_empty());
    for group in &lost {
        let refused = answer(&log, |log, done| log.save_vote(*group, Bytes::new(), done));
        assert!(matches!(refused, Err(Error::Damage { .. })), "{refused:?}");
        let refused = answer(&log, |log, done| log.append(*group, vec![], done));
        assert!(matches!(refused, Err(Error::Damage { .. })), "{refused:?}");
    }
    drop(log);
    let (log, report) = open(&disk).expect("damage is no error");
    assert_eq!(report.damaged.keys().copied().collect::<Vec<_>>(), lost, "it is remembered");
    for group in &lost {
        answer(&log, |log, done| log.drop_group(*group, done)).expect("durable");
        append(&log, *group, 1, 3, 50);
    }
    drop(log);
    let (log, report) = open(&disk).expect("it opens");
    assert!(report.damaged.is_empty(), "{report:?}");
    for group in truth.keys() {
        let expected = if lost.contains(group) { 2 } else { truth[group].entries.len() };
        assert_eq!(see(&log, *group).expect("readable").entries.len(), expected);
    }
}

#[test]
fn missing_file_is_damage_to_whoever_had_records_in_it() {
    let (files, truth) = sample();
    let last = files.keys().last().expect("segments").clone();
    for path in files.keys().filter(|path| **path != last) {
        let mut files = files.clone();
        files.remove(path);
        let (log, report) = open_files(&files).expect("damage is no error");
        assert!(report.damage.iter().any(|damage| damage.reason == "the file is missing"));
        assert!(report.damaged.contains_key(&A), "{report:?}");
        check(&report, &log, &truth, &path.display().to_string());
    }
}

#[test]
fn log_that_ends_below_the_checkpoint_is_damaged() {
    let (files, _) = sample();
    let (log, _) = open_files(&files).expect("it opens");
    let records = |group| log.durable_records(group);
    assert!(records(A) > 0 && records(B) > 0);
    let mut settings = config(Path::new("/log"));
    settings.expectations.records_min =
        BTreeMap::from([(A, records(A) + 1), (B, records(B)), (C, 0), (GroupId(8), 1)]);
    let disk = SimDisk::with(&files, 3);
    let (log, report) = SegmentLog::open_on(Arc::new(disk), settings).expect("it opens");
    assert_eq!(report.damaged.keys().copied().collect::<Vec<_>>(), vec![A, GroupId(8)]);
    let refused = answer(&log, |log, done| log.save_vote(GroupId(8), Bytes::new(), done));
    assert!(matches!(refused, Err(Error::Damage { .. })), "{refused:?}");
}

#[test]
fn unfinished_write_is_cut_and_is_no_damage() {
    let disk = SimDisk::new(1);
    let log = open_unsealed(&disk);
    append(&log, A, 1, 4, 100);
    disk.fail_next_sync();
    let entries = (4..7).map(|index| entry(A, 0, index, 600)).collect();
    answer(&log, |log, done| log.append(A, entries, done)).expect_err("the sync fails");
    drop(log);
    let mut files = disk.contents();
    let bytes = files.values_mut().next().expect("a segment");
    let text = b"1/0/5;1/0/5;";
    let at = bytes.windows(text.len()).position(|part| part == text).expect("the payload");
    bytes[at..at + 512].fill(0);
    let (log, report) = open_files(&files).expect("it opens");
    assert!(report.damage.is_empty() && report.damaged.is_empty(), "{report:?}");
    assert!(report.tear.is_some());
    assert_eq!(see(&log, A).expect("readable").entries.len(), 3);
}

#[test]
fn other_version_is_refused() {
    let (mut files, _) = sample();
    let bytes = files.values_mut().next().expect("a segment");
    bytes[8] = 3;
    let crc = crc32c::crc32c(&bytes[..60]).to_le_bytes();
    bytes[60..64].copy_from_slice(&crc);
    let opened = open_files(&files).map(|_| ());
    assert!(matches!(opened, Err(Error::Version { version: 3, .. })), "{opened:?}");
}

#[test]
fn unreadable_entry_costs_its_group_at_the_read() {
    let disk = SimDisk::new(1);
    let log = open_unsealed(&disk);
    append(&log, A, 1, 40, 200);
    append(&log, B, 1, 2, 200);
    disk.change(|bytes| {
        let text = b"1/0/7;1/0/7;";
        let at = bytes.windows(text.len()).position(|part| part == text);
        at.into_iter().for_each(|at| bytes[at] ^= 1);
    });
    let read = block_on(log.read(A, 7..8, 1));
    assert!(matches!(read, Err(Error::Damage { .. })), "{read:?}");
    let refused = answer(&log, |log, done| log.save_vote(A, Bytes::new(), done));
    assert!(matches!(refused, Err(Error::Damage { .. })), "{refused:?}");
    append(&log, B, 2, 3, 20);
}

fn mutate(files: &mut Files, random: &mut Random) {
    let pick = random.below(files.len() as u64) as usize;
    let path = files.keys().nth(pick).expect("a file").clone();
    let bytes = files.get_mut(&path).expect("the file");
    let size = bytes.len() as u64;
    let at = random.below(size) as usize;
    let end = (at + 1 + random.below(600) as usize).min(bytes.len());
    match random.below(8) {
        0..3 => bytes[at] ^= 1 << random.below(8),
        3 => bytes[at..end].fill(0),
        4 => bytes[at..end].iter_mut().for_each(|byte| *byte = random.below(256) as u8),
        5 => bytes.truncate(at),
        6 => {
            let from = random.below(size - (end - at) as u64 + 1) as usize;
            let (from, to) = (from / 8 * 8, at / 8 * 8);
            let count = (end - at).min(bytes.len() - from.max(to));
            bytes.copy_within(from..from + count, to);
        }
        _ => {
            files.remove(&path);
        }
    }
}

/// Random damage over several places: nothing panics and nothing is invented. The fuzz target
/// `log_reader` does the same with inputs of its own.
#[test]
fn random_damage_invents_nothing() {
    let (files, _) = sample();
    for seed in 0..1500 {
        let (mut files, mut random) = (files.clone(), Random::new(seed));
        for _ in 0..=random.below(4) {
            if !files.is_empty() {
                mutate(&mut files, &mut random);
            }
        }
        let disk = SimDisk::with(&files, seed);
        let Ok((log, report)) = open(&disk) else {
            panic!("seed {seed}: only another version is an error");
        };
        for group in log.groups() {
            if report.damaged.contains_key(&group) {
                continue;
            }
            for got in see(&log, group).expect("readable").entries {
                let told = entry(group, got.position.term, got.position.index, 1);
                assert!(got.payload.starts_with(&told.payload), "seed {seed}: {got:?}");
            }
        }
        // Opened again, whatever was damaged still is, and the rest is as it was.
        let seen: Vec<_> =
            log.groups().into_iter().map(|group| (group, log.group(group))).collect();
        drop(log);
        let (log, again) = open(&disk).expect("it opens again");
        assert!(
            again.damaged.keys().eq(report.damaged.keys()),
            "seed {seed}: {report:?} {again:?}"
        );
        for (group, known) in seen.into_iter().filter(|(id, _)| !report.damaged.contains_key(id)) {
            assert_eq!(log.group(group), known, "seed {seed}");
        }
    }
}

/// Files of random records whose checksums hold: what only a bug of another build could write.
fn random_files(random: &mut Random) -> Files {
    let kinds = [
        Kind::Entries,
        Kind::Moved,
        Kind::Vote,
        Kind::Truncate,
        Kind::Purge,
        Kind::Drop,
        Kind::State,
        Kind::Head,
        Kind::Mark,
    ];
    let number = |random: &mut Random| match random.below(8) {
        0 => u64::MAX - random.below(3),
        _ => random.below(4),
    };
    let mut files = Files::new();
    let mut previous = (0, 0);
    for sequence in 1..=1 + random.below(3) {
        let mut header = SegmentHeader {
            version: FORMAT_VERSION,
            sequence,
            epoch: number(random),
            salt: 3,
            previous_bytes: previous.0,
            previous_chain: previous.1,
            created_bytes: 64,
        };
        header.created_bytes += 8 * random.below(40) as u32;
        let mut bytes = header.encode().to_vec();
        let mut chain = Chain::new(&header);
        for _ in 0..random.below(12) {
            let record = RecordHeader {
                kind: kinds[random.below(9) as usize],
                group: GroupId(if random.below(9) == 0 { u32::MAX } else { number(random) as u32 }),
                number: number(random),
                key: 0,
                synced: random.below(400) as u32,
            };
            let body = random_body(record.kind, random, number);
            chain.record(&mut bytes, record, |out| out.extend_from_slice(&body));
        }
        previous = (bytes.len() as u64, chain.last);
        files.insert(segment_path(Path::new("/log"), sequence), bytes);
    }
    files
}

fn random_body(kind: Kind, random: &mut Random, number: fn(&mut Random) -> u64) -> Vec<u8> {
    let mut body = Vec::new();
    let position = |random: &mut Random| Position { term: number(random), index: number(random) };
    match kind {
        Kind::Entries | Kind::Moved => {
            let (first, term) = (number(random), number(random));
            let entries: Vec<_> = (0..random.below(4))
                .map(|step| entry(A, term, first.wrapping_add(step), 10))
                .collect();
            body::put_entries(&mut body, A, &entries, &Keyring::unsealed().sealer());
        }
        Kind::Truncate => {
            let last = (random.below(2) == 0).then(|| position(random));
            body::put_truncate(&mut body, last);
        }
        Kind::Purge => body::put_position(&mut body, position(random)),
        Kind::Head => body.extend_from_slice(&number(random).to_le_bytes()),
        Kind::State => {
            let rows: Vec<_> = (0..random.below(4))
                .map(|group| GroupRow {
                    group: group as u32,
                    number: number(random),
                    vote: (random.below(2) == 0).then(Bytes::new),
                    purged: (random.below(2) == 0).then(|| position(random)),
                    last: (random.below(2) == 0).then(|| position(random)),
                    first: number(random),
                    entries: number(random),
                    damaged: random.below(9) == 0,
                })
                .collect();
            body::put_state(&mut body, number(random), &rows);
        }
        Kind::Vote | Kind::Drop | Kind::Mark => body.extend_from_slice(b"xyz"),
    }
    if random.below(10) == 0 {
        body.truncate(random.below(body.len() as u64 + 1) as usize);
    }
    body
}

#[test]
fn nonsense_with_sound_checksums_is_survived() {
    for seed in 0..4000 {
        let mut random = Random::new(seed);
        let disk = SimDisk::with(&random_files(&mut random), seed);
        let (log, report) = open(&disk).expect("damage is no error");
        for group in log.groups() {
            if !report.damaged.contains_key(&group) {
                see(&log, group).expect("what is whole is readable");
            }
        }
        drop(log);
        // Lengths that lie may show more damage once another segment follows, but never less.
        let (_, again) = open(&disk).expect("it opens again");
        let found = report.damaged.keys().all(|group| again.damaged.contains_key(group));
        assert!(found, "seed {seed}: {report:?} {again:?}");
    }
}

/// A segment's bytes: a vote, and a vote of the same length in its place of another history, both
/// followed by the same third one.
fn history(second: &[u8]) -> (SegmentHeader, Vec<u8>) {
    let header = SegmentHeader {
        version: FORMAT_VERSION,
        sequence: 1,
        epoch: 1,
        salt: 7,
        previous_bytes: 0,
        previous_chain: 0,
        created_bytes: 64,
    };
    let mut bytes = header.encode().to_vec();
    let mut chain = Chain::new(&header);
    for (number, vote) in [(1, &b"first"[..]), (2, second), (3, b"third")] {
        let record = RecordHeader { kind: Kind::Vote, group: A, number, key: 0, synced: 64 };
        chain.record(&mut bytes, record, |out| out.extend_from_slice(vote));
    }
    (header, bytes)
}

#[test]
fn record_of_another_history_in_its_own_place_breaks_the_chain() {
    let (header, now) = history(b"second");
    let (_, other) = history(b"former");
    assert_eq!(scan(&now, &header, now.len()).end, now.len());
    let second = 64 + 48..64 + 96;
    let mut mixed = now.clone();
    mixed[second.clone()].copy_from_slice(&other[second]);
    // Each record is sound, of its group, and has the right number.
    let scanned = scan(&mixed, &header, mixed.len());
    assert_eq!(scanned.end, 64 + 96, "the third does not follow it: {scanned:?}");
}
