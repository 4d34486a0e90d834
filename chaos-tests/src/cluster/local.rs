//! A cluster on this machine, started by `heliograph dev` as a person would.

use std::{
    collections::BTreeMap,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, LazyLock},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use hyper::StatusCode;
use rustix::process::Signal;
use tempfile::TempDir;
use tokio::{
    sync::{Mutex, OwnedMutexGuard},
    time::{Instant, sleep},
};

use super::{
    NodeInfo, Usage, heliograph_binary, manifest, ports::PortBlock, process::Process, run_directory,
};
use crate::{faults::FaultyDisk, wire::Rest};

/// How long a cluster or a node may take to get ready. An unoptimised build on a busy machine
/// needs much of it; a test that waits so long fails.
const READY_DEADLINE: Duration = Duration::from_secs(90);
/// How long processes may take to end: their own 10 s and 13 s, and a little.
const STOP_DEADLINE: Duration = Duration::from_secs(20);
/// How long a killed process may take to be gone; the kernel frees its memory first.
const KILL_DEADLINE: Duration = Duration::from_secs(20);
/// How often a condition is looked at that tells nobody of itself.
const POLL: Duration = Duration::from_millis(25);
/// How long one question to `/readyz` may take.
const QUESTION: Duration = Duration::from_secs(2);
/// Keeps the data of every run when set.
const KEEP_VARIABLE: &str = "HELIOGRAPH_CHAOS_KEEP";

/// Clusters of one test process run one after another: together they would measure each other.
static TURN: LazyLock<Arc<Mutex<()>>> = LazyLock::new(Arc::default);

/// What cluster to start.
#[derive(Clone, Debug)]
pub struct Options {
    /// A word for the directory of kept logs.
    pub name: &'static str,
    /// How many nodes.
    pub nodes: u16,
    /// What their disks are.
    pub disks: Disks,
}

/// What the disks of a cluster are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disks {
    /// Those of this machine.
    Plain,
    /// Those of this machine, behind a library that can cut their power and make them fail.
    Faulty {
        /// Decides what chance decides.
        seed: u64,
    },
}

impl Options {
    /// Three nodes.
    pub fn three(name: &'static str) -> Self {
        Self { name, nodes: 3, disks: Disks::Plain }
    }

    /// Three nodes whose disks can fail.
    pub fn three_faulty(name: &'static str, seed: u64) -> Self {
        Self { name, nodes: 3, disks: Disks::Faulty { seed } }
    }
}

/// What nodes with faulty disks are set to: files as small, and checkpoints and snapshots as often,
/// that a short run has them all.
const FAULTY_SETTINGS: [(&str, &str); 4] = [
    ("HELIOGRAPH_STORAGE__LOG_SEGMENT_SIZE", "1MiB"),
    ("HELIOGRAPH_STORAGE__CHECKPOINT_AGE", "2s"),
    ("HELIOGRAPH_STORAGE__SNAPSHOT_AGE", "7s"),
    ("HELIOGRAPH_STORAGE__SNAPSHOT_LOG_SIZE", "2MiB"),
];

/// A cluster whose processes are gone when it is dropped, panics included.
#[derive(Debug)]
pub struct LocalCluster {
    name: &'static str,
    nodes: Vec<NodeInfo>,
    running: BTreeMap<u16, Process>,
    seed: Option<u64>,
    faulty: BTreeMap<u16, FaultyDisk>,
    dev: Option<Process>,
    binary: PathBuf,
    ports: PortBlock,
    dir: TempDir,
    keep_logs: bool,
    _turn: OwnedMutexGuard<()>,
}

impl LocalCluster {
    /// Starts a cluster on a fresh directory and waits until every node is ready.
    ///
    /// # Errors
    /// When the binary cannot be built, or the cluster is not ready in time.
    pub async fn start(options: Options) -> Result<Self> {
        let turn = TURN.clone().lock_owned().await;
        let binary = heliograph_binary()?;
        let dir = tempfile::Builder::new().prefix(options.name).tempdir_in(run_directory()?)?;
        let ports = PortBlock::take(options.nodes)?;
        let mut cluster = Self {
            name: options.name,
            nodes: Vec::new(),
            running: BTreeMap::new(),
            seed: None,
            faulty: BTreeMap::new(),
            dev: None,
            binary,
            ports,
            dir,
            keep_logs: false,
            _turn: turn,
        };
        cluster.start_dev(options.nodes).await?;
        if let Disks::Faulty { seed } = options.disks {
            cluster.put_on_faulty_disks(seed).await?;
        }
        Ok(cluster)
    }

