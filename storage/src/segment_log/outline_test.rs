//! With outlines an open finds what it finds without them, and reads less; and no outline, however
//! damaged or old, makes it find anything else.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;

use super::{
    OpenExpectations, OpenReport, SegmentLog,
    clock::now,
    config::SEGMENT_BYTES_MIN,
    open::read_all,
    outline::{OUTLINE_SUFFIX, outline_path},
    replay::segment_path,
    sim_disk::SimDisk,
    test_support::{
        DEADLINE, Random, Seen, answer, block_on, config, entry, open, open_unsealed, outline, see,
        see_all,
    },
};
use crate::{Error, GroupId, LogStore, Position};

const A: GroupId = GroupId(1);
const B: GroupId = GroupId(2);
const C: GroupId = GroupId(3);

type Files = BTreeMap<PathBuf, Vec<u8>>;

fn dir() -> &'static Path {
    Path::new("/log")
}

fn append(log: &SegmentLog, group: GroupId, from: u64, to: u64, bytes: usize) {
    let entries = (from..to).map(|index| entry(group, index / 10, index, bytes)).collect();
    answer(log, |log, done| log.append(group, entries, done)).expect("durable");
}

/// Segments with every kind of record, moved entries and an append larger than what a step reads
/// among them.
fn fill(log: &SegmentLog) {
    for round in 0..14 {
        append(log, A, 1 + round * 20, 21 + round * 20, 90);
        append(log, B, 1 + round * 3, 4 + round * 3, 400);
        if round == 3 {
            let vote = Bytes::from_static(b"b");
            answer(log, |log, done| log.save_vote(B, vote, done)).expect("durable");
            append(log, C, 0, 2, 30);
        }
        if round == 5 {
            answer(log, |log, done| log.truncate_after(B, Some(16), done)).expect("durable");
            append(log, B, 17, 19, 3000);
        }
        if round == 9 {
            // The first segment is mostly dead now: what lives in it moves.
            let upto = Position { term: 16, index: 165 };
            answer(log, |log, done| log.purge(A, upto, done)).expect("durable");
            answer(log, |log, done| log.drop_group(C, done)).expect("durable");
        }
    }
}

/// The files of a log whose sealed segments all have outlines, and what it answers.
fn outlined() -> (Files, BTreeMap<GroupId, Seen>) {
    let disk = SimDisk::new(1);
    let (log, _) = open(&disk).expect("it opens");
    fill(&log);
    outline(&log);
    let truth = see_all(&log);
    drop(log);
    (disk.contents(), truth)
}

fn outlines(files: &Files) -> Vec<PathBuf> {
    let names = files.keys().filter(|path| path.to_string_lossy().ends_with(OUTLINE_SUFFIX));
    names.cloned().collect()
}

fn without_outlines(files: &Files) -> Files {
    let mut files = files.clone();
    files.retain(|path, _| !path.to_string_lossy().ends_with(OUTLINE_SUFFIX));
    files
}

fn open_files(files: &Files) -> (SegmentLog, OpenReport) {
    open(&SimDisk::with(files, 1)).expect("damage is no error")
}

/// All but how it was read.
fn found(report: &OpenReport) -> OpenReport {
    OpenReport { bytes: 0, outlined: 0, ..report.clone() }
}

#[test]
fn an_outlined_log_is_found_as_the_same_and_hardly_read() {
    let (files, truth) = outlined();
    let (log, plain) = open_files(&without_outlines(&files));
    drop(log);
    let (log, report) = open_files(&files);
    assert_eq!(found(&report), found(&plain));
    assert_eq!(report.outlined, report.segments - 1, "the last one is not sealed yet");
    assert!(report.segments > 3, "{report:?}");
    let last = files.keys().rfind(|path| path.extension().is_some_and(|of| of == "log"));
    let of_outlines: usize = outlines(&files).iter().map(|path| files[path].len()).sum();
    let last = files[last.expect("a segment")].len();
    assert_eq!(report.bytes, (of_outlines + last) as u64);
    assert!(of_outlines as u64 * 2 < plain.bytes - last as u64, "payloads are left out");
    assert_eq!(see_all(&log), truth);
}

#[test]
fn writes_go_on_over_an_outlined_log() {
    let (files, _) = outlined();
    let disk = SimDisk::with(&files, 1);
    let (log, _) = open(&disk).expect("it opens");
    append(&log, A, 281, 400, 90);
    outline(&log);
    let truth = see_all(&log);
    drop(log);
    let (log, report) = open(&disk).expect("it opens");
    assert_eq!(report.outlined, report.segments - 1);
    assert_eq!(see_all(&log), truth);
}

