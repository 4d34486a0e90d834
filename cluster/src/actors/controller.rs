//! The controller: decides where replicas should be (design decision 23). It runs on every node and
//! acts only on the one that leads meta, under that leader's licence; what it decides are targets
//! in the registry, which each group's leader then brings about. The decisions themselves are
//! pure: see `placement`.
//!
//! A target is written for the count of changes it was decided on: of two nodes that both believe
//! to lead, one is refused.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use heliograph_storage::GroupId;
use heliograph_transport::NodeId;
use parking_lot::Mutex;
use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::time::{Instant, timeout};

use crate::{
    context::{Context, META},
    meta::{MetaCommand, MetaOutcome},
    metrics,
    placement::{self, Heard, Limits, Progress, Standing, Step, View},
    raft::{EntryAnswer, RaftGroup, offload},
    topology::Topology,
};

/// How often the controller looks. Moves take seconds at least; this is what a finished one waits
/// for the next.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// Evening out begins only when nodes have neither come nor gone for so long: a restart of several
/// nodes, or several that join, are seen as one change.
const STEADY: Duration = Duration::from_secs(10);
/// How long a decision may take to be on disk on a majority of meta. After that it is unknown, and
/// looked at again.
const WRITE_PATIENCE: Duration = Duration::from_secs(5);

/// What the rest of the node asks of the controller, and learns from it.
#[derive(Debug, Default)]
pub(crate) struct ControllerPort {
    progress: Mutex<Option<Progress>>,
    rebalance: AtomicBool,
}

impl ControllerPort {
    /// How far the cluster is; only the node that leads meta knows.
    pub(crate) fn progress(&self) -> Option<Progress> {
        *self.progress.lock()
    }

    /// Lets the load be evened out now, and not slowly and later. Ends once there is nothing left
    /// to even out. To be asked of the node that leads meta.
    pub(crate) fn rebalance(&self) {
        self.rebalance.store(true, Ordering::Relaxed);
    }
}

/// What the controller is told.
pub(crate) enum ControllerMessage {
    /// Look whether something should move.
    Look,
}

/// The controller actor. Owned and supervised by the node actor.
pub(crate) struct ControllerActor;

pub(crate) struct ControllerState {
    context: Arc<Context>,
    /// Nodes that were never heard are silent since then.
    started: Instant,
    office: Option<Office>,
}

/// What this node knows while it leads meta.
struct Office {
    term: u64,
    /// What nodes were when they last changed, and when that was.
    standings: Vec<(NodeId, Standing, bool)>,
    steady_since: Instant,
    /// Groups that moved at the last look.
    moving: BTreeSet<GroupId>,
    done: u32,
    /// Whether somebody asked for the load to be evened out now.
    is_prompt: bool,
    /// The topology at which there was nothing to do, under limits that have not grown since.
    idle_at: Option<(u64, bool)>,
}

impl Actor for ControllerActor {
    type Msg = ControllerMessage;
    type State = ControllerState;
    type Arguments = Arc<Context>;

    async fn pre_start(
        &self,
        myself: ActorRef<ControllerMessage>,
        context: Arc<Context>,
    ) -> Result<ControllerState, ActorProcessingErr> {
        myself.send_after(LOOK_INTERVAL, || ControllerMessage::Look);
        Ok(ControllerState { context, started: Instant::now(), office: None })
    }

    async fn handle(
        &self,
        myself: ActorRef<ControllerMessage>,
        ControllerMessage::Look: ControllerMessage,
        state: &mut ControllerState,
    ) -> Result<(), ActorProcessingErr> {
        state.look().await;
        myself.send_after(LOOK_INTERVAL, || ControllerMessage::Look);
        Ok(())
    }
}

