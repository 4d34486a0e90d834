//! Calls over a lane of a real connection: two nodes in one process, loopback, mutual TLS.
//!
//! `cargo bench -p heliograph-transport --bench lanes`; figures are in `docs/benchmarks.md`. Latencies
//! and rates at more sizes: `cargo run --release -p heliograph-transport --example calls`.

mod pair;

use std::time::Duration;

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use futures_util::future::join_all;
use heliograph_transport::{Lane, Network, NodeId, QuicNetwork};
use tokio::{runtime::Runtime, time::Instant};

const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// So many calls at once, until all are answered.
async fn calls(from: &QuicNetwork, to: NodeId, count: u32, request: &Bytes) {
    let deadline = Instant::now() + CALL_TIMEOUT;
    let call = |number| from.call(to, Lane::Shared(number), request.clone(), deadline);
    for answer in join_all((0..count).map(call)).await {
        answer.expect("an answer");
    }
}

fn lanes(criterion: &mut Criterion) {
    let runtime = Runtime::new().expect("a runtime");
    let (one, two) = runtime.block_on(pair::connect());
    let mut group = criterion.benchmark_group("lanes");
    for (count, bytes) in [(1, 64), (1, 1024), (128, 64), (128, 1024)] {
        let request = Bytes::from(vec![1; bytes]);
        group.throughput(Throughput::Elements(u64::from(count)));
        let name = BenchmarkId::new(format!("{count} at once"), format!("{bytes} bytes"));
        group.bench_function(name, |bencher| {
            bencher.iter(|| runtime.block_on(calls(&one, two.local(), count, &request)));
        });
    }
    group.finish();
    runtime.block_on(async {
        one.shutdown().await;
        two.shutdown().await;
    });
}

criterion_group!(benches, lanes);
criterion_main!(benches);
