//! Durable entries a second by batch size, beside what the disk itself can do in the same sitting.
//!
//! `cargo bench -p heliograph-storage --bench log`; `HELIOGRAPH_BENCH_DIR` names the disk to measure.

use std::{
    fs::File,
    hint::black_box,
    os::unix::fs::FileExt,
    sync::{Arc, mpsc},
};

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use heliograph_storage::{
    Done, GroupId, LogEntry, LogStore, MemoryDisk, MemoryLog, Position, SegmentLog,
    SegmentLogConfig,
};
use tempfile::TempDir;

/// The size that the design's figures are given for.
const ENTRY_BYTES: usize = 1024;
/// Shards of a default cluster: each appends one batch and waits for it.
const GROUPS: u32 = 16;
/// Purging keeps the files of a long measurement few.
const KEPT_ENTRIES: u64 = 100_000;

fn directory() -> TempDir {
    let base = std::env::var_os("HELIOGRAPH_BENCH_DIR").unwrap_or_else(|| "target".into());
    std::fs::create_dir_all(&base).expect("a directory to measure in");
    TempDir::new_in(base).expect("a directory to measure in")
}

fn append(log: &dyn LogStore, group: GroupId, batch: u64, payload: &Bytes, done: Done) {
    let last = log.group(group).last.map_or(0, |last| last.index);
    let entries = (last + 1..=last + batch)
        .map(|index| LogEntry { position: Position { term: 1, index }, payload: payload.clone() });
    log.append(group, entries.collect(), done);
    if last > KEPT_ENTRIES && last % KEPT_ENTRIES < batch {
        let upto = Position { term: 1, index: last - KEPT_ENTRIES / 2 };
        log.purge(group, upto, Box::new(|result| result.expect("the disk is sound")));
    }
}

/// Each of `groups` appends a batch; waits until all are durable.
fn round(log: &dyn LogStore, groups: u32, batch: u64, payload: &Bytes) {
    let (sender, results) = mpsc::channel();
    for group in 0..groups {
        let sender = sender.clone();
        let done = Box::new(move |result| sender.send(result).expect("the bench waits"));
        append(log, GroupId(group), batch, payload, done);
    }
    for _ in 0..groups {
        results.recv().expect("an answer").expect("the disk is sound");
    }
}

fn segment_log(criterion: &mut Criterion) {
    let payload = Bytes::from(vec![7; ENTRY_BYTES]);
    for groups in [1, GROUPS] {
        let mut group = criterion.benchmark_group(format!("segment_log_{groups}_groups"));
        for batch in [1u64, 16, 128, 1024] {
            let dir = directory();
            let config = SegmentLogConfig::new(dir.path(), 1);
            let (log, _) = SegmentLog::open(config).expect("it opens");
            group.throughput(Throughput::Elements(batch * u64::from(groups)));
            group.bench_function(BenchmarkId::from_parameter(batch), |bencher| {
                bencher.iter(|| round(&log, groups, batch, &payload));
            });
        }
    }
}

/// The same work without a disk: what the log itself costs the caller.
fn memory_log(criterion: &mut Criterion) {
    let payload = Bytes::from(vec![7; ENTRY_BYTES]);
    let log = Arc::new(MemoryLog::new(MemoryDisk::new(), Box::new(|| ())));
    let mut group = criterion.benchmark_group("memory_log");
    group.throughput(Throughput::Elements(16));
    group.bench_function("16", |bencher| {
        bencher.iter(|| {
            append(&*log, GroupId(0), 16, &payload, Box::new(|result| drop(black_box(result))));
            log.sync()
        });
    });
}

/// A write of one page into space set aside, and its sync: the floor of a single append.
fn fdatasync(criterion: &mut Criterion) {
    let dir = directory();
    let file = File::create(dir.path().join("plain")).expect("a file");
    rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, 1 << 30).expect("room");
    file.sync_all().expect("a sync");
    let (page, mut at) = (vec![7; 4096], 0);
    criterion.bench_function("plain_write_and_fdatasync", |bencher| {
        bencher.iter(|| {
            file.write_all_at(&page, at).expect("a write");
            file.sync_data().expect("a sync");
            at = (at + 4096) % (1 << 30);
        });
    });
}

criterion_group!(benches, fdatasync, segment_log, memory_log);
criterion_main!(benches);
