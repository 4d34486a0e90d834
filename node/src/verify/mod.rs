//! `heliograph verify`: reads everything in a stopped node's data directory and says what is wrong
//! where. Changes nothing in it: sled cannot be opened without writing, so a copy of its files is.
//!
//! - [`report`]: what was found, for people and for scripts.
//! - [`groups`]: whether log, rows and snapshots fit together.
//! - [`progress`]: the bar for long work.

mod groups;
mod progress;
mod report;

use std::{
    collections::BTreeMap,
    fs::{self, File, TryLockError},
    io,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use heliograph_storage::{
    Error, GroupId, Keyring, OpenExpectations, OpenReport, SledConfig, SnapshotFinding,
    StateInspection, inspect_log, inspect_snapshots, inspect_state,
};

use self::{
    progress::Progress,
    report::{Finding, Report},
};
use crate::{
    cli::{Output, VerifyArgs},
    console::say,
    data_dir::{self, DataDirError},
    exit::{Failure, OrExit as _, Reason},
    serve,
};

/// Why there is nothing to verify, or what came of it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
enum VerifyError {
    /// There is no lock file.
    #[error("{0} is not a node's data directory: it has no `lock` file")]
    NotADataDir(PathBuf),
    /// Damage was found, and printed.
    #[error("{count} places are damaged: see above")]
    Damaged {
        /// How many.
        count: usize,
    },
}

/// Runs the command.
pub(crate) fn run(args: &VerifyArgs) -> Result<(), Failure> {
    let dir = &args.dir;
    let _lock = lock(dir)?;
    let files = files(dir).or_exit(Reason::DataDirectory)?;
    let progress = Progress::new(&files);
    let keys = args.key_dir.clone().unwrap_or_else(|| dir.join(data_dir::KEYS));
    let keys = serve::keyring_read_only(&keys)?;
    let report = Reader { dir, scratch: args.scratch.as_deref(), keys, progress: &progress };
    let report = report.read(files)?;
    progress.end();
    match args.output {
        Output::Text => say!("{}", report.text().trim_end()),
        Output::Json => say!("{}", report.json()),
    }
    match report.damages() {
        0 => Ok(()),
        count => Err(Failure::new(Reason::Damaged, VerifyError::Damaged { count })),
    }
}

/// Takes the directory's lock without creating or writing it.
fn lock(dir: &Path) -> Result<File, Failure> {
    let path = dir.join(data_dir::LOCK);
    let file = File::open(&path).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => {
            Failure::new(Reason::DataDirectory, VerifyError::NotADataDir(dir.to_owned()))
        }
        _ => Failure::new(Reason::DataDirectory, DataDirError::Io { path, source }),
    })?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            Err(Failure::new(Reason::DataDirectory, DataDirError::Locked(dir.to_owned())))
        }
        Err(TryLockError::Error(source)) => {
            let path = dir.to_owned();
            Err(Failure::new(Reason::DataDirectory, DataDirError::Io { path, source }))
        }
    }
}

/// All files below `dir` with their lengths, by their path in it.
fn files(dir: &Path) -> anyhow::Result<BTreeMap<PathBuf, u64>> {
    let mut found = BTreeMap::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(next) = dirs.pop() {
        let read = || format!("cannot read {}", next.display());
        for entry in fs::read_dir(&next).with_context(read)? {
            let entry = entry.with_context(read)?;
            let metadata = entry.metadata().with_context(read)?;
            if metadata.is_dir() {
                dirs.push(entry.path());
            } else {
                let path = entry.path();
                found.insert(path.strip_prefix(dir).unwrap_or(&path).to_owned(), metadata.len());
            }
        }
    }
    Ok(found)
}

/// What reads a directory.
struct Reader<'a> {
    dir: &'a Path,
    scratch: Option<&'a Path>,
    keys: Keyring,
    progress: &'a Progress,
}

