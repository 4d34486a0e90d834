//! Starts the nodes, watches them, stops them.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    process::ExitStatus,
    time::Duration,
};

use anyhow::Context as _;
use serde::Serialize;
use tokio::{sync::watch, task::JoinSet, time::Instant};

use super::{
    child::{NodeProcess, Wanted, tail},
    conversation,
    layout::{Layout, NodeLayout},
    ready::{self, Answer},
};
use crate::{
    console::{self, say},
    exit::{Failure, OrExit as _, Reason},
    files::{self, Access},
    signals::Signals,
};

/// How long a node may take to shut down cleanly.
pub(super) const NODE_SHUTDOWN: Duration = Duration::from_secs(10);
/// How long the nodes are waited for before they are killed: their own deadline and a little.
const STOP_DEADLINE: Duration = Duration::from_secs(13);
/// How long until all nodes must be ready. An unoptimised build on a busy machine that has much
/// log to replay needs most of it.
const READY_DEADLINE: Duration = Duration::from_secs(120);

/// Why the cluster does not run (any more).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum SupervisorError {
    /// A node ended before all were ready.
    #[error("node {node} ended ({how}) before the cluster was ready; its log is {log}")]
    EndedEarly {
        /// Which.
        node: u16,
        /// How.
        how: String,
        /// Where to look.
        log: PathBuf,
    },
    /// Not all nodes got ready.
    #[error("node {node} was not ready after {} seconds: {why}; its log is {log}", READY_DEADLINE.as_secs())]
    NotReady {
        /// Which.
        node: u16,
        /// What it said last.
        why: String,
        /// Where to look.
        log: PathBuf,
    },
    /// No node is left.
    #[error("all nodes have ended; start again on the same --data-dir to go on")]
    NoneLeft,
    /// A second signal came.
    #[error("interrupted: the nodes were killed")]
    Interrupted,
}

/// What is in `cluster.json`.
#[derive(Serialize)]
struct Cluster {
    format: u32,
    admin_token_file: PathBuf,
    nodes: Vec<Running>,
}

#[derive(Serialize)]
struct Running {
    id: u16,
    pid: u32,
    http_url: String,
    admin_url: String,
    data_dir: PathBuf,
    config: PathBuf,
    log: PathBuf,
}

type Ended = (u16, io::Result<ExitStatus>);

struct Supervisor<'a> {
    layout: &'a Layout,
    program: PathBuf,
    pids: BTreeMap<u16, u32>,
    running: JoinSet<Ended>,
    wanted: watch::Sender<Wanted>,
}

/// Runs the cluster until a signal, or until no node is left.
pub(super) async fn run(layout: &Layout) -> Result<(), Failure> {
    let mut signals = Signals::listen().context("cannot listen for signals")?;
    let program = std::env::current_exe().context("cannot find this program's own file")?;
    remove(&layout.cluster_file())?;
    let mut supervisor = Supervisor {
        layout,
        program,
        pids: BTreeMap::new(),
        running: JoinSet::new(),
        wanted: watch::Sender::new(Wanted::Run),
    };
    let outcome = supervisor.start_and_watch(&mut signals).await;
    let stopped = supervisor.stop(&mut signals).await;
    let removed = remove(&layout.cluster_file());
    outcome.and(stopped).and(removed)
}

