//! Damage to any file of a node's data: what a start then reads is exactly right, or the groups
//! concerned are named. Never other data, never less, no panic, no endless wait.
//!
//! `DAMAGE_TRIALS` multiplies the number of trials of each kind.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

#[path = "../support/mod.rs"]
mod support;

mod node;
mod segments;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::OnceLock,
};

use heliograph_storage::{Error, GroupId};

use crate::node::{Found, Node, Random, Truth, files, read, restore};

type Files = BTreeMap<PathBuf, Vec<u8>>;

/// A node's files after its last clean stop, as they were before, and what is in them.
struct Sample {
    now: Files,
    before: Vec<Files>,
    truth: BTreeMap<GroupId, Truth>,
}

/// Several lives of a node, with images of its files at moments a process may be killed in.
fn sample() -> &'static Sample {
    static SAMPLE: OnceLock<Sample> = OnceLock::new();
    SAMPLE.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        let mut random = Random::new(1);
        let mut before = Vec::new();
        let mut truth = BTreeMap::new();
        for life in 0..3 {
            let mut node = Node::open(dir, truth);
            for part in 0..5 {
                node.traffic(&mut random, 60);
                node.checkpoint();
                if part == 2 {
                    node.snapshot(40);
                }
                before.push(files(dir));
            }
            if life < 2 {
                node.traffic(&mut random, 20);
            }
            // What a node does before it ends.
            node.checkpoint();
            truth = node.close();
        }
        Sample { now: files(dir), before, truth }
    })
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Flip,
    Truncate,
    OldChunk(usize),
    OldFile,
    Delete,
}

impl Sample {
    /// Damages `file`; `None` where this kind changes nothing there.
    fn damaged(&self, file: &Path, kind: Kind, random: &mut Random) -> Option<Files> {
        let mut files = self.now.clone();
        let content = files.get_mut(file)?;
        match kind {
            Kind::Delete => {
                files.remove(file);
                return Some(files);
            }
            Kind::Flip => {
                let at = random.below(used(content)?) as usize;
                content[at] ^= 1 << random.below(8);
            }
            Kind::Truncate => {
                content.truncate(random.below(content.len() as u64) as usize);
            }
            Kind::OldFile => {
                let old = self.older(file, random)?;
                if old == content {
                    return None;
                }
                content.clone_from(old);
            }
            Kind::OldChunk(bytes) => {
                let old = self.older(file, random)?;
                let chunks = content.len().min(old.len()).div_ceil(bytes);
                let range = |chunk: usize| {
                    chunk * bytes..((chunk + 1) * bytes).min(content.len()).min(old.len())
                };
                let differ: Vec<_> = (0..chunks)
                    .map(range)
                    .filter(|range| content[range.clone()] != old[range.clone()])
                    .collect();
                let range = differ.get(random.below(differ.len().max(1) as u64) as usize)?;
                content[range.clone()].copy_from_slice(&old[range.clone()]);
            }
        }
        (files[file] != self.now[file]).then_some(files)
    }

    /// An earlier version of `file`, or, as file names change, of the one that stood for it then.
    fn older(&self, file: &Path, random: &mut Random) -> Option<&Vec<u8>> {
        let group = |path: &Path| {
            let name = path.file_name()?.to_str()?;
            Some(name.strip_suffix(".snapshot")?.split_once('-')?.0.to_owned())
        };
        let is_same =
            |path: &Path| path == file || (group(path).is_some() && group(path) == group(file));
        let older = self.before.iter().flat_map(|files| files.iter());
        let mut older: Vec<_> = older
            .filter(|(path, content)| is_same(path) && **content != self.now[file])
            .map(|(_, content)| content)
            .collect();
        older.dedup();
        (!older.is_empty()).then(|| older[random.below(older.len() as u64) as usize])
    }
}

/// How much of a file is not the zeros that were set aside for more.
fn used(content: &[u8]) -> Option<u64> {
    content.iter().rposition(|byte| *byte != 0).map(|last| last as u64 + 1)
}

/// What became of a trial.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Outcome {
    /// All was right in spite of it, or mended from other files.
    Right,
    /// Some groups were named as damaged; the others were right.
    Named,
    /// The stores did not open, and said why.
    Refused,
}

fn judge(files: &Files, truth: &BTreeMap<GroupId, Truth>, what: &str) -> Outcome {
    let dir = tempfile::tempdir().unwrap();
    restore(files, dir.path());
    let found = match read(dir.path()) {
        Ok(found) => found,
        Err(Error::Damage { .. } | Error::State(_) | Error::Version { .. }) => {
            return Outcome::Refused;
        }
        Err(error) => panic!("{what}: {error}"),
    };
    let mut outcome = Outcome::Right;
    for (group, found) in found {
        match found {
            Found::Data(data) => {
                let truth = &truth[&group];
                assert_eq!(data.last, truth.last, "{what}: end of the log of {group:?}");
                assert_eq!(data.vote, truth.vote, "{what}: vote of {group:?}");
                let other =
                    data.rows.iter().find(|(key, value)| truth.rows.get(*key) != Some(*value));
                let other = other.map(|(key, _)| key);
                assert_eq!(other, None, "{what}: a row of {group:?} that was never so");
                assert_eq!(data.rows.len(), truth.rows.len(), "{what}: rows of {group:?} missing");
            }
            Found::Damaged(error) => {
                assert!(matches!(error, Error::Damage { .. }), "{what}: {error}");
                outcome = Outcome::Named;
            }
        }
    }
    outcome
}

