//! Damage to files of a node that does not run: what rot, a bad controller or a hasty operator does.

use std::{
    fs,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, ensure};
use rand::{Rng as _, rngs::SmallRng, seq::IndexedRandom as _};
use serde::{Deserialize, Serialize};

/// The unit in which an old chunk is put back: that of the page cache.
const CHUNK_BYTES: usize = 4096;
/// Directories of a node's data whose files are damaged: log, state database, snapshots. Its keys
/// and its identity are not among them: without those a node says so and does not start.
const DIRECTORIES: [&str; 3] = ["log", "state", "snapshots"];

/// How a file is damaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Damage {
    /// One bit of what was written is wrong.
    FlippedBit,
    /// The end of what was written is missing.
    Truncated,
    /// A page is as it was a while ago.
    StaleChunk,
}

/// What is kept of a directory, to put a part of it back later.
#[derive(Debug)]
pub struct Stash {
    files: Vec<(PathBuf, Vec<u8>)>,
}

/// What was done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damaged {
    /// In which file, below the node's data.
    pub file: PathBuf,
    /// From which byte on.
    pub offset: u64,
}

impl Stash {
    /// Copies the files of a node, which may be running.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn take(data: &Path) -> Result<Self> {
        // A file that goes while we look is none that could be put back.
        let read = |path: PathBuf| fs::read(&path).ok().map(|bytes| (path, bytes));
        Ok(Self { files: files(data)?.into_iter().filter_map(read).collect() })
    }
}

/// Damages a file of `data`; `stash` is of a while ago. Nothing where there is nothing to damage
/// in this manner.
///
/// # Errors
/// When files cannot be read or written.
pub fn damage(
    data: &Path,
    how: Damage,
    stash: &Stash,
    rng: &mut SmallRng,
) -> Result<Option<Damaged>> {
    let damaged = match how {
        Damage::FlippedBit => flip(&files(data)?, rng)?,
        Damage::Truncated => truncate(&files(data)?, rng)?,
        Damage::StaleChunk => put_back(stash, rng)?,
    };
    let Some((path, offset)) = damaged else { return Ok(None) };
    let file = path.strip_prefix(data).unwrap_or(&path).to_owned();
    Ok(Some(Damaged { file, offset }))
}

/// All files that may be damaged, in a fixed order.
fn files(data: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut directories: Vec<PathBuf> = DIRECTORIES.iter().map(|name| data.join(name)).collect();
    directories.retain(|directory| directory.is_dir());
    ensure!(!directories.is_empty(), "{} has none of {DIRECTORIES:?}", data.display());
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory)? {
            let entry = entry?;
            match entry.file_type()?.is_dir() {
                true => directories.push(entry.path()),
                false => files.push(entry.path()),
            }
        }
    }
    files.sort();
    Ok(files)
}

/// A file that has something in it, and how long its written part is: the rest is reserved space.
fn written(files: &[PathBuf], rng: &mut SmallRng) -> Result<Option<(PathBuf, u64)>> {
    let mut written = Vec::new();
    for path in files {
        let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        if let Some(last) = bytes.iter().rposition(|byte| *byte != 0) {
            written.push((path.clone(), last as u64 + 1));
        }
    }
    Ok(written.choose(rng).cloned())
}

fn flip(files: &[PathBuf], rng: &mut SmallRng) -> Result<Option<(PathBuf, u64)>> {
    let Some((path, length)) = written(files, rng)? else { return Ok(None) };
    let offset = rng.random_range(0..length);
    let file = fs::File::options().read(true).write(true).open(&path)?;
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset)?;
    byte[0] ^= 1 << rng.random_range(0..8);
    file.write_all_at(&byte, offset)?;
    file.sync_all()?;
    Ok(Some((path, offset)))
}

fn truncate(files: &[PathBuf], rng: &mut SmallRng) -> Result<Option<(PathBuf, u64)>> {
    let Some((path, length)) = written(files, rng)? else { return Ok(None) };
    let offset = rng.random_range(0..length);
    let file = fs::File::options().write(true).open(&path)?;
    file.set_len(offset)?;
    file.sync_all()?;
    Ok(Some((path, offset)))
}

fn put_back(stash: &Stash, rng: &mut SmallRng) -> Result<Option<(PathBuf, u64)>> {
    let mut stale = Vec::new();
    for (path, old) in &stash.files {
        let Ok(now) = fs::read(path) else { continue };
        let chunks = old.chunks_exact(CHUNK_BYTES).zip(now.chunks_exact(CHUNK_BYTES));
        let changed = chunks.enumerate().filter(|(_, (old, now))| old != now);
        stale.extend(changed.map(|(at, (old, _))| (path, (at * CHUNK_BYTES) as u64, old)));
    }
    let Some((path, offset, old)) = stale.choose(rng) else { return Ok(None) };
    let file = fs::File::options().write(true).open(path)?;
    file.write_all_at(old, *offset)?;
    file.sync_all()?;
    Ok(Some(((*path).clone(), *offset)))
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;

    use super::*;

    fn data() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("log/1.log");
        fs::create_dir(dir.path().join("log")).unwrap();
        let mut bytes = vec![7; 3 * CHUNK_BYTES];
        bytes.resize(8 * CHUNK_BYTES, 0);
        fs::write(&file, bytes).unwrap();
        (dir, file)
    }

    #[test]
    fn each_damage_changes_what_was_written_and_nothing_else() {
        for seed in 0..50 {
            let mut rng = SmallRng::seed_from_u64(seed);
            let (dir, file) = data();
            let before = fs::read(&file).unwrap();
            let stash = Stash::take(dir.path()).unwrap();
            let flipped =
                damage(dir.path(), Damage::FlippedBit, &stash, &mut rng).unwrap().unwrap();
            assert!(flipped.offset < 3 * CHUNK_BYTES as u64);
            let after = fs::read(&file).unwrap();
            let differ = before.iter().zip(&after).filter(|(a, b)| a != b).count();
            assert_eq!((differ, after.len()), (1, before.len()));
            // What it was a while ago comes back.
            let stale = damage(dir.path(), Damage::StaleChunk, &stash, &mut rng).unwrap();
            assert!(stale.is_some());
            assert_eq!(fs::read(&file).unwrap(), before);
            let none = damage(dir.path(), Damage::StaleChunk, &stash, &mut rng).unwrap();
            assert_eq!(none, None, "nothing is stale");
            let cut = damage(dir.path(), Damage::Truncated, &stash, &mut rng).unwrap().unwrap();
            assert_eq!(cut.file, Path::new("log/1.log"));
            assert_eq!(fs::metadata(&file).unwrap().len(), cut.offset);
            assert!(cut.offset < 3 * CHUNK_BYTES as u64);
        }
    }

    #[test]
    fn a_directory_that_is_no_nodes_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        assert!(Stash::take(dir.path()).is_err());
    }
}
