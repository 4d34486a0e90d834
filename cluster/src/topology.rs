//! Who holds what: the shard map, and who leads at this moment.

use std::{collections::BTreeMap, fmt};

use heliograph_storage::GroupId;
use heliograph_transport::NodeId;
use parking_lot::RwLock;
use serde::{Deserialize, Serialize};

use crate::{
    ShardHandle,
    context::{META, shard_of},
    machine::Limits,
    member::Member,
    model::{KeyHasher, SLOTS, ShardId, Slot},
    replica::{Placement, Replica},
    watch,
};

/// What the cluster agreed on at its start. Replicated; the same on every node.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// The key under which device ids are hashed to mailboxes.
    #[serde(with = "serde_bytes")]
    pub routing_key: [u8; 32],
    /// The key under which API keys are hashed and messages are fingerprinted.
    #[serde(with = "serde_bytes")]
    pub secret_key: [u8; 32],
    /// How long a message waits where its sender says nothing, in milliseconds.
    pub ttl_default_ms: u64,
    /// The bounds of shards and mailboxes.
    pub limits: Limits,
    /// How many replicas a shard has where there are nodes enough; 0 in clusters of old, whose
    /// nodes go by their configuration.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub replicas: u8,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_zero(count: &u8) -> bool {
    *count == 0
}

impl Default for Settings {
    fn default() -> Self {
        const DAY_MS: u64 = 24 * 60 * 60 * 1000;
        Self {
            routing_key: [0; 32],
            secret_key: [0; 32],
            // The contract's 30 days.
            ttl_default_ms: 30 * DAY_MS,
            limits: Limits::default(),
            replicas: 0,
        }
    }
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings")
            .field("ttl_default_ms", &self.ttl_default_ms)
            .field("limits", &self.limits)
            .field("replicas", &self.replicas)
            .finish_non_exhaustive()
    }
}

/// Nodes, shards and settings: the meta group's state as one value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Topology {
    /// Counts changes.
    pub version: u64,
    /// The nodes.
    pub members: Vec<Member>,
    /// The replicas of the meta group. Nodes without a vote in it learn from it.
    pub meta: Placement,
    /// The replicas of each shard; index = shard.
    pub shards: Vec<Placement>,
    /// See [`Settings`].
    pub settings: Settings,
    /// The features that are switched on, a bit each. Written only once there is one: until then
    /// the release before reads it.
    #[serde(default, skip_serializing_if = "is_none")]
    pub features: u64,
}

fn is_none(features: &u64) -> bool {
    *features == 0
}

impl Topology {
    /// Which shard holds `slot`: slots are spread in contiguous ranges of nearly equal size.
    pub fn shard_of(&self, slot: Slot) -> ShardId {
        let shards = self.shards.len() as u32;
        let shard = u32::from(slot.0) * shards / u32::from(SLOTS);
        ShardId(u16::try_from(shard).expect("slot < SLOTS, so shard < shards ≤ 256"))
    }

    /// The replicas of `shard`; `None` for an unknown shard.
    pub fn placement(&self, shard: ShardId) -> Option<&Placement> {
        self.shards.get(usize::from(shard.0))
    }

    /// The replicas of a Raft group: meta's or a shard's.
    pub(crate) fn placement_of(&self, group: GroupId) -> Option<&Placement> {
        match group {
            META => Some(&self.meta),
            shard => self.shards.get(usize::from(shard_of(shard)?.0)),
        }
    }

    /// The nodes that hold `shard`, the preferred leader first; empty for an unknown shard.
    pub fn replicas(&self, shard: ShardId) -> Vec<NodeId> {
        self.placement(shard).map(Placement::holders).unwrap_or_default()
    }

    /// Who should lead `shard`: the first replica in order whose node may lead.
    pub fn preferred(&self, shard: ShardId) -> Option<NodeId> {
        self.first_leader(self.placement(shard)?)
    }

