//! `heliograph cluster` against real nodes.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod support;

use std::{fs, path::Path, process::Output};

use serde_json::Value;
use support::Dev;

/// Runs `heliograph cluster ARGS --data-dir DIR`.
fn cluster(dir: &Path, args: &[&str]) -> Output {
    let mut all = vec!["cluster"];
    all.extend(args);
    all.extend(["--data-dir", dir.to_str().unwrap()]);
    support::heliograph(&all)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
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
    assert_eq!(status["groups"].as_array().unwrap().len(), 17);
    let of = |name: &str| -> Vec<Value> {
        status["nodes"].as_array().unwrap().iter().map(|node| node[name].clone()).collect()
    };
    assert_eq!(of("id"), [1, 2, 3]);
    assert_eq!(of("holds"), [17, 17, 17]);
    assert_eq!(of("leads").iter().map(|leads| leads.as_u64().unwrap()).sum::<u64>(), 17);
    assert!(of("disk_free_bytes").iter().all(|bytes| bytes.as_u64().unwrap() > 0));
    assert!(of("log_bytes").iter().all(|bytes| bytes.as_u64().unwrap() > 0));
    let people = text(&cluster(dir.path(), &["status"]).stdout);
    assert!(people.contains("healthy, 3 nodes, 17 groups"), "{people}");

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
