//! Real processes that die: by `kill -9`, and by a power cut that leaves nothing but what was
//! synced (see `chaos-tests/preload/powercut.c`). What they said was durable must be there.
//!
//! The test starts its own binary as the process that writes; it tells of each durable write over
//! its standard output.

mod support;

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Stdio},
    sync::mpsc,
    thread,
};

use bytes::Bytes;
use heliograph_storage::{
    Done, GroupId, LogStore, OpenReport, Position, SegmentLog, SegmentLogConfig,
};
use support::{DEADLINE, entry, read_all};
use tempfile::TempDir;

/// Tells the process that it is the one that writes, and where.
const DIR: &str = "HELIOGRAPH_TEST_LOG_DIR";
const GROUPS: u32 = 4;
/// How often a process dies on one directory.
const DEATHS: usize = 8;
/// Enough unanswered writes that every sync has a batch, and a kill always hits one.
const WAITING_MAX: u64 = 64;

fn config(dir: &Path) -> SegmentLogConfig {
    let mut config = SegmentLogConfig::new(dir, 17);
    // Small, so that the deaths also hit rolling, moving and removing.
    config.segment_bytes = 64 << 10;
    config.tail_bytes_max = 4 << 10;
    config
}

/// Not a test of its own: the process that the tests below kill.
#[test]
fn child() {
    let Ok(dir) = std::env::var(DIR) else { return };
    let (log, report) = SegmentLog::open(config(Path::new(&dir))).expect("it opens");
    assert!(report.damage.is_empty() && report.damaged.is_empty(), "{report:?}");
    let (permits, permit) = mpsc::channel();
    (0..WAITING_MAX).for_each(|_| permits.send(()).expect("it is open"));
    let told = |line: String| -> Done {
        let permits = permits.clone();
        Box::new(move |result| {
            result.expect("the disk is sound");
            let mut out = std::io::stdout().lock();
            writeln!(out, "{line}").and_then(|()| out.flush()).expect("somebody listens");
            // The writing loop may have ended.
            let _ = permits.send(());
        })
    };
    for turn in 0u64.. {
        permit.recv_timeout(DEADLINE).expect("writes are answered");
        let group = GroupId((turn % u64::from(GROUPS)) as u32);
        let last = log.group(group).last.map_or(0, |last| last.index);
        match turn % 37 {
            // Marks of the process's own, so that they grow from life to life too.
            36 => {
                let vote = Bytes::from(last.to_string());
                log.save_vote(group, vote, told(format!("told vote {} {last}", group.0)));
            }
            35 if last > 60 => {
                let index = last - 60;
                let line = format!("told purge {} {index}", group.0);
                log.purge(group, Position { term: 1, index }, told(line));
            }
            _ => {
                let count = 1 + turn % 3;
                let entries = (1..=count).map(|step| entry(group, 1, last + step, 200)).collect();
                log.append(group, entries, told(format!("told last {} {}", group.0, last + count)));
            }
        }
    }
}

/// What a process said was durable.
#[derive(Debug, Default)]
struct Told {
    least: BTreeMap<(String, u32), u64>,
    lines: usize,
}

impl Told {
    fn line(&mut self, line: &str) {
        let mut words = line.trim().split(' ');
        // The test harness writes to the same output; a line cut by the kill was never told.
        if words.next() != Some("told") {
            return;
        }
        let (Some(what), Some(group), Some(value)) = (words.next(), words.next(), words.next())
        else {
            return;
        };
        let (Ok(group), Ok(value)) = (group.parse::<u32>(), value.parse::<u64>()) else { return };
        let least = self.least.entry((what.to_owned(), group)).or_default();
        *least = value.max(*least);
        self.lines += 1;
    }

    /// What of it is missing in the log.
    fn missing(&self, log: &SegmentLog) -> Vec<String> {
        let mut missing = Vec::new();
        for ((what, group), least) in &self.least {
            let known = log.group(GroupId(*group));
            let index = |position: Option<Position>| position.map_or(0, |position| position.index);
            let vote = || {
                known
                    .vote
                    .as_deref()
                    .map_or(Some(0), |vote| std::str::from_utf8(vote).ok()?.parse().ok())
            };
            let held = match what.as_str() {
                "last" => index(known.last),
                "purge" => index(known.purged),
                _ => vote().expect("a vote as it was written"),
            };
            if held < *least {
                missing.push(format!("group {group}: {what} {least} was durable, {held} is there"));
            }
        }
        missing
    }
}

/// Starts the writing process.
fn start(dir: &Path, environment: &[(&str, &Path)]) -> (Child, BufReader<ChildStdout>) {
    let mut command = Command::new(std::env::current_exe().expect("this binary"));
    command.args(["--exact", "child", "--nocapture", "--test-threads=1"]);
    command.env(DIR, dir).envs(environment.iter().copied());
    let mut child = command.stdout(Stdio::piped()).spawn().expect("the process starts");
    let output = BufReader::new(child.stdout.take().expect("it is piped"));
    (child, output)
}