impl Supervisor<'_> {
    async fn start_and_watch(&mut self, signals: &mut Signals) -> Result<(), Failure> {
        say!("Starting {} nodes on {} …", self.layout.nodes.len(), self.layout.dir.display());
        for node in &self.layout.nodes {
            let process = NodeProcess::start(&self.program, node)
                .with_context(|| format!("cannot start node {}", node.id))?;
            self.pids.insert(node.id, process.pid);
            self.running.spawn(process.run(self.wanted.subscribe()));
        }
        if !self.get_ready(signals).await? {
            return Ok(());
        }
        self.write_cluster_file()?;
        conversation::print(self.layout, &self.pids);
        self.watch(signals).await
    }

    /// Waits until all nodes are ready; answers false when a signal came first.
    async fn get_ready(&mut self, signals: &mut Signals) -> Result<bool, Failure> {
        let deadline = Instant::now() + READY_DEADLINE;
        let mut waiting = JoinSet::new();
        for (index, node) in self.layout.nodes.iter().enumerate() {
            let address = node.http;
            waiting.spawn(async move { (index, ready::wait(address, deadline).await) });
        }
        let bar = console::progress_bar(
            "  {spinner} {pos} of {len} nodes ready ({elapsed})",
            self.layout.nodes.len() as u64,
        );
        loop {
            tokio::select! {
                // A person's wish first, then bad news, then good.
                biased;
                _ = signals.next() => return Ok(false),
                Some(ended) = self.running.join_next() => {
                    bar.finish_and_clear();
                    let (node, status) = ended.context("the watch over a node failed")?;
                    return Err(self.ended_early(node, &status));
                }
                answer = waiting.join_next() => match answer {
                    None => break,
                    Some(answer) => {
                        let (index, answer) = answer.context("asking a node failed")?;
                        let node = &self.layout.nodes[index];
                        refuse_unready(node, answer)?;
                        bar.inc(1);
                        bar.suspend(|| say!("  node {} is ready: {}", node.id, node.http_url()));
                    }
                },
            }
        }
        bar.finish_and_clear();
        Ok(true)
    }

    async fn watch(&mut self, signals: &mut Signals) -> Result<(), Failure> {
        loop {
            tokio::select! {
                biased;
                _ = signals.next() => return Ok(()),
                ended = self.running.join_next() => {
                    let Some(ended) = ended else {
                        return Err(Failure::new(Reason::Failed, SupervisorError::NoneLeft));
                    };
                    let (id, status) = ended.context("the watch over a node failed")?;
                    self.pids.remove(&id);
                    self.report_end(id, &status);
                }
            }
        }
    }

    /// Stops what runs: cleanly, then by force.
    async fn stop(&mut self, signals: &mut Signals) -> Result<(), Failure> {
        if self.running.is_empty() {
            return Ok(());
        }
        say!("\nStopping {} nodes …", self.running.len());
        self.wanted.send_replace(Wanted::Terminate);
        let deadline = Instant::now() + STOP_DEADLINE;
        loop {
            tokio::select! {
                biased;
                ended = self.running.join_next() => match ended {
                    None => return Ok(()),
                    Some(Ok((id, status))) if !status.as_ref().is_ok_and(ExitStatus::success) => {
                        self.report_end(id, &status);
                    }
                    Some(_) => {}
                },
                _ = signals.next() => {
                    self.kill().await;
                    return Err(Failure::new(Reason::Interrupted, SupervisorError::Interrupted));
                }
                () = tokio::time::sleep_until(deadline) => {
                    let late = self.running.len();
                    say!("{late} nodes did not stop within {} s: killed", STOP_DEADLINE.as_secs());
                    self.kill().await;
                    return Ok(());
                }
            }
        }
    }

    async fn kill(&mut self) {
        self.wanted.send_replace(Wanted::Kill);
        while self.running.join_next().await.is_some() {}
    }

    fn node(&self, id: u16) -> &NodeLayout {
        let find = |node: &&NodeLayout| node.id == id;
        self.layout.nodes.iter().find(find).expect("only nodes of the layout are started")
    }

    fn ended_early(&self, id: u16, status: &io::Result<ExitStatus>) -> Failure {
        let log = self.node(id).log();
        print_tail(&log);
        let how = describe(status);
        Failure::new(Reason::Failed, SupervisorError::EndedEarly { node: id, how, log })
    }

    fn report_end(&self, id: u16, status: &io::Result<ExitStatus>) {
        let node = self.node(id);
        say!("\nnode {id} has ended: {}. Its last log lines:", describe(status));
        print_tail(&node.log());
        if *self.wanted.borrow() == Wanted::Run {
            say!("{} nodes go on. To bring it back:", self.running.len());
            say!("  {} serve --config {}", self.program.display(), node.config().display());
        }
    }

    fn write_cluster_file(&self) -> Result<(), Failure> {
        let running = |node: &NodeLayout| Running {
            id: node.id,
            pid: self.pids.get(&node.id).copied().unwrap_or_default(),
            http_url: node.http_url(),
            admin_url: node.admin_url(),
            data_dir: node.data(),
            config: node.config(),
            log: node.log(),
        };
        let cluster = Cluster {
            format: 1,
            admin_token_file: self.layout.token_file(),
            nodes: self.layout.nodes.iter().map(running).collect(),
        };
        let mut json = serde_json::to_vec_pretty(&cluster).context("cannot write JSON")?;
        json.push(b'\n');
        let path = self.layout.cluster_file();
        files::replace(&path, &json, Access::Public)
            .with_context(|| format!("cannot write {}", path.display()))
            .or_exit(Reason::DataDirectory)
    }
}

fn refuse_unready(node: &NodeLayout, answer: Answer) -> Result<(), Failure> {
    let why = match answer {
        Answer::Ready => return Ok(()),
        Answer::NotReady(why) => why,
        Answer::Silent => "it does not answer".to_owned(),
    };
    let log = node.log();
    print_tail(&log);
    Err(Failure::new(Reason::Cluster, SupervisorError::NotReady { node: node.id, why, log }))
}

fn describe(status: &io::Result<ExitStatus>) -> String {
    match status {
        Ok(status) => status.to_string(),
        Err(error) => error.to_string(),
    }
}

fn print_tail(log: &Path) {
    for line in tail(log) {
        say!("  | {line}");
    }
}

fn remove(path: &Path) -> Result<(), Failure> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error)
            .with_context(|| format!("cannot remove {}", path.display()))
            .or_exit(Reason::DataDirectory),
        _ => Ok(()),
    }
}
