//! Damage to the files of one node of three, under traffic: a flipped bit, a file cut short, an old
//! chunk put back, into the log, the state database and the snapshots. Each is found, the node mends
//! by itself, nothing accepted is lost, and nothing that was not sent is ever delivered.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use heliograph_chaos_tests::{
    checker::Expectation,
    cluster::{LocalCluster, Options},
    history::Fault,
    trial::Trial,
    workload::Config,
};
use serde_json::Value;
use tokio::time::{Instant, sleep};

use crate::support::{Run, assert_good, at_least, metric};

/// The node whose files are damaged.
const NODE: u16 = 3;
const EXPECTATION: Expectation =
    Expectation::of_three(Duration::from_secs(60), Duration::from_secs(30));
/// Far longer than anything here takes.
const DEADLINE: Duration = Duration::from_secs(90);
const POLL: Duration = Duration::from_millis(50);
/// The unit in which an old chunk is put back: that of the page cache.
const CHUNK_BYTES: usize = 4096;
/// The unit in which a snapshot is read.
const BLOCK_BYTES: usize = 64 * 1024;
/// Where a file is damaged, in turn, in sixteenths of what is used of it: not every byte counts.
const PARTS: [usize; 7] = [9, 5, 12, 3, 14, 7, 1];

/// Files as small, and checkpoints, snapshots and scrubs as often, that a short run has them all.
const SETTINGS: [(&str, &str); 6] = [
    ("HELIOGRAPH_STORAGE__LOG_SEGMENT_SIZE", "1MiB"),
    ("HELIOGRAPH_STORAGE__CHECKPOINT_AGE", "1s"),
    ("HELIOGRAPH_STORAGE__SNAPSHOT_AGE", "2s"),
    ("HELIOGRAPH_STORAGE__SNAPSHOT_LOG_SIZE", "2MiB"),
    ("HELIOGRAPH_STORAGE__SCRUB_INTERVAL", "1s"),
    ("HELIOGRAPH_STORAGE__SCRUB_RATE", "64MiB"),
];

/// Counts replicas that were found damaged, each to begin anew.
const DAMAGED_REPLICAS: &str = "heliograph_cluster_damaged_replicas_total";
/// Counts what the scrub found.
const SCRUB_DAMAGES: &str = "heliograph_cluster_scrub_damages_total";

/// What is done to a file.
#[derive(Clone, Copy, Debug)]
enum Damage {
    /// A byte gets another bit.
    FlippedBit,
    /// What follows is gone.
    Truncated,
    /// A chunk is as it was a while ago.
    OldChunk,
}

const DAMAGES: [Damage; 3] = [Damage::FlippedBit, Damage::Truncated, Damage::OldChunk];

/// A kind of file, and what a node that starts on a damaged one says when it has found it.
struct Kind {
    name: &'static str,
    directory: &'static str,
    ending: &'static str,
    /// How much of its beginning is damaged.
    reach: usize,
    says: &'static str,
}

const KINDS: [Kind; 3] = [
    Kind {
        name: "a segment of the log",
        directory: "log",
        ending: ".log",
        reach: usize::MAX,
        says: "the log is damaged",
    },
    Kind {
        name: "the state database",
        directory: "state",
        ending: "db",
        reach: usize::MAX,
        says: "the state database was unreadable",
    },
    // At its ends a snapshot is looked at by the start, in between by the scrub and whoever reads it:
    // there it may be replaced before.
    Kind {
        name: "a snapshot",
        directory: "snapshots",
        ending: ".snapshot",
        reach: BLOCK_BYTES,
        says: "snapshot is damaged",
    },
];

type Files = BTreeMap<PathBuf, Vec<u8>>;

impl Kind {
    /// Its files with something in them, the one with the most first: what is in an old segment may
    /// not be needed any more.
    fn files(&self, data: &Path) -> Result<Vec<(PathBuf, Vec<u8>)>> {
        let mut files = Vec::new();
        for entry in fs::read_dir(data.join(self.directory))? {
            let path = entry?.path();
            if path.is_file() && path.to_string_lossy().ends_with(self.ending) {
                // A running node may have removed it meanwhile.
                files.extend(fs::read(&path).ok().map(|content| (path, content)));
            }
        }
        files.retain(|(_, content)| used(content) > 0);
        files.sort_by_key(|(_, content)| std::cmp::Reverse(used(content)));
        Ok(files)
    }
}

/// How much of a file is not the zeros that were set aside for more.
fn used(content: &[u8]) -> usize {
    content.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1)
}

