//! NATS JetStream: replicated file streams by subject, a durable push consumer a mailbox.
//!
//! 100 mailboxes are subjects of 16 streams of three replicas, with work-queue retention: what
//! its consumer has acknowledged is forgotten, as in a mailbox. Fewer Raft groups than a stream a
//! mailbox, so that more messages share an entry's costs; see docs/comparison.md.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

use anyhow::{Context as _, Result, ensure};
use async_nats::{
    Client, ConnectOptions, Subscriber,
    jetstream::{self, Context},
};
use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use rustix::fs::{IFlags, ioctl_getflags, ioctl_setflags};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::{
    counts::{Counts, Inbox},
    peer::{Answer, Cluster, Consume, Consumers, NODES, Publisher, Setting},
    process::{Process, output},
    wait::until,
    work::SENDERS_MAX,
};

/// Messages that a consumer may hold unacknowledged: more than are ever in flight to a mailbox, so
/// that the window does not bound what is measured.
const ACK_PENDING_MAX: u32 = 2_048;
/// Streams and consumers that are made at once.
const MADE_AT_ONCE: usize = 16;
/// Ports, counted from the cluster's first: clients, nodes.
const CLIENTS: u16 = 0;
const NODE: u16 = 8;

/// When the disk has what a node has written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sync {
    /// When the kernel or the server gets to it: version 2.9 syncs every two minutes.
    Lazy,
    /// With each write. Version 2.9 has no setting for it, but the file system has: the attribute
    /// of `chattr +S` on the directory, which all files in it inherit.
    EachWrite,
}

/// Three servers.
pub struct Nats {
    directory: PathBuf,
    first_port: u16,
    streams: u32,
    nodes: Vec<Option<Process>>,
    prepared: u32,
}

/// A connection with JetStream.
pub struct NatsPublisher {
    context: Context,
    streams: u32,
}

impl Nats {
    /// Starts the cluster; mailboxes are spread over `streams` streams.
    ///
    /// # Errors
    /// When it is not ready in time.
    pub async fn start(setting: Setting<'_>, streams: u32, sync: Sync) -> Result<Self> {
        let directory = setting.directory.to_owned();
        for node in 0..NODES {
            let store = directory.join(format!("data-{node}"));
            fs::create_dir_all(&store)?;
            if sync == Sync::EachWrite {
                sync_each_write(&store)?;
            }
            let text = config(setting.first_port, node, &store);
            fs::write(directory.join(format!("node-{node}.conf")), text)?;
        }
        let mut cluster = Self {
            directory,
            first_port: setting.first_port,
            streams: streams.max(1),
            nodes: Vec::new(),
            prepared: 0,
        };
        for node in 0..NODES {
            let process = cluster.start_node(node)?;
            cluster.nodes.push(Some(process));
        }
        for node in 0..NODES {
            cluster.serves(node).await?;
        }
        Ok(cluster)
    }

    fn start_node(&self, node: usize) -> Result<Process> {
        let mut command = Command::new("nats-server");
        command.arg("--config").arg(self.directory.join(format!("node-{node}.conf")));
        Process::start(&mut command, &self.directory.join(format!("node-{node}.log")))
    }

    async fn connect(&self, node: usize) -> Result<Client> {
        let port = self.first_port + CLIENTS + node as u16;
        // A client stays at its node.
        let options = ConnectOptions::new().ignore_discovered_servers();
        Ok(options.connect(format!("nats://127.0.0.1:{port}")).await?)
    }

    /// Waits until a node serves clients and JetStream answers.
    async fn serves(&mut self, node: usize) -> Result<()> {
        let log = self.directory.join(format!("node-{node}.log"));
        until(&format!("NATS node {node} serves, see {}", log.display()), async || {
            let ended = self.nodes[node].as_mut().is_none_or(Process::has_ended);
            ensure!(!ended, "it has ended");
            ask(&self.connect(node).await?, "INFO", &Value::Null).await?;
            Ok(true)
        })
        .await
    }

    /// The streams that are there.
    fn made(&self) -> u32 {
        self.streams.min(self.prepared)
    }

    async fn make_stream(&self, client: &Client, number: u32) -> Result<()> {
        let name = stream_name(number);
        let config = json!({"name": name, "subjects": [format!("box.{number}.*")],
            "retention": "workqueue", "storage": "file", "num_replicas": NODES,
            "max_consumers": -1, "max_msgs": -1, "max_bytes": -1});
        // Refused until all nodes know each other.
        until("NATS takes a stream", async || {
            ask(client, &format!("STREAM.CREATE.{name}"), &config).await?;
            Ok(true)
        })
        .await
    }

