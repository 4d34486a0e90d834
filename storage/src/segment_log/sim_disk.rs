//! A disk in memory that fails and loses power as real ones do.
//!
//! - A write reaches the page cache; only a sync makes it durable. A power cut keeps any subset of
//!   the sectors written since, in any order, and any prefix of the name changes since.
//! - A failed write leaves a prefix. A failed sync leaves the pages readable and clean: no later
//!   sync writes them (as Linux does).

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex, MutexGuard},
};

use super::{
    disk::{Disk, DiskFile},
    test_support::Random,
};

const SECTOR_BYTES: usize = 512;

/// The disk; clones share it.
#[derive(Clone)]
pub(super) struct SimDisk {
    state: Arc<Mutex<State>>,
    gate: Arc<Gate>,
}

/// Holds syncs up.
#[derive(Default)]
struct Gate {
    held: Mutex<bool>,
    opened: Condvar,
}

struct State {
    names: BTreeMap<PathBuf, usize>,
    durable_names: BTreeMap<PathBuf, usize>,
    name_changes: Vec<NameChange>,
    files: Vec<FileState>,
    operations: u64,
    fail_at: Option<u64>,
    dies_at: Option<u64>,
    locked: bool,
    swallows_syncs: bool,
    fails_sync: bool,
    syncs: u64,
    random: Random,
}

#[derive(Clone)]
enum NameChange {
    Add(PathBuf, usize),
    Remove(PathBuf),
    Rename(PathBuf, PathBuf),
}

#[derive(Clone, Default)]
struct FileState {
    current: Vec<u8>,
    durable: Vec<u8>,
    dirty: BTreeSet<usize>,
    clean_len: bool,
}

struct SimFile {
    disk: SimDisk,
    file: usize,
    lock: bool,
}

/// What an operation is to do.
enum Verdict {
    Sound,
    Fail,
    Dead,
}

impl SimDisk {
    /// An empty disk.
    pub(super) fn new(seed: u64) -> SimDisk {
        let state = State {
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            name_changes: Vec::new(),
            files: Vec::new(),
            operations: 0,
            fail_at: None,
            dies_at: None,
            locked: false,
            swallows_syncs: false,
            fails_sync: false,
            syncs: 0,
            random: Random::new(seed),
        };
        SimDisk { state: Arc::new(Mutex::new(state)), gate: Arc::default() }
    }

    /// A disk that answers syncs of files without doing them.
    pub(super) fn swallowing(seed: u64) -> SimDisk {
        let disk = SimDisk::new(seed);
        disk.lock_state().swallows_syncs = true;
        disk
    }

    /// The operation so many from now fails once.
    pub(super) fn fail_in(&self, operations: u64) {
        let mut state = self.lock_state();
        state.fail_at = Some(state.operations + operations);
    }

    /// The next sync of a file fails.
    pub(super) fn fail_next_sync(&self) {
        self.lock_state().fails_sync = true;
    }

    /// How many syncs of files there were.
    pub(super) fn syncs(&self) -> u64 {
        self.lock_state().syncs
    }

    /// Syncs of files do not end until [`SimDisk::release_syncs`].
    pub(super) fn hold_syncs(&self) {
        *self.gate.held.lock().expect("no test panics with the gate locked") = true;
    }

    /// Lets syncs end.
    pub(super) fn release_syncs(&self) {
        *self.gate.held.lock().expect("no test panics with the gate locked") = false;
        self.gate.opened.notify_all();
    }

    /// From the operation so many from now on nothing succeeds: the power is about to go.
    pub(super) fn die_in(&self, operations: u64) {
        let mut state = self.lock_state();
        state.dies_at = Some(state.operations + operations);
    }

    /// Whether the failure asked for has happened; it will not any more.
    pub(super) fn heal(&self) -> bool {
        let mut state = self.lock_state();
        let operations = state.operations;
        state.dies_at = None;
        state.fail_at.take().is_some_and(|at| at < operations)
    }

