//! All storage keys of a node, from the drawing of one to its end.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::{Arc, Weak},
};

use parking_lot::{Mutex, RwLock};
use zeroize::Zeroizing;

use super::{
    KEY_NONE,
    cipher::{KEY_BYTES, SEAL_BYTES, StorageKey},
    key_disk::{KeyDir, KeyDisk, MemoryKeyDisk, copy},
    key_file::{GONE_MAGIC, KEY_FILE_BYTES, KeyFile, KeyFileError},
    user::{KeyUser, Reseal},
};
use crate::{Error, metrics};

/// The first number of a ring is drawn below this: so that a ring that was lost is not taken for
/// the new one, and numbers never run out.
const FIRST_NUMBER_MAX: u32 = 1 << 30;
/// A stray file with a larger number would leave none for the keys to come.
const NUMBER_MAX: u32 = 1 << 31;

/// Fills a slice with unpredictable bytes; in production from the operating system.
pub type Entropy = Box<dyn Fn(&mut [u8]) + Send + Sync>;

/// The storage keys of a node. Cloning shares them.
///
/// Numbers count upwards; each open and each rotation draws a new key, with which everything is
/// sealed from then on. A rotation also ends the *key epoch*: what lives under keys of earlier ones
/// is moved forward by [`Keyring::retire_step`], which then destroys them.
#[derive(Clone)]
pub struct Keyring {
    /// `None` seals nothing.
    inner: Option<Arc<Inner>>,
}

struct Inner {
    disk: Box<dyn KeyDisk>,
    entropy: Entropy,
    state: RwLock<State>,
    users: Mutex<Vec<Weak<dyn KeyUser>>>,
    /// One rotation or retirement at a time.
    change: Mutex<()>,
    /// There was no key when it was opened.
    is_new: bool,
}

struct State {
    keys: Arc<BTreeMap<u32, Arc<StorageKey>>>,
    current: Arc<StorageKey>,
    /// Where and when the epoch of each key began, by number.
    epochs: BTreeMap<u32, Epoch>,
    /// Files that hold no key (any more), to be removed with the next that is destroyed.
    remains: BTreeSet<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Epoch {
    number: u32,
    began_ms: u64,
}

/// How a ring stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyStatus {
    /// The key that seals now.
    pub current: u32,
    /// The oldest key there is: the current one where no other is left.
    pub oldest: u32,
    /// When the current key epoch began, milliseconds since the Unix epoch by this node's clock.
    pub epoch_began_ms: u64,
    /// When the oldest key's epoch began.
    pub oldest_began_ms: u64,
    /// The first key of the current epoch: earlier ones are to be destroyed.
    pub epoch_first: u32,
    /// How many keys there are.
    pub keys: usize,
}

impl KeyStatus {
    /// Whether keys of earlier epochs are still to be destroyed.
    pub fn is_retiring(&self) -> bool {
        self.oldest < self.epoch_first
    }
}

/// What one [`Keyring::retire_step`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retirement {
    /// There was nothing to do: only keys of the current epoch are left.
    Complete,
    /// So many bytes were sealed anew; go on.
    Moved(u64),
    /// A store is at it, or a write under an old key is not finished: ask again a little later.
    Waiting,
    /// So many keys were destroyed.
    Destroyed(usize),
}

impl Keyring {
    /// A ring without keys: what is written is not sealed. For tests and tools.
    pub fn unsealed() -> Keyring {
        Keyring { inner: None }
    }

    /// Opens the keys in `dir`, and draws one for this life of the process. `now_ms` is the wall
    /// clock, which begins the first key epoch.
    ///
    /// # Errors
    /// [`Error::Io`] where the files cannot be read, written or locked (another process has them),
    /// [`Error::Version`] where a later build wrote one. A damaged key is none of these: what
    /// needs it will be found damaged.
    pub fn open(dir: &Path, entropy: Entropy, now_ms: u64) -> Result<Keyring, Error> {
        Keyring::open_on(Box::new(KeyDir::open(dir)?), entropy, now_ms)
    }

    /// Opens the keys of a stopped node to read what they seal, and changes nothing in `dir`.
    ///
    /// # Errors
    /// As [`Keyring::open`].
    pub fn inspect(dir: &Path, entropy: Entropy) -> Result<Keyring, Error> {
        Keyring::open_on(Box::new(copy(dir)?), entropy, 0)
    }

