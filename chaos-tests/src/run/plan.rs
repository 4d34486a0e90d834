//! What is done to whom: pure, decided by a seed and by who leads.

use rand::{Rng as _, SeedableRng as _, rngs::SmallRng, seq::SliceRandom as _};

use super::profile::{Shape, Spec, Step, Target};
use crate::faults::{Fault, Unsynced};

/// The order of steps: rounds of all of them, each shuffled.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    steps: usize,
    rng: SmallRng,
    /// Of this round, the last first.
    left: Vec<usize>,
    done: usize,
}

impl Plan {
    /// Of so many steps.
    pub(super) fn new(steps: usize, seed: u64) -> Self {
        Self { steps, rng: SmallRng::seed_from_u64(seed), left: Vec::new(), done: 0 }
    }

    /// Which step is next, and what decides it.
    pub(super) fn next_step(&mut self) -> (usize, SmallRng) {
        if self.left.is_empty() {
            self.left = (0..self.steps).collect();
            self.left.shuffle(&mut self.rng);
        }
        self.done += 1;
        let step = self.left.pop().expect("it was just filled");
        (step, SmallRng::seed_from_u64(self.rng.random()))
    }

    /// Whether each step was done at least once.
    pub(super) fn has_done_all(&self) -> bool {
        self.done >= self.steps
    }
}

/// Who there is to be hit.
#[derive(Clone, Debug)]
pub(super) struct Field {
    /// Nodes 1 to this.
    pub(super) nodes: u16,
    /// Who leads the registry.
    pub(super) leader: Option<u16>,
    /// Who is hit already in this step.
    pub(super) taken: Vec<u16>,
    /// Who has joined in this step.
    pub(super) newcomer: Option<u16>,
}

impl Field {
    /// Chooses nodes; fewer, or none, when the others are taken.
    pub(super) fn choose(&mut self, target: Target, rng: &mut SmallRng) -> Vec<u16> {
        let mut free: Vec<u16> =
            (1..=self.nodes).filter(|node| !self.taken.contains(node)).collect();
        free.shuffle(rng);
        let count = match target {
            Target::One => 1,
            Target::Minority => usize::from((self.nodes - 1) / 2),
            Target::All => free.len(),
            Target::Newcomer => {
                free = self.newcomer.into_iter().collect();
                1
            }
            Target::Leader => {
                // Whoever it is when nobody says who leads.
                let leader = self.leader.filter(|leader| free.contains(leader));
                free = leader.or(free.first().copied()).into_iter().collect();
                1
            }
            Target::Follower => {
                free.retain(|node| Some(*node) != self.leader);
                1
            }
        };
        free.truncate(count);
        free.sort_unstable();
        self.taken.extend(&free);
        free
    }
}

/// The faults of one spec, in their order: for most it is one. None when nobody is left to be hit.
pub(super) fn faults(spec: &Spec, field: &mut Field, rng: &mut SmallRng) -> Vec<Fault> {
    let mut choose = |target, rng: &mut SmallRng| field.choose(target, rng);
    let fault = match spec {
        Spec::Kill { target } => Fault::Kill { nodes: choose(*target, rng) },
        Spec::Pause { target } => Fault::Pause { nodes: choose(*target, rng) },
        Spec::Slow { target, stopped_percent } => {
            Fault::Slow { nodes: choose(*target, rng), stopped_percent: *stopped_percent }
        }
        Spec::Clock { target, seconds } => {
            Fault::Clock { nodes: choose(*target, rng), seconds: *seconds }
        }
        Spec::Strobe { target, seconds } => {
            Fault::Strobe { nodes: choose(*target, rng), seconds: *seconds }
        }
        Spec::Disk { target, rules } => {
            Fault::Disk { nodes: choose(*target, rng), rules: rules.clone() }
        }
        Spec::PowerCut { target, unsynced } => {
            let nodes = choose(*target, rng);
            let any = Unsynced::ALL[rng.random_range(0..Unsynced::ALL.len())];
            Fault::PowerCut { nodes, unsynced: unsynced.unwrap_or(any), seed: rng.random() }
        }
        Spec::Stop { target } => {
            return choose(*target, rng).into_iter().map(|node| Fault::Stop { node }).collect();
        }
        Spec::LoseDisk { target } => {
            let nodes = choose(*target, rng).into_iter();
            return nodes.map(|node| Fault::LoseDisk { node }).collect();
        }
        Spec::Join {} => {
            let node = field.nodes + 1;
            field.newcomer = Some(node);
            return vec![Fault::Join { node }];
        }
        Spec::Leave { target } => {
            return choose(*target, rng).into_iter().map(|node| Fault::Leave { node }).collect();
        }
        Spec::Damage { target, how } => {
            let seed = rng.random();
            let damage = |node| Fault::Damage { node, how: *how, seed };
            return choose(*target, rng).into_iter().map(damage).collect();
        }
        Spec::Upgrade { build } => {
            let upgrade = |node| Fault::Upgrade { node, build: *build };
            return (1..=field.nodes).map(upgrade).collect();
        }
        Spec::Partition { shape } => return partitions(*shape, field, rng),
        Spec::Links { links } => return vec![Fault::Links { links: *links }],
        Spec::Overload { senders } => return vec![Fault::Overload { senders: *senders }],
        Spec::Storm { clients } => return vec![Fault::Storm { clients: *clients }],
    };
    if fault.nodes().is_empty() { Vec::new() } else { vec![fault] }
}

/// In which order faults are ended: as they came, but who left comes back before who joined leaves;
/// the others need one of them, and all that runs.
pub(super) fn in_order(mut remedies: Vec<Fault>) -> Vec<Fault> {
    remedies.sort_by_key(|remedy| match remedy {
        Fault::Join { .. } => 1,
        Fault::Leave { .. } => 2,
        _ => 0,
    });
    remedies
}

