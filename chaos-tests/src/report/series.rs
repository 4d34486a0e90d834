//! What a history shows second by second, and in sum. Pure.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use serde::Serialize;

use crate::{
    checker::{Verdict, patience},
    history::{Fault, History, MessageNumber, Operation, Phase},
};

/// The most seconds that are looked at one by one: a week.
const SECONDS_MAX: usize = 7 * 24 * 3600;

/// One second of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Second {
    /// Messages accepted in it.
    pub accepted: u32,
    /// Messages delivered in it.
    pub delivered: u32,
    /// Half of those accepted had waited no longer, in milliseconds.
    pub p50_ms: u32,
    /// The one that had waited longest, in milliseconds.
    pub max_ms: u32,
}

/// A run, second by second.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Series {
    /// From its start on.
    pub seconds: Vec<Second>,
}

/// A fault from its beginning to its remedy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Band {
    /// When it began.
    pub(super) from: Duration,
    /// When its remedy was complete.
    pub(super) to: Duration,
    /// What it is.
    pub(super) label: String,
    /// What came of it: *installed*, *skipped*, *indeterminate*.
    pub(super) outcome: &'static str,
    /// Whom it hit: node, groups led.
    pub(super) hit: String,
    /// What showed it, or why not.
    pub(super) why: String,
}

/// What is counted.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Summary {
    /// Length of the run.
    pub seconds: u64,
    /// Messages sent.
    pub sent: u64,
    /// Of them accepted.
    pub accepted: u64,
    /// Deliveries, repeated ones too.
    pub delivered: u64,
    /// Messages that were acknowledged.
    pub acknowledged: u64,
    /// Frames of live streams that were heard.
    pub live: u64,
    /// Devices registered beside.
    pub registered: u64,
    /// How long senders waited, in milliseconds: p50, p99, longest.
    pub waits_ms: [u64; 3],
    /// Of each kind of fault: how often installed, and the pauses after it in milliseconds: p50, p99,
    /// longest, in the slowest mailbox.
    pub recovery: BTreeMap<String, Recovery>,
}

/// The pauses after faults of one kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Recovery {
    /// How many.
    pub count: usize,
    /// Half of them were no longer.
    pub p50_ms: u64,
    /// Of a hundred, ninety-nine were no longer.
    pub p99_ms: u64,
    /// The longest.
    pub max_ms: u64,
}

impl Series {
    /// Of a history.
    pub fn of(history: &History) -> Self {
        let end = history.events.last().map_or(0, |event| event.at.as_secs() as usize + 1);
        let mut seconds = vec![Second::default(); end.min(SECONDS_MAX)];
        let mut waits: Vec<Vec<u32>> = vec![Vec::new(); seconds.len()];
        let mut begun: HashMap<MessageNumber, Duration> = HashMap::new();
        for event in &history.events {
            let at = event.at.as_secs() as usize;
            let Some(second) = seconds.get_mut(at) else { break };
            match (&event.operation, event.phase) {
                (Operation::Send { message, .. }, Phase::Invoke) => {
                    begun.insert(*message, event.at);
                }
                (Operation::Send { message, .. }, Phase::Ok) => {
                    second.accepted += 1;
                    let waited = begun.remove(message).map_or(0, |begun| {
                        u32::try_from((event.at - begun).as_millis()).unwrap_or(u32::MAX)
                    });
                    waits[at].push(waited);
                }
                (Operation::Deliver { .. }, _) => second.delivered += 1,
                _ => {}
            }
        }
        for (second, mut waits) in seconds.iter_mut().zip(waits) {
            waits.sort_unstable();
            second.p50_ms = waits.get(waits.len() / 2).copied().unwrap_or(0);
            second.max_ms = waits.last().copied().unwrap_or(0);
        }
        Self { seconds }
    }
}

impl Summary {
    /// Of a history and what was found in it.
    pub fn of(history: &History, verdict: &Verdict) -> Self {
        let count = |is: &dyn Fn(&Operation, Phase) -> u64| {
            history.events.iter().map(|event| is(&event.operation, event.phase)).sum::<u64>()
        };
        let sends = |wanted| {
            count(&move |operation, phase| {
                u64::from(phase == wanted && matches!(operation, Operation::Send { .. }))
            })
        };
        let waits = patience::waits(history, Duration::ZERO);
        let mut pauses: BTreeMap<String, Vec<u64>> = BTreeMap::new();
        for pause in &verdict.pauses {
            let millis = pause.in_a_mailbox.as_millis() as u64;
            pauses.entry(pause.fault.kind().to_owned()).or_default().push(millis);
        }
        Self {
            seconds: history.events.last().map_or(0, |event| event.at.as_secs()),
            sent: sends(Phase::Invoke),
            accepted: sends(Phase::Ok),
            delivered: count(&|operation, _| {
                u64::from(matches!(operation, Operation::Deliver { .. }))
            }),
            acknowledged: count(&|operation, phase| match operation {
                Operation::Acknowledge { messages, .. } if phase == Phase::Invoke => {
                    messages.len() as u64
                }
                _ => 0,
            }),
            live: count(&|operation, _| u64::from(matches!(operation, Operation::SeeLive { .. }))),
            registered: count(&|operation, phase| {
                u64::from(phase == Phase::Ok && matches!(operation, Operation::Register { .. }))
            }),
            waits_ms: [waits.p50, waits.p99, waits.longest].map(|wait| wait.as_millis() as u64),
            recovery: pauses.into_iter().map(|(kind, pauses)| (kind, of(pauses))).collect(),
        }
    }
}

fn of(mut pauses: Vec<u64>) -> Recovery {
    pauses.sort_unstable();
    let at = |percent: usize| pauses.get((pauses.len() - 1) * percent / 100).copied().unwrap_or(0);
    Recovery { count: pauses.len(), p50_ms: at(50), p99_ms: at(99), max_ms: at(100) }
}

/// All faults but remedies, each until the next remedy is complete.
pub(super) fn bands(history: &History) -> Vec<Band> {
    let mut bands: Vec<Band> = Vec::new();
    let mut open: Vec<usize> = Vec::new();
    for event in &history.events {
        let Operation::Fault { fault, hit, why } = &event.operation else { continue };
        match event.phase {
            Phase::Invoke if !fault.is_remedy() => {
                let whom = hit
                    .iter()
                    .map(|hit| format!("node {} ({} of {} led)", hit.node, hit.leads, hit.holds));
                open.push(bands.len());
                bands.push(Band {
                    from: event.at,
                    to: event.at,
                    label: fault.to_string(),
                    outcome: "indeterminate",
                    hit: whom.collect::<Vec<_>>().join(", "),
                    why: String::new(),
                });
            }
            Phase::Invoke => {}
            phase if fault.is_remedy() => {
                let _ = phase;
                for band in open.drain(..) {
                    bands[band].to = event.at;
                }
            }
            phase => {
                let Some(band) = bands.last_mut() else { continue };
                band.to = event.at;
                band.why = why.clone().unwrap_or_default();
                band.outcome = match phase {
                    Phase::Ok => "installed",
                    Phase::Fail => "skipped",
                    Phase::Invoke | Phase::Unknown => "indeterminate",
                };
                let goes_on = !matches!(fault, Fault::Upgrade { .. }) && phase != Phase::Fail;
                if !goes_on {
                    open.pop();
                }
            }
        }
    }
    bands
}
