//! RabbitMQ: a quorum queue a mailbox, publisher confirms, acknowledgements by consumers.
//!
//! Nothing is tuned: what is set is names, ports, directories, and that all of it is on loopback.

use std::{
    fs,
    future::ready,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    task::Poll,
};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use futures_util::{FutureExt as _, StreamExt as _, poll};
use lapin::{
    BasicProperties, Channel, Connection, ConnectionProperties, Consumer,
    options::{
        BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions,
        ConfirmSelectOptions, QueueDeclareOptions,
    },
    types::{AMQPValue, FieldTable},
};
use serde::Deserialize;
use tokio::task::JoinSet;

use crate::{
    counts::{Counts, Inbox},
    peer::{ACK_BATCH_MAX, Answer, Cluster, Consume, Consumers, NODES, Publisher, Setting},
    process::{Process, output},
    wait::until,
    work::SENDERS_MAX,
};

/// Where Debian keeps the programs; those in the path insist on the system user.
const PROGRAMS: &str = "/usr/lib/rabbitmq/bin";
/// Messages that a consumer may hold unacknowledged: more than are ever in flight to a mailbox, so
/// that the window does not bound what is measured.
const PREFETCH: u16 = 2_048;
/// `delivery_mode` of a persistent message. Quorum queues store all; this says so.
const PERSISTENT: u8 = 2;
/// Ports, counted from the cluster's first: clients, nodes, the port mapper, the tools.
const CLIENTS: u16 = 0;
const NODE: u16 = 8;
const MAPPER: u16 = 16;
const TOOLS: u16 = 20;

/// Three nodes and the port mapper that they find each other by.
pub struct RabbitMq {
    directory: PathBuf,
    first_port: u16,
    nodes: Vec<Option<Process>>,
    prepared: u32,
    _mapper: Process,
}

/// A publishing channel in confirm mode on a connection of its own.
pub struct RabbitPublisher {
    channel: Channel,
    _connection: Connection,
}

impl RabbitMq {
    /// Starts the cluster.
    ///
    /// # Errors
    /// When it is not ready in time.
    pub async fn start(setting: Setting<'_>) -> Result<Self> {
        let directory = setting.directory.to_owned();
        let home = directory.join("home");
        fs::create_dir_all(&home)?;
        let cookie = home.join(".erlang.cookie");
        fs::write(&cookie, format!("{:032x}", rand::random::<u128>()))?;
        fs::set_permissions(&cookie, fs::Permissions::from_mode(0o400))?;
        fs::write(directory.join("env.conf"), "")?;
        fs::write(directory.join("plugins"), "[].\n")?;
        for node in 0..NODES {
            fs::write(
                directory.join(format!("node-{node}.conf")),
                config(setting.first_port, node),
            )?;
        }
        let mut mapper = Command::new("epmd");
        mapper.args(["-address", "127.0.0.1", "-port"]);
        mapper.arg((setting.first_port + MAPPER).to_string());
        let mapper = Process::start(&mut mapper, &directory.join("epmd.log"))?;
        let mut cluster = Self {
            directory,
            first_port: setting.first_port,
            nodes: Vec::new(),
            prepared: 0,
            _mapper: mapper,
        };
        // Together: they wait for each other to form the cluster.
        for node in 0..NODES {
            let process = cluster.start_node(node)?;
            cluster.nodes.push(Some(process));
        }
        for node in 0..NODES {
            cluster.serves(node).await?;
        }
        let mut online = cluster.tool("rabbitmqctl", 0);
        online.args(["await_online_nodes", &NODES.to_string(), "--timeout", "60"]);
        output(online).await?;
        Ok(cluster)
    }

    fn start_node(&self, node: usize) -> Result<Process> {
        let mut command = self.command("rabbitmq-server", node);
        Process::start(&mut command, &self.directory.join(format!("node-{node}.out")))
    }

    /// A program of RabbitMQ with the environment of a node, and nothing else of ours.
    fn command(&self, program: &str, node: usize) -> Command {
        let port = |base: u16| (self.first_port + base + node as u16).to_string();
        let mut command = Command::new(Path::new(PROGRAMS).join(program));
        command
            .env_clear()
            .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .env("LANG", "C.UTF-8")
            .env("HOME", self.directory.join("home"))
            .env("ERL_EPMD_ADDRESS", "127.0.0.1")
            .env("ERL_EPMD_PORT", (self.first_port + MAPPER).to_string())
            .env("RABBITMQ_NODENAME", name_of(node))
            .env("RABBITMQ_DIST_PORT", port(NODE))
            .env("RABBITMQ_MNESIA_BASE", self.directory.join("data"))
            .env("RABBITMQ_LOG_BASE", self.directory.join("log"))
            .env("RABBITMQ_CONFIG_FILE", self.directory.join(format!("node-{node}.conf")))
            .env("RABBITMQ_CONF_ENV_FILE", self.directory.join("env.conf"))
            .env("RABBITMQ_ENABLED_PLUGINS_FILE", self.directory.join("plugins"))
            .env("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", LOOPBACK)
            .env("RABBITMQ_CTL_ERL_ARGS", LOOPBACK)
            .env("RABBITMQ_CTL_DIST_PORT_MIN", (self.first_port + TOOLS).to_string())
            .env("RABBITMQ_CTL_DIST_PORT_MAX", (self.first_port + TOOLS + 8).to_string());
        command
    }

