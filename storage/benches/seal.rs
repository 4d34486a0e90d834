//! What sealing costs: the same log and the same snapshots with and without storage keys.
//!
//! `cargo bench -p heliograph-storage --bench seal`; `HELIOGRAPH_BENCH_DIR` names the disk to measure.

use std::sync::{Arc, mpsc};

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use heliograph_storage::{
    FileSnapshots, GroupId, GroupState, Keyring, LogEntry, LogStore, MemoryKeyDisk,
    MemoryStateDisk, MemoryStore, Position, RowsWrite, SegmentLog, SegmentLogConfig, SnapshotStore,
};
use tempfile::TempDir;

/// The size that the design's figures are given for.
const VALUE_BYTES: usize = 1024;
/// Shards of a default cluster: each appends one batch and waits for it.
const GROUPS: u32 = 16;
/// Purging keeps the files of a long measurement few.
const KEPT_ENTRIES: u64 = 20_000;
/// 64 MiB of rows.
const ROWS: u32 = 64 * 1024;

fn directory() -> TempDir {
    let base = std::env::var_os("HELIOGRAPH_BENCH_DIR").unwrap_or_else(|| "target".into());
    std::fs::create_dir_all(&base).expect("a directory to measure in");
    TempDir::new_in(base).expect("a directory to measure in")
}

fn rings() -> [(&'static str, Keyring); 2] {
    let entropy = Box::new(|bytes: &mut [u8]| bytes.fill(7));
    let sealing = Keyring::open_memory(&MemoryKeyDisk::new(), entropy, 0);
    [("unsealed", Keyring::unsealed()), ("sealed", sealing.expect("a disk in memory"))]
}

/// Each group appends a batch; waits until all are durable.
fn round(log: &SegmentLog, batch: u64, payload: &Bytes) {
    let (sender, results) = mpsc::channel();
    for group in (0..GROUPS).map(GroupId) {
        let sender = sender.clone();
        let last = log.group(group).last.map_or(0, |last| last.index);
        let entry =
            |index| LogEntry { position: Position { term: 1, index }, payload: payload.clone() };
        let entries = (last + 1..=last + batch).map(entry).collect();
        let done = Box::new(move |result| sender.send(result).expect("the bench waits"));
        log.append(group, entries, done);
        if last > KEPT_ENTRIES && last % KEPT_ENTRIES < batch {
            let upto = Position { term: 1, index: last - KEPT_ENTRIES / 2 };
            log.purge(group, upto, Box::new(|result| result.expect("the disk is sound")));
        }
    }
    for _ in 0..GROUPS {
        results.recv().expect("an answer").expect("the disk is sound");
    }
}

fn log(criterion: &mut Criterion) {
    let payload = Bytes::from(vec![7; VALUE_BYTES]);
    for batch in [1u64, 16, 128] {
        let mut group = criterion.benchmark_group(format!("log_of_{batch}"));
        group.throughput(Throughput::Elements(batch * u64::from(GROUPS)));
        for (name, keys) in rings() {
            let dir = directory();
            let config = SegmentLogConfig { keys, ..SegmentLogConfig::new(dir.path(), 1) };
            let (log, _) = SegmentLog::open(config).expect("it opens");
            group.bench_function(BenchmarkId::from_parameter(name), |bencher| {
                bencher.iter(|| round(&log, batch, &payload));
            });
        }
    }
}

fn snapshot(criterion: &mut Criterion) {
    let store = MemoryStore::open(&MemoryStateDisk::new());
    let state = GroupState::open(Arc::new(store), GroupId(1)).expect("it opens");
    let mut rows = state.write();
    for row in 0..ROWS {
        rows.put(&Bytes::from(row.to_be_bytes().to_vec()), vec![7; VALUE_BYTES].into());
    }
    drop(rows);
    let mut group = criterion.benchmark_group("snapshot");
    group.throughput(Throughput::Bytes(u64::from(ROWS) * VALUE_BYTES as u64)).sample_size(10);
    for (name, keys) in rings() {
        let dir = directory();
        let snapshots = FileSnapshots::open_sealed(dir.path(), keys).expect("it opens");
        group.bench_function(BenchmarkId::from_parameter(name), |bencher| {
            bencher.iter(|| {
                let frozen = state.write().freeze().expect("nothing is under way");
                snapshots.write(&state, frozen).expect("a sound disk")
            });
        });
    }
}

criterion_group!(benches, log, snapshot);
criterion_main!(benches);
