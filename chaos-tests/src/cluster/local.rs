//! A cluster on this machine: processes of `heliograph serve`, children of this one.

use std::{
    collections::BTreeMap,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, LazyLock},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use hyper::StatusCode;
use rustix::process::Signal;
use tempfile::TempDir;
use tokio::{
    sync::{Mutex, OwnedMutexGuard},
    time::{Instant, sleep},
};

use super::{
    Grip, NodeInfo, Usage, heliograph_binary,
    layout::{Layout, PORTS, Wiring},
    options::{Clocks, Disks, Options},
    ports::PortBlock,
    process::Process,
    run_directory,
};
use crate::{
    faults::{FaultyClock, FaultyDisk, Links, power, preload},
    wire::{Door, Security},
};

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
    options: Options,
    layout: Layout,
    security: Security,
    nodes: Vec<NodeInfo>,
    /// Those that have left.
    former: BTreeMap<u16, NodeInfo>,
    running: BTreeMap<u16, Process>,
    disks: BTreeMap<u16, FaultyDisk>,
    clocks: BTreeMap<u16, FaultyClock>,
    links: Option<Links>,
    /// The files with the tokens of nodes that join or begin anew.
    pub(super) tokens: BTreeMap<u16, PathBuf>,
    /// What each node is started from.
    binaries: BTreeMap<u16, PathBuf>,
    dir: TempDir,
    keep_logs: bool,
    _ports: PortBlock,
    _turn: OwnedMutexGuard<()>,
}

impl LocalCluster {
    /// Starts a cluster on a fresh directory and waits until every node is ready.
    ///
    /// # Errors
    /// When the binary cannot be built, or the cluster is not ready in time.
    pub async fn start(options: Options) -> Result<Self> {
        let turn = TURN.clone().lock_owned().await;
        let binary = match &options.binary {
            Some(binary) => binary.clone(),
            None => heliograph_binary()?,
        };
        let dir = tempfile::Builder::new().prefix(options.name).tempdir_in(run_directory()?)?;
        let ports = PortBlock::take(PORTS)?;
        let layout = Layout::create(&dir.path().join("data"), &binary, &ports, &options)?;
        let security = layout.security()?;
        let nodes: Vec<NodeInfo> = layout.members().iter().map(|id| layout.node(*id)).collect();
        let links = match options.wiring {
            Wiring::Direct => None,
            Wiring::Proxied => {
                // With one for a node that joins later.
                let ids = 1..=layout.newcomer();
                Some(Links::start(ids.map(|id| (id, layout.peer_address(id))).collect()).await?)
            }
        };
        let mut cluster = Self {
            options,
            layout,
            security,
            former: BTreeMap::new(),
            binaries: nodes.iter().map(|node| (node.id, binary.clone())).collect(),
            nodes,
            running: BTreeMap::new(),
            disks: BTreeMap::new(),
            tokens: BTreeMap::new(),
            clocks: BTreeMap::new(),
            links,
            dir,
            keep_logs: false,
            _ports: ports,
            _turn: turn,
        };
        let ids = cluster.ids();
        for id in &ids {
            cluster.make_faulty(*id)?;
        }
        if let Err(error) = cluster.start_all(&ids).await {
            cluster.keep_logs = true;
            return Err(error);
        }
        Ok(cluster)
    }

    /// Puts a node on a disk and a clock that can fail, where that is asked for.
    fn make_faulty(&mut self, id: u16) -> Result<()> {
        let data = self.node(id)?.data_dir.clone();
        let beside = data.parent().context("a node has a directory")?;
        if let Disks::Faulty { .. } = self.options.disks {
            self.disks.insert(id, FaultyDisk::new(&data, beside)?);
        }
        if self.options.clocks == Clocks::Faulty {
            self.clocks.insert(id, FaultyClock::new(beside)?);
        }
        Ok(())
    }

    /// Makes all that a node needs that is to join; answers where its peers will reach it.
    pub(super) fn enlist(&mut self, id: u16) -> Result<SocketAddr> {
        let binary = self.first_build()?;
        self.layout.enlist(&binary, id)?;
        self.former.remove(&id);
        self.nodes.push(self.layout.node(id));
        self.nodes.sort_by_key(|node| node.id);
        self.binaries.entry(id).or_insert(binary);
        self.make_faulty(id)?;
        Ok(self.layout.peer_address(id))
    }

    /// Node `id` has left and does not run: its disk is for somebody else.
    pub(super) fn discharge(&mut self, id: u16) -> Result<()> {
        self.lose_disk(id)?;
        let at = self.nodes.iter().position(|node| node.id == id);
        let node = self.nodes.remove(at.with_context(|| format!("no node {id}"))?);
        self.former.insert(id, node);
        Ok(())
    }

    /// Those that were there once, and those that are: all that have a log.
    pub fn everybody(&self) -> Vec<NodeInfo> {
        self.nodes.iter().chain(self.former.values()).cloned().collect()
    }

    /// The node that may join: it is none of the founders.
    pub fn newcomer(&self) -> NodeInfo {
        self.layout.node(self.layout.newcomer())
    }

    async fn start_all(&mut self, ids: &[u16]) -> Result<()> {
        self.restart(ids)?;
        for id in ids {
            self.ready(*id).await?;
        }
        Ok(())
    }

    /// The ids of all nodes, running or not.
    pub fn ids(&self) -> Vec<u16> {
        self.nodes.iter().map(|node| node.id).collect()
    }

    /// The disk of node `id`.
    ///
    /// # Errors
    /// When it is one that cannot be made to fail.
    pub fn disk(&self, id: u16) -> Result<&FaultyDisk> {
        self.disks.get(&id).with_context(|| match preload::library() {
            Err(error) => format!("{error:#}"),
            Ok(_) => format!("node {id} has no disk that can fail"),
        })
    }