/// `sound`, damaged at `part` sixteenths of its first `reach` bytes; `None` where there is nothing to
/// damage so.
fn damaged(
    sound: &[u8],
    before: &[u8],
    damage: Damage,
    part: usize,
    reach: usize,
) -> Option<Vec<u8>> {
    let at = used(sound).min(reach) * part / 16;
    let mut content = sound.to_vec();
    match damage {
        Damage::FlippedBit => *content.get_mut(at)? ^= 0x20,
        Damage::Truncated => content.truncate(at),
        Damage::OldChunk => {
            // What was not written yet was zeros.
            let mut before = before.to_vec();
            before.resize(sound.len(), 0);
            // Of a small file a part: all of it would be a whole file of an earlier time.
            let unit = CHUNK_BYTES.min(used(sound) / 2).max(1);
            let chunk = |number: usize| number * unit..((number + 1) * unit).min(sound.len());
            let differs = |number: &usize| sound[chunk(*number)] != before[chunk(*number)];
            let chunks = sound.len().min(reach).div_ceil(unit);
            let differ: Vec<usize> = (0..chunks).filter(differs).collect();
            let range = chunk(*differ.get(differ.len() * part / 16)?);
            content[range.clone()].copy_from_slice(&before[range]);
        }
    }
    (content != sound).then_some(content)
}

/// The group of a snapshot, which its name tells.
fn group(path: &Path) -> Option<&str> {
    let name = path.file_name()?.to_str()?.strip_suffix(".snapshot")?;
    Some(name.split_once('-')?.0)
}

/// The file as it was; for a snapshot the one of its group.
fn older<'a>(files: &'a Files, file: &Path) -> Option<(&'a Path, &'a [u8])> {
    let wanted = group(file);
    let is_it = |path: &Path| path == file || (wanted.is_some() && group(path) == wanted);
    let found = files.iter().find(|(path, _)| is_it(path));
    found.map(|(path, content)| (path.as_path(), &content[..]))
}

/// Where `heliograph verify` finds damage that costs something in the stopped node's data: what was
/// damaged before in a part of the log that nobody needs any more costs nothing.
fn costs(cluster: &LocalCluster) -> Result<Vec<PathBuf>> {
    let mut command = Command::new(cluster.first_build()?);
    command.arg("verify").arg(&cluster.node(NODE)?.data_dir).args(["--output", "json"]);
    let output = command.output()?;
    let report: Value = serde_json::from_slice(&output.stdout)
        .with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())?;
    let found = report["damage"].as_array().context("verify tells of damage")?;
    let costly = found.iter().filter_map(|found| {
        let path = PathBuf::from(found["path"].as_str()?);
        let is_needed = found["groups"].as_array().is_some_and(|groups| !groups.is_empty());
        (is_needed || path.ends_with("state/db")).then_some(path)
    });
    Ok(costly.collect())
}

/// Damages a file of this kind of the stopped node where it costs something.
fn inflict(cluster: &LocalCluster, kind: &Kind, damage: Damage, before: &Files) -> Result<PathBuf> {
    let data = &cluster.node(NODE)?.data_dir;
    for (path, sound) in kind.files(data)? {
        let older = older(before, &path);
        if group(&path).is_some() && older.is_none_or(|(before, _)| before == path) {
            continue; // nothing to put back
        }
        for part in PARTS {
            let older = older.map_or(&[][..], |(_, content)| content);
            let content = damaged(&sound, older, damage, part, kind.reach);
            let Some(content) = content else { continue };
            fs::write(&path, content)?;
            if costs(cluster)?.iter().any(|found| found.starts_with(kind.directory)) {
                return Ok(path);
            }
            fs::write(&path, &sound)?;
        }
    }
    bail!("no place where {damage:?} costs something")
}

/// Waits until the node has snapshots, and answers the files of all kinds.
async fn files(data: &Path) -> Result<Files> {
    let until = Instant::now() + DEADLINE;
    loop {
        let [log, state, snapshots] = KINDS.each_ref().map(|kind| kind.files(data));
        let snapshots = snapshots?;
        if !snapshots.is_empty() {
            return Ok(log?.into_iter().chain(state?).chain(snapshots).collect());
        }
        ensure!(Instant::now() < until, "no snapshot is written");
        sleep(POLL).await;
    }
}

/// Waits until the node has a snapshot of a group of which there was another one before. A replica that
/// begins anew has none at first.
async fn second_snapshot(data: &Path, before: &mut Files) -> Result<()> {
    let until = Instant::now() + DEADLINE;
    loop {
        let mut has_two = false;
        for (path, content) in KINDS[2].files(data)? {
            match older(before, &path) {
                Some((before, _)) => has_two |= before != path,
                None => drop(before.insert(path, content)),
            }
        }
        if has_two {
            return Ok(());
        }
        ensure!(Instant::now() < until, "no snapshot is replaced");
        sleep(POLL).await;
    }
}

