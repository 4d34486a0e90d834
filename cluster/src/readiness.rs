//! When a node is ready: who restarts nodes in turn goes on to the next once this one is, so ready
//! means that the cluster can do without another node again.

use std::{sync::Arc, time::Duration};

use heliograph_storage::GroupId;

use crate::{
    context::{Context, META, group_of},
    topology::Topology,
};

/// How often a node that has just started looks whether it has caught up.
const LOOK: Duration = Duration::from_millis(50);

impl Context {
    /// How many shards have no leader that this node knows of.
    pub(crate) fn shards_without_leader(&self) -> usize {
        let Some(topology) = self.topology() else { return 0 };
        topology.shards().filter(|shard| self.leaders.leader(*shard).is_none()).count()
    }

    /// Whether all shards this node holds are open.
    pub(crate) fn has_opened_shards(&self) -> bool {
        let Some(topology) = self.topology() else { return false };
        topology.shards_of(self.local()).count() == self.shards.all().len()
    }

    /// Why this node does not serve; `None` when it does.
    pub(crate) fn not_ready_reason(&self) -> Option<&'static str> {
        self.unready_reason().or_else(|| match *self.has_caught_up.borrow() {
            true => None,
            false => Some("catching up with the leaders"),
        })
    }

    /// As [`Self::not_ready_reason`], but for catching up.
    fn unready_reason(&self) -> Option<&'static str> {
        let Some(topology) = self.topology() else {
            return Some("waiting for a quorum of the first members");
        };
        if !self.storage_is_sound() {
            return Some("this node's disk failed: it restarts by itself once the disk is well");
        }
        if self.is_draining() {
            return Some("the node is going away");
        }
        if !topology.member(self.local()).is_some_and(|member| member.admitted) {
            return Some("waiting for the registry to note this node");
        }
        if !self.damaged.lock().is_empty() {
            return Some("a damaged replica begins anew: see the log, and check the disk");
        }
        if !self.has_opened_shards() {
            return Some("opening the shards");
        }
        if self.waits_for_votes(&topology) {
            return Some("a replica that began anew has no vote yet: it is catching up");
        }
        if self.shards_without_leader() > 0 {
            return Some("waiting for leaders of all shards");
        }
        None
    }

    /// Whether a replica here began anew and does not vote yet: until then its group can do without no
    /// other.
    fn waits_for_votes(&self, topology: &Topology) -> bool {
        let local = self.local();
        let began_anew = |group: &GroupId| {
            let placement = topology.placement_of(*group);
            placement.is_some_and(|placement| placement.renewed.contains(&local))
        };
        let votes = |group: GroupId| self.group(group).is_some_and(|group| group.votes());
        let groups = std::iter::once(META).chain(topology.shards().map(group_of));
        groups.filter(began_anew).any(|group| !votes(group))
    }

    /// Whether every replica here has heard from its leader and applied what that had committed.
    fn is_current(&self) -> bool {
        self.unready_reason().is_none() && self.all_groups().iter().all(|group| group.is_current())
    }
}

/// Notes when this node has caught up after its start. What it lags by later is the work of the
/// moment: only a start leaves it behind by all that was accepted meanwhile, with nobody to count
/// on it.
pub(crate) async fn catch_up(context: Arc<Context>) {
    while !context.is_current() {
        tokio::select! {
            biased; // a stopping node catches up no more
            () = context.stopping.cancelled() => return,
            () = tokio::time::sleep(LOOK) => {}
        }
    }
    context.has_caught_up.send_replace(true);
}
