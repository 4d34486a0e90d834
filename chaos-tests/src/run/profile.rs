//! Profiles: what a run does and expects. TOML that an operator can copy and change.

use std::{collections::BTreeMap, path::Path, time::Duration};

use anyhow::{Context as _, Result, bail, ensure};
use serde::{Deserialize, Deserializer};

use crate::{
    checker::{Demand, Expectation, resources::MEMORY_MORE},
    cluster::Wiring,
    faults::{Damage, Impairment, Unsynced},
    workload::Config,
};

/// How many replicas a group has.
const REPLICAS: u16 = 3;

/// The profiles that come with the program.
pub const BUILT_IN: [(&str, &str); 8] = [
    ("smoke", include_str!("../../profiles/smoke.toml")),
    ("standard", include_str!("../../profiles/standard.toml")),
    ("disk", include_str!("../../profiles/disk.toml")),
    ("network", include_str!("../../profiles/network.toml")),
    ("membership", include_str!("../../profiles/membership.toml")),
    ("storm", include_str!("../../profiles/storm.toml")),
    ("upgrade", include_str!("../../profiles/upgrade.toml")),
    ("soak", include_str!("../../profiles/soak.toml")),
];

/// What a run does and expects.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Profile {
    /// A word.
    pub name: String,
    /// What it is for.
    pub about: String,
    /// How many nodes: 3 or 5.
    #[serde(default = "three")]
    pub nodes: u16,
    /// For how long faults are inflicted; each step is done once in any case.
    pub minutes: f64,
    /// How long a fault lasts where its step does not say.
    #[serde(deserialize_with = "duration")]
    pub hold: Duration,
    /// How long traffic flows between two steps.
    #[serde(deserialize_with = "duration")]
    pub quiet: Duration,
    /// How long after a fault a pause is looked for.
    #[serde(deserialize_with = "duration")]
    pub window: Duration,
    /// The longest pause in any mailbox while a majority is there.
    #[serde(deserialize_with = "duration")]
    pub pause_max: Duration,
    /// How many MiB a node may use in the end beside twice what it used before the first fault: what
    /// its caches, the ids of an hour and whatever else fills by and by take.
    #[serde(default = "memory_more_mib")]
    pub memory_more_mib: u32,
    /// Whether disks can fail.
    #[serde(default)]
    pub faulty_disks: bool,
    /// Whether wall clocks can jump.
    #[serde(default)]
    pub faulty_clocks: bool,
    /// Whether the links between nodes can be impaired.
    #[serde(default)]
    pub proxied_links: bool,
    /// Rules that every disk follows from the start, as `preload/powercut.c` tells.
    #[serde(default)]
    pub disk_rules: String,
    /// The traffic.
    pub workload: Traffic,
    /// Configuration of the nodes, as variables of their environment.
    #[serde(default)]
    pub settings: BTreeMap<String, String>,
    /// Errors that nodes may log, and why.
    #[serde(default)]
    pub expected_errors: Vec<ExpectedError>,
    /// What is done, in an order that the seed decides.
    pub step: Vec<Step>,
}

/// The traffic of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Traffic {
    /// Mailboxes; of each manner of receiving a fourth.
    pub mailboxes: u32,
    /// Senders to each.
    pub senders: u32,
    /// Between two messages of a sender.
    #[serde(deserialize_with = "duration")]
    pub pace: Duration,
    /// After how many messages a client moves to another node.
    pub moves_every: u32,
    /// Live streams.
    pub streams: u32,
    /// Devices registered a second.
    pub registrations: u32,
}

/// An error that nodes may log.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct ExpectedError {
    /// What the line has.
    pub contains: String,
    /// Why it may be there.
    pub because: String,
}

/// Faults that are there together, and then not any more.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Step {
    /// One after the other, each on nodes that the ones before it left alone.
    pub faults: Vec<Spec>,
    /// How long they last.
    #[serde(default, deserialize_with = "some_duration")]
    pub hold: Option<Duration>,
    /// How often each must have happened for the run to have shown anything; 0 where a machine may
    /// not be able to.
    #[serde(default = "once")]
    pub times: u32,
}