impl ControllerState {
    async fn look(&mut self) {
        let context = Arc::clone(&self.context);
        let meta = context.group(META);
        let term = meta.as_ref().and_then(|meta| meta.acting_term());
        let (Some(meta), Some(term), Some(topology)) = (meta, term, context.topology()) else {
            self.office = None;
            context.controller.progress.lock().take();
            ::metrics::gauge!(metrics::GROUPS_MOVING).set(0.0);
            ::metrics::gauge!(metrics::NODES_GONE).set(0.0);
            return;
        };
        let view = self.observe(&topology);
        let now = Instant::now();
        if self.office.as_ref().is_none_or(|office| office.term != term) {
            tracing::info!(term, "this node decides about placement");
            self.office = Some(Office::new(term, now));
        }
        let Some(office) = &mut self.office else { return };
        office.is_prompt |= context.controller.rebalance.swap(false, Ordering::Relaxed);
        office.note(&view, now);
        let limits = office.limits(now);
        if office.idle_at == Some((topology.version, limits.balancing > 0)) {
            office.is_prompt = false;
            return;
        }
        let (steps, to_do) = decide(view, limits).await;
        let moving = office.moving.len();
        office.idle_at = None;
        if steps.is_empty() && moving == 0 {
            office.idle_at = Some((topology.version, limits.balancing > 0));
            office.is_prompt &= to_do > 0;
        }
        let begun = write(&context, &meta, term, &topology, steps).await;
        office.publish(&context.controller, begun, to_do);
    }

    fn observe(&self, topology: &Topology) -> View {
        let context = &self.context;
        let now = Instant::now();
        let never_heard = now.saturating_duration_since(self.started);
        let detector = context.detector.lock();
        let heard = topology.members.iter().map(|member| {
            let heard = match member.id == context.local() {
                true => Heard { silence: Duration::ZERO, is_live: true },
                false => Heard {
                    silence: detector.silence(member.id, now).unwrap_or(never_heard),
                    is_live: detector.is_live(member.id) && !context.neighbours.is_short(member.id),
                },
            };
            (member.id, heard)
        });
        let heard = heard.collect();
        drop(detector);
        let replicas = match topology.settings.replicas {
            0 => context.config.replicas,
            replicas => replicas,
        };
        placement::observe(topology, &heard, context.config.replace_after, replicas)
    }
}

impl Office {
    fn new(term: u64, now: Instant) -> Self {
        Self {
            term,
            standings: Vec::new(),
            steady_since: now,
            moving: BTreeSet::new(),
            done: 0,
            is_prompt: false,
            idle_at: None,
        }
    }

    /// Notes what has changed since the last look.
    fn note(&mut self, view: &View, now: Instant) {
        let standings: Vec<_> =
            view.nodes.iter().map(|node| (node.id, node.standing, node.is_live)).collect();
        if standings != self.standings {
            let is = |standing| {
                let nodes = view.nodes.iter().filter(move |node| node.standing == standing);
                nodes.map(|node| node.id.0).collect::<Vec<_>>()
            };
            let (gone, leaving) = (is(Standing::Gone), is(Standing::Leaving));
            tracing::info!(?gone, ?leaving, "nodes to hold replicas have changed");
            ::metrics::gauge!(metrics::NODES_GONE).set(gone.len() as f64);
            self.standings = standings;
            self.steady_since = now;
            self.idle_at = None;
        }
        let unsettled = view.groups.iter().filter(|group| !group.is_settled);
        let moving: BTreeSet<GroupId> = unsettled.map(|group| group.group).collect();
        let done = self.moving.difference(&moving).count();
        self.done += u32::try_from(done).unwrap_or(u32::MAX);
        self.moving = moving;
    }

    fn limits(&self, now: Instant) -> Limits {
        let is_steady = now.saturating_duration_since(self.steady_since) >= STEADY;
        match (self.is_prompt, is_steady) {
            (true, _) => Limits::PROMPT,
            (false, true) => Limits::PACED,
            (false, false) => Limits::REPAIRS,
        }
    }

    fn publish(&mut self, port: &ControllerPort, begun: usize, to_do: usize) {
        let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        let progress = Progress {
            under_way: count(self.moving.len() + begun),
            done: self.done,
            to_do: count(to_do.saturating_sub(begun)),
        };
        ::metrics::gauge!(metrics::GROUPS_MOVING).set(f64::from(progress.under_way));
        if progress.is_at_rest() {
            self.done = 0;
        }
        *port.progress.lock() = Some(progress);
    }
}

