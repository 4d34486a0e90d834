//! Measures calls between two nodes in one process over loopback: latency of serial calls, and
//! calls a second with 128 and 1,024 in flight.
//!
//! `cargo run --release -p heliograph-transport --example calls`

use std::{
    net::SocketAddr,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use heliograph_transport::{
    Announcement, BindError, BoxFuture, CallError, Handler, Identity, IdentityError, Lane, Limits,
    Network, NodeId, PeerEvent, QuicConfig, QuicNetwork, identity::node_dns_name,
};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tokio::{sync::Notify, time::Instant};

const CLUSTER: [u8; 16] = *b"measured-cluster";
const SERIAL_CALLS: usize = 20_000;
const PIPELINED_TIME: Duration = Duration::from_secs(3);
const CALL_TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("certificates: {0}")]
    Certificate(#[from] rcgen::Error),
    #[error("identity: {0}")]
    Identity(#[from] IdentityError),
    #[error("bind: {0}")]
    Bind(#[from] BindError),
    #[error("call: {0}")]
    Call(#[from] CallError),
    #[error("a worker failed: {0}")]
    Worker(#[from] tokio::task::JoinError),
}

/// Answers with the request.
#[derive(Default)]
struct Echo {
    connected: Notify,
}

impl Handler for Echo {
    fn call(
        self: Arc<Self>,
        _from: NodeId,
        _lane: Lane,
        request: Bytes,
        _deadline: Instant,
    ) -> BoxFuture<'static, Option<Bytes>> {
        Box::pin(async move { Some(request) })
    }

    fn notify(&self, _from: NodeId, _lane: Lane, _payload: Bytes) {}

    fn peer(&self, event: PeerEvent) {
        if let PeerEvent::Connected(_) = event {
            self.connected.notify_one();
        }
    }
}

fn identity(issuer: &CertifiedIssuer<'static, KeyPair>, node: NodeId) -> Result<Identity, Error> {
    let key = KeyPair::generate()?;
    let params = CertificateParams::new(vec![node_dns_name(node, CLUSTER)])?;
    let certificate = params.signed_by(&key, issuer)?;
    Ok(Identity::from_pem(
        certificate.pem().as_bytes(),
        key.serialize_pem().as_bytes(),
        issuer.pem().as_bytes(),
    )?)
}

fn bind(
    issuer: &CertifiedIssuer<'static, KeyPair>,
    node: NodeId,
) -> Result<Arc<QuicNetwork>, Error> {
    Ok(QuicNetwork::bind(QuicConfig {
        node,
        cluster_id: CLUSTER,
        incarnation: 1,
        listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        identity: identity(issuer, node)?,
        limits: Limits::default(),
        announced: Announcement::new(1, 0),
    })?)
}

async fn connect() -> Result<(Arc<QuicNetwork>, Arc<QuicNetwork>), Error> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
    let (one, two) = (bind(&issuer, NodeId(1))?, bind(&issuer, NodeId(2))?);
    let echoes = [Arc::new(Echo::default()), Arc::new(Echo::default())];
    one.serve(Arc::clone(&echoes[0]) as _);
    two.serve(Arc::clone(&echoes[1]) as _);
    one.set_peers(vec![(NodeId(2), two.local_addr().to_string())]);
    two.set_peers(vec![(NodeId(1), one.local_addr().to_string())]);
    for echo in &echoes {
        echo.connected.notified().await;
    }
    Ok((one, two))
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
    let (one, two) = connect().await?;
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