    /// Opens the keys on a disk in memory.
    ///
    /// # Errors
    /// [`Error::Closed`] where the disk takes no writes.
    pub fn open_memory(
        disk: &MemoryKeyDisk,
        entropy: Entropy,
        now_ms: u64,
    ) -> Result<Keyring, Error> {
        Keyring::open_on(Box::new(disk.clone()), entropy, now_ms)
    }

    fn open_on(disk: Box<dyn KeyDisk>, entropy: Entropy, now_ms: u64) -> Result<Keyring, Error> {
        let mut keys = BTreeMap::new();
        let mut epochs = BTreeMap::new();
        let mut remains = BTreeSet::new();
        let mut last = None;
        for (number, content) in disk.list()? {
            if number == KEY_NONE || number >= NUMBER_MAX {
                continue;
            }
            last = last.max(Some(number));
            match KeyFile::decode(&content) {
                Ok(file) if file.number == number => {
                    keys.insert(number, Arc::new(StorageKey::new(number, &file.secret)));
                    let epoch = Epoch { number: file.epoch, began_ms: file.epoch_began_ms };
                    epochs.insert(number, epoch);
                }
                Err(KeyFileError::Gone) => drop(remains.insert(number)),
                Err(KeyFileError::Version(version)) => {
                    return Err(Error::Version { path: disk.path(number), version });
                }
                Ok(_) | Err(KeyFileError::Invalid) => {
                    let path = disk.path(number);
                    tracing::error!(path = %path.display(), "a storage key is damaged");
                    remains.insert(number);
                }
            }
        }
        let epoch = epochs.values().copied().max_by_key(|epoch: &Epoch| epoch.number);
        let epoch = epoch.unwrap_or(Epoch { number: 1, began_ms: now_ms });
        let number = match last {
            Some(last) => last + 1,
            None => {
                let mut random = [0; 4];
                entropy(&mut random);
                u32::from_le_bytes(random) % FIRST_NUMBER_MAX + 1
            }
        };
        let current = draw(&*disk, &entropy, number, epoch)?;
        keys.insert(number, current.clone());
        epochs.insert(number, epoch);
        metrics::storage_keys(keys.len());
        let state = State { keys: Arc::new(keys), current, epochs, remains };
        let (state, users) = (RwLock::new(state), Mutex::new(Vec::new()));
        let is_new = last.is_none();
        let inner = Inner { disk, entropy, state, users, change: Mutex::new(()), is_new };
        Ok(Keyring { inner: Some(Arc::new(inner)) })
    }

    /// How the ring stands; `None` where nothing is sealed.
    pub fn status(&self) -> Option<KeyStatus> {
        let state = self.inner.as_ref()?.state.read();
        let current = state.current.number();
        let epoch = state.epochs[&current];
        let (oldest, oldest_epoch) =
            state.epochs.first_key_value().expect("the current key is among them");
        let of_epoch = state.epochs.iter().find(|(_, of)| of.number == epoch.number);
        Some(KeyStatus {
            current,
            oldest: *oldest,
            epoch_began_ms: epoch.began_ms,
            oldest_began_ms: oldest_epoch.began_ms,
            epoch_first: of_epoch.map_or(current, |(first, _)| *first),
            keys: state.keys.len(),
        })
    }

    /// Ends the key epoch: a new key seals from now on. Blocks on the disk.
    ///
    /// # Errors
    /// When the key cannot be made durable: the epoch goes on.
    pub fn rotate(&self, now_ms: u64) -> Result<(), Error> {
        let Some(inner) = &self.inner else { return Ok(()) };
        let _change = inner.change.lock();
        let (number, epoch) = {
            let state = inner.state.read();
            let current = state.current.number();
            let last = state.remains.last().copied().unwrap_or(current).max(current);
            let epoch = state.epochs[&current].number.saturating_add(1);
            (last + 1, Epoch { number: epoch, began_ms: now_ms })
        };
        let key = draw(&*inner.disk, &inner.entropy, number, epoch)?;
        let mut state = inner.state.write();
        Arc::make_mut(&mut state.keys).insert(number, key.clone());
        state.epochs.insert(number, epoch);
        state.current = key;
        metrics::storage_keys(state.keys.len());
        Ok(())
    }

