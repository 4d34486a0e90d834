//! `heliograph dev` as a stranger meets it: real processes, real signals, HTTP from outside.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod support;

use std::{fs, path::Path};

use support::{Dev, HttpNode};

/// A message of `alice` to `bob` with content "hello".
fn message(id: &str) -> String {
    format!(
        r#"{{"recipient_id":"bob","message_id":"{id}","priority":"normal","content":"aGVsbG8="}}"#
    )
}

fn ids(body: &serde_json::Value) -> Vec<String> {
    let messages = body.as_array().unwrap().iter();
    messages.map(|message| message["message_id"].as_str().unwrap().to_owned()).collect()
}

/// Asks `node` until bob's pending messages are `expected`.
fn wait_for_pending(node: &HttpNode, bob: &str, expected: &[&str]) {
    support::within(30, || {
        let answer = node.get("/api/v1/messages/receive/bob", bob);
        let found = answer.filter(|(status, _)| *status == 200).map(|(_, body)| ids(&body));
        if found.as_ref().is_some_and(|found| found == expected) { Ok(()) } else { Err(found) }
    });
}

#[test]
fn a_cluster_talks_loses_a_node_and_comes_back_with_everything() {
    let dir = tempfile::tempdir().unwrap();
    let mut dev = Dev::start(dir.path(), 3);
    let nodes = dev.wait_until_ready();
    assert_eq!(nodes.len(), 3);
    assert_eq!(nodes[1].url, format!("http://127.0.0.1:{}", dev.port + 1));
    let [a, b, c] = [0, 1, 2].map(|index| HttpNode::new(&nodes[index].url));

    let (alice, bob) = (a.register("alice"), b.register("bob"));
    assert_eq!(a.post("/api/v1/messages/send", &alice, &message("m1")).unwrap().0, 202);
    wait_for_pending(&c, &bob, &["m1"]);

    // Killed, reported with the way back, not restarted; the others go on.
    support::kill(nodes[1].pid);
    dev.wait_for_line("node 2 has ended: signal: 9");
    dev.wait_for_line("2 nodes go on. To bring it back:");
    wait_for_pending(&c, &bob, &["m1"]);
    support::within(30, || match a.post("/api/v1/messages/send", &alice, &message("m2")) {
        Some((202, _)) => Ok(()),
        other => Err(other),
    });
    wait_for_pending(&c, &bob, &["m1", "m2"]);
    assert!(b.get("/livez", "").is_none(), "nothing restarts by itself");

    dev.interrupt();
    assert_eq!(dev.wait_for_exit(), Some(0), "{}", dev.output());
    assert!(!dir.path().join("cluster.json").exists());
    for node in &nodes {
        assert_unlocked(Path::new(&node.data_dir));
    }

    let mut again = Dev::start(dir.path(), 3);
    let nodes = again.wait_until_ready();
    let [a, b, c] = [0, 1, 2].map(|index| HttpNode::new(&nodes[index].url));
    wait_for_pending(&b, &bob, &["m1", "m2"]);
    let (status, answer) =
        c.post("/api/v1/messages/acknowledge", &bob, r#"{"message_ids":["m1","m2"]}"#).unwrap();
    assert_eq!((status, answer["acknowledged"].as_u64()), (200, Some(2)));
    wait_for_pending(&a, &bob, &[]);
    again.interrupt();
    assert_eq!(again.wait_for_exit(), Some(0), "{}", again.output());
}

#[test]
fn the_printed_conversation_works_when_pasted() {
    if !support::has("curl") {
        // A fresh machine may lack it; CI installs it.
        eprintln!("skipped: there is no curl");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut dev = Dev::start(dir.path(), 1);
    dev.wait_until_ready();
    dev.wait_for_line("Ctrl-C stops the cluster");
    let output = dev.output();
    let script = output.split("A conversation to paste into a shell:").nth(1).unwrap();
    let script = script.split("kill -9 a node while you talk").next().unwrap();
    let talk = support::shell(script);
    let lines: Vec<&str> = talk.lines().filter(|line| !line.is_empty()).collect();
    let [sent, received, acknowledged, nothing] = lines[..] else { panic!("{talk}") };
    assert!(sent.contains(r#""status":"queued""#), "{talk}");
    // "hello bob", sealed by nothing but Base64.
    assert!(received.contains(r#""content":"aGVsbG8gYm9i""#), "{talk}");
    assert!(acknowledged.contains(r#""acknowledged":1"#), "{talk}");
    assert_eq!(nothing, "[]", "{talk}");
    dev.interrupt();
    assert_eq!(dev.wait_for_exit(), Some(0), "{}", dev.output());
}

#[test]
fn no_node_outlives_a_killed_supervisor_and_none_shares_its_directory() {
    let dir = tempfile::tempdir().unwrap();
    let mut dev = Dev::start(dir.path(), 1);
    let nodes = dev.wait_until_ready();
    let data = Path::new(&nodes[0].data_dir).to_owned();

    let second = Dev::start(dir.path(), 1).into_refusal();
    assert_eq!(second.0, Some(4));
    assert!(second.1.contains("a `heliograph dev` runs on"), "{}", second.1);
    let second = support::heliograph(&["serve", "--config", &nodes[0].config]);
    assert_eq!(second.status.code(), Some(4));
    let log = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(log.contains("is in use by another process; stop that one first"), "{log}");

    // The node ends with its supervisor: its directory is free. Somebody else takes it: a new node
    // ends early, and dev says why.
    dev.kill();
    let lock = lock_of(&data);
    support::within(30, || lock.try_lock().map_err(|error| error.to_string()));
    let (code, output) = Dev::start(dir.path(), 1).into_refusal();
    assert_eq!(code, Some(7), "{output}");
    assert!(output.contains("node 1 ended (exit status: 4) before the cluster was"), "{output}");
    assert!(output.contains("is in use by another process"), "{output}");
}

#[test]
fn another_number_of_nodes_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(
        dir.path().join("dev.json"),
        format!(
            r#"{{"format":1,"cluster_id":"{}","nodes":[{{"id":1,"peer_port":20001}}]}}"#,
            "00".repeat(16)
        ),
    )
    .unwrap();
    let (code, output) = Dev::start(dir.path(), 3).into_refusal();
    assert_eq!(code, Some(3));
    assert!(output.contains("start it with --nodes 1, or choose another --data-dir"), "{output}");
}

fn lock_of(data: &Path) -> fs::File {
    fs::OpenOptions::new().write(true).open(data.join("lock")).unwrap()
}

fn assert_unlocked(data: &Path) {
    lock_of(data).try_lock().unwrap();
}