/// A fault whose nodes are not chosen yet.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(tag = "kind", deny_unknown_fields, rename_all = "kebab-case")]
pub enum Spec {
    /// `kill -9`.
    Kill {
        /// Whom.
        target: Target,
    },
    /// SIGTERM.
    Stop {
        /// Whom; one node.
        target: Target,
    },
    /// SIGSTOP.
    Pause {
        /// Whom.
        target: Target,
    },
    /// Stopped for a part of each tenth of a second.
    #[serde(rename_all = "kebab-case")]
    Slow {
        /// Whom.
        target: Target,
        /// For how much of it.
        stopped_percent: u8,
    },
    /// Packets are dropped.
    Partition {
        /// Between whom.
        shape: Shape,
    },
    /// Links are impaired.
    Links {
        /// How.
        links: Impairment,
    },
    /// Wall clocks are wrong.
    Clock {
        /// Whose.
        target: Target,
        /// By how much.
        seconds: i64,
    },
    /// Wall clocks jump there and back.
    Strobe {
        /// Whose.
        target: Target,
        /// How far.
        seconds: i64,
    },
    /// Loss of power.
    #[serde(rename_all = "kebab-case")]
    PowerCut {
        /// Whose.
        target: Target,
        /// What is left of what was not synced; any when not given.
        unsynced: Option<Unsynced>,
    },
    /// Disks fail.
    Disk {
        /// Whose.
        target: Target,
        /// How.
        rules: String,
    },
    /// A file of a node is damaged while it is down.
    Damage {
        /// Whose; one node.
        target: Target,
        /// How.
        how: Damage,
    },
    /// A node's disk is lost, and it is replaced.
    #[serde(rename_all = "kebab-case")]
    LoseDisk {
        /// Whose; one node.
        target: Target,
    },
    /// A node joins; it leaves again when the step ends.
    Join {},
    /// A member leaves; it joins again when the step ends.
    Leave {
        /// Who; one node.
        target: Target,
    },
    /// More traffic than the cluster takes.
    Overload {
        /// How many senders.
        senders: u32,
    },
    /// Many clients connect at once.
    Storm {
        /// How many.
        clients: u32,
    },
    /// Every node is brought to the other build, one after the other.
    Upgrade {
        /// To which.
        build: crate::faults::Build,
    },
}

/// Whom a fault hits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Target {
    /// Any one node.
    One,
    /// Who leads the registry (and a part of the shards).
    Leader,
    /// One who does not lead the registry.
    Follower,
    /// As many as a majority can spare.
    Minority,
    /// Everybody at once.
    All,
    /// The node that has joined in this step.
    Newcomer,
}

/// Between whom packets are dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Shape {
    /// One node from all others.
    Single,
    /// Who leads the registry from all others.
    Leader,
    /// A minority from the majority.
    Halves,
    /// Two halves that only one node reaches both of.
    Bridge,
    /// Each node reaches only its neighbours.
    Ring,
    /// From one node nothing reaches the others; it hears them.
    OneWay,
    /// Clients do not reach one node; its peers do.
    Clients,
    /// One node after the other is cut off, and they come back in another order.
    Swizzle,
}

impl Profile {
    /// The built-in profile of this name, or that of a file.
    ///
    /// # Errors
    /// When there is none, or it is not as agreed.
    pub fn load(name: &str) -> Result<Self> {
        let built_in = BUILT_IN.iter().find(|(built_in, _)| *built_in == name);
        let profile: Self = match built_in {
            Some((_, text)) => toml::from_str(text).context("a built-in profile")?,
            None => {
                let text = std::fs::read_to_string(Path::new(name)).with_context(|| {
                    let known = BUILT_IN.map(|(name, _)| name).join(", ");
                    format!("{name} is neither a file nor one of {known}")
                })?;
                toml::from_str(&text).with_context(|| format!("{name} is not as agreed"))?
            }
        };
        profile.check()?;
        Ok(profile)
    }

    /// Checks what types cannot.
    ///
    /// # Errors
    /// What is wrong.
    pub fn check(&self) -> Result<()> {
        ensure!(matches!(self.nodes, 3 | 5), "nodes is {}; 3 or 5 are tested", self.nodes);
        ensure!(!self.step.is_empty(), "a profile without a step tests nothing");
        let minutes = 0.1..=7.0 * 24.0 * 60.0;
        ensure!(minutes.contains(&self.minutes), "minutes is {}, beyond a week", self.minutes);
        for spec in self.step.iter().flat_map(|step| &step.faults) {
            let needs_disk = matches!(spec, Spec::PowerCut { .. } | Spec::Disk { .. });
            ensure!(self.faulty_disks || !needs_disk, "{spec:?} needs faulty-disks = true");
            let needs_clock = matches!(spec, Spec::Clock { .. } | Spec::Strobe { .. });
            ensure!(self.faulty_clocks || !needs_clock, "{spec:?} needs faulty-clocks = true");
            let needs_links = matches!(spec, Spec::Links { .. });
            ensure!(self.proxied_links || !needs_links, "{spec:?} needs proxied-links = true");
        }
        for step in &self.step {
            let mut members = self.nodes;
            for spec in &step.faults {
                match spec {
                    Spec::Join {} if members > self.nodes => bail!("one node joins at a time"),
                    Spec::Join {} => members += 1,
                    // With fewer nodes than replicas nothing can move.
                    Spec::Leave { .. } if members <= REPLICAS => {
                        bail!("of {members} nodes none can leave: let one join before")
                    }
                    Spec::Leave { .. } => members -= 1,
                    _ => {}
                }
            }
        }
        Ok(())
    }