    async fn make_consumer(&self, client: &Client, mailbox: u32) -> Result<()> {
        let (stream, name) = (stream_name(mailbox % self.streams), format!("mailbox-{mailbox}"));
        let config = json!({"durable_name": name, "deliver_subject": delivery(mailbox),
            "filter_subject": subject(self.streams, mailbox), "deliver_policy": "all",
            "ack_policy": "explicit", "max_ack_pending": ACK_PENDING_MAX,
            "replay_policy": "instant"});
        let body = json!({"stream_name": stream, "config": config});
        until("NATS takes a consumer", async || {
            ask(client, &format!("CONSUMER.DURABLE.CREATE.{stream}.{name}"), &body).await?;
            Ok(true)
        })
        .await
    }
}

/// A request to JetStream's API, whose JSON is the same for all versions: the typed one of
/// the client wants fields that a server of 2.9 does not know.
async fn ask(client: &Client, what: &str, body: &Value) -> Result<Value> {
    let body = if body.is_null() { Bytes::new() } else { body.to_string().into() };
    let reply = client.request(format!("$JS.API.{what}"), body).await?;
    let answer: Value = serde_json::from_slice(&reply.payload)?;
    ensure!(answer["error"].is_null(), "{what}: {}", answer["error"]);
    Ok(answer)
}

async fn info(client: &Client, stream: u32) -> Result<Value> {
    ask(client, &format!("STREAM.INFO.{}", stream_name(stream)), &Value::Null).await
}

/// Which node leads a stream.
fn leader(info: &Value) -> Option<usize> {
    let name = info["cluster"]["leader"].as_str()?;
    (0..NODES).find(|node| node_name(*node) == name)
}

/// Whether all replicas of a stream have what its leader has.
fn is_whole(info: &Value) -> bool {
    let replicas = info["cluster"]["replicas"].as_array();
    let current = |peer: &&Value| peer["current"] == true && peer["offline"] != true;
    replicas.is_some_and(|replicas| replicas.iter().filter(current).count() + 1 == NODES)
}

fn node_name(node: usize) -> String {
    format!("n{}", node + 1)
}

fn stream_name(number: u32) -> String {
    format!("stream-{number}")
}

fn delivery(mailbox: u32) -> String {
    format!("deliver.{mailbox}")
}

fn subject(streams: u32, mailbox: u32) -> String {
    format!("box.{}.{mailbox}", mailbox % streams)
}

fn config(first_port: u16, node: usize, store: &Path) -> String {
    let route = |peer| format!("nats-route://127.0.0.1:{}", first_port + NODE + peer as u16);
    let routes: Vec<String> = (0..NODES).map(route).collect();
    format!(
        "server_name: {}\nlisten: \"127.0.0.1:{}\"\njetstream {{ store_dir: {store:?} }}\n\
         cluster {{ name: comparison, listen: \"127.0.0.1:{}\", routes: {routes:?} }}\n",
        node_name(node),
        first_port + CLIENTS + node as u16,
        first_port + NODE + node as u16,
    )
}

/// Makes the file system sync each write to the files that will be made in `directory`.
fn sync_each_write(directory: &Path) -> Result<()> {
    let directory = File::open(directory)?;
    let set = ioctl_getflags(&directory).and_then(|flags| {
        ioctl_setflags(&directory, flags | IFlags::SYNC)?;
        ioctl_getflags(&directory)
    });
    let flags = set.context("this file system has no attribute for synchronous writes")?;
    ensure!(flags.contains(IFlags::SYNC), "the file system did not keep the attribute");
    Ok(())
}

impl Cluster for Nats {
    type Publisher = NatsPublisher;

    async fn version(&self) -> Result<String> {
        let mut version = Command::new("nats-server");
        version.arg("--version");
        let text = output(version).await?;
        Ok(text.trim().trim_start_matches("nats-server: v").to_owned())
    }

    fn pids(&self) -> Vec<u32> {
        self.nodes.iter().flatten().map(Process::pid).collect()
    }

    async fn prepare(&mut self, mailboxes: u32) -> Result<()> {
        let client = self.connect(0).await?;
        let made = self.made();
        let before = self.prepared;
        self.prepared = before.max(mailboxes);
        let (this, client) = (&*self, &client);
        // Each answers only when its group has elected a leader.
        let streams = stream::iter(made..this.made());
        streams
            .map(|stream| this.make_stream(client, stream))
            .buffer_unordered(MADE_AT_ONCE)
            .try_collect::<()>()
            .await?;
        let consumers = stream::iter(before..mailboxes);
        consumers
            .map(|mailbox| this.make_consumer(client, mailbox))
            .buffer_unordered(MADE_AT_ONCE)
            .try_collect::<()>()
            .await
    }

