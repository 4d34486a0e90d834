//! Power cuts and disk failures at every moment, on a simulated disk: what was answered is there,
//! what is there is an exact prefix of what was asked, and no cut is taken for damage.

use std::{collections::BTreeMap, sync::mpsc};

use bytes::Bytes;

use super::{
    SegmentLog,
    sim_disk::SimDisk,
    test_support::{DEADLINE, Random, Seen, done, entry, open, see_all},
};
use crate::{Error, GroupId, LogStore, Position};

/// Each seed lives through several power cuts.
const SEEDS: u64 = 150;
const LIVES: u64 = 6;

type Model = BTreeMap<GroupId, Seen>;
type Answers = Vec<(usize, mpsc::Receiver<Result<(), Error>>)>;

#[derive(Clone, Debug)]
enum Step {
    Append { group: GroupId, term: u64, count: u64, bytes: usize },
    Vote { group: GroupId, vote: u64 },
    Truncate { group: GroupId, back: u64 },
    Purge { group: GroupId, ahead: u64 },
    Drop { group: GroupId },
}

fn random_step(random: &mut Random) -> Step {
    let group = GroupId(random.below(4) as u32);
    match random.below(20) {
        0..12 => {
            let (count, bytes) = (1 + random.below(6), 20 + random.below(700) as usize);
            Step::Append { group, term: random.below(5), count, bytes }
        }
        12..14 => Step::Vote { group, vote: random.below(1000) },
        14..16 => Step::Truncate { group, back: random.below(6) },
        16..19 => Step::Purge { group, ahead: random.below(12) },
        _ => Step::Drop { group },
    }
}

/// Asks the log and the model for the same.
fn take(step: &Step, log: &SegmentLog, model: &mut Model) -> mpsc::Receiver<Result<(), Error>> {
    let (done, answer) = done();
    match *step {
        Step::Append { group, term, count, bytes } => {
            let seen = model.entry(group).or_default();
            let next = seen.group.last.map_or(1, |last| last.index + 1);
            let entries: Vec<_> =
                (next..next + count).map(|index| entry(group, term, index, bytes)).collect();
            seen.entries.extend(entries.iter().cloned());
            seen.group.last = entries.last().map(|entry| entry.position);
            log.append(group, entries, done);
        }
        Step::Vote { group, vote } => {
            let vote = Bytes::from(vote.to_string());
            model.entry(group).or_default().group.vote = Some(vote.clone());
            log.save_vote(group, vote, done);
        }
        Step::Truncate { group, back } => {
            let last = model.get(&group).and_then(|seen| seen.group.last);
            let index = last.map(|last| last.index.saturating_sub(back));
            if let Some(seen) = model.get_mut(&group) {
                seen.entries.retain(|entry| Some(entry.position.index) <= index);
                let last = seen.entries.last().map(|entry| entry.position);
                seen.group.last = last.or(seen.group.purged);
            }
            log.truncate_after(group, index, done);
        }
        Step::Purge { group, ahead } => {
            let seen = model.entry(group).or_default();
            let index = seen.group.purged.map_or(0, |purged| purged.index) + ahead;
            let upto = Position { term: 9, index };
            if seen.group.purged.is_none_or(|purged| purged.index < index) {
                seen.entries.retain(|entry| entry.position.index > index);
                seen.group.purged = Some(upto);
                let last = seen.entries.last().map(|entry| entry.position);
                seen.group.last = last.or(Some(upto));
            }
            log.purge(group, upto, done);
        }
        Step::Drop { group } => {
            model.remove(&group);
            log.drop_group(group, done);
        }
    }
    answer
}

/// Lives until the disk fails or the steps are done; every state that may be found afterwards.
fn live(log: &SegmentLog, start: &Model, random: &mut Random) -> Vec<Model> {
    let mut states = vec![start.clone()];
    let mut waiting: Answers = Vec::new();
    let mut model = start.clone();
    let mut acknowledged = 0;
    for number in 1..=60 {
        let answer = take(&random_step(random), log, &mut model);
        states.push(model.clone());
        waiting.push((number, answer));
        if random.below(3) == 0 {
            // It fails where the disk does; what is found afterwards must not depend on it.
            let _ = log.outline(8 << 10);
        }
        if random.below(4) == 0 && !collect(&mut waiting, &mut acknowledged) {
            break;
        }
    }
    collect(&mut waiting, &mut acknowledged);
    states.split_off(acknowledged)
}

/// Waits for all answers; `false` once one was an error.
fn collect(waiting: &mut Answers, acknowledged: &mut usize) -> bool {
    let mut sound = true;
    for (number, answer) in waiting.drain(..) {
        match answer.recv_timeout(DEADLINE).expect("an answer") {
            Ok(()) => {
                assert!(sound, "a write was answered after an earlier one had failed");
                *acknowledged = number;
            }
            Err(_) => sound = false,
        }
    }
    sound
}