    /// The power goes and comes back.
    pub(super) fn power_cut(&self) {
        let mut guard = self.lock_state();
        let state = &mut *guard;
        let kept = state.random.below(state.name_changes.len() as u64 + 1) as usize;
        let mut names = state.durable_names.clone();
        state.name_changes.iter().take(kept).for_each(|change| change.apply(&mut names));
        for file in &mut state.files {
            file.power_cut(&mut state.random);
        }
        state.names = names.clone();
        state.durable_names = names;
        state.name_changes.clear();
        state.locked = false;
        (state.fail_at, state.dies_at) = (None, None);
    }

    /// The files there are, with what a read would give.
    pub(super) fn contents(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let state = self.lock_state();
        let contents = state.names.iter();
        contents.map(|(path, file)| (path.clone(), state.files[*file].current.clone())).collect()
    }

    /// Changes the bytes of every file behind the log's back.
    pub(super) fn change(&self, change: impl Fn(&mut Vec<u8>)) {
        self.lock_state().files.iter_mut().for_each(|file| change(&mut file.current));
    }

    /// A disk that holds these files, durably.
    pub(super) fn with(contents: &BTreeMap<PathBuf, Vec<u8>>, seed: u64) -> SimDisk {
        let disk = SimDisk::new(seed);
        {
            let mut state = disk.lock_state();
            for (path, bytes) in contents {
                let file = state.files.len();
                state.files.push(FileState {
                    current: bytes.clone(),
                    durable: bytes.clone(),
                    ..FileState::default()
                });
                state.names.insert(path.clone(), file);
                state.durable_names.insert(path.clone(), file);
            }
        }
        disk
    }

    fn lock_state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no test panics with the disk locked")
    }

    fn operate<T>(&self, run: impl FnOnce(&mut State, Verdict) -> io::Result<T>) -> io::Result<T> {
        let mut state = self.lock_state();
        let at = state.operations;
        state.operations += 1;
        let verdict = match (state.dies_at, state.fail_at) {
            (Some(dies), _) if at >= dies => Verdict::Dead,
            (_, Some(fails)) if at == fails => Verdict::Fail,
            _ => Verdict::Sound,
        };
        run(&mut state, verdict)
    }

    /// An operation that does nothing when it fails.
    fn simple<T>(&self, run: impl FnOnce(&mut State) -> io::Result<T>) -> io::Result<T> {
        self.operate(|state, verdict| match verdict {
            Verdict::Sound => run(state),
            Verdict::Fail | Verdict::Dead => Err(failed()),
        })
    }

    fn file(&self, file: usize, lock: bool) -> Arc<dyn DiskFile> {
        Arc::new(SimFile { disk: self.clone(), file, lock })
    }
}

impl NameChange {
    fn apply(&self, names: &mut BTreeMap<PathBuf, usize>) {
        match self {
            NameChange::Add(path, file) => {
                names.insert(path.clone(), *file);
            }
            NameChange::Remove(path) => {
                names.remove(path);
            }
            NameChange::Rename(from, to) => {
                if let Some(file) = names.remove(from) {
                    names.insert(to.clone(), file);
                }
            }
        }
    }
}

impl State {
    fn rename(&mut self, change: NameChange) {
        change.apply(&mut self.names);
        self.name_changes.push(change);
    }
}

impl FileState {
    fn sync(&mut self) {
        self.durable.resize(self.current.len(), 0);
        for sector in std::mem::take(&mut self.dirty) {
            self.copy(sector);
        }
        self.clean_len = true;
    }

    fn copy(&mut self, sector: usize) {
        let start = sector * SECTOR_BYTES;
        let end = (start + SECTOR_BYTES).min(self.current.len()).min(self.durable.len());
        if start < end {
            self.durable[start..end].copy_from_slice(&self.current[start..end]);
        }
    }

    fn power_cut(&mut self, random: &mut Random) {
        if !self.clean_len && random.below(2) == 0 {
            self.durable.resize(self.current.len(), 0);
        }
        for sector in std::mem::take(&mut self.dirty) {
            if random.below(2) == 0 {
                self.copy(sector);
            }
        }
        self.current = self.durable.clone();
        self.clean_len = true;
    }
}

fn failed() -> io::Error {
    io::Error::from_raw_os_error(5)
}