/// Waits until the node's log says this, from a place on.
async fn said(cluster: &LocalCluster, from: usize, what: &str) -> Result<()> {
    let path = &cluster.node(NODE)?.log;
    let until = Instant::now() + DEADLINE;
    while !String::from_utf8_lossy(&fs::read(path)?[from..]).contains(what) {
        ensure!(Instant::now() < until, "node {NODE} does not say that {what}");
        sleep(POLL).await;
    }
    Ok(())
}

/// Damages a file of this kind while the node is down; it must find that, and mend.
async fn damage_one(
    trial: &mut Trial,
    kind: &Kind,
    damage: Damage,
    before: &mut Files,
) -> Result<()> {
    let began = Instant::now();
    let (data, log) = {
        let node = trial.cluster.node(NODE)?;
        (node.data_dir.clone(), node.log.clone())
    };
    if kind.directory == "snapshots" {
        second_snapshot(&data, before).await?;
    }
    trial.flow(Duration::from_millis(300)).await?;
    let flowed = began.elapsed();
    trial.inflict(Fault::Stop { node: NODE }).await?;
    let left = costs(&trial.cluster)?;
    ensure!(left.is_empty(), "what was damaged before has not mended: {left:?}");
    let path = inflict(&trial.cluster, kind, damage, before)?;
    let from = fs::read(&log)?.len();
    let damaged = began.elapsed();
    trial.inflict(Fault::Restart { nodes: vec![NODE] }).await?;
    let ready = began.elapsed();
    said(&trial.cluster, from, kind.says).await?;
    if kind.directory == "log" {
        at_least(&trial.cluster, NODE, DAMAGED_REPLICAS, 1.0).await?;
    }
    let found = began.elapsed();
    // The scrub finds damage in a sealed segment after the node was ready: it is not, until it has
    // mended.
    trial.cluster.ready(NODE).await?;
    eprintln!(
        "{damage:?} of {}, {}: flowed {flowed:.1?}, damaged {damaged:.1?}, ready {ready:.1?}, \
         found {found:.1?}, mended {:.1?}",
        kind.name,
        path.strip_prefix(&data)?.display(),
        began.elapsed()
    );
    Ok(())
}

/// Flips bits all over what was last written to the log of the running node, since much of it may not be
/// needed any more: the scrub finds them, and the replicas concerned begin anew.
async fn damage_running(trial: &mut Trial) -> Result<()> {
    let replicas = metric(&trial.cluster, NODE, DAMAGED_REPLICAS, "").await?;
    let damages = metric(&trial.cluster, NODE, SCRUB_DAMAGES, "").await?;
    let mut files = KINDS[0].files(&trial.cluster.node(NODE)?.data_dir)?;
    files.sort();
    let (path, content) = files.last().context("a log has files")?;
    let file = fs::File::options().write(true).open(path)?;
    for at in (0..used(content)).skip(CHUNK_BYTES).step_by(CHUNK_BYTES) {
        file.write_all_at(&[content[at] ^ 0x20], at as u64)?;
    }
    let began = Instant::now();
    at_least(&trial.cluster, NODE, SCRUB_DAMAGES, damages + 1.0).await?;
    at_least(&trial.cluster, NODE, DAMAGED_REPLICAS, replicas + 1.0).await?;
    trial.cluster.ready(NODE).await?;
    eprintln!("under the running node: found by the scrub, {:.1?}", began.elapsed());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn each_damage_to_each_kind_of_file_is_found_and_mends() -> Result<()> {
    let run = Run::begin(1);
    let mut options = Options::three("damage");
    options.settings = SETTINGS.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
    let mut trial = Trial::start(options, Config::modest()).await?;
    // What is put back is of this time.
    let mut before = files(&trial.cluster.node(NODE)?.data_dir.clone()).await?;
    for _ in 0..run.rounds {
        for damage in DAMAGES {
            for kind in &KINDS {
                let mended = damage_one(&mut trial, kind, damage, &mut before).await;
                let mended = mended.with_context(|| format!("{damage:?} of {}", kind.name));
                mended.inspect_err(|_| trial.cluster.keep_logs())?;
            }
        }
        damage_running(&mut trial).await.inspect_err(|_| trial.cluster.keep_logs())?;
    }
    trial.flow(Duration::from_millis(500)).await?;
    trial.compare_replicas().await?;
    let (verdict, report) = trial.judge(&EXPECTATION).await?;
    assert_good(&verdict, &report)
}
