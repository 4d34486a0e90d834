//! Cold starts: how long a node with much data takes until it is ready.

use std::{collections::BTreeMap, fs, path::Path, time::Duration};

use anyhow::Result;
use rustix::fs::{Advice, fadvise};
use serde::Serialize;
use tokio::time::Instant;

use super::{
    fill::Fill,
    target::{Fresh, SETTLE},
};
use crate::cluster::LocalCluster;

/// The node that is started again and again.
const NODE: u16 = 3;

/// What to measure.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Bytes of content that wait in mailboxes.
    pub stored_bytes: u64,
    /// Content of each message, in bytes before Base64.
    pub content_bytes: usize,
    /// Mailboxes they go to, in turn.
    pub mailboxes: u32,
    /// Starts of each kind.
    pub starts: u32,
}

impl Plan {
    /// What the bars are measured with: 1 GiB.
    pub const USUAL: Self =
        Self { stored_bytes: 1 << 30, content_bytes: 1_024, mailboxes: 1_000, starts: 3 };
}

/// How a node ended before a start, and what of its files was in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum After {
    /// SIGTERM, files in the page cache.
    Stop,
    /// SIGTERM, and nothing in the page cache.
    StopUncached,
    /// `kill -9`, files in the page cache.
    Kill,
    /// `kill -9`, and nothing in the page cache.
    KillUncached,
}

impl After {
    const ALL: [Self; 4] = [Self::Stop, Self::StopUncached, Self::Kill, Self::KillUncached];
}

/// What came of it.
#[derive(Clone, Debug, Serialize)]
pub struct ColdReport {
    /// Messages that wait.
    pub messages: u64,
    /// Content of each.
    pub content_bytes: usize,
    /// How long it took to send them.
    pub fill_seconds: f64,
    /// Bytes of the node's files before the first start, by directory.
    pub file_bytes: BTreeMap<String, u64>,
    /// Seconds until ready, of each start.
    pub starts: Vec<(After, Vec<f64>)>,
}

/// Fills a fresh cluster and starts one of its nodes again and again.
///
/// # Errors
/// When something is not accepted, or a node does not start.
pub async fn run(fresh: &Fresh, plan: Plan) -> Result<ColdReport> {
    let mut cluster = LocalCluster::start(fresh.options("cold")).await?;
    let messages = plan.stored_bytes / plan.content_bytes.max(1) as u64;
    let began = Instant::now();
    let Plan { content_bytes, mailboxes, .. } = plan;
    Fill { messages, mailboxes, content_bytes }.pour(&cluster.doors(), 0).await?;
    let fill_seconds = began.elapsed().as_secs_f64();
    cluster.caught_up().await?;
    // Starts are to be measured, and not what else the disk does.
    tokio::time::sleep(SETTLE).await;
    let file_bytes = file_bytes(&cluster.node(NODE)?.data_dir)?;
    let mut starts = Vec::new();
    for after in After::ALL {
        let mut seconds = Vec::new();
        for _ in 0..plan.starts {
            seconds.push(start(&mut cluster, after).await?.as_secs_f64());
            cluster.caught_up().await?;
        }
        starts.push((after, seconds));
    }
    cluster.stop().await?;
    Ok(ColdReport { messages, content_bytes, fill_seconds, file_bytes, starts })
}

async fn start(cluster: &mut LocalCluster, after: After) -> Result<Duration> {
    match after {
        After::Stop | After::StopUncached => cluster.stop_node(NODE).await?,
        After::Kill | After::KillUncached => cluster.kill(&[NODE]).await?,
    }
    if matches!(after, After::StopUncached | After::KillUncached) {
        forget(&cluster.node(NODE)?.data_dir)?;
    }
    let began = Instant::now();
    cluster.restart(&[NODE])?;
    cluster.ready(NODE).await?;
    Ok(began.elapsed())
}

/// Takes the files below `dir` out of the page cache.
fn forget(dir: &Path) -> Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            forget(&entry.path())?;
            continue;
        }
        let file = fs::File::open(entry.path())?;
        // What is not on the disk cannot be forgotten.
        file.sync_all()?;
        fadvise(&file, 0, None, Advice::DontNeed)?;
    }
    Ok(())
}

fn file_bytes(data: &Path) -> Result<BTreeMap<String, u64>> {
    let mut bytes = BTreeMap::new();
    for entry in fs::read_dir(data)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            let mut sum = 0;
            for file in fs::read_dir(entry.path())? {
                sum += file?.metadata()?.len();
            }
            bytes.insert(entry.file_name().to_string_lossy().into_owned(), sum);
        }
    }
    Ok(bytes)
}