    async fn publisher(&self, node: usize) -> Result<NatsPublisher> {
        let context = jetstream::new(self.connect(node).await?);
        Ok(NatsPublisher { context, streams: self.streams })
    }

    async fn leaders(&self, through: usize) -> Result<[u32; NODES]> {
        let client = self.connect(through).await?;
        let mut led = [0; NODES];
        for stream in 0..self.made() {
            let leader = leader(&info(&client, stream).await?);
            led[leader.with_context(|| format!("stream {stream} has no leader"))?] += 1;
        }
        Ok(led)
    }

    fn kill(&mut self, node: usize) -> Result<()> {
        self.nodes[node].take().context("that node does not run")?.kill()
    }

    async fn restart(&mut self, node: usize) -> Result<()> {
        self.nodes[node] = Some(self.start_node(node)?);
        self.serves(node).await?;
        let client = self.connect((node + 1) % NODES).await?;
        until("all replicas of NATS are current", async || {
            for stream in 0..self.made() {
                if !is_whole(&info(&client, stream).await?) {
                    return Ok(false);
                }
            }
            Ok(true)
        })
        .await
    }
}

impl Publisher for NatsPublisher {
    async fn send(&self, mailbox: u32, message: Bytes) -> Result<Answer> {
        let sent = self.context.publish(subject(self.streams, mailbox), message).await?;
        Ok(Box::pin(async move {
            // Comes when a majority of the stream's replicas has taken it.
            let _stored = sent.await?;
            Ok(true)
        }))
    }
}

impl Consume for Nats {
    type Connections = Vec<Client>;

    async fn consume(
        &self,
        mailboxes: u32,
        senders: u32,
        counts: Arc<Counts>,
    ) -> Result<Consumers<Self::Connections>> {
        let mut connections = Vec::new();
        for number in 0..SENDERS_MAX.min(mailboxes) {
            connections.push(self.connect(number as usize % NODES).await?);
        }
        let mut tasks = JoinSet::new();
        for mailbox in 0..mailboxes {
            let client = connections[mailbox as usize % connections.len()].clone();
            let messages = client.subscribe(delivery(mailbox)).await?;
            tasks.spawn(read(messages, client, Inbox::new(counts.clone(), senders)));
        }
        Ok(Consumers { tasks, connections })
    }

    async fn stop(&self, connections: Self::Connections) -> Result<()> {
        for client in connections {
            // With what was acknowledged.
            client.flush().await?;
            client.drain().await?;
        }
        Ok(())
    }

    async fn stored(&self, _mailboxes: u32) -> Result<u64> {
        let client = self.connect(0).await?;
        let mut stored = 0;
        for stream in 0..self.made() {
            let info = info(&client, stream).await?;
            stored += info["state"]["messages"].as_u64().context("a stream without a count")?;
        }
        Ok(stored)
    }
}

/// Reads and acknowledges each: work-queue retention takes no acknowledgement of several.
async fn read(mut messages: Subscriber, client: Client, mut inbox: Inbox) -> Result<()> {
    loop {
        let message = messages.next().await.context("a consumer of NATS was ended")?;
        inbox.take(&message.payload);
        let reply = message.reply.context("a message that cannot be acknowledged")?;
        client.publish(reply, Bytes::from_static(b"+ACK")).await?;
        inbox.acknowledged(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mailboxes_are_subjects_of_their_stream() {
        assert_eq!(subject(16, 5), "box.5.5");
        assert_eq!(subject(16, 37), "box.5.37");
        assert_eq!(subject(1, 37), "box.0.37");
    }

    #[test]
    fn what_a_stream_tells_of_its_replicas_is_read() {
        let peer = |name: &str, current: bool| json!({"name": name, "current": current});
        let info = |second| {
            json!({"cluster": {"leader": "n2",
            "replicas": [peer("n1", true), peer("n3", second)]}})
        };
        assert_eq!(leader(&info(true)), Some(1));
        assert!(is_whole(&info(true)) && !is_whole(&info(false)));
        let mut away = info(true);
        away["cluster"]["replicas"][0]["offline"] = json!(true);
        assert!(!is_whole(&away));
        assert!(leader(&json!({})).is_none() && !is_whole(&json!({})));
    }

    #[test]
    fn a_node_listens_on_loopback_and_knows_all() {
        let text = config(21_000, 2, Path::new("/data/x"));
        assert!(text.contains("listen: \"127.0.0.1:21002\"\n"), "{text}");
        assert!(text.contains("store_dir: \"/data/x\""), "{text}");
        for port in 21_008..21_011 {
            assert!(text.contains(&format!("\"nats-route://127.0.0.1:{port}\"")), "{text}");
        }
    }
}
