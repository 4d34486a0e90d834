//! `heliograph cluster` against real nodes.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod support;

use std::{fs, path::Path, process::Output};

use serde_json::Value;
use support::{Dev, GROUPS, HttpNode, text};

/// Runs `heliograph cluster ARGS --data-dir DIR`.
fn cluster(dir: &Path, args: &[&str]) -> Output {
    let mut all = vec!["cluster"];
    all.extend(args);
    all.extend(["--data-dir", dir.to_str().unwrap()]);
    support::heliograph(&all)
}

fn json(output: &Output) -> Value {
    assert!(output.status.success(), "{}", text(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn operators_see_a_cluster_and_strangers_do_not() {
    let dir = tempfile::tempdir().unwrap();
    let nothing = cluster(dir.path(), &["status"]);
    assert_eq!(nothing.status.code(), Some(3));
    assert!(text(&nothing.stderr).contains("no `heliograph dev` runs on"));

    let mut dev = Dev::start(dir.path(), 3);
    let nodes = dev.wait_until_ready();
    let status = support::within(60, || {
        let status = json(&cluster(dir.path(), &["status", "--output", "json"]));
        if status["health"] == "healthy" { Ok(status) } else { Err(status) }
    });
    assert_eq!(status["groups"].as_array().unwrap().len(), GROUPS);
    let of = |name: &str| -> Vec<Value> {
        status["nodes"].as_array().unwrap().iter().map(|node| node[name].clone()).collect()
    };
    assert_eq!(of("id"), [1, 2, 3]);
    assert_eq!(of("holds"), [GROUPS; 3]);
    assert_eq!(of("leads").iter().map(|leads| leads.as_u64().unwrap()).sum::<u64>(), GROUPS as u64);
    assert!(of("disk_free_bytes").iter().all(|bytes| bytes.as_u64().unwrap() > 0));
    assert!(of("log_bytes").iter().all(|bytes| bytes.as_u64().unwrap() > 0));
    let people = text(&cluster(dir.path(), &["status"]).stdout);
    assert!(people.contains(&format!("healthy, 3 nodes, {GROUPS} groups")), "{people}");

    // A wrong token, by the command and by hand.
    let written: Value =
        serde_json::from_slice(&fs::read(dir.path().join("cluster.json")).unwrap()).unwrap();
    let url = written["nodes"][0]["admin_url"].as_str().unwrap();
    let wrong = dir.path().join("wrong");
    fs::write(&wrong, "0123456789abcdef0123456789abcdef").unwrap();
    let args = ["cluster", "status", "--url", url, "--token-file", wrong.to_str().unwrap()];
    let refused = support::heliograph(&args);
    assert_eq!(refused.status.code(), Some(8));
    let stderr = text(&refused.stderr);
    assert!(stderr.contains("Send the token of the node's `admin.token-file`."), "{stderr}");
    let port = support::HttpNode::new(url);
    let (code, problem) = port.get("/admin/v1/status", "").unwrap();
    assert_eq!((code, problem["code"].as_str()), (401, Some("token_missing")));
    let token = fs::read_to_string(written["admin_token_file"].as_str().unwrap()).unwrap();
    assert_eq!(port.get("/admin/v1/nothing", token.trim()).unwrap().0, 404);
    assert_eq!(port.post("/admin/v1/status", token.trim(), "").unwrap().0, 405);

    // A dead node: the others say so, and the command finds one that answers.
    support::kill(nodes[0].pid);
    support::within(60, || {
        let status = json(&cluster(dir.path(), &["status", "--output", "json"]));
        let dead = &status["nodes"][0];
        let is_told = dead["liveness"] != "live" && status["health"] == "degraded";
        if is_told { Ok(()) } else { Err(status) }
    });
    let people = text(&cluster(dir.path(), &["status"]).stdout);
    assert!(people.contains("node 1 does not serve: it does not answer"), "{people}");
    dev.interrupt();
    assert_eq!(dev.wait_for_exit(), Some(0), "{}", dev.output());
}

/// What status tells of a node; null for one that is not there.
fn node(dir: &Path, id: u64) -> Value {
    let status = json(&cluster(dir, &["status", "--output", "json"]));
    let nodes = status["nodes"].as_array().unwrap();
    nodes.iter().find(|node| node["id"] == id).cloned().unwrap_or(Value::Null)
}

#[test]
fn operators_change_what_becomes_of_nodes() {
    let dir = tempfile::tempdir().unwrap();
    let mut dev = Dev::start(dir.path(), 3);
    dev.wait_until_ready();
    let run = |args: &[&str]| cluster(dir.path(), args);
    let refused = |args: &[&str]| {
        let output = run(args);
        assert_eq!(output.status.code(), Some(8), "{args:?}");
        text(&output.stderr)
    };

    // A node is named, named again with another token, and struck off before it came.
    let join = ["join", "4", "--address", "127.0.0.1:7409", "--zone", "b", "--output", "json"];
    let (first, second) = (json(&run(&join)), json(&run(&join)));
    assert!(first["token"].as_str().unwrap().starts_with("hgj1_"));
    assert_ne!(first["token"], second["token"]);
    let invited = node(dir.path(), 4);
    assert_eq!((&invited["state"], &invited["zone"]), (&"invited".into(), &"b".into()));
    assert_eq!(invited["liveness"], "gone");
    assert!(refused(&["drain", "4"]).contains("the node has not joined yet"));
    let waited = run(&["remove", "4", "--wait"]);
    assert!(waited.status.success(), "{}", text(&waited.stderr));
    assert_eq!(node(dir.path(), 4), Value::Null);

    // What makes no sense is refused with the reason.
    assert!(refused(&["drain", "9"]).contains("the cluster has no node 9"));
    assert!(refused(&["join", "2", "--address", "a:1"]).contains("this node has joined already"));
    assert!(refused(&["join", "5", "--address", "nowhere"]).contains("host:port"));
    let taken = node(dir.path(), 1)["address"].as_str().unwrap().to_owned();
    assert!(refused(&["join", "5", "--address", &taken]).contains("node 1 has this address"));

    // A drained node leads nothing and takes its part again.
    let drained = run(&["drain", "2", "--wait"]);
    assert!(drained.status.success(), "{}", text(&drained.stderr));
    assert!(text(&drained.stdout).contains("done: the cluster is"), "{}", text(&drained.stdout));
    let status = node(dir.path(), 2);
    assert_eq!((&status["state"], &status["leads"]), (&"draining".into(), &0.into()));
    assert_eq!(status["holds"], GROUPS);
    assert!(run(&["undrain", "2", "--wait"]).status.success());
    assert_eq!(node(dir.path(), 2)["state"], "active");

    // Who waits for what cannot be is interrupted without harm: with three nodes for three
    // replicas nothing can move away.
    let waiting = support::start(&["cluster", "remove", "3", "--wait"], dir.path());
    support::within(60, || match node(dir.path(), 3)["state"].as_str() {
        Some("leaving") => Ok(()),
        other => Err(other.map(str::to_owned)),
    });
    let (code, stderr) = support::interrupt(waiting);
    assert_eq!(code, Some(130), "{stderr}");
    assert!(stderr.contains("stopped waiting; the cluster goes on with it"), "{stderr}");
    assert!(run(&["undrain", "3"]).status.success());

    // Each change left a line in a log, no token did.
    dev.interrupt();
    assert_eq!(dev.wait_for_exit(), Some(0), "{}", dev.output());
    let log = |id: u8| fs::read_to_string(dir.path().join(format!("node-{id}/log"))).unwrap();
    let logs: String = (1..=3).map(log).collect();
    assert!(logs.contains("an operator changed the cluster"), "{logs}");
    assert!(!logs.contains("hgj1_") && !logs.contains(first["token"].as_str().unwrap()));
}

fn send(node: &HttpNode, key: &str, id: &str) {
    let body = format!(
        r#"{{"recipient_id":"bob","message_id":"{id}","priority":"normal","content":"aGVsbG8="}}"#
    );
    support::within(30, || match node.post("/api/v1/messages/send", key, &body) {
        Some((202, _)) => Ok(()),
        other => Err(other),
    });
}

fn pending(node: &HttpNode, key: &str, expected: usize) {
    support::within(90, || {
        let answer = node.get("/api/v1/messages/receive/bob", key);
        let found = answer.clone().filter(|(status, _)| *status == 200);
        let found = found.and_then(|(_, body)| body.as_array().map(Vec::len));
        if found == Some(expected) { Ok(()) } else { Err(answer) }
    });
}

#[test]
fn a_sole_survivor_goes_on_after_a_recovery() {
    let dir = tempfile::tempdir().unwrap();
    let mut dev = Dev::start(dir.path(), 3);
    let nodes = dev.wait_until_ready();
    let [a, b] = [0, 1].map(|index| HttpNode::new(&nodes[index].url));
    let (alice, bob) = (a.register("alice"), b.register("bob"));
    for id in ["m1", "m2", "m3"] {
        send(&a, &alice, id);
    }
    let data = nodes[2].data_dir.clone();
    let recover = |more: &[&str]| {
        let args = ["cluster", "recover", "--data-dir", &data];
        support::heliograph(&[&args[..], more].concat())
    };
    let running = recover(&["--yes-lose-data"]);
    assert_eq!(running.status.code(), Some(4), "a running node keeps its directory");
    dev.interrupt();
    assert_eq!(dev.wait_for_exit(), Some(0), "{}", dev.output());

    // Two of three never come back.
    for lost in &nodes[..2] {
        fs::remove_dir_all(&lost.data_dir).unwrap();
    }
    let asked = recover(&[]);
    assert_eq!(asked.status.code(), Some(3));
    let words = text(&asked.stdout);
    assert!(words.contains("Survivors: 3. Struck out for ever: 1,2."), "{words}");
    assert!(
        words.contains(&format!("{GROUPS} groups have lost their quorum, 0 have not.")),
        "{words}"
    );
    assert!(words.contains("IS LOST"), "{words}");
    assert!(text(&asked.stderr).contains("nothing was changed"), "{}", text(&asked.stderr));
    let done = recover(&["--yes-lose-data", "--output", "json"]);
    let plan = json(&done);
    assert_eq!((&plan["survivors"], &plan["removed"]), (&[3].into(), &[1, 2].into()));

    // Repeating it finds nothing lost any more.
    let again = recover(&["--yes-lose-data"]);
    assert_eq!(again.status.code(), Some(6), "{}", text(&again.stdout));
    assert!(text(&again.stderr).contains("every group has its quorum"));

    let survivor = support::Serve::start(&nodes[2].config);
    let c = HttpNode::new(&nodes[2].url);
    pending(&c, &bob, 3);
    send(&c, &alice, "m4");
    pending(&c, &bob, 4);
    let config = fs::read_to_string(&nodes[2].config).unwrap();
    let admin = config.split("[admin]").nth(1).unwrap().split('"').nth(1).unwrap().to_owned();
    let token = dir.path().join("admin-token");
    let url = format!("http://{admin}");
    let args = ["cluster", "status", "--url", &url, "--token-file", token.to_str().unwrap()];
    let status = json(&support::heliograph(&[&args[..], &["--output", "json"]].concat()));
    assert_eq!(status["nodes"].as_array().unwrap().len(), 1, "{status}");
    assert_eq!(status["health"], "healthy", "{status}");
    drop(survivor);
}