/// Lets the process tell of `lines` writes, kills it, and reads what it had told until then.
fn kill_after(
    lines: usize,
    (mut child, mut output): (Child, BufReader<ChildStdout>),
    told: &mut Told,
) {
    let (sender, received) = mpsc::channel();
    let reader = thread::spawn(move || {
        let mut line = String::new();
        while output.read_line(&mut line).is_ok_and(|bytes| bytes > 0) {
            // Without its end a line was cut by the kill.
            if line.ends_with('\n') && sender.send(std::mem::take(&mut line)).is_err() {
                return;
            }
        }
    });
    let before = told.lines;
    while told.lines < before + lines {
        told.line(&received.recv_timeout(DEADLINE).expect("the process writes"));
    }
    child.kill().expect("it is ours");
    child.wait().expect("it is ours");
    reader.join().expect("the reader ends with the process");
    received.try_iter().for_each(|line| told.line(&line));
}

fn open(dir: &Path) -> (SegmentLog, OpenReport) {
    let (log, report) = SegmentLog::open(config(dir)).expect("it opens");
    for group in log.groups().into_iter().filter(|group| !report.damaged.contains_key(group)) {
        let first = log.group(group).purged.map_or(1, |purged| purged.index + 1);
        for got in read_all(&log, group, first, u64::MAX) {
            assert_eq!(got, entry(group, 1, got.position.index, 200));
        }
    }
    (log, report)
}

#[test]
fn killed_process_loses_nothing_it_said_was_durable() {
    let dir = TempDir::new().expect("a directory");
    let mut told = Told::default();
    for death in 0..DEATHS {
        kill_after(150 + 37 * death, start(dir.path(), &[]), &mut told);
        let (log, report) = open(dir.path());
        assert!(report.damage.is_empty() && report.damaged.is_empty(), "{report:?}");
        assert_eq!(told.missing(&log), Vec::<String>::new(), "death {death}");
    }
    assert!(told.least.len() == 3 * GROUPS as usize, "each kind of write was told: {told:?}");
}

/// Builds the library that keeps what a power cut would leave.
fn library(into: &Path) -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../chaos-tests/preload/powercut.c");
    let library = into.join("powercut.so");
    let mut compiler = Command::new("cc");
    compiler.args(["-O2", "-Wall", "-shared", "-fPIC", "-o"]).arg(&library).arg(source);
    let status = compiler.args(["-ldl", "-lpthread"]).status().expect("a C compiler");
    assert!(status.success(), "the library does not compile");
    library
}

/// Puts what was durable in place of the directory.
fn cut_power(dir: &Path, shadow: &Path) {
    fs::remove_dir_all(dir).expect("it is ours");
    fs::create_dir(dir).expect("it is ours");
    let names = fs::read_to_string(shadow.join("names")).expect("the library has written it");
    // Directories begin with a `d`: this one has none that matter.
    for line in names.lines().filter(|line| !line.starts_with('d')) {
        let (number, name) = line.split_once(' ').expect("a number and a name");
        // A file that was never synced has its name at most.
        let bytes = fs::read(shadow.join(number)).unwrap_or_default();
        fs::write(dir.join(name), bytes).expect("it is ours");
    }
}

/// One life under the library, and the power cut at its end.
fn live_until_power_cut(base: &Path, life: usize, swallow: &str, told: &mut Told) {
    let (dir, shadow) = (base.join("log"), base.join(format!("shadow-{life}")));
    fs::create_dir_all(&dir).expect("a directory");
    fs::create_dir(&shadow).expect("a directory");
    let library = library(base);
    let environment = [
        ("LD_PRELOAD", library.as_path()),
        ("POWERCUT_DIR", &dir),
        ("POWERCUT_SHADOW", &shadow),
        ("POWERCUT_SWALLOW", Path::new(swallow)),
    ];
    kill_after(120 + 41 * life, start(&dir, &environment), told);
    cut_power(&dir, &shadow);
}

#[test]
fn power_cut_loses_nothing_that_was_said_to_be_durable() {
    let base = TempDir::new().expect("a directory");
    let mut told = Told::default();
    for life in 0..DEATHS {
        live_until_power_cut(base.path(), life, "", &mut told);
        let (log, report) = open(&base.path().join("log"));
        assert!(report.damage.is_empty() && report.damaged.is_empty(), "{report:?}");
        assert_eq!(told.missing(&log), Vec::<String>::new(), "life {life}");
    }
    assert!(told.least.len() == 3 * GROUPS as usize, "each kind of write was told: {told:?}");
}

#[test]
fn power_cut_shows_when_syncs_are_skipped() {
    /// One life may end where another sync has just written everything.
    const LIVES: usize = 8;
    let shows = |life| {
        let base = TempDir::new().expect("a directory");
        let mut told = Told::default();
        live_until_power_cut(base.path(), life, "fdatasync", &mut told);
        let (log, _) = open(&base.path().join("log"));
        !told.missing(&log).is_empty()
    };
    assert!((0..LIVES).any(shows), "without syncs, all answers of {LIVES} lives held");
}
