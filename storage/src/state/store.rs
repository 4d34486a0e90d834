//! The contract of the row store: durable ordered rows with atomic batches.

use bytes::Bytes;

use crate::{Error, Health};

/// The longest key, generation included. Keys are a slot, a row kind, a 16-byte hash and numbers:
/// far below this, which keeps a sled node of 16 rows well under an eighth of a segment.
pub const KEY_BYTES_MAX: usize = 1024;

/// The largest value. Sixteen of them share a sled node, which stays under a quarter of the 8 MiB
/// segment; past that sled writes the node to a file of its own that it never syncs.
pub const VALUE_BYTES_MAX: usize = 64 * 1024;

/// The largest batch, keys and values together. A checkpoint is one batch; overlays are bounded to
/// tens of MiB by their owner, so that this is reached only by a broken bound.
pub const BATCH_BYTES_MAX: usize = 256 * 1024 * 1024;

/// Durable ordered rows. All calls block; call them off the async threads where they may touch
/// the disk.
pub trait StateStore: Send + Sync + 'static {
    /// The value at `key`.
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, Error>;

    /// At most `limit` rows with `from <= key < to`, ascending.
    fn scan(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<(Bytes, Bytes)>, Error>;

    /// At most `limit` keys with `from <= key < to`, ascending. Their values are not looked at: so
    /// rows can be deleted that a read would refuse as damaged.
    fn keys(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<Bytes>, Error>;

    /// Applies a batch of puts (`Some`) and deletes (`None`); durable when it returns `Ok`. A crash
    /// leaves all of it or nothing; a read meanwhile may see a part (the overlay above hides
    /// that). Of several changes of one key the last wins. After an error other than
    /// [`Error::TooLarge`] the store is fail-safe, and whether the batch is on disk is unknown
    /// until it is opened again.
    fn commit(&self, batch: Vec<(Bytes, Option<Bytes>)>) -> Result<(), Error>;

    /// Takes note that rows are not those that were committed. The store takes no commit from then on:
    /// opening it again finds the same and rebuilds it. Reads that find such rows do this by themselves.
    fn give_up(&self, error: &Error);

    /// What the store takes on disk.
    fn disk_bytes(&self) -> u64;

    /// Whether the store still takes commits.
    fn health(&self) -> Health;
}

/// Refuses what exceeds the bounds, before anything is written.
pub(super) fn check_batch(batch: &[(Bytes, Option<Bytes>)]) -> Result<(), Error> {
    let mut bytes = 0;
    for (key, value) in batch {
        let value_bytes = value.as_ref().map_or(0, Bytes::len);
        check(key.len(), KEY_BYTES_MAX)?;
        check(value_bytes, VALUE_BYTES_MAX)?;
        bytes += key.len() + value_bytes;
    }
    check(bytes, BATCH_BYTES_MAX)
}

fn check(bytes: usize, bytes_max: usize) -> Result<(), Error> {
    if bytes > bytes_max {
        return Err(Error::TooLarge { bytes, bytes_max });
    }
    Ok(())
}
