//! What is done to a cluster: the one list of faults, as histories have it.

use std::{collections::BTreeSet, fmt};

use serde::{Deserialize, Serialize};

use super::Unsynced;

/// What is done to a cluster. Some last until their remedy, which is a fault of this list, too.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "fault", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Fault {
    /// `kill -9` of these nodes at once.
    Kill {
        /// Their ids.
        nodes: Vec<u16>,
    },
    /// SIGTERM to this node, until its process has ended; it must end with 0.
    Stop {
        /// Its id.
        node: u16,
    },
    /// Start of these nodes on their directories, until they are ready.
    Restart {
        /// Their ids.
        nodes: Vec<u16>,
    },
    /// SIGSTOP to these nodes.
    Pause {
        /// Their ids.
        nodes: Vec<u16>,
    },
    /// These nodes are stopped for a part of each tenth of a second.
    Slow {
        /// Their ids.
        nodes: Vec<u16>,
        /// For how much of it they stand still.
        stopped_percent: u8,
    },
    /// SIGCONT to these nodes, and no slowness any more.
    Resume {
        /// Their ids.
        nodes: Vec<u16>,
    },
    /// Packets between nodes are dropped where they come in.
    Partition {
        /// A word for the shape.
        shape: String,
        /// From the first to the second of each pair nothing comes through.
        cuts: Vec<(u16, u16)>,
        /// To these nodes no client's packet comes through.
        clients: Vec<u16>,
    },
    /// All packets come through again.
    Heal,
    /// What the links between nodes do to datagrams, and to the bytes of tripwires.
    Links {
        /// What.
        links: super::Impairment,
    },
    /// The links are well again.
    Calm,
    /// The wall clock of these nodes is off by so much.
    Clock {
        /// Their ids.
        nodes: Vec<u16>,
        /// By how much, negative for the past.
        seconds: i64,
    },
    /// The wall clock of these nodes jumps there and back, twice a second.
    Strobe {
        /// Their ids.
        nodes: Vec<u16>,
        /// How far.
        seconds: i64,
    },
    /// The wall clocks are right again.
    ClocksRight {
        /// Whose.
        nodes: Vec<u16>,
    },
    /// Loss of power of these nodes at once.
    PowerCut {
        /// Their ids.
        nodes: Vec<u16>,
        /// What it leaves of what was not synced.
        unsynced: Unsynced,
        /// Decides the rest.
        seed: u64,
    },
    /// The disks of these nodes fail from now on.
    Disk {
        /// Their ids.
        nodes: Vec<u16>,
        /// How, as `preload/powercut.c` tells.
        rules: String,
    },
    /// The disks of these nodes are well again; complete when the nodes are ready.
    Repair {
        /// Their ids.
        nodes: Vec<u16>,
    },
    /// A file of a killed node is changed behind its back.
    Damage {
        /// The node.
        node: u16,
        /// How.
        how: super::Damage,
        /// Decides which file, and where in it.
        seed: u64,
    },
    /// A killed node's disk is gone, and everything on it.
    LoseDisk {
        /// The node.
        node: u16,
    },
    /// The registry is told that a node has lost its disk, and the node comes with an empty one.
    Replace {
        /// The node.
        node: u16,
    },
    /// A node that is no member joins, with an empty disk; complete when it holds a replica.
    Join {
        /// The node.
        node: u16,
    },
    /// A member leaves for good: its replicas move away, it is forgotten and stopped.
    Leave {
        /// The node.
        node: u16,
    },
    /// A node is stopped cleanly and started with the other build.
    Upgrade {
        /// The node.
        node: u16,
        /// Which of the two builds.
        build: Build,
    },
    /// So many senders more, without a pause between messages.
    Overload {
        /// How many.
        senders: u32,
    },
    /// The additional senders stop.
    LoadEnds,
    /// Everything that still goes on is ended; complete when the cluster is whole.
    Settle,
    /// So many clients connect at once; each connects anew when its node closes on it.
    Storm {
        /// How many.
        clients: u32,
    },
}

/// One of the two builds of an upgrade.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Build {
    /// The one the cluster was started with.
    First,
    /// The other one.
    Second,
}

