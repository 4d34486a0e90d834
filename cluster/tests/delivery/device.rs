//! Devices: they register, send, and hold connections.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use heliograph_cluster::{
    AckItem, ApiKey, CloseReason, Fetch, Outgoing, Principal, Push, PushSink, Registration,
    RelayError, Session, Window,
    model::{DeviceId, Message, MessageId, Priority},
};
use parking_lot::Mutex;

use crate::cluster::{Cluster, deadline, eventually};

pub(crate) const WINDOW: Window = Window { messages: 64, bytes: 1024 * 1024 };

/// A registered device.
pub(crate) struct Device {
    pub(crate) id: DeviceId,
    pub(crate) key: ApiKey,
}

impl Device {
    /// Registers at node `at`.
    pub(crate) async fn register(cluster: &Cluster, at: usize, name: &str) -> Self {
        let id = DeviceId::new(name).unwrap();
        let registration = Registration { device: id.clone(), public_key: [9; 32], signed: true };
        let key = cluster.relay(at).register(registration, deadline()).await.unwrap();
        Self { id, key }
    }

    pub(crate) async fn authenticate(
        &self,
        cluster: &Cluster,
        at: usize,
    ) -> Result<Principal, RelayError> {
        cluster.relay(at).authenticate(&self.key, deadline()).await
    }

    /// Sends at node `at`; answers the number.
    pub(crate) async fn send(
        &self,
        cluster: &Cluster,
        at: usize,
        to: &Self,
        message_id: &str,
    ) -> Result<u64, RelayError> {
        let message = self.message(to, message_id, Priority::Normal);
        let accepted = cluster.relay(at).send(message, deadline()).await?;
        Ok(accepted.seq)
    }

    pub(crate) fn message(&self, to: &Self, message_id: &str, priority: Priority) -> Outgoing {
        Outgoing {
            sender: self.id.clone(),
            recipient: to.id.clone(),
            message_id: MessageId::new(message_id).unwrap(),
            priority,
            ttl: None,
            content: message_id.as_bytes().to_vec().into(),
        }
    }

    /// Connects at node `at`.
    pub(crate) async fn connect(&self, cluster: &Cluster, at: usize, window: Window) -> Connection {
        let principal = self.authenticate(cluster, at).await.unwrap();
        let queue = Arc::new(Queue::new(usize::MAX));
        let sink = Arc::clone(&queue) as Arc<dyn PushSink>;
        let session = cluster.relay(at).connect(&principal, &[], window, sink);
        Connection { queue, session, got: Vec::new() }
    }

    /// Connects at node `at`, whose leaders may be changing.
    pub(crate) async fn connect_surely(&self, cluster: &Cluster, at: usize) -> Connection {
        for _ in 0..10 {
            if self.authenticate(cluster, at).await.is_ok() {
                return self.connect(cluster, at, WINDOW).await;
            }
        }
        panic!("node {at} does not authenticate anybody");
    }

    /// Reads over REST at node `at`.
    pub(crate) async fn receive(
        &self,
        cluster: &Cluster,
        at: usize,
        wait: Duration,
    ) -> Vec<Message> {
        let fetch = Fetch { limit: 100, wait, after: None };
        let until = deadline() + wait;
        cluster.relay(at).receive(&self.id, fetch, until).await.unwrap()
    }

    /// Acknowledges over REST at node `at`.
    pub(crate) async fn acknowledge(&self, cluster: &Cluster, at: usize, ids: &[&str]) -> u32 {
        let items = ids.iter().map(|id| by_id(id)).collect();
        cluster.relay(at).acknowledge(&self.id, items, deadline()).await.unwrap()
    }
}

pub(crate) fn by_id(id: &str) -> AckItem {
    AckItem::Id(MessageId::new(id).unwrap())
}

pub(crate) fn ids(messages: &[Message]) -> Vec<String> {
    messages.iter().map(|message| message.message_id.as_str().to_owned()).collect()
}

/// What was pushed to a connection.
pub(crate) struct Queue {
    room: usize,
    pushes: Mutex<VecDeque<Push>>,
}

impl Queue {
    pub(crate) fn new(room: usize) -> Self {
        Self { room, pushes: Mutex::default() }
    }

    pub(crate) fn take(&self) -> Vec<Push> {
        self.pushes.lock().drain(..).collect()
    }
}

impl PushSink for Queue {
    fn push(&self, push: Push) -> Result<(), Push> {
        let mut pushes = self.pushes.lock();
        if pushes.len() >= self.room {
            return Err(push);
        }
        pushes.push_back(push);
        Ok(())
    }
}

/// A device's connection.
pub(crate) struct Connection {
    pub(crate) queue: Arc<Queue>,
    pub(crate) session: Arc<dyn Session>,
    /// What it got, in order.
    pub(crate) got: Vec<Arc<Message>>,
}

impl Connection {
    /// Takes what was pushed, and writes the messages. Answers what else there was.
    pub(crate) fn read(&mut self) -> Vec<Push> {
        let mut other = Vec::new();
        for push in self.queue.take() {
            match push {
                Push::Messages(messages) => {
                    let places: Vec<_> =
                        messages.iter().map(|one| (one.priority, one.seq)).collect();
                    self.session.written(&places);
                    self.got.extend(messages);
                }
                push => other.push(push),
            }
        }
        other
    }

    pub(crate) fn ids(&self) -> Vec<&str> {
        self.got.iter().map(|message| message.message_id.as_str()).collect()
    }

    /// Reads until it got `count` messages.
    pub(crate) async fn read_to(&mut self, count: usize) {
        eventually("messages arrive", || {
            self.read();
            self.got.len() >= count
        })
        .await;
        assert_eq!(self.got.len(), count, "{:?}", self.ids());
    }

    /// Reads until the connection is told to close.
    pub(crate) async fn closed(&mut self) -> CloseReason {
        let mut reason = None;
        eventually("the connection is closed", || {
            let closes = self.read().into_iter().filter_map(|push| match push {
                Push::Close(reason) => Some(reason),
                _ => None,
            });
            reason = closes.last().or(reason);
            reason.is_some()
        })
        .await;
        reason.unwrap()
    }
}
