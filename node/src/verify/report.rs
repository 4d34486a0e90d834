//! What was found: each file, and each damage with what it means and what to do.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    path::{Path, PathBuf},
};

use heliograph_cluster::group_name;
use heliograph_storage::{Damage, Error, GroupId, SnapshotFinding};
use indicatif::HumanBytes;
use serde::Serialize;

use crate::data_dir::DataDirError;

/// The files that a start rebuilds by itself.
const REBUILT: &str = "start the node: it moves state/ aside and rebuilds it from snapshots and \
    log; check this disk";
/// Files whose loss costs the replica its vote.
const SEEDED: &str = "start the node: it drops these replicas and seeds them anew from the others, \
    as long as most of each group's replicas are sound; check this disk";

/// One damaged place.
#[derive(Debug, Serialize)]
pub(super) struct Finding {
    /// The file, in the directory.
    path: PathBuf,
    /// Where in it.
    #[serde(skip_serializing_if = "Option::is_none")]
    offset: Option<u64>,
    /// Whom it concerns; empty: nobody, or all.
    groups: Vec<String>,
    /// What is wrong.
    what: String,
    /// What that means.
    means: &'static str,
    /// What to do.
    #[serde(rename = "do")]
    remedy: &'static str,
}

fn names(groups: &[GroupId]) -> Vec<String> {
    groups.iter().map(|group| group_name(*group)).collect()
}

impl Finding {
    fn new(path: impl Into<PathBuf>, groups: &[GroupId], what: String) -> Self {
        let groups = names(groups);
        Self { path: path.into(), offset: None, groups, what, means: "", remedy: SEEDED }
    }

    pub(super) fn identity(error: &DataDirError) -> Self {
        Self {
            means: "it is not certain whose directory this is",
            remedy: "restore identity.json from a backup, or replace the node",
            ..Self::new("identity.json", &[], error.to_string())
        }
    }

    /// The database as a whole.
    pub(super) fn database(error: &Error) -> Self {
        Self {
            means: "a start cannot use it; nothing that was accepted depends on it alone",
            remedy: REBUILT,
            ..Self::new("state/db", &[], error.to_string())
        }
    }

    /// The rows of one group.
    pub(super) fn rows(group: GroupId, error: &Error) -> Self {
        Self { path: "state/db".into(), groups: names(&[group]), ..Self::database(error) }
    }

    /// A place in the log.
    pub(super) fn log(damage: &Damage, groups: &[GroupId]) -> Self {
        let means = match groups {
            [] => "nothing that is still needed was there",
            _ => "these replicas lost what they had promised to keep: they do not vote",
        };
        let remedy = if groups.is_empty() { "check this disk" } else { SEEDED };
        let finding = Self::new(&damage.path, groups, damage.reason.to_owned());
        Self { offset: Some(damage.offset), means, remedy, ..finding }
    }

    /// A snapshot file.
    pub(super) fn snapshot(found: &SnapshotFinding, error: &Error) -> Self {
        let (offset, what) = match error {
            Error::Damage { offset, reason, .. } => (Some(*offset), (*reason).to_owned()),
            error => (None, error.to_string()),
        };
        Self {
            offset,
            means: "peers cannot be seeded from it, nor rows rebuilt",
            remedy: "start the node: it writes another from its rows where those are sound, and is \
                seeded anew by the others where they are not; check this disk",
            ..Self::new(&found.path, &[found.group], what)
        }
    }

    /// Neither rows nor snapshot reach to where the log begins.
    pub(super) fn hole(group: GroupId, purged: u64, applied: u64) -> Self {
        let what =
            format!("the log begins behind entry {purged}, but rows and snapshot end at {applied}");
        Self {
            means: "entries between are gone: this replica does not vote",
            ..Self::new("snapshots", &[group], what)
        }
    }

    /// The log ends before the rows.
    pub(super) fn short(group: GroupId, last: u64, applied: u64) -> Self {
        let what = format!("the log ends at entry {last}, but the rows were applied to {applied}");
        Self {
            means: "the log lost its end: this replica does not vote",
            ..Self::new("log", &[group], what)
        }
    }

    /// The snapshot that the log was purged behind is not there.
    pub(super) fn no_snapshot(group: GroupId, purged: u64) -> Self {
        let what = format!("no sound snapshot reaches to entry {purged}, where the log begins");
        Self {
            means: "the rows are the only copy on this node",
            remedy: "start the node: it writes another from its rows",
            ..Self::new("snapshots", &[group], what)
        }
    }
}

/// All that was found in a directory.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    #[serde(skip)]
    dir: PathBuf,
    files: BTreeMap<PathBuf, u64>,
    damage: Vec<Finding>,
    notes: Vec<String>,
}

impl Report {
    pub(super) fn new(dir: &Path, files: BTreeMap<PathBuf, u64>) -> Self {
        Self { dir: dir.to_owned(), files, damage: Vec::new(), notes: Vec::new() }
    }

    pub(super) fn add(&mut self, mut finding: Finding) {
        if let Ok(inside) = finding.path.strip_prefix(&self.dir) {
            finding.path = inside.to_owned();
        }
        self.damage.push(finding);
    }

    /// Something to know that is no damage.
    pub(super) fn note(&mut self, note: &str) {
        self.notes.push(note.to_owned());
    }

    pub(super) fn damages(&self) -> usize {
        self.damage.len()
    }

    /// One JSON object.
    pub(super) fn json(&self) -> String {
        let files: Vec<_> = self
            .files
            .iter()
            .map(|(path, bytes)| {
                serde_json::json!({ "path": path, "bytes": bytes, "ok": self.is_ok(path) })
            })
            .collect();
        serde_json::json!({
            "sound": self.damage.is_empty(),
            "files": files,
            "damage": self.damage,
            "notes": self.notes,
        })
        .to_string()
    }

    /// A table of the files, and a paragraph for each damage.
    pub(super) fn text(&self) -> String {
        let width = self.files.keys().map(|path| path.to_string_lossy().chars().count()).max();
        let width = width.unwrap_or(0).max("FILE".len());
        // Writing into a string cannot fail.
        let mut text = format!("{:width$}  {:>11}  STATE\n", "FILE", "BYTES");
        for (path, bytes) in &self.files {
            let state = if self.is_ok(path) { "ok" } else { "DAMAGED" };
            let bytes = HumanBytes(*bytes).to_string();
            let _ = writeln!(text, "{:width$}  {bytes:>11}  {state}", path.to_string_lossy());
        }
        for note in &self.notes {
            let _ = write!(text, "\nNote: {note}.\n");
        }
        for finding in &self.damage {
            let _ = write!(text, "\n{}", finding.path.display());
            if let Some(offset) = finding.offset {
                let _ = write!(text, ", byte {offset}");
            }
            if !finding.groups.is_empty() {
                let _ = write!(text, " ({})", finding.groups.join(", "));
            }
            let Finding { what, means, remedy, .. } = finding;
            let _ = write!(text, ": {what}\n  Means: {means}.\n  Do: {remedy}.\n");
        }
        let _ = match self.damage.len() {
            0 => write!(text, "\nSound: every byte that counts is what was written.\n"),
            count => write!(text, "\n{count} places are damaged.\n"),
        };
        text
    }

    fn is_ok(&self, path: &Path) -> bool {
        !self.damage.iter().any(|finding| finding.path == path)
    }
}