#[test]
fn a_damaged_outline_costs_nothing_but_its_use() {
    let (files, truth) = outlined();
    let (_, sound) = open_files(&files);
    let mut flips = 0;
    for path in outlines(&files) {
        for at in (0..files[&path].len()).step_by(53) {
            let mut files = files.clone();
            files.get_mut(&path).expect("the file")[at] ^= 1 << (at % 8);
            let (log, report) = open_files(&files);
            assert_eq!(report.outlined, sound.outlined - 1, "{} at {at}", path.display());
            assert_eq!(found(&report), found(&sound));
            assert_eq!(see_all(&log), truth);
            flips += 1;
        }
        for len in [0, 3, 39, 43, files[&path].len() - 1] {
            let mut files = files.clone();
            files.get_mut(&path).expect("the file").truncate(len);
            let (log, report) = open_files(&files);
            assert_eq!(report.outlined, sound.outlined - 1, "{} of {len}", path.display());
            assert_eq!(see_all(&log), truth);
        }
    }
    assert!(flips > 50);
}

#[test]
fn an_outline_of_another_segment_does_not_count() {
    let (files, truth) = outlined();
    let (_, sound) = open_files(&files);
    let names = outlines(&files);
    let mut swapped = files.clone();
    swapped.insert(names[1].clone(), files[&names[0]].clone());
    // One of a log before this one, whose segments had other salts.
    let earlier = SimDisk::new(2);
    let mut other = config(dir());
    other.salt ^= 1;
    let (log, _) = SegmentLog::open_on(Arc::new(earlier.clone()), other).expect("opens");
    fill(&log);
    outline(&log);
    drop(log);
    swapped.insert(names[2].clone(), earlier.contents()[&names[2]].clone());
    let (log, report) = open_files(&swapped);
    assert_eq!(report.outlined, sound.outlined - 2);
    assert_eq!(found(&report), found(&sound));
    assert_eq!(see_all(&log), truth);
}

#[test]
fn nonsense_under_a_sound_checksum_is_survived() {
    let (files, _) = outlined();
    let names = outlines(&files);
    let mut used = 0;
    for seed in 0..1000 {
        let mut random = Random::new(seed);
        let mut files = files.clone();
        let path = &names[random.below(names.len() as u64) as usize];
        let bytes = files.get_mut(path).expect("the file");
        let end = bytes.len() - 4;
        for _ in 0..=random.below(4) {
            let at = 36 + random.below(end as u64 - 36) as usize;
            bytes[at] = random.below(256) as u8;
        }
        let crc = crc32c::crc32c(&bytes[..end]);
        bytes[end..].copy_from_slice(&crc.to_le_bytes());
        let disk = SimDisk::with(&files, seed);
        let (log, report) = match open(&disk) {
            Ok(opened) => opened,
            // It says that entries are sealed with keys that nobody has.
            Err(Error::KeysMissing { .. }) => continue,
            Err(error) => panic!("seed {seed}: {error}"),
        };
        used += usize::from(report.outlined == names.len());
        for group in log.groups() {
            // What it says lies where nothing does is found by the read.
            let read = block_on(log.read(group, 0..u64::MAX, 1 << 20));
            let is_told = matches!(read, Ok(_) | Err(Error::Damage { .. } | Error::Purged { .. }));
            assert!(is_told, "seed {seed}: {read:?}");
        }
        // No byte of nonsense makes this one.
        append(&log, GroupId(0x7777_7777), 0, 200, 90);
    }
    assert!(used > 100, "{used} were taken");
}

/// Which segment holds the first living entry of `A`, and the files with that entry damaged.
fn harm(files: &Files, truth: &BTreeMap<GroupId, Seen>) -> (u64, Files) {
    let mut files = files.clone();
    let payload = truth[&A].entries[3].payload.clone();
    let find = |bytes: &[u8]| bytes.windows(payload.len()).position(|part| part == payload);
    let (path, at) = files
        .iter()
        .find_map(|(path, bytes)| Some((path.clone(), find(bytes)?)))
        .expect("it is there");
    files.get_mut(&path).expect("the file")[at] ^= 1;
    let stem = path.file_stem().expect("a name").to_string_lossy().into_owned();
    (u64::from_str_radix(&stem, 16).expect("a sequence"), files)
}

/// Like [`outlined`], in the clear, so that a payload can be found.
fn outlined_unsealed() -> (Files, BTreeMap<GroupId, Seen>) {
    let disk = SimDisk::new(1);
    let log = open_unsealed(&disk);
    fill(&log);
    outline(&log);
    let truth = see_all(&log);
    drop(log);
    (disk.contents(), truth)
}