    /// Who should lead the meta group.
    pub fn preferred_of_meta(&self) -> Option<NodeId> {
        self.first_leader(&self.meta)
    }

    fn first_leader(&self, placement: &Placement) -> Option<NodeId> {
        let mut nodes = placement.target.iter().map(|replica| replica.node);
        nodes.find(|node| self.member(*node).is_some_and(Member::may_lead))
    }

    /// The replica of `shard` that `node` is to run, if any.
    pub fn replica_of(&self, node: NodeId, shard: ShardId) -> Option<Replica> {
        self.placement(shard)?.replica_of(node)
    }

    /// The shards of which `node` is to run a replica.
    pub fn shards_of(&self, node: NodeId) -> impl Iterator<Item = ShardId> {
        self.shards().filter(move |shard| self.replica_of(node, *shard).is_some())
    }

    /// All shards.
    pub fn shards(&self) -> impl Iterator<Item = ShardId> + use<> {
        (0..u16::try_from(self.shards.len()).unwrap_or(u16::MAX)).map(ShardId)
    }

    /// A member.
    pub fn member(&self, node: NodeId) -> Option<&Member> {
        self.members.iter().find(|member| member.id == node)
    }

    /// Hashes device ids to mailboxes.
    pub fn key_hasher(&self) -> KeyHasher {
        KeyHasher::new(self.settings.routing_key)
    }
}

/// Who leads each shard, as far as this node has heard: from its own replicas, from beats, from
/// answers. A hint for routing, never a licence.
#[derive(Debug)]
pub struct LeaderTable {
    leaders: RwLock<BTreeMap<ShardId, (u64, Option<NodeId>)>>,
    changes: watch::Sender<u64>,
}

impl Default for LeaderTable {
    fn default() -> Self {
        Self { leaders: RwLock::default(), changes: watch::Sender::new(0) }
    }
}

impl LeaderTable {
    /// The leader of `shard` and its term.
    pub fn leader(&self, shard: ShardId) -> Option<(NodeId, u64)> {
        let leaders = self.leaders.read();
        leaders.get(&shard).and_then(|(term, node)| node.map(|node| (node, *term)))
    }

    /// Notes that `node` leads `shard` in `term`; older terms are ignored.
    pub fn learn(&self, shard: ShardId, term: u64, node: NodeId) {
        let mut leaders = self.leaders.write();
        let known = leaders.entry(shard).or_default();
        if known.0 > term || *known == (term, Some(node)) {
            return;
        }
        *known = (term, Some(node));
        drop(leaders);
        self.changes.send_modify(|count| *count += 1);
    }

    /// Notes that `node` does not lead `shard` (any more).
    pub fn forget(&self, shard: ShardId, node: NodeId) {
        let mut leaders = self.leaders.write();
        let Some(known) = leaders.get_mut(&shard) else { return };
        if known.1 == Some(node) {
            known.1 = None;
            drop(leaders);
            self.changes.send_modify(|count| *count += 1);
        }
    }

    /// Wakes whenever a leader is learned or forgotten.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }
}

/// The replicas on this node.
#[derive(Debug, Default)]
pub struct LocalShards {
    shards: RwLock<BTreeMap<ShardId, ShardHandle>>,
}

impl LocalShards {
    /// The local replica of `shard`, if this node holds one.
    pub fn get(&self, shard: ShardId) -> Option<ShardHandle> {
        self.shards.read().get(&shard).cloned()
    }

    /// All local replicas.
    pub fn all(&self) -> Vec<ShardHandle> {
        self.shards.read().values().cloned().collect()
    }

    /// Adds a replica.
    pub fn insert(&self, shard: ShardHandle) {
        self.shards.write().insert(shard.id(), shard);
    }

    /// Removes a replica.
    pub(crate) fn remove(&self, shard: ShardId) {
        self.shards.write().remove(&shard);
    }

    /// Removes all, at shutdown.
    pub fn clear(&self) {
        self.shards.write().clear();
    }
}
