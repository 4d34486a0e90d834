//! Heliograph: the loads are run by the project's own generator against a cluster that is started
//! here; this program itself publishes only for the kills and to fill mailboxes.

use std::{
    collections::HashMap,
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, UNIX_EPOCH},
};

use anyhow::{Context as _, Result, bail, ensure};
use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::{mpsc, oneshot},
    time::timeout,
};
use tokio_tungstenite::{client_async, tungstenite::Message};

use crate::{
    counts::Latency,
    message::MESSAGE_BYTES,
    peer::{Answer, Cluster, NODES, Publisher, Setting},
    process::{Process, output},
    results::LoadResult,
    wait::until,
    work::{Load, Plan},
};

/// The token of the operators of a cluster that lives for minutes on loopback.
const TOKEN: &str = "comparison-comparison-comparison";
/// A public key that is one (RFC 8032, test 1), in Base64: registration checks that, and nobody
/// signs with it here.
const PUBLIC_KEY: &str = "11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=";
/// How long a request may take.
const DEADLINE: Duration = Duration::from_secs(10);
/// Messages that may wait for a socket.
const QUEUE_MAX: usize = 4_096;
/// Ports, counted from the cluster's first: clients, nodes, operators.
const CLIENTS: u16 = 0;
const NODE: u16 = 8;
const OPERATORS: u16 = 16;

/// The programs that were built.
#[derive(Clone, Debug)]
pub struct Programs {
    /// `heliograph`.
    pub node: PathBuf,
    /// `load`.
    pub load: PathBuf,
}

/// Three nodes.
pub struct Heliograph {
    directory: PathBuf,
    first_port: u16,
    programs: Programs,
    nodes: Vec<Option<Process>>,
    prepared: u32,
}

impl Heliograph {
    /// Starts a cluster of so many shards.
    ///
    /// # Errors
    /// When it is not ready in time.
    pub async fn start(setting: Setting<'_>, programs: Programs, shards: u32) -> Result<Self> {
        let directory = setting.directory.to_owned();
        let mut tls = Command::new(&programs.node);
        tls.arg("init-tls").arg("--dir").arg(directory.join("tls"));
        for id in 1..=NODES {
            tls.arg("--node").arg(format!("{id}=127.0.0.1"));
        }
        output(tls).await?;
        let token = directory.join("token");
        fs::write(&token, TOKEN)?;
        fs::set_permissions(&token, fs::Permissions::from_mode(0o600))?;
        let roster = fs::read_to_string(directory.join("tls/cluster.toml"))?;
        let cluster_id = find_id(&roster).context("the roster has no cluster id")?;
        for node in 0..NODES {
            let text = config(&directory, setting.first_port, node, cluster_id, shards);
            fs::write(directory.join(format!("node-{node}.toml")), text)?;
        }
        let first_port = setting.first_port;
        let mut cluster = Self { directory, first_port, programs, nodes: Vec::new(), prepared: 0 };
        for node in 0..NODES {
            let process = cluster.start_node(node)?;
            cluster.nodes.push(Some(process));
        }
        for node in 0..NODES {
            cluster.serves(node).await?;
        }
        cluster.is_whole().await?;
        cluster.write_manifest()?;
        Ok(cluster)
    }

    /// Runs a load with the project's generator.
    ///
    /// # Errors
    /// When it fails.
    pub async fn load(&self, plan: Plan) -> Result<LoadResult> {
        let mut command = Command::new(&self.programs.load);
        command.arg("--cluster").arg(&self.directory);
        match plan.load {
            Load::Closed(in_flight) => {
                command.args(["closed", "--in-flight", &in_flight.to_string()])
            }
            Load::Open(rate) => command.args(["open", "--rate", &rate.to_string()]),
        };
        command.args(["--mailboxes", &plan.mailboxes.to_string()]);
        command.args(["--content-bytes", &MESSAGE_BYTES.to_string()]);
        command.args(["--warm-up", &plan.warm_up.as_secs().to_string()]);
        command.args(["--seconds", &plan.time.as_secs().to_string()]);
        let report = serde_json::from_str(&output(command).await?)?;
        read_report(plan.name(), &report).context("the generator's report is not as agreed")
    }

    fn start_node(&self, node: usize) -> Result<Process> {
        let mut command = Command::new(&self.programs.node);
        command.arg("serve").arg("--config").arg(self.directory.join(format!("node-{node}.toml")));
        command.arg("--until-stdin-ends");
        Process::start(&mut command, &self.directory.join(format!("node-{node}.log")))
    }

