//! A process that writes, checkpoints and snapshots is killed with SIGKILL again and again, also
//! with the power cut under its database; what it reported as durable is there, and the rows are
//! those of exactly one applied position.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::{
    collections::BTreeMap,
    env, fs,
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
};

use bytes::Bytes;
use heliograph_storage::{
    FileSnapshots, GroupId, GroupState, MemoryStateDisk, MemoryStore, RowsRead, RowsWrite,
    SledConfig, SledStore, SnapshotStore, StateOpen, StateStore,
};

/// What the child reports as durable, and where it lies.
const STATE: &str = "state";
const SNAPSHOTS: &str = "snapshots";

/// Tells the child where to work.
const DIR_VARIABLE: &str = "HELIOGRAPH_STATE_KILL_DIR";

const GROUPS: [GroupId; 2] = [GroupId(1), GroupId(2)];
const ROUNDS: u64 = 15;
/// Applied entries between two checkpoints, and checkpoints between two snapshots.
const CHECKPOINT_ENTRIES: u64 = 25;
const SNAPSHOT_CHECKPOINTS: u64 = 7;

/// What entry `number` does to the rows.
fn entry(number: u64) -> (Bytes, Option<Bytes>) {
    let key = Bytes::from(format!("key {:03}", number.wrapping_mul(7919) % 251));
    let value = vec![number as u8; (number * 131 % 6000) as usize];
    (key, (!number.is_multiple_of(3)).then(|| value.into()))
}

fn model(applied: u64) -> Vec<(Bytes, Bytes)> {
    let mut rows = BTreeMap::new();
    for (key, value) in (1..=applied).map(entry) {
        match value {
            Some(value) => rows.insert(key, value),
            None => rows.remove(&key),
        };
    }
    rows.into_iter().collect()
}

fn encode(applied: u64) -> Bytes {
    Bytes::copy_from_slice(&applied.to_be_bytes())
}

fn decode(applied: Option<Bytes>) -> u64 {
    applied.map_or(0, |applied| u64::from_be_bytes(applied[..].try_into().unwrap()))
}

fn all(state: &GroupState) -> Vec<(Bytes, Bytes)> {
    state.read().scan(b"", &[0xff], usize::MAX).unwrap()
}

fn open(dir: &Path) -> (Arc<SledStore>, FileSnapshots) {
    let (store, opened) = SledStore::open(&dir.join("state"), SledConfig::default()).unwrap();
    assert_eq!(opened, StateOpen::Opened);
    (Arc::new(store), FileSnapshots::open(&dir.join("snapshots")).unwrap())
}

#[test]
#[ignore = "the process that the test below kills"]
fn child() {
    let Some(dir) = env::var_os(DIR_VARIABLE) else {
        return;
    };
    let (store, snapshots) = open(Path::new(&dir));
    let states = GROUPS.map(|group| GroupState::open(store.clone(), group).unwrap());
    for checkpoint in 0_u64.. {
        for state in &states {
            let first = decode(state.applied()) + 1;
            let last = first + CHECKPOINT_ENTRIES - 1;
            for number in first..=last {
                let mut write = state.write();
                match entry(number) {
                    (key, Some(value)) => write.put(&key, value),
                    (key, None) => write.delete(&key),
                }
                write.set_applied(encode(number));
            }
            let frozen = state.write().freeze().unwrap();
            if checkpoint % SNAPSHOT_CHECKPOINTS == 3 {
                snapshots.write(state, frozen).unwrap();
            } else {
                state.commit(frozen).unwrap();
            }
            let mut stdout = std::io::stdout().lock();
            if checkpoint % SNAPSHOT_CHECKPOINTS == 3 {
                writeln!(stdout, "{SNAPSHOTS} {} {last}", state.group().0).unwrap();
            }
            writeln!(stdout, "{STATE} {} {last}", state.group().0).unwrap();
            stdout.flush().unwrap();
        }
    }
}

fn command(dir: &Path) -> Command {
    let mut command = Command::new(env::current_exe().unwrap());
    command.args(["--exact", "child", "--ignored", "--nocapture"]).env(DIR_VARIABLE, dir);
    command
}

/// Runs the child until it has reported `reports` times that `what` is durable, kills it, and answers
/// the last one reported of each group.
fn run_and_kill(mut command: Command, what: &str, reports: usize) -> BTreeMap<u32, u64> {
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines().map(|line| line.unwrap());
    let mut durable = BTreeMap::new();
    let mut seen = 0;
    for line in lines {
        // The test harness may have begun the line.
        let Some((_, report)) = line.split_once(what) else {
            continue;
        };
        let (group, applied) = report.trim_start().split_once(' ').unwrap();
        durable.insert(group.parse().unwrap(), applied.parse().unwrap());
        seen += 1;
        if seen == reports {
            child.kill().unwrap();
        }
    }
    child.wait().unwrap();
    assert!(seen >= reports, "the child ended by itself");
    durable
}

