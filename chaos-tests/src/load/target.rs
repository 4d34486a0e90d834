//! The cluster under load: one that runs, or one of our own.

use std::{path::Path, time::Duration};

use anyhow::{Context as _, Result};
use tokio::time::{Instant, sleep_until};

use super::{
    counts::Counts,
    reign::{Leadership, Reign},
    report::NodeUse,
};
use crate::{
    cluster::{ClientPort, LocalCluster, NodeInfo, Options, Usage, read_manifest, usage_of},
    wire::Door,
};

/// How long leaderships may take to be where they are to be after a start.
pub(super) const WHOLE: Duration = Duration::from_secs(60);

/// How long a cluster is left alone before what it has taken in is looked at. Longer than a checkpoint waits
/// (30 s), and than what is written of a GiB then takes.
pub(super) const SETTLE: Duration = Duration::from_secs(60);

/// How often a long run says how far it is.
const TELL_EVERY: Duration = Duration::from_secs(30);

/// A fresh cluster, as it is to be.
#[derive(Clone, Copy, Debug)]
pub struct Fresh {
    /// Nodes.
    pub nodes: u16,
    /// Shards.
    pub shards: u16,
    /// What they speak with clients.
    pub client: ClientPort,
}

/// How many threads of a node serve.
const WORKER_THREADS: &str = "HELIOGRAPH_NODE__WORKER_THREADS";

impl Fresh {
    /// What [`LocalCluster::start`] takes. Nodes share the machine's processors, as those of `heliograph dev`
    /// do, but where the environment says otherwise.
    pub(super) fn options(&self, name: &'static str) -> Options {
        let mut settings = vec![("HELIOGRAPH_CLUSTER__SHARDS".to_owned(), self.shards.to_string())];
        if std::env::var_os(WORKER_THREADS).is_none() {
            let processors = std::thread::available_parallelism().map_or(1, usize::from);
            let threads = (processors / usize::from(self.nodes.max(1))).max(1);
            settings.push((WORKER_THREADS.to_owned(), threads.to_string()));
        }
        Options { nodes: self.nodes, settings, client: self.client, ..Options::three(name) }
    }
}

/// Where the load goes.
#[derive(Debug)]
pub struct Target {
    nodes: Vec<NodeInfo>,
    doors: Vec<Door>,
    /// Ours, so that it lives as long as the measurement.
    _own: Option<LocalCluster>,
}

/// What everybody used when a measurement began.
#[derive(Debug)]
pub(super) struct Mark {
    at: Instant,
    own: Usage,
    nodes: Vec<Usage>,
}

/// What everybody used in the measured time, and who led.
#[derive(Debug)]
pub(super) struct Window {
    pub(super) generator: NodeUse,
    pub(super) nodes: Vec<NodeUse>,
    pub(super) leadership: Leadership,
}

impl Target {
    /// The cluster that `heliograph dev` runs on `directory`.
    ///
    /// # Errors
    /// When there is none.
    pub fn running(directory: &Path) -> Result<Self> {
        let path = directory.join("cluster.json");
        let nodes = read_manifest(&path)?.context("no heliograph dev runs on that directory")?;
        let doors = nodes.iter().map(|node| Door::plain(node.http)).collect();
        Ok(Self { nodes, doors, _own: None })
    }

    /// A fresh cluster whose leaders are where they are to be.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn fresh(fresh: &Fresh) -> Result<Self> {
        let mut cluster = LocalCluster::start(fresh.options("load")).await?;
        cluster.whole(WHOLE).await?;
        Ok(Self { nodes: cluster.nodes().to_vec(), doors: cluster.doors(), _own: Some(cluster) })
    }

    /// Where the nodes serve clients.
    pub(super) fn doors(&self) -> &[Door] {
        &self.doors
    }

    /// Remembers what everybody has used so far.
    pub(super) fn mark(&self) -> Result<Mark> {
        let nodes = self.nodes.iter().map(|node| usage_of(node.pid)).collect::<Result<_>>()?;
        Ok(Mark { at: Instant::now(), own: usage_of(std::process::id())?, nodes })
    }

    /// What everybody uses now, and has used since `mark`.
    pub(super) fn since(&self, mark: &Mark) -> Result<(NodeUse, Vec<NodeUse>)> {
        let elapsed = mark.at.elapsed().max(Duration::from_millis(1)).as_secs_f64();
        let compare = |id, before: &Usage, now: Usage| NodeUse {
            id,
            cores: now.cpu.saturating_sub(before.cpu).as_secs_f64() / elapsed,
            resident_bytes: now.resident_bytes,
            anonymous_bytes: now.anonymous_bytes,
            written_bytes_per_second: now.written_bytes.saturating_sub(before.written_bytes) as f64
                / elapsed,
        };
        let own = compare(0, &mark.own, usage_of(std::process::id())?);
        let mut nodes = Vec::new();
        for (node, before) in self.nodes.iter().zip(&mark.nodes) {
            nodes.push(compare(node.id, before, usage_of(node.pid)?));
        }
        Ok((own, nodes))
    }

    /// What every node uses now; what it has used is that of no time at all.
    pub(super) fn now(&self) -> Result<Vec<NodeUse>> {
        Ok(self.since(&self.mark()?)?.1)
    }

    /// Who leads now.
    pub(super) async fn reign(&self) -> Result<Reign> {
        Reign::of(&self.nodes, &self.doors).await
    }

    /// Waits for a run's measured time and answers what was used in it. Says on the way how far it is.
    pub(super) async fn window(&self, counts: &Counts) -> Result<Window> {
        sleep_until(counts.started + counts.measure_from).await;
        let before = self.reign().await?;
        let mark = self.mark()?;
        let end = counts.started + counts.measure_until;
        let mut tell = Instant::now() + TELL_EVERY;
        while tell < end {
            sleep_until(tell).await;
            eprintln!("{}", counts.progress());
            tell += TELL_EVERY;
        }
        sleep_until(end).await;
        let (generator, nodes) = self.since(&mark)?;
        let leadership = before.changes(&self.reign().await?);
        Ok(Window { generator, nodes, leadership })
    }
}
