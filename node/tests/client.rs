//! `send` and `receive` against a real node that speaks HTTPS with what `init-tls` made.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod support;

use std::{
    fs,
    io::{BufRead as _, BufReader},
    process::{Child, Command, Output, Stdio},
};

use serde_json::Value;

/// A node of its own, with TLS. Dropping it kills it.
struct Served {
    child: Child,
    url: String,
    dir: tempfile::TempDir,
}

impl Drop for Served {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Served {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        support::init_tls(dir.path());
        let https = support::free_port();
        let sections = format!(
            "[client]\nlisten = \"127.0.0.1:{https}\"\ncertificate-file = \"node-1-https.crt\"\n\
             private-key-file = \"node-1-https.key\"\n\n[log]\nformat = \"json\"\n"
        );
        let child = support::serve_alone(dir.path(), "replicas = 1", &sections);
        let served = Self { child, url: format!("https://127.0.0.1:{https}"), dir };
        support::within(150, || match served.log().find("\"ready\"") {
            Some(_) => Ok(()),
            None => Err(served.log()),
        });
        served
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap()
    }

    /// The command with what every command of the client needs.
    fn client(&self, command: &str, device: &str, ca: &str) -> Command {
        let mut client = Command::new(env!("CARGO_BIN_EXE_heliograph"));
        client
            .args([command, "--url", &self.url, "--device", device, "--output", "json"])
            .arg("--key-file")
            .arg(self.dir.path().join(format!("{device}.key")))
            .arg("--ca-file")
            .arg(self.dir.path().join("tls").join(ca));
        client
    }

    fn send(&self, arguments: &[&str]) -> Output {
        let mut client = self.client("send", "alice", "client-ca.crt");
        client.args(["--to", "bob"]).args(arguments).stdin(Stdio::null()).output().unwrap()
    }

    fn receive(&self, arguments: &[&str]) -> Vec<Value> {
        let mut client = self.client("receive", "bob", "client-ca.crt");
        let output = client.args(arguments).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let lines = String::from_utf8(output.stdout).unwrap();
        lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

fn contents(messages: &[Value]) -> Vec<&str> {
    messages.iter().map(|message| message["content"].as_str().unwrap()).collect()
}

#[test]
fn messages_go_over_https_until_they_are_acknowledged() {
    let served = Served::start();
    let first = served.send(&["--text", "one", "--message-id", "m1"]);
    assert!(first.status.success(), "{first:?}");
    let again = served.send(&["--text", "one", "--message-id", "m1"]);
    let again: Value = serde_json::from_slice(&again.stdout).unwrap();
    assert_eq!(again["duplicate"], true);
    let other = served.send(&["--text", "other", "--message-id", "m1"]);
    assert_eq!(other.status.code(), Some(8), "{other:?}");
    assert!(served.send(&["--text", "two", "--priority", "urgent"]).status.success());

    // "two" and "one", as often as it is asked, until they are acknowledged.
    assert_eq!(contents(&served.receive(&[])), ["dHdv", "b25l"]);
    assert_eq!(contents(&served.receive(&["--ack"])), ["dHdv", "b25l"]);
    assert_eq!(contents(&served.receive(&[])), [""; 0]);

    // An API key that is not known (any more) is asked for anew.
    let kept = served.dir.path().join("bob.key.api-key");
    let forged = fs::read_to_string(&kept).unwrap().replace("hg1_", "hg1_x");
    fs::write(&kept, forged).unwrap();
    assert_eq!(contents(&served.receive(&[])), [""; 0]);

    // Longer than the second for which a leader relies on its quorum's last answer.
    support::idle(std::time::Duration::from_millis(1_500));
    assert_eq!(contents(&served.receive(&[])), [""; 0], "an idle node still answers");

    let mut follow = served.client("receive", "bob", "client-ca.crt");
    let mut follow = follow.args(["--follow", "--ack"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(follow.stdout.take().unwrap()).lines();
    for text in ["three", "four"] {
        assert!(served.send(&["--text", text]).status.success());
    }
    let mut next = || serde_json::from_str::<Value>(&lines.next().unwrap().unwrap()).unwrap();
    assert_eq!([next()["content"].clone(), next()["content"].clone()], ["dGhyZWU=", "Zm91cg=="]);
    support::within(30, || {
        let left = served.receive(&[]);
        if left.is_empty() { Ok(()) } else { Err(left) }
    });
    support::signal(follow.id(), rustix::process::Signal::INT);
    assert_eq!(follow.wait().unwrap().code(), Some(0));
}

#[test]
fn what_cannot_work_is_refused_with_its_reason() {
    let mut served = Served::start();
    // The wrong authority: this is not the node we mean.
    let mut stranger = served.client("send", "alice", "cluster-ca.crt");
    let arguments = ["--to", "bob", "--text", "x", "--timeout", "2s"];
    let stranger = stranger.args(arguments).output().unwrap();
    assert_eq!(stranger.status.code(), Some(8));
    let stderr = String::from_utf8(stranger.stderr).unwrap();
    assert!(stderr.contains("cannot reach the gateway"), "{stderr}");
    assert!(stderr.contains("certificate"), "{stderr}");

    let large = served.dir.path().join("large");
    fs::write(&large, vec![0; 61_441]).unwrap();
    let large = served.send(&["--file", large.to_str().unwrap()]);
    assert_eq!(large.status.code(), Some(3));
    let stderr = String::from_utf8(large.stderr).unwrap();
    assert_eq!(stderr, "heliograph: a message holds at most 61440 bytes\n");

    // A clean end, told in JSON.
    support::signal(served.child.id(), rustix::process::Signal::TERM);
    let status = support::within(40, || served.child.try_wait().unwrap().ok_or(()));
    let log = served.log();
    assert_eq!(status.code(), Some(0), "{log}");
    let lines: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.last().unwrap()["fields"]["message"], "stopped");
}
