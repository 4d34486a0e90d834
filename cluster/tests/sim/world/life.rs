//! What operators do to the simulated cluster's members, and what comes of it.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use heliograph_cluster::{
    AdminCommand, AdminError, AdminOutcome, ClusterAdmin, Placement, Topology, model::ShardId,
};
use heliograph_storage::{GroupId, LogStore as _, MemoryLog};
use tokio::time::Instant;

use super::{PATIENCE, REPLICAS, World, disk, node_id};

impl World {
    fn admin(&self) -> Arc<dyn ClusterAdmin> {
        self.live.iter().flatten().next().expect("a node is up").node.admin()
    }

    /// The newest registry that a living node has.
    fn topology(&self) -> Arc<Topology> {
        let known = self.live.iter().flatten().filter_map(|live| live.node.topology());
        known.max_by_key(|topology| topology.version).expect("a node is up")
    }

    /// Does what an operator would: asks again where the answer says so.
    async fn operate(&self, command: AdminCommand) -> AdminOutcome {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.admin().change(command.clone(), deadline).await {
                Ok(outcome) => return outcome,
                Err(error) if error.is_retryable() || error == AdminError::Conflict => {
                    assert!(Instant::now() < deadline, "seed {}: {error}", self.seed);
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
                Err(error) => panic!("seed {}: {error}", self.seed),
            }
        }
    }

    async fn give_token(&mut self, index: usize, command: AdminCommand) {
        let AdminOutcome::Token(token) = self.operate(command).await else {
            panic!("seed {}: no token", self.seed)
        };
        self.tokens.insert(index, token);
    }

    /// Invites one more node and starts it with its token; answers its index.
    pub(crate) async fn grow(&mut self) -> usize {
        let index = self.nodes();
        let address = format!("node-{index}:1");
        let invite = AdminCommand::Invite { node: node_id(index), address, zone: String::new() };
        self.give_token(index, invite).await;
        self.disks.push(disk());
        self.live.push(None);
        self.relays.borrow_mut().push(None);
        self.boot(index).await;
        self.all_ready().await;
        index
    }

    /// Asks the node's replicas away.
    pub(crate) async fn send_away(&mut self, index: usize) {
        self.leaving.insert(index);
        self.operate(AdminCommand::Remove { node: node_id(index) }).await;
    }

    /// Waits until the node holds nothing, and has the registry forget it; its process ends.
    pub(crate) async fn forget(&mut self, index: usize) {
        let deadline = Instant::now() + PATIENCE;
        while self.topology().member(node_id(index)).is_some() {
            assert!(Instant::now() < deadline, "seed {}: {:?}", self.seed, self.topology());
            self.operate(AdminCommand::Remove { node: node_id(index) }).await;
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        self.lose(index);
    }

    /// Waits until every group has all its replicas on nodes that are up, in different zones, and
    /// the registry knows that.
    pub(crate) async fn whole_again(&self) {
        let deadline = Instant::now() + PATIENCE * 3;
        loop {
            let topology = self.topology();
            let broken = topology.shards.iter().position(|placement| !self.is_whole(placement));
            if broken.is_none() && topology.meta.is_settled() {
                return;
            }
            assert!(
                Instant::now() < deadline,
                "seed {}: shard {broken:?} is not whole: {topology:?}",
                self.seed,
            );
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }

    fn zone(&self, index: usize) -> &str {
        self.shape.zones.get(index).copied().unwrap_or_default()
    }

    fn is_whole(&self, placement: &Placement) -> bool {
        let places = || placement.held.iter().map(|replica| usize::from(replica.node.0) - 1);
        let zones: BTreeSet<&str> = places().map(|place| self.zone(place)).collect();
        let left = (0..self.nodes()).filter(|place| !self.is_lost(*place));
        let zones_left: BTreeSet<&str> = left.map(|place| self.zone(place)).collect();
        placement.is_settled()
            && placement.held.len() == REPLICAS
            && places().all(|place| self.is_up(place))
            && zones.len() == zones_left.len().min(REPLICAS)
    }

    /// Waits until the node's replica of `shard` is another one than it was formed with.
    pub(crate) async fn renewed(&self, shard: ShardId, index: usize) {
        let deadline = Instant::now() + PATIENCE;
        let is_first = || {
            let replica = self.topology().replica_of(node_id(index), shard);
            replica.is_some_and(|replica| replica.incarnation == 0)
        };
        while is_first() {
            assert!(Instant::now() < deadline, "seed {}: it does not begin anew", self.seed);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Takes the node's disk away; it must be down.
    pub(crate) fn lose_disk(&mut self, index: usize) {
        assert!(!self.is_up(index));
        self.disks[index] = disk();
    }

    /// Tells the registry that the node's disk is lost; it comes back with the token.
    pub(crate) async fn replace(&mut self, index: usize) {
        self.give_token(index, AdminCommand::Replace { node: node_id(index) }).await;
    }

    /// Takes what the node's log holds of a shard away; it must be down.
    pub(crate) fn lose_log_of(&self, index: usize, shard: ShardId) {
        assert!(!self.is_up(index));
        let log = MemoryLog::new(Arc::clone(&self.disks[index].log), Box::new(|| ()));
        log.drop_group(GroupId(u32::from(shard.0) + 1), Box::new(|result| result.unwrap()));
        log.sync();
    }
}