    fn tool(&self, program: &str, node: usize) -> Command {
        let mut command = self.command(program, node);
        command.args(["--silent", "--node", &name_of(node)]);
        command
    }

    async fn connect(&self, node: usize) -> Result<Connection> {
        let port = self.first_port + CLIENTS + node as u16;
        let uri = format!("amqp://guest:guest@127.0.0.1:{port}/%2f");
        Ok(Connection::connect(&uri, ConnectionProperties::default()).await?)
    }

    /// Waits until a node serves clients.
    async fn serves(&mut self, node: usize) -> Result<()> {
        let out = self.directory.join(format!("node-{node}.out"));
        until(&format!("RabbitMQ node {node} serves, see {}", out.display()), async || {
            let ended = self.nodes[node].as_mut().is_none_or(Process::has_ended);
            ensure!(!ended, "it has ended");
            self.connect(node).await?;
            Ok(true)
        })
        .await
    }

    async fn count(&self, mailbox: u32, channel: &Channel) -> Result<u64> {
        let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::durable() };
        let name = queue(mailbox).into();
        Ok(channel
            .queue_declare(name, options, FieldTable::default())
            .await?
            .message_count()
            .into())
    }
}

/// Where the distribution of Erlang listens.
const LOOPBACK: &str = "-kernel inet_dist_use_interface {127,0,0,1}";

fn name_of(node: usize) -> String {
    format!("hg{}@localhost", node + 1)
}

fn queue(mailbox: u32) -> String {
    format!("mailbox-{mailbox}")
}

/// The configuration of a node: whom it clusters with and where it listens.
fn config(first_port: u16, node: usize) -> String {
    let mut text = format!(
        "listeners.tcp.1 = 127.0.0.1:{}\n\
         cluster_formation.peer_discovery_backend = classic_config\n",
        first_port + CLIENTS + node as u16,
    );
    for peer in 0..NODES {
        let line =
            format!("cluster_formation.classic_config.nodes.{} = {}\n", peer + 1, name_of(peer));
        text.push_str(&line);
    }
    text
}

impl Cluster for RabbitMq {
    type Publisher = RabbitPublisher;

    async fn version(&self) -> Result<String> {
        let mut version = self.tool("rabbitmqctl", 0);
        version.arg("version");
        Ok(output(version).await?.trim().to_owned())
    }

    fn pids(&self) -> Vec<u32> {
        self.nodes.iter().flatten().map(Process::pid).collect()
    }

    async fn prepare(&mut self, mailboxes: u32) -> Result<()> {
        let mut channels = Vec::new();
        for node in 0..NODES {
            let connection = self.connect(node).await?;
            channels.push((connection.create_channel().await?, connection));
        }
        for mailbox in self.prepared..mailboxes {
            let mut arguments = FieldTable::default();
            arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
            let size = AMQPValue::LongInt(NODES as i32);
            arguments.insert("x-quorum-initial-group-size".into(), size);
            // The node that is asked leads the queue: so they are spread evenly.
            let (channel, _) = &channels[mailbox as usize % NODES];
            let options = QueueDeclareOptions::durable();
            channel.queue_declare(queue(mailbox).into(), options, arguments).await?;
        }
        self.prepared = self.prepared.max(mailboxes);
        for (channel, connection) in channels {
            channel.close(200, "done".into()).await?;
            connection.close(200, "done".into()).await?;
        }
        Ok(())
    }

    async fn publisher(&self, node: usize) -> Result<RabbitPublisher> {
        let connection = self.connect(node).await?;
        let channel = connection.create_channel().await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        Ok(RabbitPublisher { channel, _connection: connection })
    }

    async fn leaders(&self, through: usize) -> Result<[u32; NODES]> {
        let mut list = self.tool("rabbitmqctl", through);
        list.args(["list_queues", "leader", "--formatter", "json"]);
        Ok(count_leaders(&output(list).await?)?)
    }

    fn kill(&mut self, node: usize) -> Result<()> {
        self.nodes[node].take().context("that node does not run")?.kill()
    }

    async fn restart(&mut self, node: usize) -> Result<()> {
        self.nodes[node] = Some(self.start_node(node)?);
        self.serves(node).await?;
        // Another is critical as long as some queue's majority hangs on it.
        let other = (node + 1) % NODES;
        until("no queue of RabbitMQ lacks a replica", async || {
            let mut check = self.tool("rabbitmq-queues", other);
            check.arg("check_if_node_is_quorum_critical");
            output(check).await?;
            Ok(true)
        })
        .await
    }
}