    /// Takes one step towards destroying the keys of earlier epochs: lets each store move forward
    /// what lives under them, and destroys them when all stores have. Blocks on the disk, for tens
    /// of milliseconds; ask again until it answers [`Retirement::Complete`].
    ///
    /// # Errors
    /// When a store or the key directory fails: no key was destroyed that anything needs.
    pub fn retire_step(&self) -> Result<Retirement, Error> {
        let Some(inner) = &self.inner else { return Ok(Retirement::Complete) };
        let _change = inner.change.lock();
        let first = self.status().map_or(0, |status| status.epoch_first);
        if !inner.holds_below(first) {
            return Ok(Retirement::Complete);
        }
        // Nobody begins to seal with an old key; once nobody does, the stores' books are complete.
        if inner.state.read().keys.range(..first).any(|(_, key)| key.is_sealing()) {
            return Ok(Retirement::Waiting);
        }
        let users = inner.users.lock().clone();
        let mut is_waiting = false;
        for user in users {
            // What a store that is closed needs, nobody can tell.
            let user = user.upgrade().ok_or(Error::Closed)?;
            match user.reseal(first)? {
                Reseal::Moved(bytes) => {
                    metrics::resealed(bytes);
                    return Ok(Retirement::Moved(bytes));
                }
                Reseal::UnderWay => is_waiting = true,
                Reseal::Done => {}
            }
        }
        if is_waiting {
            return Ok(Retirement::Waiting);
        }
        inner.destroy_below(first).map(Retirement::Destroyed)
    }

    /// Shows the age of the oldest key, by the wall clock.
    pub fn report(&self, now_ms: u64) {
        if let Some(status) = self.status() {
            metrics::oldest_key_age(now_ms.saturating_sub(status.oldest_began_ms));
        }
    }

    /// Whether there was no key before this process: what is sealed is not damaged then, its keys
    /// are elsewhere.
    pub(crate) fn is_new(&self) -> bool {
        self.inner.as_ref().is_none_or(|inner| inner.is_new)
    }

    /// Makes a store known that seals with these keys.
    pub(crate) fn register(&self, user: Weak<dyn KeyUser>) {
        if let Some(inner) = &self.inner {
            inner.users.lock().push(user);
        }
    }

    /// The current key, to seal with. Taken for one write, and dropped when that is in the books.
    pub(crate) fn sealer(&self) -> Sealer {
        let key = self.inner.as_ref().map(|inner| {
            // Under the lock: after a rotation nobody begins to seal with the key before.
            let state = inner.state.read();
            state.current.begin_sealing();
            state.current.clone()
        });
        Sealer { key, is_paused: false }
    }

    /// Lets a paused sealer seal on; `false` where its key may be destroyed by now, or is about
    /// to be: what it has sealed is lost.
    pub(crate) fn resume(&self, sealer: &mut Sealer) -> bool {
        let (Some(inner), Some(key)) = (&self.inner, &sealer.key) else { return true };
        let state = inner.state.read();
        let epoch = state.epochs.get(&key.number()).map(|epoch| epoch.number);
        let is_current = epoch == Some(state.epochs[&state.current.number()].number);
        if is_current && sealer.is_paused {
            key.begin_sealing();
            sealer.is_paused = false;
        }
        is_current
    }

    /// All keys as they are now, to open with: they stay at hand while the view lives.
    pub(crate) fn view(&self) -> KeyView {
        let keys = self.inner.as_ref().map(|inner| inner.state.read().keys.clone());
        KeyView { keys: keys.unwrap_or_default() }
    }
}

impl Inner {
    fn holds_below(&self, first: u32) -> bool {
        let state = self.state.read();
        state.keys.range(..first).next().is_some() || state.remains.range(..first).next().is_some()
    }