#[test]
fn damage_behind_an_outline_is_found_when_read_and_told_by_the_next_open() {
    let (files, truth) = outlined_unsealed();
    let (segment, files) = harm(&files, &truth);
    let disk = SimDisk::with(&files, 1);
    let keys = config(dir()).keys;
    let inspected = read_all(&disk, dir(), &OpenExpectations::default(), &keys).expect("readable");
    assert!(inspected.damaged.contains_key(&A), "who looks reads everything: {inspected:?}");
    let (log, report) = open(&disk).expect("it opens");
    assert!(report.damage.is_empty() && report.damaged.is_empty(), "{report:?}");
    let index = truth[&A].entries[3].position.index;
    let read = block_on(log.read(A, index..index + 1, 1));
    assert!(matches!(read, Err(Error::Damage { .. })), "{read:?}");
    let refused = answer(&log, |log, done| log.save_vote(A, Bytes::from_static(b"a"), done));
    assert!(matches!(refused, Err(Error::Damage { .. })), "{refused:?}");
    assert_eq!(see(&log, B).expect("readable"), truth[&B]);
    outline(&log);
    assert!(!disk.contents().contains_key(&outline_path(dir(), segment)));
    drop(log);
    let (_, report) = open(&disk).expect("it opens");
    assert_eq!(report.damaged.keys().collect::<Vec<_>>(), [&A], "{report:?}");
    let places: BTreeSet<_> = report.damage.iter().map(|damage| damage.path.clone()).collect();
    assert_eq!(places, BTreeSet::from([segment_path(dir(), segment)]));
}

#[test]
fn the_scrub_finds_damage_behind_an_outline() {
    let (files, truth) = outlined_unsealed();
    let (segment, files) = harm(&files, &truth);
    let disk = SimDisk::with(&files, 1);
    let (log, _) = open(&disk).expect("it opens");
    let mut damages = 0;
    loop {
        let step = log.scrub(4 << 10).expect("the disk is sound");
        damages += step.damages;
        if step.is_last {
            break;
        }
    }
    assert_eq!(damages, 1);
    assert!(log.damage(A).is_some() && log.damage(B).is_none());
    outline(&log);
    assert!(!disk.contents().contains_key(&outline_path(dir(), segment)));
}

#[test]
fn an_unsound_segment_gets_no_outline() {
    let (files, truth) = outlined_unsealed();
    let (log, _) = open_files(&files);
    drop(log);
    let disk = SimDisk::with(&without_outlines(&files), 1);
    let (log, report) = open(&disk).expect("it opens");
    assert!(report.damage.is_empty());
    // Behind the open log's back.
    let payload = truth[&A].entries[3].payload.clone();
    let harmed = std::cell::Cell::new(0);
    disk.change(|bytes| {
        let found = bytes.windows(payload.len()).position(|part| part == payload);
        if let Some(at) = found {
            bytes[at] ^= 1;
            harmed.set(harmed.get() + 1);
        }
    });
    assert!(harmed.get() > 0);
    outline(&log);
    let sealed = report.segments;
    let there = outlines(&disk.contents()).len();
    assert_eq!(there, sealed - harmed.get(), "all but the damaged");
}

#[test]
fn outlines_go_with_their_segments() {
    let (files, _) = outlined();
    let disk = SimDisk::with(&files, 1);
    let (log, _) = open(&disk).expect("it opens");
    let purge = |log: &SegmentLog, group, index| {
        let upto = Position { term: 40, index };
        answer(log, |log, done| log.purge(group, upto, done)).expect("durable");
    };
    purge(&log, A, 280);
    purge(&log, B, 42);
    append(&log, A, 281, 282, 90);
    // The writer removes dead segments after it has answered.
    let began = now();
    while outlines(&disk.contents()).len() == outlines(&files).len() {
        assert!(now() < began + DEADLINE, "the outlines stay");
        std::thread::yield_now();
        outline(&log);
    }
    let left = |disk: &SimDisk| -> Vec<PathBuf> {
        let files = disk.contents();
        let segments: Vec<_> =
            outlines(&files).iter().map(|path| path.with_extension("log")).collect();
        segments.into_iter().filter(|path| !files.contains_key(path)).collect()
    };
    // Or between two looks of this one.
    log.close();
    outline(&log);
    assert_eq!(left(&disk), Vec::<PathBuf>::new());
    drop(log);
    // One that was left by a process that died.
    let mut files = disk.contents();
    files.insert(outline_path(dir(), 1), vec![0; 64]);
    let disk = SimDisk::with(&files, 1);
    drop(open(&disk).expect("it opens"));
    assert_eq!(left(&disk), Vec::<PathBuf>::new());
}

#[test]
fn a_disk_that_takes_no_outline_is_told_and_asked_once() {
    let disk = SimDisk::new(1);
    let (log, _) = open(&disk).expect("it opens");
    fill(&log);
    let mut failed = 0;
    loop {
        // The write is behind the reads of a segment of this size.
        let read = log.outline(SEGMENT_BYTES_MIN as usize * 2);
        match read {
            Ok(0) => break,
            Ok(_) => disk.fail_in(2),
            Err(error) => {
                assert!(matches!(error, Error::Io { .. }), "{error:?}");
                failed += 1;
                assert!(failed < 100, "it is not tried again");
            }
        }
    }
    assert!(failed > 0);
    disk.heal();
    let truth = see_all(&log);
    drop(log);
    let (log, report) = open(&disk).expect("it opens");
    assert!(report.damage.is_empty());
    assert_eq!(see_all(&log), truth);
}
