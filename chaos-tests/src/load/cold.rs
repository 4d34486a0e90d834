//! Cold starts: how long a node with much data takes until it is ready.

use std::{collections::BTreeMap, fs, path::Path, time::Duration};

use anyhow::{Context as _, Result, ensure};
use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use rand::RngCore as _;
use rustix::fs::{Advice, fadvise};
use serde::Serialize;
use tokio::{task::JoinSet, time::Instant};

use super::{
    closed::message,
    fleet::{devices, glance, sockets},
};
use crate::{
    cluster::{LocalCluster, Options},
    wire::{Dial, Socket},
};

/// Sending connections, and messages in flight on each.
const SENDERS: u32 = 12;
const WINDOW: u64 = 64;
/// Messages that a sender may have to send again: leaderships move in the first seconds.
const AGAIN_MAX: u32 = 1_000;
const MAILBOX: &str = "cold-to-";
const MESSAGE: &str = "cold-";
/// How long connecting may take.
const DEADLINE: Duration = Duration::from_secs(30);
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
    /// Bytes of the node's files, by directory.
    pub file_bytes: BTreeMap<String, u64>,
    /// Seconds until ready, of each start.
    pub starts: Vec<(After, Vec<f64>)>,
}

/// Fills a fresh cluster and starts one of its nodes again and again.
///
/// # Errors
/// When something is not accepted, or a node does not start.
pub async fn run(plan: Plan) -> Result<ColdReport> {
    let mut cluster = LocalCluster::start(Options::three("cold")).await?;
    let messages = plan.stored_bytes / plan.content_bytes.max(1) as u64;
    let began = Instant::now();
    fill(&cluster, plan, messages).await?;
    let fill_seconds = began.elapsed().as_secs_f64();
    cluster.caught_up().await?;
    let mut starts = Vec::new();
    for after in After::ALL {
        let mut seconds = Vec::new();
        for _ in 0..plan.starts {
            seconds.push(start(&mut cluster, after).await?.as_secs_f64());
            cluster.caught_up().await?;
        }
        starts.push((after, seconds));
    }
    let file_bytes = file_bytes(&cluster.node(NODE)?.data_dir)?;
    cluster.stop().await?;
    let content_bytes = plan.content_bytes;
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

async fn fill(cluster: &LocalCluster, plan: Plan, messages: u64) -> Result<()> {
    let nodes = cluster.addresses();
    let senders = devices(&nodes, "cold-from", SENDERS).await?;
    let dial = |at: usize| Dial::to(nodes[at % nodes.len()], DEADLINE);
    let dials = senders.into_iter().enumerate().map(|(at, device)| (dial(at), device)).collect();
    let mut bytes = vec![0; plan.content_bytes];
    rand::rng().fill_bytes(&mut bytes);
    let content = BASE64.encode(bytes);
    let mut tasks = JoinSet::new();
    for (number, socket) in (0..).zip(sockets(dials).await?) {
        let numbers = (number..messages).step_by(SENDERS as usize);
        tasks.spawn(send(socket, plan.mailboxes, content.clone(), numbers));
    }
    while let Some(ended) = tasks.join_next().await {
        ended.context("a sender failed")??;
    }
    Ok(())
}

async fn send(
    mut socket: Socket,
    mailboxes: u32,
    content: String,
    numbers: impl Iterator<Item = u64>,
) -> Result<()> {
    let frame = |number: u64| {
        let mailbox = format!("{MAILBOX}{}", number % u64::from(mailboxes));
        message(&mailbox, &format!("{MESSAGE}{number}"), &content)
    };
    let (mut in_flight, mut again) = (0, 0);
    let mut numbers = numbers.fuse();
    loop {
        let next = if in_flight < WINDOW { numbers.next() } else { None };
        if let Some(number) = next {
            socket.send_text(frame(number)).await?;
            in_flight += 1;
            continue;
        }
        if in_flight == 0 {
            return Ok(());
        }
        match refused(&mut socket).await? {
            None => in_flight -= 1,
            // Leaders settle after a start: the id makes it safe to ask again.
            Some(number) => {
                again += 1;
                ensure!(again < AGAIN_MAX, "too many messages are not accepted");
                socket.send_text(frame(number)).await?;
            }
        }
    }
}

/// Reads an answer: `None` where a message was accepted, else which one was not.
async fn refused(socket: &mut Socket) -> Result<Option<u64>> {
    let text = socket.next_text().await?;
    let frame = glance(&text)?;
    if frame.kind == "accepted" {
        return Ok(None);
    }
    let id = frame.message_id.as_deref().and_then(|id| id.strip_prefix(MESSAGE));
    let number = id.and_then(|number| number.parse().ok());
    number.map(Some).with_context(|| format!("a sender was answered {text}"))
}
