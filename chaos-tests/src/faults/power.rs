//! The power cut: puts what the disk holds for certain, and of the rest what chance leaves, in place
//! of what a killed process wrote. The files are told in `preload/powercut.c`.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::{FileExt as _, MetadataExt as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use rand::{Rng as _, rngs::SmallRng};
use serde::{Deserialize, Serialize};

use super::FaultyDisk;

/// The unit in which disks write: a torn write ends at a multiple of it.
const SECTOR_BYTES: u64 = 512;
/// The unit in which the page cache is written back.
const PAGE_BYTES: u64 = 4096;
/// A record of the journal.
const RECORD_BYTES: usize = 32;

/// What a power cut leaves of what was not synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Unsynced {
    /// Nothing.
    Lost,
    /// A prefix of the very last write, nothing else.
    Torn,
    /// Any pages of any file, and of each directory the names as of its last sync or as of now.
    SomePages,
    /// All of it.
    Kept,
}

impl Unsynced {
    /// All of them, in turn.
    pub const ALL: [Self; 4] = [Self::Lost, Self::Torn, Self::SomePages, Self::Kept];
}

/// What a cut did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CutReport {
    /// Bytes that had been written and not synced.
    pub unsynced_bytes: u64,
    /// How many of them are there after the cut.
    pub kept_bytes: u64,
}

/// Cuts the power of a disk. Its process must be gone.
///
/// # Errors
/// When the files are not as agreed, or cannot be written.
pub fn cut(disk: &FaultyDisk, unsynced: Unsynced, rng: &mut SmallRng) -> Result<CutReport> {
    let journal = Journal::read(&disk.shadow.join("journal"))?;
    let mut cut = Cut {
        disk,
        unsynced,
        rng,
        written: written(&disk.data, &journal)?,
        journal,
        report: CutReport::default(),
    };
    let after = disk.shadow.join("after");
    fs::create_dir(&after)?;
    cut.directory(None, &disk.data, &after)?;
    let report = cut.report;
    // The directory itself stays: it has its owner and its mode.
    clear(&disk.data)?;
    for entry in fs::read_dir(&after)? {
        let entry = entry?;
        fs::rename(entry.path(), disk.data.join(entry.file_name()))?;
    }
    clear(&disk.shadow)?;
    Ok(report)
}

/// Empties a directory, which stays with its owner and its mode.
///
/// # Errors
/// When something in it cannot be removed.
pub fn clear(dir: &Path) -> Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        match entry.file_type()?.is_dir() {
            true => fs::remove_dir_all(entry.path())?,
            false => fs::remove_file(entry.path())?,
        }
    }
    Ok(())
}

/// What the library noted.
#[derive(Debug, Default)]
struct Journal {
    /// The living file of each inode.
    numbers: BTreeMap<u64, u64>,
    /// What of each file was written since its last sync.
    dirty: BTreeMap<u64, Vec<(u64, u64)>>,
    /// The file of the last write.
    last: Option<u64>,
}

impl Journal {
    fn read(path: &Path) -> Result<Self> {
        let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        let mut journal = Self::default();
        let mut inodes = BTreeMap::new();
        for record in bytes.chunks_exact(RECORD_BYTES) {
            let field = |at: usize| {
                let bytes = record[8 * at..8 * at + 8].try_into().expect("eight bytes are eight");
                u64::from_ne_bytes(bytes)
            };
            let (event, number, start, end) = (field(0), field(1), field(2), field(3));
            match event {
                1 => {
                    inodes.insert(number, start);
                    journal.numbers.insert(start, number);
                }
                2 => {
                    let inode = inodes.get(&number).context("a file that was never born")?;
                    journal.numbers.remove(inode);
                }
                3 => {
                    journal.dirty.entry(number).or_default().push((start, end));
                    journal.last = Some(number);
                }
                4 => drop(journal.dirty.remove(&number)),
                _ => bail!("the journal has a record of kind {event}"),
            }
        }
        Ok(journal)
    }
}

/// Where the files are now, by number.
fn written(data: &Path, journal: &Journal) -> Result<BTreeMap<u64, PathBuf>> {
    let mut written = BTreeMap::new();
    let mut dirs = vec![data.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir)? {
            let path = entry?.path();
            let metadata = fs::symlink_metadata(&path)?;
            if let Some(number) = journal.numbers.get(&metadata.ino()) {
                written.insert(*number, path.clone());
            }
            if metadata.is_dir() {
                dirs.push(path);
            }
        }
    }
    Ok(written)
}

/// A name in a directory.
struct Name {
    number: u64,
    is_dir: bool,
    name: String,
}