    /// Starts the nodes anew, each behind a library of its own.
    async fn put_on_faulty_disks(&mut self, seed: u64) -> Result<()> {
        let ids: Vec<u16> = self.nodes.iter().map(|node| node.id).collect();
        self.kill(&ids).await?;
        for node in &self.nodes {
            let beside = node.data_dir.parent().context("a node has a directory")?;
            self.faulty.insert(node.id, FaultyDisk::new(&node.data_dir, beside)?);
        }
        self.seed = Some(seed);
        self.restart(&ids)?;
        for id in ids {
            self.ready(id).await?;
        }
        Ok(())
    }

    /// The disk of node `id`.
    ///
    /// # Errors
    /// When it is one that cannot be made to fail.
    pub fn disk(&self, id: u16) -> Result<&FaultyDisk> {
        self.faulty.get(&id).with_context(|| format!("node {id} has no disk that can fail"))
    }

    async fn start_dev(&mut self, nodes: u16) -> Result<()> {
        let log =
            fs::File::options().create(true).append(true).open(self.dir.path().join("log"))?;
        let mut command = Command::new(&self.binary);
        command
            .args(["dev", "--nodes", &nodes.to_string()])
            .args(["--http-port", &self.ports.first.to_string()])
            .arg("--data-dir")
            .arg(self.data())
            .stdout(log.try_clone()?)
            .stderr(log);
        self.dev = Some(Process::start(&mut command)?);
        match self.dev_ready().await {
            Ok(nodes) => self.nodes = nodes,
            Err(error) => {
                self.keep_logs = true;
                let log = fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
                return Err(error.context(log));
            }
        }
        for node in &self.nodes {
            self.running.insert(node.id, Process::adopt(node.pid, &node.config)?);
        }
        Ok(())
    }

    async fn dev_ready(&mut self) -> Result<Vec<NodeInfo>> {
        let deadline = Instant::now() + READY_DEADLINE;
        let path = self.data().join("cluster.json");
        loop {
            if let Some(nodes) = manifest::read(&path)? {
                return Ok(nodes);
            }
            if self.dev.as_mut().is_none_or(Process::has_ended) {
                bail!("heliograph dev ended before the cluster was ready");
            }
            ensure!(Instant::now() < deadline, "the cluster was not ready in time");
            sleep(POLL).await;
        }
    }

    /// All nodes, running or not, in the order of their ids.
    pub fn nodes(&self) -> &[NodeInfo] {
        &self.nodes
    }