    /// Waits until a node serves clients.
    async fn serves(&mut self, node: usize) -> Result<()> {
        let log = self.directory.join(format!("node-{node}.log"));
        let port = self.first_port + CLIENTS + node as u16;
        until(&format!("Heliograph node {node} serves, see {}", log.display()), async || {
            let ended = self.nodes[node].as_mut().is_none_or(Process::has_ended);
            ensure!(!ended, "it has ended");
            let (status, answer) = request(port, "GET", "/readyz", "", None).await?;
            ensure!(status == 200, "{status} {answer}");
            Ok(true)
        })
        .await
    }

    async fn status(&self, through: usize) -> Result<Value> {
        let port = self.first_port + OPERATORS + through as u16;
        let (status, body) = request(port, "GET", "/admin/v1/status", TOKEN, None).await?;
        ensure!(status == 200, "{status} {body}");
        Ok(body)
    }

    /// Waits until each group has all its replicas where they should be.
    async fn is_whole(&self) -> Result<()> {
        until("Heliograph is healthy and nothing moves", async || {
            let status = self.status(0).await?;
            let moves = status["moves"].as_array().is_some_and(Vec::is_empty);
            Ok(status["health"] == "healthy" && moves && status["progress"]["to_do"] == 0)
        })
        .await
    }

    /// What the generator reads of a running cluster.
    fn write_manifest(&self) -> Result<()> {
        let node = |(node, process): (usize, &Option<Process>)| {
            let file = |ending| self.directory.join(format!("node-{node}.{ending}"));
            let port = self.first_port + CLIENTS + node as u16;
            Some(json!({
                "id": node + 1,
                "pid": process.as_ref()?.pid(),
                "http_url": format!("http://127.0.0.1:{port}"),
                "data_dir": self.directory.join(format!("data-{node}")),
                "config": file("toml"),
                "log": file("log"),
            }))
        };
        let nodes: Vec<Value> = self.nodes.iter().enumerate().filter_map(node).collect();
        let manifest = json!({"format": 1, "nodes": nodes});
        Ok(fs::write(self.directory.join("cluster.json"), manifest.to_string())?)
    }

    /// Registers a device and gives its API key.
    async fn register(&self, node: usize, id: &str) -> Result<String> {
        let port = self.first_port + CLIENTS + node as u16;
        let body = json!({"device_id": id, "public_key": PUBLIC_KEY});
        let (status, body) =
            request(port, "POST", "/api/v1/auth/register", "", Some(&body)).await?;
        let key = body["api_key"].as_str().with_context(|| format!("{status} {body}"))?;
        Ok(key.to_owned())
    }
}

fn mailbox_id(mailbox: u32) -> String {
    format!("mailbox-{mailbox}")
}

/// The cluster's id in the roster that `init-tls` writes: 32 hexadecimal digits.
fn find_id(roster: &str) -> Option<&str> {
    let is_id = |text: &&str| text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    roster.split('"').find(is_id)
}

fn config(directory: &Path, first_port: u16, node: usize, cluster_id: &str, shards: u32) -> String {
    let id = node + 1;
    let port = |base: u16| first_port + base + node as u16;
    let member = |id: usize| {
        format!("{{ id = {id}, address = \"127.0.0.1:{}\" }}", first_port + NODE + id as u16 - 1)
    };
    let members: Vec<String> = (1..=NODES).map(member).collect();
    let tls = directory.join("tls");
    // As `heliograph dev` and `load` have it where nodes share the machine's processors.
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = (processors / NODES).max(1);
    format!(
        "[node]\nid = {id}\ndata-dir = {data:?}\nworker-threads = {threads}\n\n\
         [cluster]\nid = \"{cluster_id}\"\nmembers = [{members}]\nshards = {shards}\n\
         replicas = {NODES}\n\n\
         [peer]\nlisten = \"127.0.0.1:{peer}\"\ncertificate-file = {certificate:?}\n\
         private-key-file = {key:?}\nca-file = {ca:?}\n\n\
         [client]\nlisten = \"127.0.0.1:{http}\"\ntls = \"off\"\nregistration = \"open\"\n\
         websocket-url = \"ws://127.0.0.1:{http}/ws\"\n\n\
         [admin]\nlisten = \"127.0.0.1:{admin}\"\ntoken-file = {token:?}\n",
        data = directory.join(format!("data-{node}")),
        members = members.join(", "),
        peer = port(NODE),
        certificate = tls.join(format!("node-{id}.crt")),
        key = tls.join(format!("node-{id}.key")),
        ca = tls.join("cluster-ca.crt"),
        http = port(CLIENTS),
        admin = port(OPERATORS),
        token = directory.join("token"),
    )
}

/// One request over a connection of its own: status and JSON body.
async fn request(
    port: u16,
    method: &str,
    path: &str,
    token: &str,
    body: Option<&Value>,
) -> Result<(u16, Value)> {
    let body = body.map(Value::to_string).unwrap_or_default();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\
         Accept: application/json\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\nX-MOSA-Timestamp: {}\r\nAuthorization: Bearer {token}\r\n\r\n",
        body.len(),
        unix_seconds(),
    );
    let call = async {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
        stream.write_all((head + &body).as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        anyhow::Ok(answer)
    };
    let answer = timeout(DEADLINE, call).await.context("no answer")??;
    read_answer(&answer).with_context(|| format!("an answer that is not as agreed: {answer}"))
}

