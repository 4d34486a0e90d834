//! What an idle connection costs. Run with `--release -- --ignored --nocapture idle` for figures.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
};

use heliograph_api::websocket::codec::{Opcode, write_masked_frame};
use heliograph_cluster::ApiKey;
use serde_json::json;

use super::support::{Rig, http::get};

/// More than noise of the allocator, fewer than the usual limit of 4,096 open files allows.
const CONNECTIONS: usize = 1_900;
/// An idle plain connection with its subscription in the test's relay, in a debug build.
const BYTES_MAX: usize = 4 * 1024;

/// Resident memory of this process.
fn resident_bytes() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 1024
}

/// Opens a connection over `stream` and authenticates it; the client owns no heap memory of its own.
pub(super) fn open(stream: &mut (impl Read + Write), key: &ApiKey) {
    let upgrade = get("/ws")
        .header("connection", "Upgrade")
        .header("upgrade", "websocket")
        .header("sec-websocket-version", "13")
        .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
        .bytes();
    stream.write_all(&upgrade).unwrap();
    let mut read = [0; 1024];
    assert!(stream.read(&mut read).unwrap() > 0);
    let auth = json!({"type": "auth", "token": key.expose()}).to_string();
    let mut frame = Vec::new();
    write_masked_frame(&mut frame, Opcode::Text, auth.as_bytes(), [1, 2, 3, 4]);
    stream.write_all(&frame).unwrap();
    let bytes = stream.read(&mut read).unwrap();
    assert!(String::from_utf8_lossy(&read[..bytes]).contains("auth_success"));
}

fn connect(address: SocketAddr, key: &ApiKey) -> TcpStream {
    let mut stream = TcpStream::connect(address).unwrap();
    open(&mut stream, key);
    stream
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "measures resident memory: nothing else may run in the process"]
async fn idle_connection_is_small() {
    let rig = Rig::start();
    let key = rig.relay.device("bob");
    let address = rig.address;
    let (per_connection, held) = tokio::task::spawn_blocking(move || {
        let mut held: Vec<_> = (0..100).map(|_| connect(address, &key)).collect();
        let before = resident_bytes();
        held.extend((0..CONNECTIONS).map(|_| connect(address, &key)));
        ((resident_bytes() - before) / CONNECTIONS, held)
    })
    .await
    .unwrap();
    println!("{per_connection} bytes an idle connection");
    assert!(per_connection <= BYTES_MAX, "{per_connection} bytes");
    drop(held);
    rig.stop().await;
}