fn check(log: &SegmentLog, possible: &[Model], context: &str) -> Model {
    scrub(log, context);
    let seen = see_all(log);
    let told = || possible.iter().map(brief).collect::<Vec<_>>();
    assert!(possible.contains(&seen), "{context}: {:?} is none of {:#?}", brief(&seen), told());
    seen
}

/// A scrub takes no cut for damage either.
fn scrub(log: &SegmentLog, context: &str) {
    loop {
        let step = log.scrub(4 << 10).expect("the disk is sound");
        assert_eq!(step.damages, 0, "{context}: the scrub found damage");
        if step.is_last {
            return;
        }
    }
}

/// A model short enough to read in a failure.
fn brief(model: &Model) -> Vec<String> {
    let groups = model.iter().map(|(group, seen)| {
        let (known, entries) = (&seen.group, &seen.entries);
        let index = |position: Option<Position>| position.map(|p| (p.term, p.index));
        let first = entries.first().map(|entry| entry.position.index);
        let (purged, last) = (index(known.purged), index(known.last));
        format!("{}: {first:?} +{} {purged:?} {last:?} {:?}", group.0, entries.len(), known.vote)
    });
    groups.collect()
}

#[test]
fn answered_writes_survive_power_cuts_at_every_moment() {
    for seed in 0..SEEDS {
        let (disk, mut random) = (SimDisk::new(seed), Random::new(!seed));
        let mut possible = vec![Model::new()];
        for life in 0..LIVES {
            let context = format!("seed {seed}, life {life}");
            let (log, report) = open(&disk).expect("the disk is sound");
            assert!(report.damage.is_empty() && report.damaged.is_empty(), "{context} {report:?}");
            let start = check(&log, &possible, &context);
            disk.die_in(random.below(120));
            possible = live(&log, &start, &mut random);
            // Half the time the log is closed, which may or may not get through.
            if random.below(2) == 0 {
                log.close();
            }
            disk.die_in(0);
            drop(log);
            disk.power_cut();
        }
    }
}

#[test]
fn failed_operations_lose_nothing_that_was_answered() {
    for seed in 0..SEEDS {
        let (disk, mut random) = (SimDisk::new(seed), Random::new(!seed));
        let mut possible = vec![Model::new()];
        for life in 0..LIVES {
            let context = format!("seed {seed}, life {life}");
            disk.fail_in(random.below(100));
            let opened = open(&disk);
            let Ok((log, report)) = opened else {
                assert!(disk.heal(), "{context}: open failed without a failure");
                continue;
            };
            assert!(report.damage.is_empty() && report.damaged.is_empty(), "{context} {report:?}");
            // It may have struck already, while the log was giving space back.
            disk.heal();
            let start = check(&log, &possible, &context);
            disk.fail_in(random.below(60));
            possible = live(&log, &start, &mut random);
            drop(log);
            disk.heal();
            // The machine goes on, or loses power with what the failure has left unwritten.
            if random.below(2) == 0 {
                let (log, _) = open(&disk).expect("the disk is sound again");
                possible = vec![check(&log, &possible, &context)];
                disk.die_in(0);
                drop(log);
                disk.power_cut();
            }
        }
    }
}

#[test]
fn openings_that_lose_power_lose_nothing() {
    for seed in 0..SEEDS {
        let (disk, mut random) = (SimDisk::new(seed), Random::new(!seed));
        let (log, _) = open(&disk).expect("the disk is sound");
        let possible = live(&log, &Model::new(), &mut random);
        disk.die_in(0);
        drop(log);
        disk.power_cut();
        for cut in 0..25 {
            disk.die_in(cut);
            drop(open(&disk));
            disk.power_cut();
            let (log, report) = open(&disk).expect("the disk is sound");
            assert!(
                report.damage.is_empty() && report.damaged.is_empty(),
                "seed {seed} {report:?}"
            );
            check(&log, &possible, &format!("seed {seed}, cut {cut}"));
            disk.die_in(0);
            drop(log);
            disk.power_cut();
        }
    }
}

#[test]
fn disk_that_swallows_syncs_is_found_out() {
    // The check itself can fail: without syncs, power cuts lose answered writes.
    let mut lost = 0;
    for seed in 0..20 {
        let (disk, mut random) = (SimDisk::swallowing(seed), Random::new(!seed));
        let Ok((log, _)) = open(&disk) else { continue };
        let possible = live(&log, &Model::new(), &mut random);
        drop(log);
        disk.power_cut();
        let kept = open(&disk).is_ok_and(|(log, report)| {
            report.damage.is_empty()
                && report.damaged.is_empty()
                && possible.contains(&see_all(&log))
        });
        lost += u32::from(!kept);
    }
    assert!(lost > 10, "only {lost} of 20 power cuts were noticed");
}