impl Disk for SimDisk {
    fn create_dir(&self, _dir: &Path) -> io::Result<()> {
        self.simple(|_| Ok(()))
    }

    fn list(&self, _dir: &Path) -> io::Result<Vec<String>> {
        self.simple(|state| {
            let names = state.names.keys().filter_map(|path| path.file_name());
            Ok(names.map(|name| name.to_string_lossy().into_owned()).collect())
        })
    }

    fn create(&self, path: &Path, bytes: u64) -> io::Result<Arc<dyn DiskFile>> {
        let file = self.simple(|state| {
            if state.names.contains_key(path) {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            let file = state.files.len();
            state
                .files
                .push(FileState { current: vec![0; bytes as usize], ..FileState::default() });
            state.rename(NameChange::Add(path.to_owned(), file));
            Ok(file)
        })?;
        Ok(self.file(file, false))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let file = self.simple(|state| state.names.get(path).copied().ok_or_else(failed))?;
        Ok(self.file(file, false))
    }

    fn lock(&self, _path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        self.simple(|state| match std::mem::replace(&mut state.locked, true) {
            true => Err(io::ErrorKind::WouldBlock.into()),
            false => Ok(()),
        })?;
        Ok(self.file(0, true))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.simple(|state| {
            state.rename(NameChange::Rename(from.to_owned(), to.to_owned()));
            Ok(())
        })
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.simple(|state| {
            state.rename(NameChange::Remove(path.to_owned()));
            Ok(())
        })
    }

    fn sync_dir(&self, _dir: &Path) -> io::Result<()> {
        self.simple(|state| {
            state.durable_names = state.names.clone();
            state.name_changes.clear();
            Ok(())
        })
    }
}

impl DiskFile for SimFile {
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        self.disk.simple(|state| {
            let current = &state.files[self.file].current;
            let start = offset as usize;
            let part = current.get(start..start + bytes.len());
            bytes.copy_from_slice(part.ok_or(io::ErrorKind::UnexpectedEof)?);
            Ok(())
        })
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.disk.operate(|state, verdict| {
            let written = match verdict {
                Verdict::Sound => bytes.len(),
                Verdict::Fail => state.random.below(bytes.len() as u64) as usize,
                Verdict::Dead => 0,
            };
            let (start, file) = (offset as usize, &mut state.files[self.file]);
            let end = start + written;
            if file.current.len() < end {
                file.current.resize(end, 0);
                file.clean_len = false;
            }
            file.current[start..end].copy_from_slice(&bytes[..written]);
            if written > 0 {
                file.dirty.extend(start / SECTOR_BYTES..=(end - 1) / SECTOR_BYTES);
            }
            if matches!(verdict, Verdict::Sound) { Ok(()) } else { Err(failed()) }
        })
    }

    fn sync_data(&self) -> io::Result<()> {
        {
            let held = self.disk.gate.held.lock().expect("no test panics with the gate locked");
            let opened = self.disk.gate.opened.wait_while(held, |held| *held);
            drop(opened.expect("no test panics with the gate locked"));
        }
        self.disk.operate(|state, verdict| {
            state.syncs += 1;
            let swallowed = state.swallows_syncs;
            let fails = std::mem::take(&mut state.fails_sync);
            let verdict = if fails { Verdict::Fail } else { verdict };
            let file = &mut state.files[self.file];
            match verdict {
                Verdict::Sound if swallowed => Ok(()),
                Verdict::Sound => {
                    file.sync();
                    Ok(())
                }
                Verdict::Fail => {
                    file.dirty.clear();
                    Err(failed())
                }
                Verdict::Dead => Err(failed()),
            }
        })
    }

    fn sync_all(&self) -> io::Result<()> {
        self.sync_data()
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        self.disk.simple(|state| {
            let file = &mut state.files[self.file];
            file.current.resize(bytes as usize, 0);
            file.clean_len = false;
            Ok(())
        })
    }

    fn len(&self) -> io::Result<u64> {
        self.disk.simple(|state| Ok(state.files[self.file].current.len() as u64))
    }
}

impl Drop for SimFile {
    fn drop(&mut self) {
        if self.lock {
            self.disk.lock_state().locked = false;
        }
    }
}
