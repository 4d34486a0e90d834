//! Measures calls between two nodes in one process over loopback: latency of serial calls, and
//! calls a second with 128 and 1,024 in flight.
//!
//! `cargo run --release -p heliograph-transport --example calls`

#[path = "../benches/pair/mod.rs"]
mod pair;

use std::{
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use heliograph_transport::{CallError, Lane, Network, NodeId, QuicNetwork};
use tokio::time::Instant;

const SERIAL_CALLS: usize = 20_000;
const PIPELINED_TIME: Duration = Duration::from_secs(3);
const CALL_TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("call: {0}")]
    Call(#[from] CallError),
    #[error("a worker failed: {0}")]
    Worker(#[from] tokio::task::JoinError),
}

async fn measure_latency(from: &QuicNetwork, to: NodeId, bytes: usize) -> Result<(), Error> {
    let request = Bytes::from(vec![1; bytes]);
    let mut micros = Vec::with_capacity(SERIAL_CALLS);
    for round in 0..SERIAL_CALLS + SERIAL_CALLS / 10 {
        let begin = Instant::now();
        from.call(to, Lane::Urgent, request.clone(), begin + CALL_TIMEOUT).await?;
        if round >= SERIAL_CALLS / 10 {
            micros.push(begin.elapsed().as_secs_f64() * 1e6);
        }
    }
    micros.sort_by(f64::total_cmp);
    let at = |share: f64| micros[((micros.len() - 1) as f64 * share) as usize];
    println!(
        "serial calls of {bytes} bytes: p50 {:.0} µs, p99 {:.0} µs, p99.9 {:.0} µs",
        at(0.5),
        at(0.99),
        at(0.999)
    );
    Ok(())
}

async fn measure_throughput(
    from: &Arc<QuicNetwork>,
    to: NodeId,
    in_flight: u32,
    bytes: usize,
) -> Result<(), Error> {
    let request = Bytes::from(vec![1; bytes]);
    let begin = Instant::now();
    let done = Arc::new(AtomicU64::new(0));
    let workers: Vec<_> = (0..in_flight)
        .map(|worker| {
            let (from, request, done) = (Arc::clone(from), request.clone(), Arc::clone(&done));
            tokio::spawn(async move {
                while begin.elapsed() < PIPELINED_TIME {
                    let deadline = Instant::now() + CALL_TIMEOUT;
                    from.call(to, Lane::Shared(worker), request.clone(), deadline).await?;
                    done.fetch_add(1, Ordering::Relaxed);
                }
                Ok::<_, CallError>(())
            })
        })
        .collect();
    for worker in workers {
        worker.await??;
    }
    let rate = done.load(Ordering::Relaxed) as f64 / begin.elapsed().as_secs_f64();
    let mib = rate * bytes as f64 / 1024.0 / 1024.0;
    println!(
        "{in_flight} calls of {bytes} bytes in flight: {rate:.0} calls/s, {mib:.0} MiB/s each way"
    );
    Ok(())
}

async fn measure() -> Result<(), Error> {
    let (one, two) = pair::connect().await;
    for bytes in [64, 1_024] {
        measure_latency(&one, two.local(), bytes).await?;
    }
    for (in_flight, bytes) in [(128, 64), (1_024, 64), (128, 1_024), (1_024, 1_024), (16, 1 << 20)]
    {
        measure_throughput(&one, two.local(), in_flight, bytes).await?;
    }
    one.shutdown().await;
    two.shutdown().await;
    Ok(())
}

#[tokio::main]
async fn main() -> ExitCode {
    match measure().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