fn trials() -> u64 {
    std::env::var("DAMAGE_TRIALS").ok().and_then(|trials| trials.parse().ok()).unwrap_or(1)
}

/// Damages the files that `chosen` picks, `count` times in each way, and judges what a start makes
/// of it. Answers how often each outcome was.
fn try_all(chosen: impl Fn(&str) -> bool, count: u64) -> BTreeMap<Outcome, u32> {
    const KINDS: [Kind; 6] = [
        Kind::Flip,
        Kind::Truncate,
        Kind::OldChunk(4 << 10),
        Kind::OldChunk(64 << 10),
        Kind::OldFile,
        Kind::Delete,
    ];
    let sample = sample();
    let mut outcomes = BTreeMap::new();
    for file in sample.now.keys().filter(|file| chosen(&file.to_string_lossy())) {
        for kind in KINDS {
            let count = if matches!(kind, Kind::Delete) { 1 } else { count * trials() };
            for seed in 0..count {
                let what = format!("{kind:?} of {} seed {seed}", file.display());
                let mut random = Random::new(seed);
                let Some(files) = sample.damaged(file, kind, &mut random) else { continue };
                let outcome = judge(&files, &sample.truth, &what);
                *outcomes.entry(outcome).or_default() += 1;
            }
        }
    }
    println!("{outcomes:?}");
    outcomes
}

#[test]
fn undamaged_files_are_read_as_they_are() {
    let sample = sample();
    assert_eq!(judge(&sample.now, &sample.truth, "nothing"), Outcome::Right);
    let segments = sample.now.keys().filter(|file| file.starts_with("log")).count();
    assert!(segments > 5, "several segments: {segments}");
}

#[test]
fn damaged_log_is_right_or_named() {
    let outcomes = try_all(|file| file.starts_with("log/") && file.ends_with(".log"), 1);
    assert!(outcomes[&Outcome::Named] > 0);
    assert_eq!(outcomes.get(&Outcome::Refused), None);
}

#[test]
fn damaged_outline_is_as_good_as_none() {
    let outcomes = try_all(|file| file.ends_with(".outline"), 1);
    assert!(outcomes[&Outcome::Right] > 20, "{outcomes:?}");
    assert_eq!(outcomes.len(), 1, "{outcomes:?}");
}

#[test]
fn damaged_snapshot_is_right_or_named() {
    let outcomes = try_all(|file| file.starts_with("snapshots/"), 2);
    assert!(outcomes[&Outcome::Named] > 0);
    assert_eq!(outcomes.get(&Outcome::Refused), None);
}

#[test]
fn damaged_database_is_rebuilt() {
    let outcomes = try_all(|file| file == "state/db", 6);
    // Snapshots and log hold everything: nobody has to be asked.
    assert_eq!(outcomes.keys().copied().collect::<Vec<_>>(), [Outcome::Right]);
}

#[test]
fn damaged_files_beside_the_database_are_harmless() {
    let outcomes = try_all(|file| file.starts_with("state/") && file != "state/db", 2);
    assert_eq!(outcomes.keys().copied().collect::<Vec<_>>(), [Outcome::Right]);
}

#[test]
fn damaged_keys_are_right_or_named() {
    let outcomes = try_all(|file| file.starts_with("keys/") && file.ends_with(".key"), 1);
    assert!(outcomes[&Outcome::Named] > 0);
    assert_eq!(outcomes.get(&Outcome::Refused), None);
}

/// A node that runs on a copy of the sample.
fn running(dir: &Path) -> Node {
    let sample = sample();
    restore(&sample.now, dir);
    Node::open(dir, sample.truth.clone())
}

#[test]
fn scrub_of_sound_files_under_traffic_finds_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = running(dir.path());
    let mut random = Random::new(9);
    for round in 0..4 {
        let (damages, damaged) = node.scrub();
        assert_eq!(damages, 0);
        assert!(damaged.is_empty(), "{damaged:?}");
        node.traffic(&mut random, 30);
        node.checkpoint();
        if round % 2 == 1 {
            node.snapshot(10);
        }
    }
}

#[test]
fn scrub_finds_what_was_damaged_under_a_running_node() {
    for (kind, count) in [("log", 5), ("snapshot", 2)] {
        let mut named = 0;
        for seed in 0..count * trials() {
            let dir = tempfile::tempdir().unwrap();
            let mut node = running(dir.path());
            let mut random = Random::new(100 + seed);
            // More follows, so that what is damaged below was synced and marked.
            node.traffic(&mut random, 3);
            let now = files(dir.path());
            let chosen = |file: &&PathBuf| file.extension().is_some_and(|found| found == kind);
            let chosen: Vec<_> = now.keys().filter(chosen).collect();
            let file = chosen[random.below(chosen.len() as u64) as usize];
            let at = random.below(used(&now[file]).unwrap().saturating_sub(100)) as usize;
            let mut damaged = now[file].clone();
            damaged[at] ^= 1 << random.below(8);
            // In place: the node keeps its file open.
            std::fs::write(dir.path().join(file), &damaged).unwrap();
            let (damages, damaged) = node.scrub();
            let is_found = damages > 0 || !damaged.is_empty();
            assert!(is_found, "seed {seed}: byte {at} of {}", file.display());
            named += damaged.len();
            node.close();
        }
        assert!(named > 0, "somebody lost something in a {kind}");
    }
}