fn read_answer(answer: &str) -> Option<(u16, Value)> {
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some((status, serde_json::from_str(body).unwrap_or_default()))
}

/// Requests carry the time of day; nothing that is measured depends on it.
#[expect(clippy::disallowed_methods, reason = "the protocol wants the time of day")]
fn unix_seconds() -> u64 {
    std::time::SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// What the project's generator reports.
fn read_report(name: String, report: &Value) -> Option<LoadResult> {
    let latency = |name: &str| {
        let times = &report[name];
        Some(Latency {
            p50_ms: times["p50_ms"].as_f64()?,
            p99_ms: times["p99_ms"].as_f64()?,
            max_ms: times["max_ms"].as_f64()?,
        })
    };
    let nodes = report["nodes"].as_array()?.iter().map(|node| node["cores"].as_f64());
    let refused = report["refused"].as_object()?.values().map(Value::as_u64);
    Some(LoadResult {
        name,
        accepted_per_second: report["accepted_per_second"].as_f64()?,
        delivered_per_second: report["delivered_per_second"].as_f64()?,
        refused: refused.sum::<Option<u64>>()?,
        out_of_order: report["out_of_order"].as_u64()?,
        accept: latency("accept")?,
        deliver: latency("deliver")?,
        generator_cores: report["generator"]["cores"].as_f64()?,
        nodes_cores: nodes.sum::<Option<f64>>()?,
        // Found out by who asked for the load.
        others_cores: None,
    })
}

impl Cluster for Heliograph {
    type Publisher = Device;

    async fn version(&self) -> Result<String> {
        let mut version = Command::new(&self.programs.node);
        version.arg("--version");
        Ok(output(version).await?.trim().trim_start_matches("heliograph ").to_owned())
    }

    fn pids(&self) -> Vec<u32> {
        self.nodes.iter().flatten().map(Process::pid).collect()
    }

    async fn prepare(&mut self, mailboxes: u32) -> Result<()> {
        for mailbox in self.prepared..mailboxes {
            self.register(mailbox as usize % NODES, &mailbox_id(mailbox)).await?;
        }
        self.prepared = self.prepared.max(mailboxes);
        Ok(())
    }

    async fn publisher(&self, node: usize) -> Result<Device> {
        let id = format!("publisher-{:016x}", rand::random::<u64>());
        let key = self.register(node, &id).await?;
        Device::connect(self.first_port + CLIENTS + node as u16, &key).await
    }

    async fn leaders(&self, through: usize) -> Result<[u32; NODES]> {
        let status = self.status(through).await?;
        count_leaders(&status).context("a status that is not as agreed")
    }

    fn kill(&mut self, node: usize) -> Result<()> {
        self.nodes[node].take().context("that node does not run")?.kill()
    }

    async fn restart(&mut self, node: usize) -> Result<()> {
        self.nodes[node] = Some(self.start_node(node)?);
        self.serves(node).await?;
        self.is_whole().await?;
        self.write_manifest()
    }
}

/// Counts how many groups each node leads. Group 0 is the registry and has no mailboxes.
fn count_leaders(status: &Value) -> Option<[u32; NODES]> {
    let mut led = [0; NODES];
    for group in status["groups"].as_array()?.iter().filter(|group| group["id"] != 0) {
        if let Some(leader) = group["leader"].as_u64() {
            *led.get_mut(usize::try_from(leader).ok()?.checked_sub(1)?)? += 1;
        }
    }
    Some(led)
}

/// Who waits for the answer to which message. None any more once the connection is gone.
type Waiting = Arc<Mutex<Option<HashMap<String, oneshot::Sender<bool>>>>>;

/// A device's authenticated WebSocket.
pub struct Device {
    frames: mpsc::Sender<String>,
    waiting: Waiting,
    content: String,
}

impl Device {
    async fn connect(port: u16, key: &str) -> Result<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port)).await?;
        stream.set_nodelay(true)?;
        let (mut socket, _) = client_async(format!("ws://127.0.0.1:{port}/ws"), stream).await?;
        let auth = json!({"type": "auth", "token": key, "ack": "explicit"});
        socket.send(Message::text(auth.to_string())).await?;
        let answer = socket.next().await.context("closed")??.into_text()?;
        let answer: Value = serde_json::from_str(&answer)?;
        ensure!(answer["type"] == "auth_success", "{answer}");
        let (mut sink, mut source) = socket.split();
        let (frames, mut queue) = mpsc::channel::<String>(QUEUE_MAX);
        let waiting: Waiting = Arc::new(Mutex::new(Some(HashMap::new())));
        let answered = waiting.clone();
        // Both end with the connection, the first with its publisher too.
        tokio::spawn(async move {
            while let Some(frame) = queue.recv().await {
                if sink.send(Message::text(frame)).await.is_err() {
                    break;
                }
            }
            // An error means that it is closed already.
            let _ = sink.close().await;
        });
        tokio::spawn(async move {
            while let Some(Ok(message)) = source.next().await {
                let Message::Text(text) = message else { continue };
                answer_to(&answered, &text);
            }
            // Dropping them tells everybody that waits.
            answered.lock().unwrap_or_else(PoisonError::into_inner).take();
        });
        // In Base64, whose last group stands for the one byte that is left over; nobody looks in.
        let content = format!("{}AA==", "A".repeat(MESSAGE_BYTES.div_ceil(3) * 4 - 4));
        Ok(Self { frames, waiting, content })
    }
}

