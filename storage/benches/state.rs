//! The state rows as a shard uses them: applying to the overlay, reading through it, checkpoints.
//! Start-up, memory and churn with gigabytes are measured by `examples/state_measure.rs`.

use std::{hint::black_box, sync::Arc};

use bytes::Bytes;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use heliograph_storage::{
    GroupId, GroupState, RowsRead, RowsWrite, SledConfig, SledStore, StateStore,
};

const VALUE_BYTES: usize = 1024;

fn open(dir: &tempfile::TempDir) -> GroupState {
    let opened = SledStore::open(&dir.path().join("state"), SledConfig::default());
    let (store, _) = opened.expect("a new directory opens");
    let store: Arc<dyn StateStore> = Arc::new(store);
    GroupState::open(store, GroupId(1)).expect("an empty store opens")
}

fn key(number: u64) -> Bytes {
    let mut key = vec![b'm'; 28];
    key[..8].copy_from_slice(&number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
    key.extend_from_slice(&number.to_be_bytes());
    Bytes::from(key)
}

fn checkpoint(state: &GroupState) {
    let frozen = state.write().freeze().expect("no other checkpoint runs");
    state.commit(frozen).expect("the disk is sound");
}

fn dir() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary directory")
}

/// A message accepted and acknowledged between two checkpoints.
fn overlay(criterion: &mut Criterion) {
    let dir = dir();
    let state = open(&dir);
    let value = Bytes::from(vec![7; VALUE_BYTES]);
    let mut number = 0;
    let mut group = criterion.benchmark_group("overlay");
    group.throughput(Throughput::Elements(1));
    group.bench_function("put_new_then_delete", |bencher| {
        bencher.iter(|| {
            number += 1;
            let mut write = state.write();
            write.put_new(&key(number), value.clone());
            write.delete(&key(number));
        });
    });
    for number in 0..10_000 {
        state.write().put(&key(number), value.clone());
    }
    group.bench_function("get", |bencher| {
        bencher.iter(|| {
            number = (number + 1) % 10_000;
            black_box(state.read().get(&key(number)).expect("readable"))
        });
    });
    checkpoint(&state);
    group.bench_function("get_from_sled", |bencher| {
        bencher.iter(|| {
            number = (number + 1) % 10_000;
            black_box(state.read().get(&key(number)).expect("readable"))
        });
    });
    group.bench_function("scan_64_over_sled", |bencher| {
        bencher.iter(|| {
            number = (number + 1) % 10_000;
            black_box(state.read().scan(&key(number), &[0xff], 64).expect("readable"))
        });
    });
    group.finish();
}

fn checkpoints(criterion: &mut Criterion) {
    let value = Bytes::from(vec![7; VALUE_BYTES]);
    let mut group = criterion.benchmark_group("checkpoint");
    group.sample_size(10);
    for rows in [100, 1_000, 10_000] {
        let dir = dir();
        let state = open(&dir);
        let mut number = 0;
        group.throughput(Throughput::Elements(rows));
        group.bench_function(format!("{rows}_rows"), |bencher| {
            let fill = || {
                for _ in 0..rows {
                    number += 1;
                    state.write().put_new(&key(number), value.clone());
                }
            };
            bencher.iter_batched(fill, |()| checkpoint(&state), BatchSize::PerIteration);
        });
    }
    group.finish();
}

criterion_group!(state, overlay, checkpoints);
criterion_main!(state);
