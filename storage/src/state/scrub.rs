//! Reading all rows of a group slowly, while checkpoints go on, and comparing them with the digest.
//!
//! The scrub goes through the keys in order and adds up what it reads. A checkpoint that changes a
//! row behind the scrub changes the scrub's sum by as much as the group's; one that changes a row
//! before it is read later. So at the end the two must be the same, however long it took.

use bytes::Bytes;

use super::{
    digest::Digest,
    group_state::{GroupState, successor},
    keys::PREFIX_BYTES,
    verify::digest_damage,
};
use crate::{Error, ScrubStep};

/// A scrub of a group's rows that is under way.
#[derive(Clone, Debug, Default)]
pub(super) struct RowScrub {
    /// The group's own keys below this were read.
    next: Bytes,
    /// The digest of the rows below it as they are now.
    read: Digest,
}

impl RowScrub {
    /// A checkpoint changes a row.
    pub(super) fn change(&mut self, key: &[u8], old: Option<&Bytes>, new: Option<&Bytes>) {
        if *key < *self.next {
            self.read.change(key, old, new);
        }
    }
}

impl GroupState {
    /// Reads the next `rows_max` rows that are on disk, each against its checksum, and after the
    /// last all of them against the group's digest. Blocks; checkpoints of this group wait
    /// meanwhile. Begins anew after its end, after an error, and where a snapshot was installed.
    ///
    /// # Errors
    /// [`Error::Damage`] where the rows are not those of the last checkpoint: the store has given up.
    pub fn scrub(&self, rows_max: usize) -> Result<ScrubStep, Error> {
        let mut committed = self.inner.committed.lock();
        let generation = self.inner.layers.read().generation;
        let mut scrub = committed.scrub.take().unwrap_or_default();
        let from = generation.key(&scrub.next);
        let rows = self.inner.store.scan(&from, &generation.range().to, rows_max)?;
        let mut step = ScrubStep::default();
        for (key, value) in &rows {
            scrub.read.add(&key[PREFIX_BYTES..], value);
            step.bytes += (key.len() + value.len()) as u64;
        }
        if let Some((last, _)) = rows.last().filter(|_| rows.len() == rows_max) {
            scrub.next = successor(&last[PREFIX_BYTES..]);
            committed.scrub = Some(scrub);
            return Ok(step);
        }
        if scrub.read != committed.digest {
            let error = digest_damage(self.inner.group);
            self.inner.store.give_up(&error);
            return Err(error);
        }
        step.is_last = true;
        Ok(step)
    }
}