#[derive(Deserialize)]
struct Listed {
    leader: String,
}

/// Counts in a list of queues how many each node leads.
fn count_leaders(json: &str) -> serde_json::Result<[u32; NODES]> {
    let listed: Vec<Listed> = serde_json::from_str(json)?;
    let led = |node| listed.iter().filter(|queue| queue.leader == name_of(node)).count() as u32;
    Ok(std::array::from_fn(led))
}

impl Publisher for RabbitPublisher {
    async fn send(&self, mailbox: u32, message: Bytes) -> Result<Answer> {
        let channel = self.channel.clone();
        let mut answer: Answer = Box::pin(async move {
            let properties = BasicProperties::default().with_delivery_mode(PERSISTENT);
            // A message that no queue takes comes back: it would be confirmed otherwise.
            let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
            let key = queue(mailbox).into();
            let sent = channel.basic_publish("".into(), key, options, &message, properties).await?;
            let confirmation = sent.await?;
            Ok(confirmation.is_ack() && confirmation.take_message().is_none())
        });
        // The first poll queues the frames; when they are written is not waited for here, which
        // would be a round trip to the client's own thread for each message.
        match poll!(&mut answer) {
            Poll::Ready(answered) => Ok(Box::pin(ready(answered))),
            Poll::Pending => Ok(answer),
        }
    }
}

impl Consume for RabbitMq {
    type Connections = Vec<(Connection, Vec<Channel>)>;

    async fn consume(
        &self,
        mailboxes: u32,
        senders: u32,
        counts: Arc<Counts>,
    ) -> Result<Consumers<Self::Connections>> {
        let mut connections = Vec::new();
        for number in 0..SENDERS_MAX.min(mailboxes) {
            // A consumer is at another node than most of those who write to it.
            connections.push((self.connect(number as usize % NODES).await?, Vec::new()));
        }
        let mut tasks = JoinSet::new();
        for mailbox in 0..mailboxes {
            let at = mailbox as usize % connections.len();
            let (connection, channels) = &mut connections[at];
            // Of its own, so that one frame can acknowledge several of its messages.
            let channel = connection.create_channel().await?;
            channel.basic_qos(PREFETCH, BasicQosOptions::default()).await?;
            let (name, tag) = (queue(mailbox).into(), "reader".into());
            let options = BasicConsumeOptions::default();
            let consumer = channel.basic_consume(name, tag, options, FieldTable::default()).await?;
            let inbox = Inbox::new(counts.clone(), senders);
            channels.push(channel.clone());
            tasks.spawn(read(consumer, channel, inbox));
        }
        Ok(Consumers { tasks, connections })
    }

    async fn stop(&self, connections: Self::Connections) -> Result<()> {
        for (connection, channels) in connections {
            for channel in channels {
                // Comes after the acknowledgements; what was not acknowledged goes back.
                channel.close(200, "done".into()).await?;
            }
            connection.close(200, "done".into()).await?;
        }
        Ok(())
    }

    async fn stored(&self, mailboxes: u32) -> Result<u64> {
        let connection = self.connect(0).await?;
        let channel = connection.create_channel().await?;
        let mut stored = 0;
        for mailbox in 0..mailboxes {
            stored += self.count(mailbox, &channel).await?;
        }
        connection.close(200, "done".into()).await?;
        Ok(stored)
    }
}

/// Reads and acknowledges: at once when nothing more has come, else several together.
async fn read(mut consumer: Consumer, channel: Channel, mut inbox: Inbox) -> Result<()> {
    let (mut unacknowledged, mut last) = (0, 0);
    let all = BasicAckOptions { multiple: true };
    loop {
        let ready =
            if unacknowledged < ACK_BATCH_MAX { consumer.next().now_or_never() } else { None };
        let delivery = match ready {
            Some(delivery) => delivery,
            None if unacknowledged == 0 => consumer.next().await,
            None => {
                channel.basic_ack(last, all).await?;
                inbox.acknowledged(unacknowledged);
                unacknowledged = 0;
                continue;
            }
        };
        let delivery = delivery.context("a consumer of RabbitMQ was ended")??;
        inbox.take(&delivery.data);
        last = delivery.delivery_tag;
        unacknowledged += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leaders_are_read() {
        let json = r#"[{"leader":"hg3@localhost"},{"leader":"hg1@localhost"},{"leader":""},
            {"leader":"hg3@localhost"}]"#;
        assert_eq!(count_leaders(json).unwrap(), [1, 0, 2]);
        assert!(count_leaders("Error").is_err());
    }

    #[test]
    fn a_node_listens_on_loopback_and_knows_all() {
        let text = config(21_000, 1);
        assert!(text.contains("listeners.tcp.1 = 127.0.0.1:21001\n"), "{text}");
        for peer in ["1 = hg1", "2 = hg2", "3 = hg3"] {
            assert!(text.contains(&format!("classic_config.nodes.{peer}@localhost\n")), "{text}");
        }
    }
}