#[test]
fn checkpoints_and_snapshots_survive_kill() {
    let dir = tempfile::tempdir().unwrap();
    for round in 0..ROUNDS {
        let durable = run_and_kill(command(dir.path()), STATE, 1 + (round * 7 % 23) as usize);
        let (store, snapshots) = open(dir.path());
        assert!(matches!(store.health(), heliograph_storage::Health::Sound));
        for group in GROUPS {
            let state = GroupState::open(store.clone(), group).unwrap();
            let applied = decode(state.durable_applied());
            let reported = durable.get(&group.0).copied().unwrap_or(0);
            assert!(applied >= reported, "round {round}: {applied} of {reported}");
            assert_eq!(applied % CHECKPOINT_ENTRIES, 0);
            assert_eq!(all(&state), model(applied), "round {round}");

            let Some(info) = snapshots.current(group) else {
                continue;
            };
            let copy = Arc::new(MemoryStore::open(&MemoryStateDisk::new()));
            let copy = GroupState::open(copy, group).unwrap();
            snapshots.install(&copy, &info).unwrap();
            assert_eq!(all(&copy), model(decode(Some(info.applied))), "round {round}");
        }
        let files = fs::read_dir(dir.path().join("snapshots")).unwrap().count();
        assert!(files <= GROUPS.len(), "{files} snapshot files");
    }
}

/// The library that cuts the power, built from the source that the chaos tests own.
fn build_preload(dir: &Path) -> PathBuf {
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/../chaos-tests/preload/powercut.c");
    let library = dir.join("powercut.so");
    let mut compiler = Command::new("cc");
    compiler.args(["-O2", "-shared", "-fPIC", "-o"]).arg(&library).arg(source).arg("-ldl");
    assert!(compiler.status().unwrap().success(), "a C compiler builds {source}");
    library
}

/// Runs the child over a directory of which only what was synced survives its end, and puts that in
/// the directory's place.
fn run_and_cut(
    dir: &Path,
    preload: &Path,
    what: &str,
    reports: usize,
    swallow: &str,
) -> BTreeMap<u32, u64> {
    let (state, shadow) = (dir.join(what), dir.join("shadow"));
    fs::create_dir_all(&state).unwrap();
    fs::create_dir_all(&shadow).unwrap();
    let mut command = command(dir);
    command.env("LD_PRELOAD", preload);
    command.env("POWERCUT_DIR", &state).env("POWERCUT_SHADOW", &shadow);
    command.env("POWERCUT_SWALLOW", swallow);
    let durable = run_and_kill(command, what, reports);
    fs::remove_dir_all(&state).unwrap();
    fs::create_dir(&state).unwrap();
    let names = fs::read_to_string(shadow.join("names")).unwrap();
    // Directories begin with a `d`; sled makes the one it needs.
    for line in names.lines().filter(|line| !line.starts_with('d')) {
        let (number, name) = line.split_once(' ').unwrap();
        // A file whose name alone was synced is empty.
        let content = fs::read(shadow.join(number)).unwrap_or_default();
        fs::write(state.join(name), content).unwrap();
    }
    fs::remove_dir_all(&shadow).unwrap();
    durable
}

#[test]
fn checkpoints_survive_power_cuts() {
    let dir = tempfile::tempdir().unwrap();
    let preload = build_preload(dir.path());
    for round in 0..ROUNDS {
        let reports = 1 + (round * 11 % 29) as usize;
        let durable = run_and_cut(dir.path(), &preload, STATE, reports, "");
        let (store, _) = open(dir.path());
        for group in GROUPS {
            let state = GroupState::open(store.clone(), group).unwrap();
            let applied = decode(state.durable_applied());
            let reported = durable.get(&group.0).copied().unwrap_or(0);
            assert!(applied >= reported, "round {round}: {applied} of {reported}");
            assert_eq!(all(&state), model(applied), "round {round}");
        }
    }
}

/// The test above would notice a sync left out.
#[test]
fn checkpoints_without_sync_are_lost_by_a_power_cut() {
    let dir = tempfile::tempdir().unwrap();
    let preload = build_preload(dir.path());
    let durable = run_and_cut(dir.path(), &preload, STATE, 20, "fdatasync");
    let (store, _) = SledStore::open(&dir.path().join("state"), SledConfig::default()).unwrap();
    let state = GroupState::open(Arc::new(store), GROUPS[0]).unwrap();
    assert!(decode(state.durable_applied()) < durable[&GROUPS[0].0]);
}

/// The log is purged up to a snapshot: one that was reported must be there under its name.
#[test]
fn snapshots_survive_power_cuts() {
    let dir = tempfile::tempdir().unwrap();
    let preload = build_preload(dir.path());
    for round in 0..3 {
        let durable = run_and_cut(dir.path(), &preload, SNAPSHOTS, 2 + round, "");
        let (_, snapshots) = open(dir.path());
        for (group, reported) in durable {
            let info = snapshots.current(GroupId(group)).expect("it was reported");
            let applied = decode(Some(info.applied.clone()));
            assert!(applied >= reported, "round {round}: {applied} of {reported}");
            snapshots.verify(&info).unwrap();
        }
    }
}