/// What a fault means for who can be counted on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// These nodes are of no use to a majority.
    Away(Vec<u16>),
    /// These are again.
    Back(Vec<u16>),
    /// Everybody who is there can be reached again.
    Reached,
    /// Everybody stays.
    Disturbed,
}

impl Fault {
    /// Its word, as histories and profiles have it.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Kill { .. } => "kill",
            Self::Stop { .. } => "stop",
            Self::Restart { .. } => "restart",
            Self::Pause { .. } => "pause",
            Self::Slow { .. } => "slow",
            Self::Resume { .. } => "resume",
            Self::Partition { .. } => "partition",
            Self::Heal => "heal",
            Self::Links { .. } => "links",
            Self::Calm => "calm",
            Self::Clock { .. } => "clock",
            Self::Strobe { .. } => "strobe",
            Self::ClocksRight { .. } => "clocks-right",
            Self::PowerCut { .. } => "power-cut",
            Self::Disk { .. } => "disk",
            Self::Repair { .. } => "repair",
            Self::Damage { .. } => "damage",
            Self::LoseDisk { .. } => "lose-disk",
            Self::Replace { .. } => "replace",
            Self::Join { .. } => "join",
            Self::Leave { .. } => "leave",
            Self::Upgrade { .. } => "upgrade",
            Self::Overload { .. } => "overload",
            Self::LoadEnds => "load-ends",
            Self::Storm { .. } => "storm",
            Self::Settle => "settle",
        }
    }

    /// Whether it ends another fault and is none by itself.
    pub fn is_remedy(&self) -> bool {
        matches!(
            self,
            Self::Restart { .. }
                | Self::Resume { .. }
                | Self::Heal
                | Self::Calm
                | Self::ClocksRight { .. }
                | Self::Repair { .. }
                | Self::Replace { .. }
                | Self::LoadEnds
                | Self::Settle
        )
    }

    /// Whether a cluster must bring it to its end: what is indeterminate then is a broken promise.
    pub fn must_succeed(&self) -> bool {
        let is_change = matches!(
            self,
            Self::Stop { .. } | Self::Upgrade { .. } | Self::Join { .. } | Self::Leave { .. }
        );
        is_change || self.is_remedy()
    }

    /// The nodes it is done to.
    pub fn nodes(&self) -> Vec<u16> {
        match self {
            Self::Kill { nodes }
            | Self::Restart { nodes }
            | Self::Pause { nodes }
            | Self::Slow { nodes, .. }
            | Self::Resume { nodes }
            | Self::Clock { nodes, .. }
            | Self::Strobe { nodes, .. }
            | Self::ClocksRight { nodes }
            | Self::PowerCut { nodes, .. }
            | Self::Disk { nodes, .. }
            | Self::Repair { nodes } => nodes.clone(),
            Self::Stop { node }
            | Self::Damage { node, .. }
            | Self::LoseDisk { node }
            | Self::Replace { node }
            | Self::Join { node }
            | Self::Leave { node }
            | Self::Upgrade { node, .. } => vec![*node],
            Self::Partition { cuts, clients, .. } => {
                let ends = cuts.iter().flat_map(|(from, to)| [*from, *to]);
                let all: BTreeSet<u16> = ends.chain(clients.iter().copied()).collect();
                all.into_iter().collect()
            }
            Self::Heal
            | Self::Links { .. }
            | Self::Calm
            | Self::Overload { .. }
            | Self::LoadEnds
            | Self::Settle
            | Self::Storm { .. } => Vec::new(),
        }
    }

    /// What it means for a cluster of nodes 1 to `nodes`.
    pub fn effect(&self, nodes: usize) -> Effect {
        match self {
            Self::Kill { nodes }
            | Self::PowerCut { nodes, .. }
            | Self::Pause { nodes }
            // A node whose disk fails is of no use to a majority.
            | Self::Disk { nodes, .. } => Effect::Away(nodes.clone()),
            Self::Stop { node } | Self::LoseDisk { node } | Self::Damage { node, .. } => {
                Effect::Away(vec![*node])
            }
            Self::Restart { nodes } | Self::Repair { nodes } | Self::Resume { nodes } => {
                Effect::Back(nodes.clone())
            }
            Self::Replace { node } => Effect::Back(vec![*node]),
            Self::Partition { cuts, .. } => Effect::Away(cut_off(nodes, cuts)),
            Self::Heal | Self::Settle => Effect::Reached,
            // One node is away at a time, and comes back before the fault is complete.
            Self::Upgrade { .. }
            // Who comes or goes is none of those that a majority needs at that moment.
            | Self::Join { .. }
            | Self::Leave { .. }
            | Self::Slow { .. }
            | Self::Links { .. }
            | Self::Calm
            | Self::Clock { .. }
            | Self::Strobe { .. }
            | Self::ClocksRight { .. }
            | Self::Overload { .. }
            | Self::LoadEnds
            | Self::Storm { .. } => Effect::Disturbed,
        }
    }
}