    /// Where the nodes serve clients.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.nodes.iter().map(|node| node.http).collect()
    }

    /// What is known of node `id`.
    ///
    /// # Errors
    /// When there is no such node.
    pub fn node(&self, id: u16) -> Result<&NodeInfo> {
        self.nodes.iter().find(|node| node.id == id).with_context(|| format!("no node {id}"))
    }

    /// What node `id` uses now.
    ///
    /// # Errors
    /// When it does not run.
    pub fn usage(&self, id: u16) -> Result<Usage> {
        self.running.get(&id).context("the node does not run")?.usage()
    }

    /// `kill -9` of these nodes at once; answers when they are gone.
    ///
    /// # Errors
    /// When one does not run, or does not go.
    pub async fn kill(&mut self, ids: &[u16]) -> Result<()> {
        let mut killed = Vec::new();
        for id in ids {
            let process = self.running.remove(id);
            killed.push(process.with_context(|| format!("node {id} does not run"))?);
        }
        for process in &killed {
            process.signal(Signal::KILL)?;
        }
        for process in &mut killed {
            process.ended(KILL_DEADLINE).await?;
        }
        Ok(())
    }

    /// Stops these nodes cleanly at the same time.
    ///
    /// # Errors
    /// When one does not run, or does not stop in time.
    pub async fn terminate(&mut self, ids: &[u16]) -> Result<()> {
        let mut stopping = Vec::new();
        for id in ids {
            let process = self.running.remove(id);
            stopping.push(process.with_context(|| format!("node {id} does not run"))?);
        }
        for process in &stopping {
            process.signal(Signal::TERM)?;
        }
        for process in &mut stopping {
            process.ended(STOP_DEADLINE).await?;
        }
        Ok(())
    }

    /// Whether node `id` runs, in the process it was last started in.
    pub fn is_running(&mut self, id: u16) -> bool {
        self.running.get_mut(&id).is_some_and(|process| !process.has_ended())
    }

    /// SIGTERM to node `id`; answers when it is gone.
    ///
    /// # Errors
    /// When it does not run, does not end in time, or does not end with 0. A node that
    /// [`Self::restart`] did not start has no exit status for us: that is an error, too.
    pub async fn stop_node(&mut self, id: u16) -> Result<()> {
        let process = self.running.remove(&id);
        let mut process = process.with_context(|| format!("node {id} does not run"))?;
        process.signal(Signal::TERM)?;
        process.ended(STOP_DEADLINE).await?;
        let code = process.exit_code();
        ensure!(code == Some(0), "node {id} ended with {code:?} instead of 0");
        Ok(())
    }

    /// Starts killed nodes on their directories; does not wait until they are ready.
    ///
    /// # Errors
    /// When one runs, or cannot be started.
    pub fn restart(&mut self, ids: &[u16]) -> Result<()> {
        for &id in ids {
            ensure!(!self.running.contains_key(&id), "node {id} runs");
            let node = self.node(id)?;
            let log = fs::File::options().create(true).append(true).open(&node.log)?;
            let mut command = Command::new(&self.binary);
            command
                .args(["serve", "--until-stdin-ends", "--config"])
                .arg(&node.config)
                .stdout(log.try_clone()?)
                .stderr(log);
            if let (Some(disk), Some(seed)) = (self.faulty.get(&id), self.seed) {
                command.envs(disk.environment(seed ^ u64::from(id))?).envs(FAULTY_SETTINGS);
            }
            self.running.insert(id, Process::start(&mut command)?);
        }
        Ok(())
    }

    /// Waits until node `id` says that it is ready.
    ///
    /// # Errors
    /// When it ends or is not ready in time.
    pub async fn ready(&mut self, id: u16) -> Result<()> {
        let deadline = Instant::now() + READY_DEADLINE;
        let mut rest = Rest::new(self.node(id)?.http, None);
        loop {
            let process = self.running.get_mut(&id).context("the node does not run")?;
            ensure!(!process.has_ended(), "node {id} ended before it was ready");
            let last = rest.get("/readyz", QUESTION).await;
            if matches!(&last, Ok(reply) if reply.status == StatusCode::OK) {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "node {id} was not ready in time: {last:?}");
            sleep(POLL).await;
        }
    }

    /// Stops everything cleanly, as Ctrl-C does, and starts it again on the same directory.
    ///
    /// # Errors
    /// When a process does not stop, or the cluster does not come up.
    pub async fn stop_and_start(&mut self) -> Result<()> {
        self.stop().await?;
        let nodes = u16::try_from(self.nodes.len()).context("a small cluster")?;
        self.start_dev(nodes).await
    }

    /// Stops everything cleanly.
    ///
    /// # Errors
    /// When a process does not stop in time.
    pub async fn stop(&mut self) -> Result<()> {
        let mut running: Vec<Process> = std::mem::take(&mut self.running).into_values().collect();
        running.extend(self.dev.take());
        for process in &running {
            process.signal(Signal::TERM)?;
        }
        for process in &mut running {
            process.ended(STOP_DEADLINE).await?;
        }
        Ok(())
    }

    /// Keeps the logs when the cluster is dropped, as after a panic.
    pub fn keep_logs(&mut self) {
        self.keep_logs = true;
    }

    /// Whether everything of this run is kept, whatever comes out.
    pub fn is_kept(&self) -> bool {
        std::env::var_os(KEEP_VARIABLE).is_some()
    }

    /// Where kept logs go; further evidence may be put there.
    ///
    /// # Errors
    /// When the directory cannot be made.
    pub fn evidence(&self) -> Result<PathBuf> {
        let name = format!("{}-{}", self.name, std::process::id());
        let dir = run_directory()?.join("evidence").join(name);
        fs::create_dir_all(&dir)?;
        Ok(dir)
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    fn copy_logs(&self) -> Result<PathBuf> {
        let evidence = self.evidence()?;
        let copy = |from: &Path, to: String| fs::copy(from, evidence.join(to)).map(drop);
        copy(&self.dir.path().join("log"), "dev.log".to_owned())?;
        for entry in fs::read_dir(self.data())? {
            let log = entry?.path().join("log");
            if log.is_file() {
                let node = log.parent().and_then(Path::file_name).unwrap_or_default();
                copy(&log, format!("{}.log", node.to_string_lossy()))?;
            }
        }
        Ok(evidence)
    }
}

impl Drop for LocalCluster {
    fn drop(&mut self) {
        // The nodes first: a supervisor that sees its nodes end needs no time to stop them.
        self.running.clear();
        self.dev = None;
        if self.keep_logs || std::thread::panicking() {
            match self.copy_logs() {
                Ok(evidence) => eprintln!("the nodes' logs are kept in {}", evidence.display()),
                Err(error) => eprintln!("the nodes' logs could not be kept: {error:#}"),
            }
        }
        if self.is_kept() {
            self.dir.disable_cleanup(true);
            eprintln!("the cluster's directory is kept: {}", self.dir.path().display());
        }
    }
}
