//! The life of a cluster of real processes: a node joins, one loses its disk and is replaced, one
//! leaves; whatever was accepted before is delivered after all of it.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod support;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
};

use serde_json::Value;
use support::{Dev, HttpNode, free_port, text, within};

/// How long moving the replicas of an idle cluster may take on a busy machine.
const MOVE_SECONDS: u64 = 180;

/// A node started by hand, logging to a file. Dropping it kills it.
struct Served {
    child: Child,
    log: PathBuf,
}

impl Served {
    fn start(log: &Path, config: &str, settings: &[(&str, &str)]) -> Self {
        let file = fs::File::options().create(true).append(true).open(log).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_heliograph"));
        command.args(["serve", "--config", config]).envs(settings.iter().copied());
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(file).spawn();
        Self { child: child.unwrap(), log: log.to_owned() }
    }

    fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    /// Waits for its end; its exit code and log.
    fn ended(&mut self) -> (Option<i32>, String) {
        let log = self.log.clone();
        let status = within(90, || {
            let ended = self.child.try_wait().unwrap();
            ended.ok_or_else(|| fs::read_to_string(&log).unwrap())
        });
        (status.code(), self.log())
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- {}\n{}", self.log.display(), self.log());
        }
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `kill -9`; answers when the process is gone, and its ports with it.
fn kill(pid: u32) {
    support::kill(pid);
    let process = PathBuf::from(format!("/proc/{pid}"));
    within(60, || if process.exists() { Err(pid) } else { Ok(()) });
}

/// The directory of a `heliograph dev` and its operator.
struct Operator<'a>(&'a Path);

