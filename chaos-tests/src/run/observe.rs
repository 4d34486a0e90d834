//! Looks at nodes while they run, and at their logs afterwards.

use std::{fs, net::SocketAddr, path::Path, time::Duration};

use anyhow::{Context as _, Result};
use tokio::{
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;

use super::profile::ExpectedError;
use crate::{
    checker::resources::{Bounds, Used},
    cluster::{LocalCluster, Standing},
    history::{Moment, Operation, Phase, Recorder},
};

/// The process number of whoever looks.
const OBSERVER: u32 = 0;
/// Between two looks at a node: less than a cut-off leader's licence and the checker's grace.
const EVERY: Duration = Duration::from_secs(1);
/// How long nodes have to give back what they took under faults: what has changed goes from memory
/// to the disk within 30 s, and the allocator gives memory back within 10 s more.
const GIVING_BACK: Duration = Duration::from_secs(60);
/// The longest line of a log that is kept.
const LINE_BYTES_MAX: usize = 500;

/// Whoever looks at all nodes' admin ports.
#[derive(Debug)]
pub(super) struct Observer {
    stop: CancellationToken,
    tasks: JoinSet<()>,
}

impl Observer {
    /// Begins; `started` is when the history began.
    pub(super) fn begin(admins: &[SocketAddr], recorder: &Recorder, started: Instant) -> Self {
        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        for admin in admins.iter().copied() {
            let (stop, recorder) = (stop.clone(), recorder.clone());
            tasks.spawn(async move {
                let look = look(admin, recorder, started);
                let _stopped: Option<()> = stop.run_until_cancelled(look).await;
            });
        }
        Self { stop, tasks }
    }

    /// Ends.
    pub(super) async fn end(mut self) {
        self.stop.cancel();
        while self.tasks.join_next().await.is_some() {}
    }
}

async fn look(admin: SocketAddr, recorder: Recorder, started: Instant) {
    let mut tick = interval(EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let asked = started.elapsed();
        // Who is dead or stopped says nothing.
        let Ok(standing) = Standing::ask(admin).await else { continue };
        let groups = standing.own();
        let acts = Operation::Acts { node: standing.answered_by, asked, groups };
        recorder.record(OBSERVER, Phase::Ok, acts);
    }
}

/// Takes down what each running node uses before the first fault. Answers how much each may use in
/// the end, `memory_more` as in [`Bounds::by`].
pub(super) fn resources_before(
    cluster: &mut LocalCluster,
    recorder: &Recorder,
    memory_more: u64,
) -> Option<Bounds> {
    let nodes = used(cluster);
    take_down(&nodes, Moment::Before, recorder);
    Bounds::by(&nodes.iter().map(|(_, used)| *used).collect::<Vec<_>>(), memory_more)
}

/// Takes down what each running node uses in the end: once all have given back what they took, or
/// after [`GIVING_BACK`].
pub(super) async fn resources_after(
    cluster: &mut LocalCluster,
    recorder: &Recorder,
    bounds: Option<Bounds>,
) {
    let patience = Instant::now() + GIVING_BACK;
    let mut tick = interval(EVERY);
    loop {
        tick.tick().await;
        let nodes = used(cluster);
        let given_back =
            bounds.is_none_or(|bounds| nodes.iter().all(|(_, used)| bounds.hold(*used)));
        if given_back || Instant::now() >= patience {
            return take_down(&nodes, Moment::After, recorder);
        }
    }
}

/// What each running node uses; who does not run uses nothing.
fn used(cluster: &mut LocalCluster) -> Vec<(u16, Used)> {
    let mut nodes = Vec::new();
    for node in cluster.ids() {
        let Ok(usage) = cluster.usage(node) else { continue };
        let (memory, descriptors) = (usage.anonymous_bytes, usage.descriptors);
        nodes.push((node, Used { memory, descriptors, threads: usage.threads }));
    }
    nodes
}

fn take_down(nodes: &[(u16, Used)], moment: Moment, recorder: &Recorder) {
    for &(node, Used { memory, descriptors, threads }) in nodes {
        let resources =
            Operation::Resources { node, moment, anonymous_bytes: memory, descriptors, threads };
        recorder.record(OBSERVER, Phase::Ok, resources);
    }
}

/// Takes down what each replica holds on its disk. The nodes are stopped for it.
pub(super) async fn replicas(cluster: &mut LocalCluster, recorder: &Recorder) -> Result<()> {
    for (node, replica) in cluster.read_replicas().await? {
        let replica = Operation::Replica {
            node,
            group: replica.group,
            applied_index: replica.applied_index,
            digest: replica.digest,
        };
        recorder.record(OBSERVER, Phase::Ok, replica);
    }
    Ok(())
}

/// Reads a node's log, and takes down what somebody must look at.
pub(super) fn log(
    node: u16,
    path: &Path,
    expected: &[ExpectedError],
    recorder: &Recorder,
) -> Result<()> {
    let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let text = String::from_utf8_lossy(&bytes);
    let mut lines = 0;
    for line in text.lines() {
        lines += 1;
        if is_bad(line) {
            let meets = expected.iter().find(|expected| line.contains(&expected.contains));
            let expected = meets.map(|expected| expected.because.clone());
            let line = line.chars().take(LINE_BYTES_MAX).collect();
            recorder.record(OBSERVER, Phase::Ok, Operation::Logged { node, line, expected });
        }
    }
    recorder.record(OBSERVER, Phase::Ok, Operation::LogRead { node, lines });
    Ok(())
}

/// Whether a line is one of level `error`, or of a panic.
fn is_bad(line: &str) -> bool {
    // Time, level, module: as the nodes write text.
    let is_error = line.split_whitespace().nth(1) == Some("ERROR");
    is_error || line.starts_with("thread '") && line.contains("panicked at")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_and_panics_are_bad_lines() {
        let line = |level| format!("2026-11-21T17:00:00.123456Z {level} heliograph: an ERROR");
        assert!(is_bad(&line("ERROR")) && !is_bad(&line(" WARN")) && !is_bad(&line(" INFO")));
        assert!(is_bad("thread 'main' (7) panicked at x.rs:1:1:"));
        assert!(!is_bad(""));
    }

    #[test]
    fn a_log_is_read_whole_and_what_is_expected_is_marked() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        fs::write(&path, "t INFO m: a\nt ERROR m: disk is full\nt ERROR m: other\n").unwrap();
        let recorder = Recorder::new(Instant::now());
        let because = "disks were filled".to_owned();
        let expected = [ExpectedError { contains: "full".to_owned(), because }];
        log(3, &path, &expected, &recorder).unwrap();
        let check = crate::checker::logs::check(&recorder.history());
        assert_eq!((check.counted, check.broken, check.repeated), (3, 1, 1));
    }
}
