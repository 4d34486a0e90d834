//! The metrics of this crate, all of them.

use metrics::counter;

/// A checkpoint wrote `rows` changed rows.
pub(crate) fn checkpoint_committed(rows: usize) {
    counter!("heliograph_storage_checkpoints_total").increment(1);
    counter!("heliograph_storage_checkpoint_rows_total").increment(rows as u64);
}

/// A write or sync of the state database failed.
pub(crate) fn state_failed() {
    counter!("heliograph_storage_state_failures_total").increment(1);
}

/// A state row or snapshot block did not match its checksum.
pub(crate) fn state_damaged() {
    counter!("heliograph_storage_state_damages_total").increment(1);
}

/// The state database could not be read and was moved aside.
pub(crate) fn state_rebuilt() {
    counter!("heliograph_storage_state_rebuilds_total").increment(1);
}

/// A snapshot file of `bytes` was written.
pub(crate) fn snapshot_written(bytes: u64) {
    counter!("heliograph_storage_snapshots_written_total").increment(1);
    counter!("heliograph_storage_snapshot_written_bytes_total").increment(bytes);
}

/// A snapshot was installed.
pub(crate) fn snapshot_installed() {
    counter!("heliograph_storage_snapshots_installed_total").increment(1);
}
