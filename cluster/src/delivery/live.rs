//! Live frames: never stored, sent straight to the nodes that hold the recipient's connections.
//!
//! The shard's leader knows those nodes; the sender's node asks for the first frame and again when
//! its knowledge is a second old, or when a node says that the recipient has gone. Frames are lost
//! under pressure.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use heliograph_transport::NodeId;
use parking_lot::Mutex;
use tokio::{sync::OnceCell, time::Instant};

use super::{
    router::{Kind, Router},
    sessions::Sessions,
    wire::{RelayAnswer, RelayNotice, RelayRequest},
};
use crate::{LiveFrame, LiveOutcome, RelayError, metrics, model::MailboxKey};

/// How long a device's nodes are believed. A call then asks its leader once a second, not fifty
/// times; a device that moves misses a second at most.
const BELIEVED: Duration = Duration::from_secs(1);
/// How long it is believed that a device has no connection.
const ABSENT: Duration = Duration::from_millis(250);
/// Recipients remembered; past it all are forgotten, which costs each one question.
const RECIPIENTS_MAX: usize = 65_536;

struct Located {
    asked: Instant,
    nodes: OnceCell<Vec<NodeId>>,
}

impl Located {
    fn is_fresh(&self, now: Instant) -> bool {
        let believed = match self.nodes.get() {
            Some(nodes) if nodes.is_empty() => ABSENT,
            _ => BELIEVED,
        };
        self.asked + believed > now
    }
}

/// See the module.
pub(crate) struct Live {
    router: Arc<Router>,
    sessions: Arc<Sessions>,
    located: Mutex<BTreeMap<MailboxKey, Arc<Located>>>,
}

impl Live {
    pub(crate) fn new(router: Arc<Router>, sessions: Arc<Sessions>) -> Self {
        Self { router, sessions, located: Mutex::default() }
    }

    /// Forwards a frame to the recipient's connections.
    pub(crate) async fn forward(
        &self,
        frame: LiveFrame,
        deadline: Instant,
    ) -> Result<LiveOutcome, RelayError> {
        let topology = self.router.topology()?;
        let mailbox = topology.key_hasher().mailbox(&frame.recipient);
        let shard = topology.shard_of(mailbox.slot());
        let located = self.entry(mailbox);
        // Frames that come while the leader is asked wait for the same answer.
        let nodes = located.nodes.get_or_try_init(|| self.locate(mailbox, deadline));
        let nodes = tokio::time::timeout_at(deadline, nodes)
            .await
            .unwrap_or(Err(RelayError::Unavailable))
            .inspect_err(|_| self.forget(&mailbox))?;
        let mut outcome = LiveOutcome::Unavailable;
        for node in nodes {
            let is_forwarded = if *node == self.router.local() {
                self.sessions.push_live(&mailbox, &frame.payload)
            } else {
                let payload = frame.payload.clone();
                self.router.tell(*node, shard, &RelayNotice::Live { mailbox, payload })
            };
            if is_forwarded {
                ::metrics::counter!(metrics::LIVE_FORWARDED_TOTAL).increment(1);
                outcome = LiveOutcome::Forwarded;
            } else {
                ::metrics::counter!(metrics::LIVE_DROPPED_TOTAL).increment(1);
                self.forget(&mailbox);
            }
        }
        Ok(outcome)
    }

    /// A peer sends a frame for connections of this node.
    pub(crate) fn arrived(&self, from: NodeId, mailbox: MailboxKey, payload: &Bytes) {
        if self.sessions.push_live(&mailbox, payload) {
            return;
        }
        if let Ok(topology) = self.router.topology() {
            let shard = topology.shard_of(mailbox.slot());
            self.router.tell(from, shard, &RelayNotice::LiveGone { mailbox });
        }
    }

    /// What was believed of a recipient is wrong.
    pub(crate) fn forget(&self, mailbox: &MailboxKey) {
        self.located.lock().remove(mailbox);
    }

    fn entry(&self, mailbox: MailboxKey) -> Arc<Located> {
        let now = Instant::now();
        let mut located = self.located.lock();
        if let Some(known) = located.get(&mailbox)
            && known.is_fresh(now)
        {
            return Arc::clone(known);
        }
        if located.len() >= RECIPIENTS_MAX {
            located.clear();
        }
        let fresh = Arc::new(Located { asked: now, nodes: OnceCell::new() });
        located.insert(mailbox, Arc::clone(&fresh));
        fresh
    }

    async fn locate(
        &self,
        mailbox: MailboxKey,
        deadline: Instant,
    ) -> Result<Vec<NodeId>, RelayError> {
        let request = RelayRequest::Locate { mailbox };
        match self.router.ask(&mailbox, Kind::Prompt, &request, deadline).await?.answer {
            RelayAnswer::Nodes(nodes) => Ok(nodes),
            _ => Err(RelayError::Unavailable),
        }
    }
}
