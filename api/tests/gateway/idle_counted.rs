//! How many bytes an idle connection keeps allocated in the server: the same on every machine, so
//! that growth is noticed. What the allocator and the system add, `idle.rs` measures.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    sync::{Arc, mpsc},
    thread,
};

use allocation_counter::measure;
use heliograph_api::{
    ServerConfig,
    server::{Pem, Security, TlsConfig},
};
use heliograph_cluster::ApiKey;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use tokio::sync::oneshot;

use super::{
    idle::open,
    support::{Rig, config},
};

/// Enough that what grows by doubling does not show.
const CONNECTIONS: usize = 512;
/// Connections before the count begins.
const BEFORE: usize = 16;
const NAME: &str = "gateway.test";

/// Runs a server on a thread of its own, which does nothing else, opens connections from here, and
/// answers what each of them keeps there.
fn kept_bytes<S>(config: ServerConfig, connect: impl Fn(SocketAddr, &ApiKey) -> S) -> i64 {
    let (tell, told) = mpsc::channel();
    let (begin, begun) = oneshot::channel::<()>();
    let (end, ended) = oneshot::channel::<()>();
    let (drop_rig, dropped) = oneshot::channel::<()>();
    let (report, reported) = mpsc::channel();
    let server = thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let rig = runtime.block_on(async {
            let rig = Rig::with(config);
            tell.send((rig.address, rig.relay.device("bob"))).unwrap();
            begun.await.unwrap();
            rig
        });
        let counted = measure(|| {
            runtime.block_on(async {
                ended.await.unwrap();
                // Whoever was woken before this task comes to rest.
                for _ in 0..100 {
                    tokio::task::yield_now().await;
                }
            });
        });
        report.send(counted.bytes_current).unwrap();
        runtime.block_on(async { dropped.await.unwrap() });
        drop(rig);
    });
    let (address, key) = told.recv().unwrap();
    let before: Vec<_> = (0..BEFORE).map(|_| connect(address, &key)).collect();
    begin.send(()).unwrap();
    let held: Vec<_> = (0..CONNECTIONS).map(|_| connect(address, &key)).collect();
    end.send(()).unwrap();
    let bytes = reported.recv().unwrap();
    drop((before, held));
    drop_rig.send(()).unwrap();
    server.join().unwrap();
    bytes / i64::try_from(CONNECTIONS).unwrap()
}

/// A TLS client whose memory is on this side's thread.
fn tls(
    address: SocketAddr,
    config: &Arc<ClientConfig>,
) -> StreamOwned<ClientConnection, TcpStream> {
    let stream = TcpStream::connect(address).unwrap();
    let name = NAME.try_into().unwrap();
    StreamOwned::new(ClientConnection::new(Arc::clone(config), name).unwrap(), stream)
}

fn upgraded<S: Read + Write>(mut stream: S, key: &ApiKey) -> S {
    open(&mut stream, key);
    stream
}

#[test]
fn an_idle_plain_connection_keeps_few_bytes() {
    let bytes =
        kept_bytes(config(), |address, key| upgraded(TcpStream::connect(address).unwrap(), key));
    println!("{bytes} bytes an idle plain connection");
    assert!((500..=PLAIN_BYTES_MAX).contains(&bytes), "{bytes} bytes");
}

#[test]
fn an_idle_tls_connection_keeps_few_bytes() {
    let made = rcgen::generate_simple_self_signed(vec![NAME.to_owned()]).unwrap();
    let mut config = config();
    config.security = Security::Tls(TlsConfig {
        certificate: Pem::Bytes(made.cert.pem().into_bytes()),
        key: Pem::Bytes(made.signing_key.serialize_pem().into_bytes()),
    });
    let mut roots = RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let client = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let client = Arc::new(client);
    let bytes = kept_bytes(config, |address, key| upgraded(tls(address, &client), key));
    println!("{bytes} bytes an idle TLS connection");
    assert!((4_000..=TLS_BYTES_MAX).contains(&bytes), "{bytes} bytes");
}

/// What an idle connection may take in all (docs/benchmarks.md), 4 and 12 kB, less 700 bytes for the
/// cluster's part of it, which a relay in memory has not.
const PLAIN_BYTES_MAX: i64 = 3_300;
/// Of these, 4,096 are rustls' buffer for what comes next.
const TLS_BYTES_MAX: i64 = 11_300;