/// Whether a step ends by itself.
pub(super) fn remedy(fault: &Fault) -> Option<Fault> {
    match fault {
        Fault::Kill { nodes } | Fault::PowerCut { nodes, .. } => {
            Some(Fault::Restart { nodes: nodes.clone() })
        }
        Fault::Stop { node } | Fault::Damage { node, .. } => {
            Some(Fault::Restart { nodes: vec![*node] })
        }
        Fault::LoseDisk { node } => Some(Fault::Replace { node: *node }),
        Fault::Join { node } => Some(Fault::Leave { node: *node }),
        Fault::Leave { node } => Some(Fault::Join { node: *node }),
        Fault::Pause { nodes } | Fault::Slow { nodes, .. } => {
            Some(Fault::Resume { nodes: nodes.clone() })
        }
        Fault::Partition { .. } => Some(Fault::Heal),
        Fault::Links { .. } => Some(Fault::Calm),
        Fault::Clock { nodes, .. } | Fault::Strobe { nodes, .. } => {
            Some(Fault::ClocksRight { nodes: nodes.clone() })
        }
        Fault::Disk { nodes, .. } => Some(Fault::Repair { nodes: nodes.clone() }),
        Fault::Overload { .. } | Fault::Storm { .. } => Some(Fault::LoadEnds),
        _ => None,
    }
}

/// Whether a step's faults can do without the pause that a step is held for.
pub(super) fn is_rolling(step: &Step) -> bool {
    step.faults.iter().all(|spec| matches!(spec, Spec::Upgrade { .. }))
}

fn partitions(shape: Shape, field: &mut Field, rng: &mut SmallRng) -> Vec<Fault> {
    let all: Vec<u16> = (1..=field.nodes).collect();
    let word = match shape {
        Shape::Single => "single",
        Shape::Leader => "leader",
        Shape::Halves => "halves",
        Shape::Bridge => "bridge",
        Shape::Ring => "ring",
        Shape::OneWay => "one-way",
        Shape::Clients => "clients",
        Shape::Swizzle => "swizzle",
    };
    let cut = |cuts: Vec<(u16, u16)>, clients: Vec<u16>| Fault::Partition {
        shape: word.to_owned(),
        cuts,
        clients,
    };
    let from_all = |apart: &[u16]| {
        let others = all.iter().filter(|node| !apart.contains(node));
        others.flat_map(|other| apart.iter().flat_map(|node| both(*node, *other))).collect()
    };
    // Each from everybody, the others that are cut off too.
    let alone = |apart: &[u16]| -> Vec<(u16, u16)> {
        let is_cut = |a: &u16, b: &u16| a != b && (apart.contains(a) || apart.contains(b));
        let pairs = all.iter().flat_map(|a| all.iter().map(move |b| (*a, *b)));
        pairs.filter(|(a, b)| is_cut(a, b)).collect()
    };
    let mut one = |target, rng: &mut SmallRng| field.choose(target, rng);
    match shape {
        Shape::Single => vec![cut(from_all(&one(Target::One, rng)), Vec::new())],
        Shape::Leader => vec![cut(from_all(&one(Target::Leader, rng)), Vec::new())],
        Shape::Halves => vec![cut(from_all(&one(Target::Minority, rng)), Vec::new())],
        Shape::OneWay => {
            let mut cuts: Vec<(u16, u16)> = from_all(&one(Target::One, rng));
            let silent = field.taken.last().copied().unwrap_or(1);
            cuts.retain(|(from, _)| *from == silent);
            vec![cut(cuts, Vec::new())]
        }
        Shape::Clients => {
            let nodes = one(Target::One, rng);
            vec![cut(Vec::new(), nodes)]
        }
        Shape::Bridge => {
            let mut order = all.clone();
            order.shuffle(rng);
            let (bridge, rest) = order.split_first().expect("there are nodes");
            let (left, right) = rest.split_at(rest.len() / 2);
            debug_assert!(!left.contains(bridge));
            let pairs = left.iter().flat_map(|a| right.iter().flat_map(|b| both(*a, *b)));
            vec![cut(pairs.collect(), Vec::new())]
        }
        Shape::Ring => {
            let mut order = all.clone();
            order.shuffle(rng);
            vec![cut(all_but_neighbours(&order), Vec::new())]
        }
        Shape::Swizzle => {
            let mut order = one(Target::Minority, rng);
            if order.len() == 1 {
                order.extend(one(Target::One, rng));
            }
            let mut steps: Vec<Fault> =
                (1..=order.len()).map(|count| cut(alone(&order[..count]), Vec::new())).collect();
            order.shuffle(rng);
            steps.extend((1..order.len()).map(|back| cut(alone(&order[back..]), Vec::new())));
            steps
        }
    }
}

/// Each node from all but its neighbours in this order; of three each is the neighbour of both, so
/// there a ring is a chain.
fn all_but_neighbours(order: &[u16]) -> Vec<(u16, u16)> {
    let count = order.len();
    let is_near = |i: usize, j: usize| {
        let apart = i.abs_diff(j);
        apart == 1 || count > 3 && apart == count - 1
    };
    let pairs = (0..count).flat_map(|i| (0..count).map(move |j| (i, j)));
    let far = pairs.filter(|(i, j)| i != j && !is_near(*i, *j));
    far.map(|(i, j)| (order[i], order[j])).collect()
}

fn both(a: u16, b: u16) -> [(u16, u16); 2] {
    [(a, b), (b, a)]
}

#[cfg(test)]
#[path = "plan_test.rs"]
mod tests;