impl Reader<'_> {
    fn read(&self, files: BTreeMap<PathBuf, u64>) -> Result<Report, Failure> {
        let mut report = Report::new(self.dir, files);
        if let Err(error) = data_dir::check_identity(self.dir) {
            report.add(Finding::identity(&error));
        }
        let state = self.state(&mut report)?;
        let expectations = match &state {
            Some(state) => state.expectations.clone(),
            None => OpenExpectations::default(),
        };
        let log = self.log(&expectations, &mut report)?;
        let snapshots = self.snapshots(&mut report)?;
        groups::compare(state.as_ref(), &log, &snapshots, &mut report);
        Ok(report)
    }

    /// Reads the rows, in a copy. None where the database as a whole is unreadable.
    fn state(&self, report: &mut Report) -> Result<Option<StateInspection>, Failure> {
        let state = self.dir.join("state");
        if !state.is_dir() {
            report.note(
                "state/ is not there: it is rebuilt from snapshots and log at the next start",
            );
            return Ok(None);
        }
        let copy = copy(&state, self.scratch, self.progress)
            .context("cannot copy the state database: name a directory with room by --scratch")
            .or_exit(Reason::DataDirectory)?;
        let config = SledConfig::default();
        let mut progress = |bytes| self.progress.advance(bytes);
        let inspected = match inspect_state(copy.path(), &config, &self.keys, &mut progress) {
            Ok(inspected) => inspected,
            Err(error) if !is_content(&error) => return Err(unreadable(error)),
            Err(error) => {
                report.add(Finding::database(&error));
                return Ok(None);
            }
        };
        for found in &inspected.groups {
            if let Err(error) = &found.result {
                report.add(Finding::rows(found.group, error));
            }
        }
        Ok(Some(inspected))
    }

    fn log(
        &self,
        expectations: &OpenExpectations,
        report: &mut Report,
    ) -> Result<OpenReport, Failure> {
        let path = self.dir.join("log");
        let log = match path.is_dir() {
            true => inspect_log(&path, expectations, &self.keys).map_err(unreadable)?,
            false => OpenReport::default(),
        };
        self.progress.advance(log.bytes);
        for damage in &log.damage {
            let groups: Vec<GroupId> = log
                .damaged
                .iter()
                .filter(|(_, other)| other.path == damage.path)
                .map(|(group, _)| *group)
                .collect();
            report.add(Finding::log(damage, &groups));
        }
        // Groups that lost something without a place that tells it.
        for (group, damage) in &log.damaged {
            if !log.damage.iter().any(|other| other.path == damage.path) {
                report.add(Finding::log(damage, &[*group]));
            }
        }
        if let Some(tear) = &log.tear {
            let name = tear.path.strip_prefix(self.dir).unwrap_or(&tear.path).display();
            report.note(&format!(
                "{name} ends in a write that never finished, at byte {}: it is cut at the next start",
                tear.offset
            ));
        }
        Ok(log)
    }

    fn snapshots(&self, report: &mut Report) -> Result<Vec<SnapshotFinding>, Failure> {
        let path = self.dir.join("snapshots");
        if !path.is_dir() {
            return Ok(Vec::new());
        }
        let mut progress = |bytes| self.progress.advance(bytes);
        let found = inspect_snapshots(&path, &self.keys, &mut progress).map_err(unreadable)?;
        for snapshot in &found {
            match &snapshot.result {
                Ok(_) => {}
                Err(error) if !is_content(error) => return Err(unreadable(error.clone())),
                Err(error) => report.add(Finding::snapshot(snapshot, error)),
            }
        }
        Ok(found)
    }
}

/// Whether an error tells of the data, and not of what hinders reading it.
fn is_content(error: &Error) -> bool {
    !matches!(error, Error::Version { .. } | Error::KeysMissing { .. } | Error::Io { .. })
}

fn unreadable(error: Error) -> Failure {
    let hint = match error {
        Error::KeysMissing { .. } => "cannot read what is sealed: name its keys by --key-dir",
        _ => "cannot read the data",
    };
    Failure::new(Reason::DataDirectory, anyhow::Error::new(error).context(hint))
}

/// A copy of a directory of files that goes when it is dropped.
fn copy(from: &Path, scratch: Option<&Path>, progress: &Progress) -> io::Result<tempfile::TempDir> {
    let copy = match scratch {
        Some(scratch) => tempfile::tempdir_in(scratch)?,
        None => tempfile::tempdir()?,
    };
    let mut dirs = vec![PathBuf::new()];
    while let Some(next) = dirs.pop() {
        for entry in fs::read_dir(from.join(&next))? {
            let entry = entry?;
            let name = next.join(entry.file_name());
            if entry.file_type()?.is_dir() {
                fs::create_dir(copy.path().join(&name))?;
                dirs.push(name);
            } else {
                progress.advance(fs::copy(entry.path(), copy.path().join(&name))?);
            }
        }
    }
    Ok(copy)
}
