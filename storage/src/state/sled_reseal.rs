//! Moves rows that live under earlier storage keys to the current one, a few at a time.

use super::{
    row_seal::{close_value, key_of},
    sled_store::SledStore,
};
use crate::{
    Error,
    seal::{KeyUser, Reseal, Sealer},
};

/// Rows looked at in one step, and bytes: some milliseconds, for which checkpoints wait.
const STEP_ROWS: usize = 512;
const STEP_BYTES: usize = 2 * 1024 * 1024;

/// The store's own rows, which are not sealed, have shorter keys in the system generation.
const SYSTEM_KEY_BYTES_MAX: usize = 5;

/// One walk over all rows.
#[derive(Debug, Default)]
pub(super) struct Pass {
    /// All rows are known to be sealed with this key or a later one.
    floor: u32,
    /// What the walk under way is for.
    before: u32,
    /// The last row it has looked at.
    last: Option<Vec<u8>>,
}

/// What one step of a walk did.
struct Step {
    moved_bytes: u64,
    is_at_end: bool,
}

impl KeyUser for SledStore {
    /// Rows go to sled alone, not through the journal: each is whole before and after, and what a
    /// crash takes back is sealed with a key that is still there.
    fn reseal(&self, number: u32) -> Result<Reseal, Error> {
        let mut writer = self.writer.lock();
        if self.has_failed() {
            return Err(Error::FailSafe);
        }
        if writer.pass.floor >= number {
            return Ok(Reseal::Done);
        }
        if writer.pass.before != number {
            writer.pass = Pass { before: number, last: None, ..writer.pass };
        }
        let sealer = self.keys.sealer();
        let step = self.step(&mut writer.pass, &sealer).and_then(|step| {
            if step.is_at_end {
                let sequence = writer.sequence;
                self.sync_database(&mut writer, sequence)?;
            }
            Ok(step)
        });
        let step = step.inspect_err(|error| self.fail(error))?;
        if !step.is_at_end {
            return Ok(Reseal::Moved(step.moved_bytes));
        }
        writer.pass = Pass { floor: number, ..Pass::default() };
        Ok(if step.moved_bytes > 0 { Reseal::Moved(step.moved_bytes) } else { Reseal::Done })
    }
}

impl SledStore {
    fn step(&self, pass: &mut Pass, sealer: &Sealer) -> Result<Step, Error> {
        let keys = self.keys.view();
        let mut step = Step { moved_bytes: 0, is_at_end: false };
        let (mut rows, mut bytes) = (0, 0);
        while rows < STEP_ROWS && bytes < STEP_BYTES {
            let next = self.call(|db| db.next(pass.last.as_deref()))?;
            let Some((key, stored)) = next else {
                step.is_at_end = true;
                break;
            };
            rows += 1;
            bytes += stored.len();
            pass.last = Some(key.to_vec());
            let is_own = key.len() <= SYSTEM_KEY_BYTES_MAX && key.starts_with(&[0; 4]);
            // A damaged row is whoever's who reads it; it is no reason to keep a key.
            let is_outdated = key_of(&key, &stored).is_ok_and(|number| number < pass.before);
            if is_own || !is_outdated {
                continue;
            }
            if let Ok(value) = self.open_value(&key, &stored, &keys) {
                let stored = close_value(&key, &value, sealer);
                step.moved_bytes += stored.len() as u64;
                self.call(|db| db.insert(&key, &stored))?;
            }
        }
        Ok(step)
    }
}
