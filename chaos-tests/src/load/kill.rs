//! `kill -9` of leaders' nodes under a steady load: how long until their mailboxes accept again, and
//! whether anybody is given up who lives.
//!
//! Senders and recipients are those of the fault tests ([`crate::workload`]): they keep their pace,
//! move to another node when theirs is gone, and write down what they see, so that the same run
//! also tells whether anything was lost. Which mailbox a node leads is the cluster's secret; so all
//! of them are looked at, enough that every shard has one, and the last to accept again counts.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use anyhow::{Result, ensure};
use serde::Serialize;

use super::{
    reign::{Leadership, Reign},
    report::median,
    target::{Fresh, WHOLE},
};
use crate::{
    checker::Expectation,
    history::{Fault, History, MailboxNumber, Operation, Phase},
    trial::Trial,
    workload::Config,
};

/// Mailboxes: three for each of 16 shards on average, more where there are fewer.
const MAILBOXES: u32 = 48;
/// Senders of each: one waits at times for a node that is gone.
const SENDERS: u32 = 2;
/// Messages after which a client moves to the next node.
const MOVES_EVERY: u32 = 200;
/// How long traffic is looked at after a kill before the node is started again.
const WATCHED: Duration = Duration::from_secs(4);
/// What the run fails for.
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// Answers that were on their way when their leader died come within this; they say nothing.
const ON_THE_WAY: Duration = Duration::from_millis(30);

/// What to measure.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// How many kills, the nodes in turn.
    pub kills: u32,
    /// Messages a second, of all senders together.
    pub rate: u32,
    /// How long nothing happens before each kill; elections in it are false ones.
    pub calm: Duration,
}

impl Plan {
    /// What the bars are measured with.
    pub const USUAL: Self = Self { kills: 20, rate: 1_500, calm: Duration::from_secs(5) };
}

/// What followed one kill.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Kill {
    /// Which node.
    pub node: u16,
    /// How many groups it led.
    pub led: u32,
    /// Milliseconds from the kill until the last mailbox had accepted a message again.
    pub again_ms: f64,
    /// Mailboxes that accepted nothing before the node was started again.
    pub never: usize,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct KillReport {
    /// Shards.
    pub shards: u16,
    /// Messages a second that were asked for.
    pub rate: u32,
    /// Messages accepted, none of which was lost.
    pub accepted: u64,
    /// The median of the kills.
    pub again_p50_ms: f64,
    /// The worst of them.
    pub again_max_ms: f64,
    /// How long nobody was dead or coming back.
    pub calm_seconds: f64,
    /// Who led in that time.
    pub calm: Leadership,
    /// The kills.
    pub kills: Vec<Kill>,
}

/// Runs it.
///
/// # Errors
/// When a node does not come back, or a message was lost.
pub async fn run(fresh: &Fresh, plan: Plan) -> Result<KillReport> {
    ensure!(plan.kills > 0 && plan.rate > 0, "nothing is killed, or nothing sent");
    let config = Config {
        mailboxes: MAILBOXES,
        senders: SENDERS,
        pace: Duration::from_secs(1) * MAILBOXES * SENDERS / plan.rate,
        moves_every: MOVES_EVERY,
        ..Config::modest()
    };
    let mut trial = Trial::start(fresh.options("load-kill"), config).await?;
    trial.workload.start_reading();
    let ids = trial.cluster.ids();
    let mut calm = Leadership { elections: 0, terms: Some(0) };
    for kill in 1..=plan.kills {
        trial.cluster.whole(WHOLE).await?;
        let (nodes, doors) = (trial.cluster.nodes().to_vec(), trial.cluster.doors());
        let before = Reign::of(&nodes, &doors).await?;
        trial.flow(plan.calm).await?;
        calm = calm.and(before.changes(&Reign::of(&nodes, &doors).await?));
        let node = ids[kill as usize % ids.len()];
        eprintln!("kill {kill} of {}: node {node}", plan.kills);
        trial.inflict(Fault::Kill { nodes: vec![node] }).await?;
        trial.flow(WATCHED).await?;
        trial.inflict(Fault::Restart { nodes: vec![node] }).await?;
    }
    let recorder = trial.recorder.clone();
    let expectation = Expectation {
        nodes: usize::from(fresh.nodes),
        ..Expectation::of_three(WATCHED, PAUSE_MAX)
    };
    let (verdict, report) = trial.judge(&expectation).await?;
    ensure!(verdict.passed() && report.missing == 0, "{verdict}");
    let kills = kills(&recorder.history());
    // It would hide in the figures.
    let never = kills.iter().find(|kill| kill.never > 0);
    ensure!(never.is_none(), "mailboxes accepted nothing more: {never:?}");
    let again = || kills.iter().map(|kill| kill.again_ms);
    Ok(KillReport {
        shards: fresh.shards,
        rate: plan.rate,
        accepted: report.accepted,
        again_p50_ms: median(again()),
        again_max_ms: again().fold(0.0, f64::max),
        calm_seconds: (plan.calm * plan.kills).as_secs_f64(),
        calm,
        kills,
    })
}

