//! A running `heliograph dev`, and HTTP from outside.

#![allow(dead_code, reason = "not every test uses every helper")]

use std::{
    fmt::Debug,
    io::{BufRead as _, BufReader, Read},
    net::TcpListener,
    path::Path,
    process::{Child, Command, Output, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::Request;
use hyper_util::rt::TokioIo;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// How long a cluster of unoptimised builds on a busy machine may take to get ready.
const READY_SECONDS: u64 = 150;

/// The shards that `dev` makes for up to three nodes.
pub(crate) const SHARDS: usize = 3;
/// The same, and the registry.
pub(crate) const GROUPS: usize = SHARDS + 1;

/// The public key of RFC 8032, test 1: not any 32 bytes are one.
const PUBLIC_KEY: &str = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";

/// Repeats `attempt` until it succeeds; panics with its last answer after `seconds`.
pub(crate) fn within<T, E: Debug>(seconds: u64, mut attempt: impl FnMut() -> Result<T, E>) -> T {
    let mut left = seconds * 10;
    loop {
        match attempt() {
            Ok(value) => return value,
            Err(error) if left == 0 => panic!("not within {seconds} s: {error:?}"),
            Err(_) => left -= 1,
        }
        pause();
    }
}

/// A tenth of a second between two looks at something outside of this process, which tells nothing
/// by itself.
#[expect(clippy::disallowed_methods, reason = "polls another process, with a deadline")]
fn pause() {
    thread::sleep(Duration::from_millis(100));
}

/// Leaves a cluster alone: for what only time does.
#[expect(clippy::disallowed_methods, reason = "nothing happens that could be waited for")]
pub(crate) fn idle(time: Duration) {
    thread::sleep(time);
}

/// Seconds since the Unix epoch, for `X-MOSA-Timestamp`.
#[expect(clippy::disallowed_methods, reason = "the front door compares with the wall clock")]
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// Runs the binary to its end.
pub(crate) fn heliograph(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_heliograph")).args(args).output().unwrap()
}

/// One node, started by hand. Dropping it kills it.
pub(crate) struct Serve(Child);

impl Serve {
    pub(crate) fn start(config: &str) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_heliograph"));
        command.args(["serve", "--config", config]).stdin(Stdio::null()).stdout(Stdio::null());
        Self(command.stderr(Stdio::null()).spawn().unwrap())
    }
}

impl Drop for Serve {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts the binary with `--data-dir DIR`.
pub(crate) fn start(args: &[&str], dir: &Path) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_heliograph"));
    command.args(args).arg("--data-dir").arg(dir);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Ctrl-C to a process that [`start`] started: its exit code and standard error.
pub(crate) fn interrupt(child: Child) -> (Option<i32>, String) {
    signal(child.id(), Signal::INT);
    let output = child.wait_with_output().unwrap();
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

/// Whether the program is there.
pub(crate) fn has(program: &str) -> bool {
    Command::new(program).arg("--version").output().is_ok_and(|output| output.status.success())
}

/// Runs a script as if it was pasted, and answers what it printed.
pub(crate) fn shell(script: &str) -> String {
    let output = Command::new("bash").args(["-eu", "-c", script]).output().unwrap();
    let stdout = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{stdout}{}", String::from_utf8_lossy(&output.stderr));
    stdout
}

/// `kill -9`.
pub(crate) fn kill(pid: u32) {
    signal(pid, Signal::KILL);
}

/// Sends a signal.
pub(crate) fn signal(pid: u32, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    kill_process(pid, signal).unwrap();
}

/// A node as `cluster.json` names it.
pub(crate) struct Node {
    pub(crate) pid: u32,
    pub(crate) url: String,
    pub(crate) data_dir: String,
    pub(crate) config: String,
}

/// A running `heliograph dev`. Dropping it kills it, and with it its nodes.
pub(crate) struct Dev {
    child: Child,
    dir: std::path::PathBuf,
    output: Arc<Mutex<String>>,
    readers: Vec<thread::JoinHandle<()>>,
    /// The first node's HTTP port.
    pub(crate) port: u16,
}

impl Dev {
    pub(crate) fn start(dir: &Path, nodes: u16) -> Self {
        let port = free_ports(nodes);
        let mut child = Command::new(env!("CARGO_BIN_EXE_heliograph"))
            .args(["dev", "--nodes", &nodes.to_string(), "--http-port", &port.to_string()])
            .arg("--data-dir")
            .arg(dir)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let output = Arc::new(Mutex::new(String::new()));
        let readers = vec![
            read_into(child.stdout.take().unwrap(), &output),
            read_into(child.stderr.take().unwrap(), &output),
        ];
        Self { child, dir: dir.to_owned(), output, readers, port }
    }

    /// Waits for `cluster.json`.
    pub(crate) fn wait_until_ready(&mut self) -> Vec<Node> {
        let path = self.dir.join("cluster.json");
        let file = within(READY_SECONDS, || {
            if let Some(status) = self.child.try_wait().unwrap() {
                panic!("dev ended with {status}: {}", self.output());
            }
            std::fs::read(&path).map_err(|error| (error, self.output()))
        });
        let cluster: Value = serde_json::from_slice(&file).unwrap();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let nodes = cluster["nodes"].as_array().unwrap().iter().map(|node| Node {
            pid: u32::try_from(node["pid"].as_u64().unwrap()).unwrap(),
            url: text(&node["http_url"]),
            data_dir: text(&node["data_dir"]),
            config: text(&node["config"]),
        });
        nodes.collect()
    }

    /// All it has printed.
    pub(crate) fn output(&self) -> String {
        self.output.lock().unwrap().clone()
    }

    pub(crate) fn wait_for_line(&self, part: &str) {
        within(30, || if self.output().contains(part) { Ok(()) } else { Err(self.output()) });
    }

    /// Ctrl-C.
    pub(crate) fn interrupt(&self) {
        signal(self.child.id(), Signal::INT);
    }

    /// `kill -9` of the supervisor alone.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Waits for its end; its exit code.
    pub(crate) fn wait_for_exit(&mut self) -> Option<i32> {
        let status =
            within(60, || self.child.try_wait().unwrap().ok_or_else(|| self.output.clone()));
        for reader in self.readers.drain(..) {
            reader.join().unwrap();
        }
        status.code()
    }

    /// For a start that fails: exit code and output.
    pub(crate) fn into_refusal(mut self) -> (Option<i32>, String) {
        let code = self.wait_for_exit();
        (code, self.output())
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("{}", self.output());
            for node in 1..=9 {
                let log = self.dir.join(format!("node-{node}/log"));
                if let Ok(log) = std::fs::read_to_string(log) {
                    eprintln!("--- the log of node {node}\n{log}");
                }
            }
        }
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn read_into(from: impl Read + Send + 'static, to: &Arc<Mutex<String>>) -> thread::JoinHandle<()> {
    let to = Arc::clone(to);
    thread::spawn(move || {
        for line in BufReader::new(from).lines() {
            let mut to = to.lock().unwrap();
            to.push_str(&line.unwrap());
            to.push('\n');
        }
    })
}

/// A free port.
pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// What a process printed.
pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// Makes the certificates of node 1, a cluster of its own on loopback, in `DIR/tls`.
pub(crate) fn init_tls(dir: &Path) {
    let tls = dir.join("tls");
    let made = heliograph(&["init-tls", "--dir", tls.to_str().unwrap(), "--node", "1=127.0.0.1"]);
    assert!(made.status.success(), "{made:?}");
}

/// Starts that node on `DIR/data`, logging to `DIR/log`: `cluster` are keys of its section, `more`
/// all sections that say something.
pub(crate) fn serve_alone(dir: &Path, cluster: &str, more: &str) -> Child {
    let tls = dir.join("tls");
    let roster = std::fs::read_to_string(tls.join("cluster.toml")).unwrap();
    let config = format!(
        "{}\n[node]\nid = 1\ndata-dir = \"../data\"\n\n\
         [peer]\nlisten = \"127.0.0.1:{}\"\ncertificate-file = \"node-1.crt\"\n\
         private-key-file = \"node-1.key\"\nca-file = \"cluster-ca.crt\"\n\n{more}",
        roster.replace("[cluster]", &format!("[cluster]\n{cluster}")),
        free_port()
    );
    let path = tls.join("heliograph.toml");
    std::fs::write(&path, config).unwrap();
    let log = std::fs::File::create(dir.join("log")).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_heliograph"));
    command.arg("serve").arg("--config").arg(path).stderr(log).spawn().unwrap()
}

/// The first of `count` free ports in a row.
fn free_ports(count: u16) -> u16 {
    within(10, || {
        let first = free_port();
        let last = first.checked_add(count - 1).ok_or(first)?;
        let free = (first..=last).all(|port| TcpListener::bind(("127.0.0.1", port)).is_ok());
        if free { Ok(first) } else { Err(first) }
    })
}

/// A node's client port.
pub(crate) struct HttpNode {
    address: String,
}

impl HttpNode {
    pub(crate) fn new(url: &str) -> Self {
        Self { address: url.strip_prefix("http://").unwrap().to_owned() }
    }

    /// Registers a device; its API key.
    pub(crate) fn register(&self, device: &str) -> String {
        let body = format!(r#"{{"device_id":"{device}","public_key":"{PUBLIC_KEY}"}}"#);
        let (_, answer) = within(30, || match self.post("/api/v1/auth/register", "", &body) {
            Some(answer @ (200..=201, _)) => Ok(answer),
            other => Err(other),
        });
        answer["api_key"].as_str().unwrap().to_owned()
    }

    /// Status and body; none when nobody answers.
    pub(crate) fn get(&self, path: &str, key: &str) -> Option<(u16, Value)> {
        self.ask("GET", path, key, "")
    }

    /// Status and body; none when nobody answers.
    pub(crate) fn post(&self, path: &str, key: &str, body: &str) -> Option<(u16, Value)> {
        self.ask("POST", path, key, body)
    }

    fn ask(&self, method: &str, path: &str, key: &str, body: &str) -> Option<(u16, Value)> {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", &self.address)
            .header("content-type", "application/json")
            .header("x-mosa-timestamp", now().to_string())
            .header("authorization", format!("Bearer {key}"))
            .body(Full::new(Bytes::from(body.to_owned())))
            .unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            tokio::time::timeout(Duration::from_secs(15), self.exchange(request)).await.ok()?
        })
    }

    async fn exchange(&self, request: Request<Full<Bytes>>) -> Option<(u16, Value)> {
        let stream = tokio::net::TcpStream::connect(&self.address).await.ok()?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.ok()?;
        let exchange = async move {
            let response = sender.send_request(request).await.ok()?;
            let status = response.status().as_u16();
            let body = response.into_body().collect().await.ok()?.to_bytes();
            Some((status, serde_json::from_slice(&body).unwrap_or(Value::Null)))
        };
        tokio::join!(exchange, connection).0
    }
}
