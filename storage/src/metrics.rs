//! The metrics of this crate, all of them.

use std::{sync::LazyLock, time::Duration};

use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};

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

/// The state database was reopened, so that a start has less to read.
pub(crate) fn state_reopened() {
    counter!("heliograph_storage_state_reopens_total").increment(1);
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

/// What changes with each sync of the log. Resolved once, at the recorder installed by then: seven
/// look-ups a sync show in a profile.
struct LogMetrics {
    writes: Counter,
    append_bytes: Counter,
    sync_seconds: Histogram,
    queue_writes: Gauge,
    queue_bytes: Gauge,
    segments: Gauge,
    live_bytes: Gauge,
}

static LOG: LazyLock<LogMetrics> = LazyLock::new(|| LogMetrics {
    writes: counter!("heliograph_storage_log_writes_total"),
    append_bytes: counter!("heliograph_storage_log_append_bytes_total"),
    sync_seconds: histogram!("heliograph_storage_log_sync_seconds"),
    queue_writes: gauge!("heliograph_storage_log_queue_writes"),
    queue_bytes: gauge!("heliograph_storage_log_queue_bytes"),
    segments: gauge!("heliograph_storage_log_segments"),
    live_bytes: gauge!("heliograph_storage_log_live_bytes"),
});

/// One write and sync made `writes` calls durable, with `bytes` bytes.
pub(crate) fn log_synced(writes: usize, bytes: usize, took: Duration) {
    LOG.writes.increment(writes as u64);
    LOG.append_bytes.increment(bytes as u64);
    LOG.sync_seconds.record(took);
}

/// What waits to be written.
pub(crate) fn log_queue(writes: usize, bytes: usize) {
    LOG.queue_writes.set(writes as f64);
    LOG.queue_bytes.set(bytes as f64);
}

/// The files of the log, and how much in them lives.
pub(crate) fn log_segments(segments: usize, live_bytes: u64) {
    LOG.segments.set(segments as f64);
    LOG.live_bytes.set(live_bytes as f64);
}

/// Entries were rewritten so that their segment can go.
pub(crate) fn log_moved(bytes: u64) {
    counter!("heliograph_storage_log_moved_bytes_total").increment(bytes);
}

/// A read had to go to the files.
pub(crate) fn log_file_read() {
    counter!("heliograph_storage_log_file_reads_total").increment(1);
}

/// Bytes of the log are not what was written.
pub(crate) fn log_damaged() {
    counter!("heliograph_storage_log_damages_total").increment(1);
}

/// The log took its last write.
pub(crate) fn log_fail_safe() {
    gauge!("heliograph_storage_log_fail_safe").set(1.0);
}

/// How many storage keys there are.
pub(crate) fn storage_keys(keys: usize) {
    gauge!("heliograph_storage_keys").set(keys as f64);
}

/// How long ago the key epoch of the oldest storage key began.
pub(crate) fn oldest_key_age(milliseconds: u64) {
    gauge!("heliograph_storage_oldest_key_age_seconds").set(milliseconds as f64 / 1000.0);
}

/// Storage keys were destroyed.
pub(crate) fn keys_destroyed(keys: usize) {
    counter!("heliograph_storage_keys_destroyed_total").increment(keys as u64);
}

/// Bytes that live were sealed with a later key.
pub(crate) fn resealed(bytes: u64) {
    counter!("heliograph_storage_resealed_bytes_total").increment(bytes);
}