impl Operator<'_> {
    fn run(&self, args: &[&str]) -> Output {
        let dir = self.0.to_str().unwrap();
        support::heliograph(&[&["cluster"], args, &["--data-dir", dir]].concat())
    }

    fn json(&self, args: &[&str]) -> Value {
        let output = self.run(&[args, &["--output", "json"]].concat());
        assert!(output.status.success(), "{}", text(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// The token that a change makes, in a file.
    fn token(&self, args: &[&str]) -> PathBuf {
        let token = self.json(args)["token"].as_str().unwrap().to_owned();
        let file = self.0.join("join-token");
        fs::write(&file, format!("{token}\n")).unwrap();
        file
    }

    /// Waits until status says of each of `nodes` that it serves, with replicas or without.
    fn whole(&self, nodes: &[u64]) -> Value {
        within(MOVE_SECONDS, || {
            let status = self.json(&["status"]);
            let found = status["nodes"].as_array().unwrap();
            let ids: Vec<_> = found.iter().map(|node| node["id"].as_u64().unwrap()).collect();
            let serve = found.iter().all(|node| node["ready"] == true && node["holds"] != 0);
            let is_whole = status["health"] == "healthy" && ids == nodes && serve;
            if is_whole { Ok(status) } else { Err(status) }
        })
    }
}

fn send(node: &HttpNode, key: &str, id: usize) {
    let body = format!(
        r#"{{"recipient_id":"bob","message_id":"m{id}","priority":"normal","content":"aGVsbG8="}}"#
    );
    within(60, || match node.post("/api/v1/messages/send", key, &body) {
        Some((202, _)) => Ok(()),
        other => Err(other),
    });
}

fn pending(node: &HttpNode, key: &str) -> Vec<String> {
    let (_, body) = within(90, || match node.get("/api/v1/messages/receive/bob", key) {
        Some(answer @ (200, _)) => Ok(answer),
        other => Err(other),
    });
    let messages = body.as_array().unwrap().iter();
    messages.map(|message| message["message_id"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn nodes_join_come_back_without_their_disk_and_leave() {
    let dir = tempfile::tempdir().unwrap();
    let mut dev = Dev::start(dir.path(), 3);
    let nodes = dev.wait_until_ready();
    let operator = Operator(dir.path());
    let [first, third] = [0, 2].map(|index: usize| HttpNode::new(&nodes[index].url));
    let (alice, bob) = (third.register("alice"), third.register("bob"));
    (0..4).for_each(|id| send(&third, &alice, id));

    // A fourth node, on the configuration of another with what differs. Without a token it is told
    // what it lacks.
    let tls = dir.path().join("tls");
    let signed =
        ["init-tls", "--dir", tls.to_str().unwrap(), "--add-node", "4=localhost,127.0.0.1"];
    let signed = support::heliograph(&signed);
    assert!(signed.status.success(), "{}", text(&signed.stderr));
    let [peer, http, admin] = [(); 3].map(|()| format!("127.0.0.1:{}", free_port()));
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let (data, certificate, key) =
        (path("node-4/data"), path("tls/node-4.crt"), path("tls/node-4.key"));
    let fourth = [
        ("HELIOGRAPH_NODE__ID", "4"),
        ("HELIOGRAPH_NODE__DATA_DIR", &data),
        ("HELIOGRAPH_PEER__LISTEN", &peer),
        ("HELIOGRAPH_PEER__CERTIFICATE_FILE", &certificate),
        ("HELIOGRAPH_PEER__PRIVATE_KEY_FILE", &key),
        ("HELIOGRAPH_CLIENT__LISTEN", &http),
        ("HELIOGRAPH_ADMIN__LISTEN", &admin),
    ];
    let log = dir.path().join("log-4");
    let (code, said) = Served::start(&log, &nodes[0].config, &fourth).ended();
    assert_eq!(code, Some(3), "{said}");
    assert!(said.contains("needs `node.join-token-file`"), "{said}");

    let token = operator.token(&["join", "4", "--address", &peer, "--zone", "b"]);
    let with_token = |settings: &[(&'static str, &str)]| -> Vec<(String, String)> {
        let token = ("HELIOGRAPH_NODE__JOIN_TOKEN_FILE", token.to_str().unwrap());
        let all = settings.iter().chain([&token]);
        all.map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    };
    let joining = with_token(&fourth);
    let joining: Vec<_> = joining.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    let _fourth = Served::start(&log, &nodes[0].config, &joining);
    // It has its place, and the load is evened out to it.
    within(60, || {
        let status = operator.json(&["status"]);
        if status["nodes"][3]["state"] == "active" { Ok(()) } else { Err(status) }
    });
    let evened = operator.run(&["rebalance", "--wait"]);
    assert!(evened.status.success(), "{}", text(&evened.stderr));
    operator.whole(&[1, 2, 3, 4]);
    let here = HttpNode::new(&format!("http://{http}"));
    send(&here, &alice, 4);
    assert_eq!(pending(&here, &bob), ["m0", "m1", "m2", "m3", "m4"]);

    // Node 1 loses its disk: with empty hands it is refused, with a token it begins anew.
    kill(nodes[0].pid);
    fs::remove_dir_all(&nodes[0].data_dir).unwrap();
    let log = dir.path().join("log-1");
    let (code, said) = Served::start(&log, &nodes[0].config, &[]).ended();
    assert_eq!(code, Some(6), "{said}");
    assert!(said.contains("disk is empty, but the cluster knows the node"), "{said}");
    operator.token(&["replace", "1"]);
    let replaced = with_token(&[]);
    let replaced: Vec<_> = replaced.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    let _first = Served::start(&log, &nodes[0].config, &replaced);
    operator.whole(&[1, 2, 3, 4]);
    send(&first, &alice, 5);

    // Node 2 leaves; nothing of it is needed any more.
    let left = operator.run(&["remove", "2", "--wait"]);
    assert!(left.status.success(), "{}", text(&left.stderr));
    kill(nodes[1].pid);
    operator.whole(&[1, 3, 4]);
    for node in [&first, &third, &here] {
        assert_eq!(pending(node, &bob), ["m0", "m1", "m2", "m3", "m4", "m5"]);
    }
}