struct Cut<'a> {
    disk: &'a FaultyDisk,
    unsynced: Unsynced,
    rng: &'a mut SmallRng,
    written: BTreeMap<u64, PathBuf>,
    journal: Journal,
    report: CutReport,
}

impl Cut<'_> {
    fn directory(&mut self, number: Option<u64>, now: &Path, after: &Path) -> Result<()> {
        let as_synced = match self.unsynced {
            Unsynced::Lost | Unsynced::Torn => true,
            Unsynced::SomePages => self.rng.random_bool(0.5),
            Unsynced::Kept => false,
        };
        let names = if as_synced { self.synced_names(number)? } else { self.names(now)? };
        for Name { number, is_dir, name } in names {
            let target = after.join(&name);
            if is_dir {
                fs::create_dir(&target)?;
                self.directory(Some(number), &now.join(&name), &target)?;
            } else {
                self.file(number, &target)?;
            }
        }
        Ok(())
    }

    /// The names as of the directory's last sync.
    fn synced_names(&self, directory: Option<u64>) -> Result<Vec<Name>> {
        let file = match directory {
            None => "names".to_owned(),
            Some(number) => format!("names.{number}"),
        };
        // A directory that was never synced has no names.
        let text = fs::read_to_string(self.disk.shadow.join(file)).unwrap_or_default();
        let name = |line: &str| {
            let (number, name) = line.split_once(' ').context("a number and a name")?;
            let digits = number.trim_start_matches('d');
            let is_dir = digits.len() < number.len();
            Ok(Name { number: digits.parse()?, is_dir, name: name.to_owned() })
        };
        text.lines().map(name).collect()
    }

    /// The names as the process left them.
    fn names(&self, dir: &Path) -> Result<Vec<Name>> {
        let mut names = Vec::new();
        // A directory that is not there any more has none.
        let Ok(entries) = fs::read_dir(dir) else { return Ok(names) };
        for entry in entries {
            let entry = entry?;
            let metadata = entry.metadata()?;
            let name = entry.file_name().to_string_lossy().into_owned();
            // What the library never met was not written to.
            let number = self.journal.numbers.get(&metadata.ino()).copied().unwrap_or(u64::MAX);
            names.push(Name { number, is_dir: metadata.is_dir(), name });
        }
        Ok(names)
    }

    /// What is left of a file.
    fn file(&mut self, number: u64, target: &Path) -> Result<()> {
        let synced = self.disk.shadow.join(number.to_string());
        // Two names of one file would each need it; nothing here has two.
        if synced.exists() {
            fs::rename(&synced, target)?;
        } else {
            fs::File::create(target)?;
        }
        let written = self.written.get(&number).map(fs::File::open).transpose()?;
        let size = written.as_ref().map_or(Ok(0), |file| file.metadata().map(|data| data.len()))?;
        // What was cut off is noted as well.
        let mut dirty = self.journal.dirty.remove(&number).unwrap_or_default();
        dirty.iter_mut().for_each(|(_, end)| *end = size.min(*end));
        dirty.retain(|(start, end)| start < end);
        let kept = self.kept(number, &dirty);
        let bytes = |ranges: &[(u64, u64)]| ranges.iter().map(|(a, b)| b - a).sum::<u64>();
        self.report.unsynced_bytes += bytes(&dirty);
        self.report.kept_bytes += bytes(&kept);
        let Some(from) = written else { return Ok(()) };
        let to = fs::File::options().write(true).open(target)?;
        for (start, end) in kept {
            let mut bytes = vec![0; usize::try_from(end - start)?];
            from.read_exact_at(&mut bytes, start)?;
            to.write_all_at(&bytes, start)?;
        }
        if self.unsynced == Unsynced::Kept {
            to.set_len(size)?;
        }
        Ok(())
    }

    /// Which unsynced ranges reached the disk.
    fn kept(&mut self, number: u64, dirty: &[(u64, u64)]) -> Vec<(u64, u64)> {
        match self.unsynced {
            Unsynced::Lost => Vec::new(),
            Unsynced::Kept => dirty.to_vec(),
            Unsynced::Torn => {
                let Some(&(start, end)) =
                    dirty.last().filter(|_| self.journal.last == Some(number))
                else {
                    return Vec::new();
                };
                let cut = self.rng.random_range(start..end);
                let cut = cut - cut % SECTOR_BYTES;
                if cut > start { vec![(start, cut)] } else { Vec::new() }
            }
            Unsynced::SomePages => {
                let mut kept = Vec::new();
                for &(start, end) in dirty {
                    let mut at = start;
                    while at < end {
                        let next = end.min(at - at % PAGE_BYTES + PAGE_BYTES);
                        if self.rng.random_bool(0.5) {
                            kept.push((at, next));
                        }
                        at = next;
                    }
                }
                kept
            }
        }
    }
}