    /// The wall clock of node `id`.
    ///
    /// # Errors
    /// When it is that of the machine.
    pub fn clock(&self, id: u16) -> Result<&FaultyClock> {
        self.clocks.get(&id).with_context(|| format!("node {id} has no clock that can be wrong"))
    }

    /// What is between the nodes.
    ///
    /// # Errors
    /// When they talk straight to each other.
    pub fn links(&self) -> Result<&Links> {
        self.links.as_ref().context("the nodes talk straight to each other")
    }

    /// Everything on the disk of node `id`, which does not run, is gone.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn lose_disk(&mut self, id: u16) -> Result<()> {
        power::clear(&self.node(id)?.data_dir)?;
        self.disks.get(&id).map_or(Ok(()), |disk| power::clear(&disk.shadow))
    }

    /// A hold on the process of node `id`.
    ///
    /// # Errors
    /// When it does not run.
    pub fn grip(&self, id: u16) -> Result<Grip> {
        self.running.get(&id).with_context(|| format!("node {id} does not run"))?.grip()
    }

    /// The binary that the nodes were started with first.
    ///
    /// # Errors
    /// When it cannot be built.
    pub fn first_build(&self) -> Result<PathBuf> {
        self.options.binary.clone().map_or_else(heliograph_binary, Ok)
    }

    /// From its next start on, node `id` is this binary.
    pub fn build(&mut self, id: u16, binary: &Path) {
        self.binaries.insert(id, binary.to_owned());
    }

    /// All nodes, running or not, in the order of their ids.
    pub fn nodes(&self) -> &[NodeInfo] {
        &self.nodes
    }

    /// Where the nodes serve clients.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.nodes.iter().map(|node| node.http).collect()
    }

    /// The client ports of the nodes.
    pub fn doors(&self) -> Vec<Door> {
        self.nodes.iter().map(|node| self.door(node)).collect()
    }

    /// The client port of a node.
    pub(super) fn door(&self, node: &NodeInfo) -> Door {
        Door { node: node.http, security: self.security.clone() }
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
    /// When it does not run, does not end in time, or does not end with 0.
    pub async fn stop_node(&mut self, id: u16) -> Result<()> {
        let process = self.running.remove(&id);
        let mut process = process.with_context(|| format!("node {id} does not run"))?;
        process.signal(Signal::TERM)?;
        process.ended(STOP_DEADLINE).await?;
        let code = process.exit_code();
        ensure!(code == Some(0), "node {id} ended with {code:?} instead of 0");
        Ok(())
    }

    /// Starts nodes that do not run on their directories; does not wait until they are ready.
    ///
    /// # Errors
    /// When one runs, or cannot be started.
    pub fn restart(&mut self, ids: &[u16]) -> Result<()> {
        for &id in ids {
            ensure!(!self.running.contains_key(&id), "node {id} runs");
            let node = self.node(id)?;
            let log = fs::File::options().create(true).append(true).open(&node.log)?;
            let binary = self.binaries.get(&id).context("a node has a binary")?;
            let mut command = Command::new(binary);
            command
                .args(["serve", "--until-stdin-ends", "--config"])
                .arg(&node.config)
                .stdout(log.try_clone()?)
                .stderr(log);
            let mut preload = Vec::new();
            if let (Some(disk), Disks::Faulty { seed }) = (self.disks.get(&id), self.options.disks)
            {
                preload.push(preload::library()?);
                command.envs(disk.environment(seed ^ u64::from(id))).envs(FAULTY_SETTINGS);
            }
            if let Some(clock) = self.clocks.get(&id) {
                preload.push(clock.library.clone());
                command.envs(clock.environment());
            }
            if !preload.is_empty() {
                command.env("LD_PRELOAD", std::env::join_paths(preload)?);
            }
            if let Some(token) = self.tokens.get(&id) {
                command.env("HELIOGRAPH_NODE__JOIN_TOKEN_FILE", token);
            }
            command.envs(self.options.settings.iter().map(|(name, value)| (name, value)));
            let process = Process::start(&mut command)?;
            let pid = process.pid();
            self.running.insert(id, process);
            if let Some(node) = self.nodes.iter_mut().find(|node| node.id == id) {
                node.pid = pid;
            }
        }
        Ok(())
    }

    /// Starts a node that has ended, however that came.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn revive(&mut self, id: u16) -> Result<()> {
        self.running.remove(&id);
        self.restart(&[id])
    }

    /// Waits until node `id` says that it is ready.
    ///
    /// # Errors
    /// When it ends or is not ready in time.
    pub async fn ready(&mut self, id: u16) -> Result<()> {
        let deadline = Instant::now() + READY_DEADLINE;
        let mut rest = self.door(self.node(id)?).rest(None);
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

    /// Stops everything cleanly and starts it again on the same directory.
    ///
    /// # Errors
    /// When a process does not stop, or the cluster does not come up.
    pub async fn stop_and_start(&mut self) -> Result<()> {
        self.stop().await?;
        let ids = self.ids();
        self.start_all(&ids).await
    }

    /// Stops everything cleanly.
    ///
    /// # Errors
    /// When a process does not stop in time.
    pub async fn stop(&mut self) -> Result<()> {
        let running: Vec<u16> = self.running.keys().copied().collect();
        self.terminate(&running).await
    }

    /// Sends a signal to a running node.
    ///
    /// # Errors
    /// When it does not run.
    pub fn signal(&self, id: u16, signal: Signal) -> Result<()> {
        self.running.get(&id).with_context(|| format!("node {id} does not run"))?.signal(signal)
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
        let name = format!("{}-{}", self.options.name, std::process::id());
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
        self.running.clear();
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
