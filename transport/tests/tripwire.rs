//! A process that is killed is missed at once.
#![allow(missing_docs, clippy::unwrap_used)]

mod support;

use std::{
    env,
    io::{BufRead, BufReader, Write},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use heliograph_transport::{
    Announcement, CallError, Identity, Lane, Limits, Network, NodeId, PeerEvent, QuicConfig,
    QuicNetwork, identity::node_dns_name,
};
use support::{
    Harness, QuicHarness, Seen, TestHandler, expect,
    harness::{CLUSTER, Node},
    patient,
};
use tokio::time::Instant;

/// The id of the node in the child process, and where its peer is: set by the parent.
const NODE: &str = "TRIPWIRE_NODE";
const PEER: &str = "TRIPWIRE_PEER";
const PEM: &str = "TRIPWIRE_PEM";

/// Far above the milliseconds it takes, far below QUIC's idle timeout of 5 s.
const SOON: Duration = Duration::from_secs(2);

/// Kills the child also when the test fails.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        // It may be dead already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts node `id` in a process of its own; the port it listens on.
fn spawn(id: u16, peer: &Node, harness: &QuicHarness) -> (Process, u16) {
    let names = vec![node_dns_name(NodeId(id), CLUSTER)];
    let pem = harness.authority().named_pem(names).join("|");
    let mut child = Command::new(env::current_exe().unwrap())
        .args(["--exact", "node_in_a_child_process", "--ignored", "--nocapture"])
        .env(NODE, id.to_string())
        .env(PEER, format!("{} {}", peer.id, harness.address(peer.id)))
        .env(PEM, pem)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let port = lines
        .map_while(Result::ok)
        .find_map(|line| line.split_once("port=").map(|(_, port)| port.parse().unwrap()))
        .expect("the child says its port");
    (Process(child), port)
}

async fn killed_process_is_missed(parent: u16, child: u16) {
    let mut harness = QuicHarness::new(10);
    let mut node = harness.node(parent, &[]);
    let (mut process, port) = spawn(child, &node, &harness);
    node.network.set_peers(vec![(NodeId(child), format!("127.0.0.1:{port}"))]);
    node.event(PeerEvent::Connected(NodeId(child))).await;
    // Its answer shows that both sides stand.
    let call = |word: &'static str| {
        let request = Bytes::from_static(word.as_bytes());
        node.network.call(NodeId(child), Lane::Urgent, request, patient())
    };
    call("ping").await.unwrap();
    let under_way = tokio::spawn(call("wait"));

    process.0.kill().unwrap();
    let killed = Instant::now();
    for event in [PeerEvent::TripwireBroken(NodeId(child)), PeerEvent::Disconnected(NodeId(child))]
    {
        let seen = expect(&mut node.seen, |seen| matches!(seen, Seen::Peer(_))).await;
        assert_eq!(seen, Seen::Peer(event));
        assert!(killed.elapsed() < SOON, "{event:?} after {:?}", killed.elapsed());
    }
    assert!(matches!(under_way.await.unwrap(), Err(CallError::Lost(_))));
    assert!(killed.elapsed() < SOON);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_process_is_missed_by_the_side_that_dialled() {
    killed_process_is_missed(1, 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_process_is_missed_by_the_side_that_accepted() {
    killed_process_is_missed(2, 1).await;
}

#[tokio::test]
#[ignore = "not a test: the tests above run it as their victim"]
async fn node_in_a_child_process() {
    let Ok(id) = env::var(NODE) else { return };
    let pem = env::var(PEM).unwrap();
    let [chain, key, roots]: [&str; 3] = pem.split('|').collect::<Vec<_>>().try_into().unwrap();
    let network = QuicNetwork::bind(QuicConfig {
        node: NodeId(id.parse().unwrap()),
        cluster_id: CLUSTER,
        incarnation: 1,
        listen: "127.0.0.1:0".parse().unwrap(),
        identity: Identity::from_pem(chain.as_bytes(), key.as_bytes(), roots.as_bytes()).unwrap(),
        limits: Limits::default(),
        announced: Announcement::new(u64::from(std::process::id()), 0),
    })
    .unwrap();
    let (handler, mut seen) = TestHandler::new();
    network.serve(Arc::clone(&handler) as _);
    let peer = env::var(PEER).unwrap();
    let (peer, address) = peer.split_once(' ').unwrap();
    network.set_peers(vec![(NodeId(peer.parse().unwrap()), address.to_owned())]);
    println!("\nport={}", network.local_addr().port());
    std::io::stdout().flush().unwrap();
    // Until it is killed, or orphaned: then its peer's tripwire ends it.
    while let Some(seen) = seen.recv().await {
        if matches!(seen, Seen::Peer(PeerEvent::TripwireBroken(_))) {
            return;
        }
    }
}