/// Hands an answer to who waits for it.
fn answer_to(waiting: &Waiting, text: &str) {
    let Ok(frame) = serde_json::from_str::<Value>(text) else { return };
    let Some(id) = frame["message_id"].as_str() else { return };
    let mut waiting = waiting.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(answer) = waiting.as_mut().and_then(|waiting| waiting.remove(id)) {
        // Nobody may wait any more.
        let _ = answer.send(frame["type"] == "accepted");
    }
}

impl Publisher for Device {
    async fn send(&self, mailbox: u32, _message: Bytes) -> Result<Answer> {
        let id = format!("{:032x}", rand::random::<u128>());
        let frame = format!(
            r#"{{"type":"message","recipient_id":"{}","message_id":"{id}","content":"{}"}}"#,
            mailbox_id(mailbox),
            self.content,
        );
        let (sender, answer) = oneshot::channel();
        match &mut *self.waiting.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(waiting) => waiting.insert(id, sender),
            None => bail!("the connection is gone"),
        };
        self.frames.send(frame).await.context("the connection is gone")?;
        Ok(Box::pin(async { answer.await.context("the connection is gone") }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_of_the_generator_is_read() {
        // What the generator's own test holds its reports against.
        let report = include_str!("../fixtures/load_report.json");
        let report = serde_json::from_str(report).unwrap();
        let result = read_report("x".to_owned(), &report).unwrap();
        assert_eq!((result.per_second(), result.nodes_cores, result.refused), (99.0, 0.75, 4));
        assert_eq!(result.deliver, Latency { p50_ms: 1.0, p99_ms: 2.0, max_ms: 3.0 });
        assert_eq!(read_report("x".to_owned(), &json!({"nodes": []})), None);
    }

    #[test]
    fn leaders_are_counted_without_the_registry() {
        let status = json!({"groups": [{"id": 0, "leader": 1}, {"id": 1, "leader": 3},
            {"id": 2, "leader": 3}, {"id": 3, "leader": null}, {"id": 4, "leader": 2}]});
        assert_eq!(count_leaders(&status), Some([0, 1, 2]));
        assert_eq!(count_leaders(&json!({})), None);
    }

    #[test]
    fn the_cluster_id_is_found() {
        let id = "00112233445566778899aabbccddeeff";
        let roster = format!("[cluster]\nname = \"heliograph\"\nid = \"{id}\"\n");
        assert_eq!(find_id(&roster), Some(id));
        assert_eq!(find_id("name = \"x\""), None);
    }

    #[test]
    fn answers_are_read() {
        let answer = "HTTP/1.1 200 OK\r\ncontent-length: 13\r\n\r\n{\"moves\": []}";
        assert_eq!(read_answer(answer), Some((200, json!({"moves": []}))));
        assert_eq!(read_answer("HTTP/1.1 204 No Content\r\n\r\n"), Some((204, Value::Null)));
        assert_eq!(read_answer("nonsense"), None);
    }

    #[tokio::test]
    async fn an_answer_reaches_who_waits() {
        let waiting: Waiting = Arc::new(Mutex::new(Some(HashMap::new())));
        let wait_for = |id: &str| {
            let (sender, answer) = oneshot::channel();
            waiting.lock().unwrap().as_mut().unwrap().insert(id.to_owned(), sender);
            answer
        };
        let (first, second) = (wait_for("a"), wait_for("b"));
        answer_to(&waiting, r#"{"type":"accepted","message_id":"a"}"#);
        answer_to(&waiting, r#"{"type":"error","message_id":"b"}"#);
        assert_eq!((first.await, second.await), (Ok(true), Ok(false)));
        for foreign in ["", "{}", r#"{"type":"accepted","message_id":"c"}"#] {
            answer_to(&waiting, foreign);
        }
    }
}