/// What followed each kill of a history.
fn kills(history: &History) -> Vec<Kill> {
    let faults: Vec<_> = history
        .events
        .iter()
        .filter_map(|event| match (&event.operation, event.phase) {
            (Operation::Fault { fault, hit, .. }, Phase::Invoke) => Some((event.at, fault, hit)),
            _ => None,
        })
        .collect();
    let mut kills = Vec::new();
    for (i, (at, fault, hit)) in faults.iter().enumerate() {
        let Fault::Kill { nodes } = fault else { continue };
        let until = faults.get(i + 1).map_or(Duration::MAX, |(at, ..)| *at);
        let again = again(history, *at, until);
        let slowest = again.values().flatten().max().copied().unwrap_or_default();
        kills.push(Kill {
            node: nodes.first().copied().unwrap_or_default(),
            led: hit.iter().map(|hit| hit.leads).sum(),
            again_ms: slowest.as_secs_f64() * 1000.0,
            never: again.values().filter(|again| again.is_none()).count(),
        });
    }
    kills
}

/// For each mailbox that had accepted messages before `at`, how long after it the first one more was
/// accepted; where none was before `until`, nothing.
fn again(
    history: &History,
    at: Duration,
    until: Duration,
) -> BTreeMap<MailboxNumber, Option<Duration>> {
    let mut before = BTreeSet::new();
    let mut again = BTreeMap::new();
    for event in history.events.iter().filter(|event| event.phase == Phase::Ok) {
        let Operation::Send { mailbox, .. } = event.operation else { continue };
        if event.at < at {
            before.insert(mailbox);
        } else if event.at >= at + ON_THE_WAY && event.at < until {
            again.entry(mailbox).or_insert(event.at - at);
        }
    }
    before.into_iter().map(|mailbox| (mailbox, again.get(&mailbox).copied())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checker::histories::{A, B, Writer};

    const MS: Duration = Duration::from_millis(1);

    fn killed(node: u16) -> Fault {
        Fault::Kill { nodes: vec![node] }
    }

    #[test]
    fn the_last_mailbox_to_accept_again_counts() {
        let mut writer = Writer::default();
        writer.sent(A, 1, 1).sent(B, 1, 2).fault(killed(2));
        writer.wait(60 * MS).sent(A, 1, 3).wait(300 * MS).sent(B, 1, 4);
        writer.fault(Fault::Restart { nodes: vec![2] }).wait(900 * MS).sent(A, 1, 5);
        let [kill] = kills(&writer.done())[..] else { panic!("one kill") };
        assert!((360.0..420.0).contains(&kill.again_ms), "{kill:?}");
        assert_eq!((kill.node, kill.never), (2, 0));
    }

    #[test]
    fn a_mailbox_that_accepts_nothing_more_is_told() {
        let mut writer = Writer::default();
        writer.sent(A, 1, 1).sent(B, 1, 2).fault(killed(1)).wait(60 * MS).sent(A, 1, 3);
        let [kill] = kills(&writer.done())[..] else { panic!("one kill") };
        assert_eq!(kill.never, 1);
    }

    #[test]
    fn an_answer_that_was_on_its_way_says_nothing() {
        let mut writer = Writer::default();
        writer.sent(A, 1, 1).send(Phase::Invoke, A, 1, 2).fault(killed(1));
        writer.send(Phase::Ok, A, 1, 2).wait(500 * MS).sent(A, 1, 3);
        let [kill] = kills(&writer.done())[..] else { panic!("one kill") };
        assert!(kill.again_ms >= 500.0, "{kill:?}");
    }
}
