//! Disks that fill up: each node has a small file system of its own. A node that is short of space
//! says so and leads nothing; when all are, new messages are refused before a disk is full, what is
//! there is read and acknowledged, and with space everything goes on by itself. Nothing accepted is
//! lost.
//!
//! The file systems are mounted in namespaces of their own, without privilege; where the system
//! refuses them the trial says so and shows nothing.

use std::{
    collections::BTreeSet,
    fs,
    net::SocketAddr,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use heliograph_chaos_tests::{
    cluster::{LocalCluster, Options, heliograph_binary, run_directory},
    wire::{Device, Rest, register},
};
use hyper::StatusCode;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::support::metric;

/// Far longer than anything here takes.
const DEADLINE: Duration = Duration::from_secs(120);
const QUESTION: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(100);
const NODES: [u16; 3] = [1, 2, 3];

const MIB: u64 = 1 << 20;
/// A node's file system, at first and in the end.
const SIZES_MIB: [u64; 2] = [192, 640];
/// `storage.disk-free-min`. Free space is looked at every two seconds: at what an unoptimised
/// cluster takes in, far less than this comes in between.
const FREE_MIN_MIB: u64 = 80;
/// Of a message: base64 of three quarters of it.
const CONTENT_BYTES: usize = 64 << 10;
/// Enough that each shard has some.
const MAILBOXES: usize = 48;

const SETTINGS: [(&str, &str); 5] = [
    ("HELIOGRAPH_STORAGE__DISK_FREE_MIN", "80MiB"),
    ("HELIOGRAPH_STORAGE__LOG_SEGMENT_SIZE", "1MiB"),
    ("HELIOGRAPH_STORAGE__CHECKPOINT_AGE", "1s"),
    ("HELIOGRAPH_STORAGE__SNAPSHOT_AGE", "5s"),
    ("HELIOGRAPH_STORAGE__SNAPSHOT_LOG_SIZE", "8MiB"),
];
const FREE: &str = "heliograph_cluster_disk_free_bytes";
const FAIL_SAFE: &str = "heliograph_cluster_fail_safe";

/// A program that runs the product's and gives each node that it serves a file system of its own.
fn binary() -> Result<PathBuf> {
    let path = run_directory()?.join(format!("own-disk-{}", std::process::id()));
    let text = format!(
        "#!/bin/sh\n\
         if [ \"$1\" = serve ]; then\n\
         for last; do :; done\n\
         export DATA=\"$(dirname \"$last\")/data\" HELIOGRAPH={own:?}\n\
         mkdir -p \"$DATA\"\n\
         exec unshare --user --map-root-user --mount sh -c \\\n\
         'mount -t tmpfs -o size={size}m,mode=0700 tmpfs \"$DATA\" && exec \"$HELIOGRAPH\" \"$@\"' sh \"$@\"\n\
         fi\n\
         exec {own:?} \"$@\"\n",
        own = heliograph_binary()?,
        size = SIZES_MIB[0],
    );
    fs::write(&path, text)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    Ok(path)
}

/// Why there are no own file systems; `None` where there are.
fn refusal() -> Option<String> {
    let mut trial = Command::new("unshare");
    trial.args(["--user", "--map-root-user", "--mount", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]);
    match trial.output() {
        Ok(output) if output.status.success() => None,
        Ok(output) => Some(String::from_utf8_lossy(&output.stderr).into_owned()),
        Err(error) => Some(error.to_string()),
    }
}

/// A file that takes space on a node's disk, as its processes see it.
fn ballast(cluster: &LocalCluster, node: u16) -> Result<PathBuf> {
    let node = cluster.node(node)?;
    let data = node.data_dir.strip_prefix("/")?;
    Ok(Path::new("/proc").join(node.pid.to_string()).join("root").join(data).join("ballast"))
}

/// Gives all nodes a larger disk.
fn enlarge(cluster: &LocalCluster) -> Result<()> {
    for id in NODES {
        let node = cluster.node(id)?;
        let mut command = Command::new("nsenter");
        command.args(["--user", "--mount", "--preserve-credentials", "--target"]);
        command.arg(node.pid.to_string());
        command.args(["mount", "-o", &format!("remount,size={}m", SIZES_MIB[1])]);
        let output = command.arg(&node.data_dir).output()?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}

/// Who sends, to whom, and what was accepted and not acknowledged.
struct Traffic {
    addresses: Vec<SocketAddr>,
    sender: Device,
    recipients: Vec<Device>,
    content: String,
    sent: usize,
    kept: BTreeSet<(usize, String)>,
}

impl Traffic {
    async fn start(cluster: &LocalCluster) -> Result<Self> {
        let addresses = cluster.addresses();
        let mut rest = Rest::new(addresses[0], None);
        let sender = register(&mut rest, "filler", DEADLINE).await?;
        let mut recipients = Vec::new();
        for number in 0..MAILBOXES {
            recipients.push(register(&mut rest, &format!("box-{number}"), DEADLINE).await?);
        }
        let content = "A".repeat(CONTENT_BYTES);
        Ok(Self { addresses, sender, recipients, content, sent: 0, kept: BTreeSet::new() })
    }

    /// Sends one message to this mailbox by this node; answers the status and the code of a problem.
    async fn send(&mut self, to: usize, rest: &mut Rest) -> Result<(StatusCode, String)> {
        self.sent += 1;
        let id = format!("m-{}", self.sent);
        let body = json!({"recipient_id": self.recipients[to].id, "message_id": id,
            "content": self.content});
        let reply = rest.post("/api/v1/messages/send", &body, QUESTION).await?;
        if reply.status == StatusCode::ACCEPTED {
            self.kept.insert((to, id));
        }
        Ok((reply.status, reply.code().to_owned()))
    }

    fn rest(&self, node: u16) -> Rest {
        self.sender.rest(self.addresses[usize::from(node) - 1])
    }

    /// Sends to all mailboxes by this node; answers how many were accepted. What is refused is
    /// refused as the documentation says.
    async fn round(&mut self, node: u16) -> Result<usize> {
        let (mut rest, mut accepted) = (self.rest(node), 0);
        for to in 0..MAILBOXES {
            match self.send(to, &mut rest).await? {
                (StatusCode::ACCEPTED, _) => accepted += 1,
                (StatusCode::SERVICE_UNAVAILABLE, code) if code == "overloaded" => {}
                // Leaderships move while nodes turn short, one after the other.
                (StatusCode::SERVICE_UNAVAILABLE, code) if code == "unavailable" => {}
                other => anyhow::bail!("a message was answered {other:?}"),
            }
        }
        Ok(accepted)
    }

    /// Sends, by these nodes in turn, until as many of the mailboxes as that take something. Who is
    /// refused while leaders change tries again.
    async fn until(&mut self, nodes: &[u16], wanted: usize, what: &str) -> Result<()> {
        let until = Instant::now() + DEADLINE;
        for round in 0.. {
            let accepted = self.round(nodes[round % nodes.len()]).await?;
            if accepted == wanted {
                return Ok(());
            }
            ensure!(Instant::now() < until, "{what}: {accepted} mailboxes take messages");
            sleep(POLL).await;
        }
        unreachable!("rounds go on until the deadline")
    }

    /// What is in a mailbox, at most so many, read by this node.
    async fn read(&self, node: u16, from: usize, limit: usize) -> Result<Vec<String>> {
        let device = &self.recipients[from];
        let path = format!("/api/v1/messages/receive/{}?limit={limit}", device.id);
        let mut rest = device.rest(self.addresses[usize::from(node) - 1]);
        let reply = rest.get(&path, QUESTION).await?;
        ensure!(reply.status == StatusCode::OK, "{reply:?}");
        let messages = reply.body.as_array().context("messages")?;
        let id = |message: &Value| Some(message["message_id"].as_str()?.to_owned());
        messages.iter().map(|message| id(message).context("a message has an id")).collect()
    }

    /// Acknowledges what was read.
    async fn acknowledge(&mut self, node: u16, from: usize, ids: &[String]) -> Result<()> {
        let device = &self.recipients[from];
        let mut rest = device.rest(self.addresses[usize::from(node) - 1]);
        let body = json!({"message_ids": ids});
        let reply = rest.post("/api/v1/messages/acknowledge", &body, QUESTION).await?;
        let is_done = reply.body["acknowledged"].as_u64() == Some(ids.len() as u64);
        ensure!(reply.status == StatusCode::OK && is_done, "{reply:?}");
        for id in ids {
            self.kept.remove(&(from, id.clone()));
        }
        Ok(())
    }

    /// Reads and acknowledges everything by this node; all that was accepted must be there.
    async fn drain(&mut self, node: u16) -> Result<()> {
        for from in 0..MAILBOXES {
            loop {
                let ids = self.read(node, from, 100).await?;
                if ids.is_empty() {
                    break;
                }
                self.acknowledge(node, from, &ids).await?;
            }
        }
        ensure!(self.kept.is_empty(), "accepted and lost: {:?}", self.kept);
        Ok(())
    }
}

/// Waits until a node leads nothing, or something.
async fn leads(cluster: &mut LocalCluster, node: u16, is_wanted: fn(u32) -> bool) -> Result<()> {
    let until = Instant::now() + DEADLINE;
    loop {
        let standing = cluster.standing().await?;
        let found = standing.nodes.iter().find(|hit| hit.node == node).map(|hit| hit.leads);
        if found.is_some_and(is_wanted) {
            return Ok(());
        }
        ensure!(Instant::now() < until, "node {node} leads {found:?} groups");
        sleep(POLL).await;
    }
}

/// Waits until the operators' status says that all is not well; it says more while leaders change.
async fn is_told(cluster: &mut LocalCluster) -> Result<()> {
    let until = Instant::now() + DEADLINE;
    loop {
        let health = cluster.standing().await?.health;
        if health == "degraded" {
            return Ok(());
        }
        ensure!(Instant::now() < until, "operators are told that the cluster is {health}");
        sleep(POLL).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn full_disks_refuse_in_time_and_go_on_when_there_is_space() -> Result<()> {
    if let Some(why) = refusal() {
        eprintln!("nothing is shown: the system gives no own file systems: {why}");
        return Ok(());
    }
    let mut options = Options::three("low-space");
    options.binary = Some(binary()?);
    options.settings = SETTINGS.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
    let mut cluster = LocalCluster::start(options).await?;
    let shown = show(&mut cluster).await;
    if shown.is_err() {
        cluster.keep_logs();
    }
    shown
}

async fn show(cluster: &mut LocalCluster) -> Result<()> {
    let mut traffic = Traffic::start(cluster).await?;
    traffic.until(&NODES, MAILBOXES, "nobody is short").await?;

    // One node is short: it leads nothing, says so, and serves its clients through the others.
    let node = 2;
    let began = Instant::now();
    let room = (SIZES_MIB[0] - FREE_MIN_MIB / 2) * MIB;
    fs::File::create(ballast(cluster, node)?)?.set_len(0)?;
    let free = metric(cluster, node, FREE, "").await? as u64;
    let used = SIZES_MIB[0] * MIB - free;
    fs::write(ballast(cluster, node)?, vec![1; (room - used) as usize])?;
    leads(cluster, node, |groups| groups == 0).await?;
    is_told(cluster).await?;
    traffic.until(&[node], MAILBOXES, "its clients are served by the others").await?;
    let reply = Rest::new(cluster.node(node)?.http, None).get("/readyz", QUESTION).await?;
    ensure!(reply.status == StatusCode::OK, "it stays ready: {reply:?}");
    eprintln!("one node short: leads nothing after {:?}", began.elapsed());
    fs::remove_file(ballast(cluster, node)?)?;
    leads(cluster, node, |groups| groups > 0).await?;

    // All fill up by what they are sent.
    let began = Instant::now();
    traffic.until(&NODES, 0, "all turn short").await?;
    eprintln!("all refuse after {:?}, {} accepted", began.elapsed(), traffic.kept.len());
    for id in NODES {
        let free = metric(cluster, id, FREE, "").await?;
        eprintln!("  node {id}: {:.0} MiB are free", free / MIB as f64);
        ensure!(free > 0.0, "the disk of node {id} is full");
        ensure!(metric(cluster, id, FAIL_SAFE, "").await? == 0.0, "node {id} met a write error");
    }
    // What is there is read and acknowledged, by each of them.
    for id in NODES {
        for from in 0..MAILBOXES {
            let ids = traffic.read(id, from, 1).await?;
            ensure!(ids.len() == 1, "mailbox {from} is empty at node {id}");
            traffic.acknowledge(id, from, &ids).await?;
        }
    }
    is_told(cluster).await?;

    // Space comes: all go on, in the same processes.
    let began = Instant::now();
    enlarge(cluster)?;
    traffic.until(&NODES, MAILBOXES, "there is space").await?;
    eprintln!("all accept {:?} after there was space", began.elapsed());
    for id in NODES {
        ensure!(cluster.is_running(id), "node {id} has ended");
    }
    traffic.drain(3).await
}