    fn destroy_below(&self, first: u32) -> Result<usize, Error> {
        let doomed: BTreeSet<u32> = {
            let state = self.state.read();
            let remains = state.remains.range(..first).copied();
            remains.chain(state.keys.range(..first).map(|(number, _)| *number)).collect()
        };
        let mut destroyed = 0;
        for number in doomed {
            let mut noise = Zeroizing::new([0; KEY_FILE_BYTES]);
            (self.entropy)(&mut noise[..]);
            noise[..GONE_MAGIC.len()].copy_from_slice(&GONE_MAGIC);
            self.disk.destroy(number, &noise[..])?;
            let mut state = self.state.write();
            state.remains.remove(&number);
            state.epochs.remove(&number);
            destroyed += usize::from(Arc::make_mut(&mut state.keys).remove(&number).is_some());
            metrics::storage_keys(state.keys.len());
        }
        metrics::keys_destroyed(destroyed);
        tracing::info!(destroyed, "storage keys of an earlier epoch are destroyed");
        Ok(destroyed)
    }
}

/// Draws a key and makes it durable.
fn draw(
    disk: &dyn KeyDisk,
    entropy: &Entropy,
    number: u32,
    epoch: Epoch,
) -> Result<Arc<StorageKey>, Error> {
    let mut secret = Zeroizing::new([0; KEY_BYTES]);
    entropy(&mut secret[..]);
    let file = KeyFile { number, epoch: epoch.number, epoch_began_ms: epoch.began_ms, secret };
    disk.create(number, &file.encode())?;
    Ok(Arc::new(StorageKey::new(number, &file.secret)))
}

impl std::fmt::Debug for Keyring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Keyring").field(&self.status()).finish()
    }
}

/// Seals with one key, which is not destroyed as long as this lives.
pub(crate) struct Sealer {
    key: Option<Arc<StorageKey>>,
    is_paused: bool,
}

impl Sealer {
    /// The key's number; [`KEY_NONE`] where nothing is sealed.
    pub(crate) fn key(&self) -> u32 {
        self.key.as_ref().map_or(KEY_NONE, |key| key.number())
    }

    /// What sealing adds to a body.
    pub(crate) fn overhead(&self) -> usize {
        if self.key.is_some() { SEAL_BYTES } else { 0 }
    }

    /// Keeps no key from being destroyed until [`Keyring::resume`]: for what may never be finished.
    pub(crate) fn pause(&mut self) {
        if let Some(key) = self.key.as_ref().filter(|_| !self.is_paused) {
            key.end_sealing();
        }
        self.is_paused = true;
    }

    /// A number that no other call with this key answers.
    pub(crate) fn unique(&self) -> u64 {
        self.key.as_ref().map_or(0, |key| key.unique())
    }

    /// Appends `plain` to `out`, sealed for the place that `aad` names.
    pub(crate) fn seal(&self, aad: &[u8], plain: &[u8], out: &mut Vec<u8>) {
        match &self.key {
            Some(key) => key.seal(aad, plain, out),
            None => out.extend_from_slice(plain),
        }
    }
}

impl Drop for Sealer {
    fn drop(&mut self) {
        self.pause();
    }
}

/// Keys to open with.
#[derive(Clone, Default)]
pub(crate) struct KeyView {
    keys: Arc<BTreeMap<u32, Arc<StorageKey>>>,
}

impl KeyView {
    /// This key alone, so that holding it keeps no other in memory.
    pub(crate) fn only(&self, key: u32) -> KeyView {
        let found = self.keys.get_key_value(&key);
        let keys = found.map(|(number, key)| (*number, key.clone())).into_iter().collect();
        KeyView { keys: Arc::new(keys) }
    }

    /// Whether what is sealed with `key` can be opened.
    pub(crate) fn holds(&self, key: u32) -> bool {
        key == KEY_NONE || self.keys.contains_key(&key)
    }

    /// Opens `sealed` in place. `None` where the key is missing or it is not what was sealed.
    pub(crate) fn open<'a>(
        &self,
        key: u32,
        aad: &[u8],
        sealed: &'a mut [u8],
    ) -> Option<&'a mut [u8]> {
        match key {
            KEY_NONE => Some(sealed),
            key => self.keys.get(&key)?.open(aad, sealed),
        }
    }

    /// As [`KeyView::open`] of what is sealed, but leaves it as it is and answers the body in memory of
    /// its own.
    pub(crate) fn open_copy(&self, key: u32, aad: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
        self.keys.get(&key)?.open_copy(aad, sealed)
    }
}