/// The next steps, and how many moves there are to do with them.
async fn decide(view: View, limits: Limits) -> (Vec<Step>, usize) {
    offload(move || {
        let steps = placement::plan(&view, limits);
        (steps, placement::steps_to_do(&view))
    })
    .await
}

/// Writes what was decided, as long as this node may; answers how many moves have begun.
async fn write(
    context: &Context,
    meta: &RaftGroup,
    term: u64,
    topology: &Topology,
    steps: Vec<Step>,
) -> usize {
    let mut begun = 0;
    for step in steps {
        let Some(placement) = topology.placement_of(step.group) else { continue };
        if meta.acting_term() != Some(term) || context.stopping.is_cancelled() {
            break;
        }
        let command = MetaCommand::SetTarget {
            group: step.group,
            target: step.target.clone(),
            expected_changes: placement.changes,
        };
        let answer = timeout(WRITE_PATIENCE, meta.write(command.encode())).await;
        match answer {
            Ok(Ok(EntryAnswer::Meta(MetaOutcome::Done))) => {
                tracing::info!(
                    group = step.group.0,
                    target = ?step.target.iter().map(|node| node.0).collect::<Vec<_>>(),
                    reason = ?step.reason,
                    "a group's replicas are to be elsewhere"
                );
                let reason = step.reason.name();
                ::metrics::counter!(metrics::TARGETS_TOTAL, "reason" => reason).increment(1);
                begun += usize::from(step.reason.moves_replicas());
            }
            Ok(Ok(EntryAnswer::Meta(MetaOutcome::Changed(changes)))) => {
                tracing::info!(group = step.group.0, changes, "a decision came too late");
                break;
            }
            Ok(Ok(answer)) => {
                tracing::warn!(group = step.group.0, ?answer, "the registry refused a target");
            }
            // Unknown or not done: the next look sees which.
            Ok(_) | Err(_) => break,
        }
    }
    begun
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::placement::{GroupView, NodeView};

    const NODES: [NodeId; 3] = [NodeId(1), NodeId(2), NodeId(3)];

    /// One shard that moves, or does not.
    fn view(standing: Standing, unsettled: &[u32]) -> View {
        let node = |id: NodeId| NodeView { id, zone: String::new(), standing, is_live: true };
        let group = |group: u32| GroupView {
            group: GroupId(group),
            wanted: 3,
            weight: 1,
            target: NODES.to_vec(),
            held: NODES.to_vec(),
            arriving: Vec::new(),
            is_settled: !unsettled.contains(&group),
        };
        View { nodes: NODES.map(node).to_vec(), groups: (0..2).map(group).collect() }
    }

    #[test]
    fn evening_out_waits_until_nodes_neither_come_nor_go() {
        let begun = Instant::now();
        let mut office = Office::new(1, begun);
        office.note(&view(Standing::Open, &[]), begun);
        assert_eq!(office.limits(begun).balancing, 0);
        let steady = begun + STEADY;
        office.note(&view(Standing::Open, &[]), steady);
        assert_eq!(office.limits(steady).balancing, Limits::PACED.balancing);
        office.note(&view(Standing::Keeping, &[]), steady);
        assert_eq!(office.limits(steady).balancing, 0);
        office.is_prompt = true;
        assert_eq!(office.limits(steady).balancing, Limits::PROMPT.balancing);
    }

    #[test]
    fn progress_counts_until_the_cluster_is_at_rest() {
        let now = Instant::now();
        let port = ControllerPort::default();
        let mut office = Office::new(1, now);
        assert_eq!(port.progress(), None);
        office.note(&view(Standing::Open, &[]), now);
        office.publish(&port, 1, 3);
        let told = port.progress().unwrap();
        assert_eq!((told.under_way, told.done, told.to_do), (1, 0, 2));
        office.note(&view(Standing::Open, &[1]), now);
        office.publish(&port, 0, 2);
        office.note(&view(Standing::Open, &[]), now);
        office.publish(&port, 0, 2);
        let told = port.progress().unwrap();
        assert_eq!((told.under_way, told.done, told.to_do), (0, 1, 2));
        office.publish(&port, 0, 0);
        assert!(port.progress().unwrap().is_at_rest());
        assert_eq!(office.done, 0);
    }
}