/// Whom `cuts` leave outside of the largest set of nodes that all reach each other both ways; the
/// lowest ids win where several are as large. Clusters are small: all sets are tried.
fn cut_off(nodes: usize, cuts: &[(u16, u16)]) -> Vec<u16> {
    let count = u16::try_from(nodes.min(16)).expect("sixteen at most");
    let is_whole = |set: u32| {
        !cuts.iter().any(|(from, to)| {
            let has = |node: u16| (1..=count).contains(&node) && set & (1 << (node - 1)) != 0;
            has(*from) && has(*to)
        })
    };
    let whole = (0..1u32 << count).filter(|set| is_whole(*set));
    let best = whole.max_by_key(|set| (set.count_ones(), std::cmp::Reverse(*set))).unwrap_or(0);
    (1..=count).filter(|node| best & (1 << (node - 1)) == 0).collect()
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.kind())?;
        let nodes = self.nodes();
        if !nodes.is_empty() {
            write!(f, " of {nodes:?}")?;
        }
        match self {
            Self::Partition { shape, .. } => write!(f, " ({shape})"),
            Self::Slow { stopped_percent, .. } => write!(f, " ({stopped_percent} % stopped)"),
            Self::Clock { seconds, .. } | Self::Strobe { seconds, .. } => {
                write!(f, " ({seconds:+} s)")
            }
            Self::PowerCut { unsynced, .. } => write!(f, " ({unsynced:?})"),
            Self::Disk { rules, .. } => write!(f, " ({})", rules.replace('\n', "; ")),
            Self::Damage { how, .. } => write!(f, " ({how:?})"),
            Self::Links { links } => write!(f, " ({links})"),
            Self::Upgrade { build, .. } => write!(f, " (to the {build:?} build)"),
            Self::Overload { senders } => write!(f, " ({senders} senders)"),
            Self::Storm { clients } => write!(f, " ({clients} clients)"),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_cut_off_is_whoever_the_largest_whole_does_not_have() {
        let both = |a, b| [(a, b), (b, a)];
        assert_eq!(cut_off(3, &[]), Vec::<u16>::new());
        assert_eq!(cut_off(3, &[both(1, 2), both(1, 3)].concat()), [1]);
        // A bridge: 3 hears both, they do not hear each other; one way is enough.
        assert_eq!(cut_off(3, &[(1, 2)]), [2]);
        let halves: Vec<_> =
            [1, 2].iter().flat_map(|a| [3, 4, 5].map(|b| both(*a, b)).concat()).collect();
        assert_eq!(cut_off(5, &halves), [1, 2]);
        // Everybody alone: no majority.
        let alone = [both(1, 2), both(1, 3), both(2, 3)].concat();
        assert_eq!(cut_off(3, &alone).len(), 2);
    }

    #[test]
    fn a_fault_is_one_flat_object_of_a_history() {
        let fault = Fault::Partition {
            shape: "one-way".to_owned(),
            cuts: vec![(1, 2)],
            clients: Vec::new(),
        };
        let text = serde_json::to_string(&fault).unwrap();
        assert!(text.starts_with(r#"{"fault":"partition","shape":"one-way""#), "{text}");
        assert_eq!(serde_json::from_str::<Fault>(&text).unwrap(), fault);
        assert_eq!(fault.to_string(), "partition of [1, 2] (one-way)");
    }
}