    /// What its runs are judged by.
    pub fn expectation(&self) -> Expectation {
        let mut demands: BTreeMap<&'static str, u32> = BTreeMap::new();
        for step in &self.step {
            for spec in &step.faults {
                let times = demands.entry(spec.kind()).or_default();
                *times = (*times).max(step.times);
            }
        }
        let demand = |(kind, times): (&str, u32)| Demand { kind: kind.to_owned(), times };
        Expectation {
            nodes: usize::from(self.nodes),
            window: self.window,
            pause_max: self.pause_max,
            memory_more: u64::from(self.memory_more_mib) << 20,
            is_whole: true,
            demands: demands.into_iter().map(demand).collect(),
        }
    }

    /// Its traffic.
    pub fn config(&self) -> Config {
        let Traffic { mailboxes, senders, pace, moves_every, streams, registrations } =
            self.workload;
        Config { mailboxes, senders, pace, moves_every, streams, registrations }
    }

    /// Whether nodes join.
    pub fn has_newcomers(&self) -> bool {
        self.step.iter().flat_map(|step| &step.faults).any(|spec| matches!(spec, Spec::Join {}))
    }

    /// How its nodes reach each other.
    pub fn wiring(&self) -> Wiring {
        if self.proxied_links { Wiring::Proxied } else { Wiring::Direct }
    }
}

impl Spec {
    /// The kind of the fault that it becomes.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Kill { .. } => "kill",
            Self::Stop { .. } => "stop",
            Self::Pause { .. } => "pause",
            Self::Slow { .. } => "slow",
            Self::Partition { .. } => "partition",
            Self::Links { .. } => "links",
            Self::Clock { .. } => "clock",
            Self::Strobe { .. } => "strobe",
            Self::PowerCut { .. } => "power-cut",
            Self::Disk { .. } => "disk",
            Self::Damage { .. } => "damage",
            Self::LoseDisk { .. } => "lose-disk",
            Self::Join {} => "join",
            Self::Leave { .. } => "leave",
            Self::Overload { .. } => "overload",
            Self::Storm { .. } => "storm",
            Self::Upgrade { .. } => "upgrade",
        }
    }
}

fn memory_more_mib() -> u32 {
    u32::try_from(MEMORY_MORE >> 20).expect("some megabytes")
}

fn three() -> u16 {
    3
}

fn once() -> u32 {
    1
}

fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    let (number, unit) = match text.strip_suffix("ms") {
        Some(number) => (number, 0.001),
        None => (text.strip_suffix('s').unwrap_or(""), 1.0),
    };
    let seconds = number.parse::<f64>().ok().filter(|number| (0.0..1e6).contains(number));
    let wrong = || serde::de::Error::custom(format!("{text:?} is no duration like \"5s\""));
    seconds.map(|number| Duration::from_secs_f64(number * unit)).ok_or_else(wrong)
}

fn some_duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    duration(deserializer).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_built_in_profiles_are_as_agreed_and_say_what_they_are_for() {
        for (name, _) in BUILT_IN {
            let profile = Profile::load(name).unwrap();
            assert_eq!(profile.name, name);
            assert!(profile.about.len() > 20 && profile.expectation().is_whole, "{name}");
            assert!(profile.expectation().demands.iter().any(|demand| demand.times > 0), "{name}");
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        let refusal = |change: &dyn Fn(&str) -> String| {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("own.toml");
            std::fs::write(&path, change(BUILT_IN[0].1)).unwrap();
            format!("{:#}", Profile::load(path.to_str().unwrap()).unwrap_err())
        };
        assert!(format!("{:#}", Profile::load("smoky").unwrap_err()).contains("smoke, standard"));
        let text = refusal(&|text| text.replace("kind = \"kill\"", "kind = \"murder\""));
        assert!(text.contains("murder"), "{text}");
        let text = refusal(&|text| text.replace("faulty-disks = true", "faulty-disks = false"));
        assert!(text.contains("needs faulty-disks"), "{text}");
        let text = refusal(&|text| text.replace("nodes = 3", "nodes = 4"));
        assert!(text.contains("3 or 5"), "{text}");
        let leaves = "kind = \"leave\", target = \"one\"";
        let text = refusal(&|text| text.replace("kind = \"kill\", target = \"leader\"", leaves));
        assert!(text.contains("let one join before"), "{text}");
        let text = refusal(&|text| text.replace("hold = \"", "hold = \"x"));
        assert!(text.contains("is no duration"), "{text}");
    }
}
